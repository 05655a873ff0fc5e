/* out.c - output files that are whole or not there
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "err.h"
#include "mem.h"
#include "meter.h"
#include "out.h"

struct out {
    char *path, *temp;
    struct out *next;
};

static struct out *open_outs;

/* Whoever holds the list has signals blocked and does not die meanwhile, so a handler finds it free, or in the hands
 * of another thread, which soon lets go. */
static atomic_flag list_held = ATOMIC_FLAG_INIT;
static void hold_list(void)
{
    while (atomic_flag_test_and_set(&list_held))
        sched_yield();
}

static void unlink_all(int code)
{
    (void)code;
    hold_list();
    for (struct out *o = open_outs; o; o = o->next)
        unlink(o->temp);
    atomic_flag_clear(&list_held);
}

/* A signal that would end us: unlink() is async-signal-safe. */
static void on_signal(int sig)
{
    unlink_all(0);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* MPI libraries end a process by exit() when another rank has aborted. */
static void on_exit_unlink(void) { unlink_all(0); }

static void watch_signals(void)
{
    static const int sigs[] = { SIGINT, SIGTERM, SIGHUP };
    for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++) {
        struct sigaction old;
        sigaction(sigs[i], NULL, &old);
        if (old.sa_handler == SIG_DFL)
            signal(sigs[i], on_signal);
    }
}

static void lock_list(sigset_t *old)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, old);
    hold_list();
}

static void unlock_list(const sigset_t *old)
{
    atomic_flag_clear(&list_held);
    pthread_sigmask(SIG_SETMASK, old, NULL);
}

static char *dir_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return xstrdup(".");
    if (slash == path)
        return xstrdup("/");
    return xasprintf("%.*s", (int)(slash - path), path);
}

/* Whether "NAME.tmp.HOST.PID" is a temporary of a process of this host that is no more. */
static bool is_dead(const char *name, const char *host)
{
    char *mark = xasprintf(".tmp.%s.", host);
    const char *at = strstr(name, mark);
    size_t n = strlen(mark);
    free(mark);
    if (!at || at == name || at[n] < '1' || at[n] > '9')
        return false;
    char *end;
    long pid = strtol(at + n, &end, 10);
    return !*end && kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

/* Temporaries of dead processes are nobody's. A folder is looked through once for all files that go there one after
 * another: it may hold a hundred thousand. */
static void sweep(const char *path)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char *swept;
    char *dir = dir_of(path), host[64] = "host";
    gethostname(host, sizeof host - 1);
    pthread_mutex_lock(&lock);
    DIR *d = swept && strcmp(swept, dir) == 0 ? NULL : opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (!is_dead(e->d_name, host))
            continue;
        char *dead = path_join(dir, e->d_name);
        unlink(dead);
        free(dead);
    }
    if (d) {
        closedir(d);
        free(swept);
        swept = xstrdup(dir);
    }
    pthread_mutex_unlock(&lock);
    free(dir);
}

static void watch(void)
{
    err_at_die(unlink_all);
    atexit(on_exit_unlink);
    watch_signals();
}

struct out *out_open(const char *path, bool force)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch);
    if (!force && path_exists(path))
        die("'%s' exists; --force replaces it", path);
    char host[64] = "host";
    gethostname(host, sizeof host - 1);
    sweep(path);
    struct out *o = xcalloc(1, sizeof *o);
    o->path = xstrdup(path);
    o->temp = xasprintf("%s.tmp.%s.%ld", path, host, (long)getpid());
    int fd = open(o->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        die_errno("cannot write '%s'", path);
    close(fd);
    sigset_t old;
    lock_list(&old);
    o->next = open_outs;
    open_outs = o;
    unlock_list(&old);
    return o;
}

const char *out_temp(const struct out *o) { return o->temp; }

static void forget(struct out *o)
{
    sigset_t old;
    lock_list(&old);
    struct out **p = &open_outs;
    while (*p && *p != o)
        p = &(*p)->next;
    if (*p)
        *p = o->next;
    unlock_list(&old);
    free(o->path);
    free(o->temp);
    free(o);
}

void out_commit(struct out *o) { out_commit_if(o, NULL, NULL); }

bool out_commit_if(struct out *o, bool (*still)(void *), void *arg)
{
    int fd = open(o->temp, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        die_errno("cannot sync '%s'", o->path);
    close(fd);
    if (still && !still(arg)) {
        out_abort(o);
        return false;
    }
    if (rename(o->temp, o->path) < 0)
        die_errno("cannot rename '%s' to '%s'", o->temp, o->path);
    char *dir = dir_of(o->path);
    out_sync_dir(dir);
    free(dir);
    forget(o);
    return true;
}

void out_abort(struct out *o)
{
    unlink(o->temp);
    forget(o);
}

void out_write_file(const char *path, const void *data, size_t n, bool force)
{
    struct out *o = out_open(path, force);
    FILE *f = fopen(o->temp, "w");
    if (!f)
        die_errno("cannot write '%s'", path);
    bool ok = fwrite(data, 1, n, f) == n;
    if (fclose(f) != 0 || !ok)
        die_errno("cannot write '%s'", path);
    out_commit(o);
}

void out_make_dirs(const char *path)
{
    char *p = xstrdup(path);
    for (char *s = p + (*p != 0);; s++) {
        char c = *s;
        if (c != '/' && c != '\0')
            continue;
        *s = '\0';
        if (mkdir(p, 0777) < 0 && errno != EEXIST)
            die_errno("cannot make the folder '%s'", p);
        *s = c;
        if (!c)
            break;
    }
    if (!path_is_dir(path))
        die("'%s' is in the way: it is not a folder", path);
    free(p);
}

int out_try_room(const char *dir, int64_t bytes, int64_t files)
{
    struct statvfs v;
    if (statvfs(dir, &v) < 0)
        return err_set("cannot ask for the room in '%s': %s", dir, strerror(errno));
    double free_bytes = (double)v.f_bavail * (double)v.f_frsize;
    char want[32], have[32];
    if (free_bytes < (double)bytes)
        return err_set("'%s' needs %sB, its file system has %sB left", dir, format_si((double)bytes, want),
                       format_si(free_bytes, have));
    if (v.f_files > 0 && (double)v.f_favail < (double)files) /* 0: it does not count them */
        return err_set("'%s' needs %lld files, its file system has %lld inodes left", dir, (long long)files,
                       (long long)v.f_favail);
    return 0;
}

void out_sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        die_errno("cannot open the folder '%s'", path);
    /* Some network file systems answer EINVAL: they sync names by themselves. */
    if (fsync(fd) < 0 && errno != EINVAL && errno != EROFS)
        die_errno("cannot sync the folder '%s'", path);
    close(fd);
}

void out_remove_tree(const char *path)
{
    DIR *d = opendir(path);
    if (!d)
        die_errno("cannot open the folder '%s'", path);
    struct dirent *e;
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char *p = path_join(path, e->d_name);
        struct stat st;
        if (lstat(p, &st) == 0 && S_ISDIR(st.st_mode))
            out_remove_tree(p);
        else if (unlink(p) < 0 && errno != ENOENT)
            die_errno("cannot remove '%s'", p);
        free(p);
    }
    closedir(d);
    if (rmdir(path) < 0 && errno != ENOENT)
        die_errno("cannot remove the folder '%s'", path);
}

void out_close_stdout(void)
{
    bool bad = ferror(stdout) != 0;
    errno = 0;
    if (fclose(stdout) != 0 && errno != EBADF)
        bad = true;
    if (bad && errno)
        die_errno("cannot write the standard output");
    if (bad)
        die("cannot write the standard output");
}

bool path_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    return xasprintf("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool path_same(const char *a, const char *b)
{
    struct stat sa, sb;
    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}
