/* file.c - reading files whole, and in parts
 * SPDX-License-Identifier: MIT
 */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "err.h"

int file_pread(int fd, int64_t offset, void *data, size_t n, size_t *have)
{
    for (*have = 0; *have < n;) {
        size_t want = n - *have < (1u << 30) ? n - *have : 1u << 30; /* Linux reads less than 2 GiB at once */
        ssize_t k = pread(fd, (char *)data + *have, want, (off_t)(offset + (int64_t)*have));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -1;
        if (k == 0)
            break;
        *have += (size_t)k;
    }
    return 0;
}

char *file_try_read(const char *path, size_t limit, size_t *n)
{
    struct stat st;
    char *data = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        err_set("cannot open '%s': %s", path, strerror(errno));
        return NULL;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        err_set("%s: not a plain file", path);
    else if ((uint64_t)st.st_size > limit)
        err_set("%s: %lld bytes; more than %zu are not read", path, (long long)st.st_size, limit);
    else {
        data = xmalloc((size_t)st.st_size + 1);
        int rc = file_pread(fd, 0, data, (size_t)st.st_size, n);
        if (rc < 0 || *n < (size_t)st.st_size) {
            err_set("%s: %s", path, rc < 0 ? strerror(errno) : "became shorter while it was read");
            free(data);
            data = NULL;
        } else {
            data[*n] = '\0';
        }
    }
    close(fd);
    return data;
}

int file_slurp(FILE *f, size_t limit, struct buf *b)
{
    char block[16384];
    size_t n;
    while (b->len <= limit && (n = fread(block, 1, sizeof block, f)) > 0)
        buf_add(b, block, n);
    return ferror(f) ? -1 : 0;
}

char *file_find_data(const char *env, const char *folder, const char *name)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(exe, '/');
    if (slash)
        *slash = '\0';
    const char *dir = getenv(env);
    char *paths[] = { dir ? xasprintf("%s/%s", dir, name) : NULL,
                      xasprintf("%s/../share/ssmtools/%s/%s", exe, folder, name),
                      xasprintf("%s/../../../pipelines/%s/%s", exe, folder, name) };
    char *found = NULL;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (paths[i] && !found && access(paths[i], F_OK) == 0)
            found = paths[i];
        else
            free(paths[i]);
    }
    return found;
}
