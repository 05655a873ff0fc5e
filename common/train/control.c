/* control.c - RUN/control: a word for a living run, from whoever may write there
 * SPDX-License-Identifier: MIT
 */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/out.h"

enum control control_read(const char *run)
{
    char *path = path_join(run, "control"), text[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0)
        close(fd);
    free(path);
    if (n <= 0)
        return CONTROL_NONE;
    text[n] = '\0';
    text[strcspn(text, " \t\r\n")] = '\0';
    if (strcmp(text, "save") == 0)
        return CONTROL_SAVE;
    if (strcmp(text, "stop") == 0)
        return CONTROL_STOP;
    warn("'%s/control' says '%s', neither save nor stop", run, text);
    control_done(run);
    return CONTROL_NONE;
}

void control_done(const char *run)
{
    char *path = path_join(run, "control");
    if (unlink(path) < 0 && errno != ENOENT)
        warn("cannot remove '%s': %s", path, strerror(errno));
    free(path);
}
