/* control.c - RUN/control: a word for a living run, from whoever may write there
 * SPDX-License-Identifier: MIT
 */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/out.h"

/* Said once a process: the file is looked at before each step. */
static void cannot_read(const char *path, const char *why)
{
    static bool told;
    if (!told)
        warn("cannot read '%s': %s", path, why);
    told = true;
}

enum control control_read(const char *run)
{
    char *path = path_join(run, "control"), text[64], *rest = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (n < 0 && errno != ENOENT && errno != EAGAIN) /* EAGAIN: a pipe whose writer is not done */
        cannot_read(path, strerror(errno));
    if (fd >= 0)
        close(fd);
    free(path);
    if (n <= 0)
        return CONTROL_NONE;
    for (ssize_t i = 0; i < n; i++)
        text[i] = text[i] ? text[i] : '?'; /* part of a word, and not its end */
    text[n] = '\0';
    enum control told = CONTROL_NONE;
    for (char *word = strtok_r(text, " \t\r\n", &rest); word; word = strtok_r(NULL, " \t\r\n", &rest)) {
        if (strcmp(word, "stop") == 0) {
            told = CONTROL_STOP; /* which saves, too */
        } else if (strcmp(word, "save") == 0) {
            told = told == CONTROL_STOP ? told : CONTROL_SAVE;
        } else {
            warn("'%s/control' says '%s', neither save nor stop", run, word);
            control_done(run);
            return CONTROL_NONE;
        }
    }
    return told;
}

void control_done(const char *run)
{
    char *path = path_join(run, "control");
    if (unlink(path) < 0 && errno != ENOENT)
        warn("cannot remove '%s': %s", path, strerror(errno));
    free(path);
}
