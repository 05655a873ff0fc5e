/* rundir.c - the folder of a training run: incarnations, liveness, the newest valid checkpoint
 * SPDX-License-Identifier: MIT
 *
 * Three signs of life, because none is enough alone: a lock (gone with its process, but some cluster file
 * systems keep locks to one host), the host's name in the lock file (on our own host the lock is to be
 * believed), and a heartbeat (the file's time, which every file system shares, but which takes time to watch).
 */
#define _GNU_SOURCE
#include "rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ckpt.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/base/signals.h"

struct rundir {
    char *run, *path;
    int number, fd;
    double last_beat;
};

/* ---- names ---- */

/* The number behind `prefix` when that and digits (at least `digits`) are all, else -1. */
static int64_t number_of(const char *name, const char *prefix, int digits)
{
    size_t n = strlen(prefix), len = strlen(name);
    if (strncmp(name, prefix, n) != 0 || len < n + (size_t)digits || len > n + 15 ||
        strspn(name + n, "0123456789") != len - n)
        return -1;
    int64_t v = strtoll(name + n, NULL, 10);
    return v < INT32_MAX ? v : -1; /* not ours */
}

static char *inc_path(const char *run, int number) { return xasprintf("%s/inc-%04d", run, number); }

/* Calls `each` with the name of every entry of a folder; none when there is no such folder. */
static void scan(const char *dir, void (*each)(const char *name, void *data), void *data)
{
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT)
        return;
    if (!d)
        die_errno("cannot open the folder '%s'", dir);
    struct dirent *e;
    while ((e = readdir(d)))
        each(e->d_name, data);
    closedir(d);
}

static void keep_highest(const char *name, void *highest)
{
    int64_t n = number_of(name, "inc-", 4);
    if (n > *(int64_t *)highest && n < 1000000000)
        *(int64_t *)highest = n;
}

/* Number of the newest incarnation, 0 when there is none. */
static int newest(const char *run)
{
    int64_t n = 0;
    scan(run, keep_highest, &n);
    return (int)n;
}

/* ---- life ---- */

static const char *host_name(void)
{
    static char host[64] = "?";
    gethostname(host, sizeof host - 1);
    return host;
}

/* How often a job has been started: members of a chain that is a job array, and restarts of each. */
struct attempt {
    long long task, restart;
};

static long long env_count(const char *name)
{
    const char *s = getenv(name);
    int64_t n;
    return s && *s && parse_int(s, &n) == 0 ? n : 0;
}

static struct attempt my_attempt(void)
{
    return (struct attempt){ env_count("SLURM_ARRAY_TASK_ID"), env_count("SLURM_RESTART_COUNT") };
}

/* The job that all attempts have in common; "-" outside of Slurm. */
static const char *my_job(void)
{
    const char *array = getenv("SLURM_ARRAY_JOB_ID"), *job = getenv("SLURM_JOB_ID");
    return array && *array ? array : job && *job ? job : "-";
}

/* What the lock file of an incarnation says; all zero when it cannot be read. */
struct sign {
    char host[64], job[64];
    long pid;
    struct attempt attempt;
    bool there, locked, ended;
    struct timespec beat;
};

/* Opens the file anew each time: network file systems look at the server's copy then. */
static struct sign read_sign(const char *run, int number)
{
    struct sign s = { 0 };
    char *inc = inc_path(run, number), *path = path_join(inc, "lock"), text[256] = "";
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        fd = open(path, O_RDONLY | O_CLOEXEC); /* somebody else's run: the query below still answers */
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    struct stat st;
    if (fd >= 0) {
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        text[n > 0 ? n : 0] = '\0';
        s.there = true;
        bool answered = fcntl(fd, F_OFD_GETLK, &lock) == 0;
        s.locked = answered && lock.l_type != F_UNLCK;
        if (fstat(fd, &st) == 0)
            s.beat = st.st_mtim;
        char *line2 = strchr(text, '\n');
        s.ended = line2 && strcmp(line2 + 1, "ended\n") == 0;
        int words = sscanf(text, "%63s %ld %63s %lld.%lld", s.host, &s.pid, s.job, &s.attempt.task,
                           &s.attempt.restart); /* older ones say no attempt: that is 0.0 */
        if (words < 3)
            s.host[0] = '\0';
        if (!answered && !s.ended && s.pid > 0 && strcmp(s.host, host_name()) == 0)
            s.locked = kill((pid_t)s.pid, 0) == 0 || errno == EPERM; /* a file system without locks */
        close(fd);
    }
    free(path);
    free(inc);
    return s;
}

static bool same_beat(const struct sign *a, const struct sign *b)
{
    return a->beat.tv_sec == b->beat.tv_sec && a->beat.tv_nsec == b->beat.tv_nsec && a->ended == b->ended;
}

static bool is_dead_for_sure(const struct sign *s)
{
    return !s->there || (!s->locked && (s->ended || strcmp(s->host, host_name()) == 0));
}

/* Is what left this sign an earlier attempt of our own job? */
static bool is_predecessor(const struct sign *s)
{
    struct attempt mine = my_attempt(), its = s->attempt;
    if (!s->there || !s->host[0] || strcmp(s->job, "-") == 0 || strcmp(s->job, my_job()) != 0)
        return false;
    return mine.task != its.task ? mine.task > its.task : mine.restart > its.restart;
}

static void refuse_living(const char *run, int number, const struct sign *s, const char *why)
    __attribute__((noreturn));
static void refuse_living(const char *run, int number, const struct sign *s, const char *why)
{
    die("run '%s' is alive: incarnation %d, process %ld on host %s, job %s, attempt %lld.%lld (%s)", run,
        number, s->pid, s->host, s->job, s->attempt.task, s->attempt.restart, why);
}

/* Returns when incarnation `number` is dead as far as can be known, else dies. */
static void demand_dead(const char *run, int number, double patience)
{
    struct sign first = read_sign(run, number);
    if (is_predecessor(&first)) {
        if (!is_dead_for_sure(&first))
            warn("run '%s': taken over from incarnation %d, process %ld on host %s, which may be alive: "
                 "it is an earlier attempt (%lld.%lld) of job %s",
                 run, number, first.pid, first.host, first.attempt.task, first.attempt.restart, first.job);
        return;
    }
    if (first.locked)
        refuse_living(run, number, &first, "it holds its lock");
    if (is_dead_for_sure(&first) || patience <= 0)
        return;
    note(1, "run '%s': watching incarnation %d of host %s for %.0f s", run, number,
         first.host[0] ? first.host : "?", patience);
    for (double end = now_seconds() + patience; now_seconds() < end;) {
        if (signals_told())
            die_code(EXIT_AGAIN, "told to stop while waiting for run '%s'", run);
        double left = end - now_seconds(), nap = left < 0.5 ? left : 0.5;
        struct timespec t = { 0, (long)(nap > 0 ? nap * 1e9 : 0) };
        nanosleep(&t, NULL);
        struct sign s = read_sign(run, number);
        if (s.ended || !s.there)
            return;
        if (s.locked)
            refuse_living(run, number, &s, "it holds its lock");
        if (!same_beat(&first, &s))
            refuse_living(run, number, &s, "its heart beats");
    }
}

/* Makes the lock file in `dir` and holds it. File systems without locks leave us with the heartbeat. */
static int make_lock(const char *dir)
{
    char *path = path_join(dir, "lock"), text[256];
    struct attempt a = my_attempt();
    int n = snprintf(text, sizeof text, "%s %ld %.63s %lld.%lld\n", host_name(), (long)getpid(), my_job(),
                     a.task, a.restart);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, text, (size_t)n) != n || fsync(fd) < 0)
        die_errno("cannot write '%s'", path);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
        warn("cannot lock '%s' (%s): a second start is noticed by the heartbeat only", path, strerror(errno));
    free(path);
    return fd;
}

/* ---- this start's own folder ---- */

/* Batch scripts go by this file, since launchers lose exit codes; so it must be whole at any moment. */
static void write_state(const char *dir, const char *word, int64_t step)
{
    char *path = path_join(dir, "state"), *temp = path_join(dir, "state.tmp"), text[64];
    int n = snprintf(text, sizeof text, "%s %lld\n", word, (long long)step);
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool fine = fd >= 0 && write(fd, text, (size_t)n) == n && fsync(fd) == 0;
    int e = errno;
    if (fd >= 0 && close(fd) < 0 && fine) {
        fine = false;
        e = errno;
    }
    if (fine && rename(temp, path) < 0) {
        fine = false;
        e = errno;
    }
    if (fine)
        out_sync_dir(dir);
    else
        warn("cannot write '%s': %s", path, strerror(e));
    if (!fine && fd >= 0)
        unlink(temp);
    free(path);
    free(temp);
}

void rundir_tell(const struct rundir *r, const char *word, int64_t step) { write_state(r->path, word, step); }

struct rundir *rundir_begin(const char *run, double patience)
{
    out_make_dirs(run);
    struct rundir *r = xcalloc(1, sizeof *r);
    r->run = xstrdup(run);
    char *temp = xasprintf("%s/.begin.%s.%ld", run, host_name(), (long)getpid());
    for (;;) {
        int last = newest(run);
        if (last > 0)
            demand_dead(run, last, patience);
        out_make_dirs(temp);
        r->fd = make_lock(temp);
        write_state(temp, "running", 0); /* before the rename: there is no incarnation without */
        r->number = last + 1;
        r->path = inc_path(run, r->number);
        /* A folder that is there and holds a lock file is not replaced: then another start was faster. */
        if (rename(temp, r->path) == 0)
            break;
        int e = errno;
        close(r->fd);
        out_remove_tree(temp);
        if (e != EEXIST && e != ENOTEMPTY)
            die("cannot make '%s': %s", r->path, strerror(e));
        free(r->path);
    }
    out_sync_dir(run);
    free(temp);
    return r;
}

void rundir_end(struct rundir *r)
{
    static const char ended[] = "ended\n";
    struct stat st;
    if (fstat(r->fd, &st) < 0 || pwrite(r->fd, ended, sizeof ended - 1, st.st_size) != sizeof ended - 1)
        warn("cannot note the end of the run in '%s/lock'", r->path);
    close(r->fd);
    free(r->run);
    free(r->path);
    free(r);
}

const char *rundir_path(const struct rundir *r) { return r->path; }
int rundir_number(const struct rundir *r) { return r->number; }

/* Numbers are consecutive, so one name is looked up. The folder is opened for it, since network file systems
 * look at the server's copy of a folder then, and may believe for a minute that a name is missing otherwise. */
bool rundir_is_newest(const struct rundir *r)
{
    char name[32];
    struct stat st;
    snprintf(name, sizeof name, "inc-%04d", r->number + 1);
    int dir = open(r->run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool there = dir >= 0 && fstatat(dir, name, &st, 0) == 0;
    if (dir >= 0)
        close(dir);
    return !there;
}

void rundir_demand_newest(const struct rundir *r)
{
    if (rundir_is_newest(r))
        return;
    struct sign s = read_sign(r->run, r->number + 1);
    die("run '%s' was taken over by incarnation %d, process %ld on host %s, job %s, attempt %lld.%lld: this one, %d, "
        "ends without publishing",
        r->run, r->number + 1, s.pid, s.host[0] ? s.host : "?", s.job, s.attempt.task, s.attempt.restart,
        r->number);
}

void rundir_beat(struct rundir *r)
{
    double now = now_seconds();
    if (r->last_beat > 0 && now - r->last_beat < 1)
        return;
    r->last_beat = now;
    if (futimens(r->fd, NULL) < 0)
        warn("cannot touch '%s/lock': %s", r->path, strerror(errno));
}

char *rundir_step_path(const struct rundir *r, int64_t step)
{
    return xasprintf("%s/step-%08lld", r->path, (long long)step);
}

/* ---- checkpoints of all incarnations ---- */

struct entry {
    char *path;
    int64_t step;
    int number;
};

struct entries {
    struct entry *e;
    size_t n, cap;
    char *inc; /* while scanning: the incarnation */
    int number;
    const char *run;
    bool complete; /* wanted: with an index, or without */
};

static void add_step(const char *name, void *data)
{
    struct entries *l = data;
    int64_t step = number_of(name, "step-", 8);
    if (step < 0)
        return;
    char *path = path_join(l->inc, name);
    if (!path_is_dir(path) || set_exists(path) != l->complete) {
        free(path);
        return;
    }
    struct entry *e = grow(&l->e, &l->n, &l->cap, sizeof *l->e);
    *e = (struct entry){ path, step, l->number };
}

static void add_incarnation(const char *name, void *data)
{
    struct entries *l = data;
    int64_t number = number_of(name, "inc-", 4);
    if (number < 0)
        return;
    l->number = (int)number;
    l->inc = path_join(l->run, name);
    if (path_is_dir(l->inc))
        scan(l->inc, add_step, l);
    free(l->inc);
}

static int newest_first(const void *pa, const void *pb)
{
    const struct entry *a = pa, *b = pb;
    if (a->step != b->step)
        return a->step < b->step ? 1 : -1;
    return (a->number < b->number) - (a->number > b->number);
}

static struct entries find_steps(const char *run, bool complete)
{
    struct entries l = { .run = run, .complete = complete };
    scan(run, add_incarnation, &l);
    if (l.n)
        qsort(l.e, l.n, sizeof *l.e, newest_first);
    return l;
}

int rundir_list(const char *run, int64_t every, char ***paths)
{
    struct entries l = find_steps(run, true);
    int n = 0;
    *paths = xcalloc(l.n, sizeof **paths);
    for (size_t i = 0; i < l.n; i++)
        if (l.e[i].step % every == 0)
            (*paths)[n++] = l.e[i].path;
        else
            free(l.e[i].path);
    free(l.e);
    return n;
}

void rundir_free_list(char **paths, int n)
{
    for (int i = 0; i < n; i++)
        free(paths[i]);
    free(paths);
}

static struct ckpt *try_open(const char *dir, bool deep)
{
    struct ckpt *c = ckpt_try_open(dir);
    for (int m = 0; c && deep && m < ckpt_members(c); m++)
        if (ckpt_try_verify(c, m) < 0) {
            ckpt_close(c);
            c = NULL;
        }
    return c;
}

struct ckpt *rundir_try_open_ckpt(const char *path, bool deep)
{
    if (set_exists(path) || !path_is_dir(path) || newest(path) == 0)
        return try_open(path, deep);
    char **paths;
    int n = rundir_list(path, 1, &paths);
    struct ckpt *c = NULL;
    for (int i = 0; i < n && !c; i++) {
        c = try_open(paths[i], deep);
        if (!c && n > 1)
            warn("passing over a checkpoint: %s", err_last());
    }
    if (n == 0)
        err_set("run '%s' holds no checkpoint yet", path);
    rundir_free_list(paths, n);
    return c;
}

/* The index goes first: from then on nobody takes what is left for a checkpoint. */
static void remove_step(const char *path)
{
    char *index = set_index_path(path);
    if (unlink(index) < 0 && errno != ENOENT)
        die_errno("cannot remove '%s'", index);
    free(index);
    out_sync_dir(path);
    out_remove_tree(path);
}

void rundir_prune(const struct rundir *r, int keep, int64_t every, int64_t back)
{
    if (keep < 1)
        bug("prune to %d checkpoints", keep);
    if (!rundir_is_newest(r))
        return;
    struct entries whole = find_steps(r->run, true), torn = find_steps(r->run, false);
    int own = 0, home = 0;
    for (size_t i = 0; i < whole.n; i++) {
        bool mine = whole.e[i].number == r->number && own++ < keep;
        bool landmark = every > 0 && whole.e[i].step % every == 0;
        landmark |= back > 0 && whole.e[i].step % back == 0 && home++ == 0;
        if (i >= (size_t)keep && !mine && !landmark && rundir_is_newest(r))
            remove_step(whole.e[i].path);
        free(whole.e[i].path);
    }
    for (size_t i = 0; i < torn.n; i++) {
        if (torn.e[i].number < r->number) {
            struct sign s = read_sign(r->run, torn.e[i].number);
            if (is_dead_for_sure(&s) && rundir_is_newest(r))
                remove_step(torn.e[i].path);
        }
        free(torn.e[i].path);
    }
    free(whole.e);
    free(torn.e);
}

void rundir_go_back(const struct rundir *r, int64_t step)
{
    struct entries l = find_steps(r->run, true);
    for (size_t i = 0; i < l.n; i++) {
        rundir_demand_newest(r);
        if (l.e[i].step > step)
            remove_step(l.e[i].path);
        free(l.e[i].path);
    }
    free(l.e);
}
