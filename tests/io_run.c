/* io_run.c - tests of common/io/rundir: the dead are known, the newest checkpoint is found
 * SPDX-License-Identifier: MIT
 */
#include "io.h"

#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "common/io/ckpt.h"
#include "common/io/rundir.h"
#include "common/io/set.h"

static void nap(double seconds)
{
    struct timespec t = { (time_t)seconds, (long)((seconds - floor(seconds)) * 1e9) };
    nanosleep(&t, NULL);
}

static double patience;

static void try_begin(void *run)
{
    struct rundir *r = rundir_begin(run, patience);
    rundir_end(r);
}

static void begin_and_stay(void *run)
{
    rundir_begin(run, 0);
    kill(getpid(), SIGKILL);
}

/* An incarnation of another host, without a lock. */
static char *fake_life(const char *run, int number, const char *text)
{
    char *inc = xasprintf("%s/inc-%04d", run, number), *lock = path_join(inc, "lock");
    out_make_dirs(inc);
    write_file(lock, text, strlen(text));
    free(inc);
    return lock;
}

static void test_incarnations(void **state)
{
    (void)state;
    char *run = at("run");
    patience = 0;
    struct rundir *r = rundir_begin(run, 0);
    assert_int_equal(rundir_number(r), 1);
    assert_true(rundir_is_newest(r));
    assert_int_equal(run_child(try_begin, run), 1); /* it lives */
    rundir_end(r);
    patience = 60; /* an orderly end and a dead process of this host need no watching */
    double before = now_seconds();
    assert_int_equal(run_child(try_begin, run), 0);
    assert_int_equal(run_child(begin_and_stay, run), -SIGKILL);
    r = rundir_begin(run, 60);
    assert_true(now_seconds() - before < 20);
    assert_int_equal(rundir_number(r), 4);
    char *newer = fake_life(run, 5, "elsewhere 1 7\n");
    assert_false(rundir_is_newest(r));
    rundir_end(r);
    free(newer);
    free(run);
}

static void test_other_hosts(void **state)
{
    (void)state;
    char *run = at("run2"), *lock = fake_life(run, 1, "elsewhere 4711 99\n");
    patience = 0.7;
    double before = now_seconds();
    assert_int_equal(run_child(try_begin, run), 0); /* no beat */
    assert_true(now_seconds() - before >= 0.6);
    free(lock);
    lock = fake_life(run, 3, "elsewhere 4711 99\n");
    pid_t heart = fork();
    if (heart == 0)
        for (;;) {
            utimensat(AT_FDCWD, lock, NULL, 0);
            nap(0.05);
        }
    patience = 10;
    int code = run_child(try_begin, run);
    kill(heart, SIGKILL);
    waitpid(heart, NULL, 0);
    assert_int_equal(code, 1);
    write_file(lock, "elsewhere 4711 99\nended\n", 24);
    before = now_seconds();
    assert_int_equal(run_child(try_begin, run), 0);
    assert_true(now_seconds() - before < 5);
    free(lock);
    free(run);
}

static void test_heartbeat(void **state)
{
    (void)state;
    char *run = at("run3");
    struct rundir *r = rundir_begin(run, 0);
    char *lock = path_join(rundir_path(r), "lock");
    struct timespec old[2] = { { 1000, 0 }, { 1000, 0 } };
    struct stat st;
    utimensat(AT_FDCWD, lock, old, 0);
    rundir_beat(r);
    assert_int_equal(stat(lock, &st), 0);
    assert_true(st.st_mtim.tv_sec > 1000);
    utimensat(AT_FDCWD, lock, old, 0);
    rundir_beat(r); /* too soon */
    assert_int_equal(stat(lock, &st), 0);
    assert_int_equal(st.st_mtim.tv_sec, 1000);
    rundir_end(r);
    free(lock);
    free(run);
}

/* A tiny checkpoint at RUN/inc-NNNN/step-SSSSSSSS, or what a killed writer leaves of one. */
static void put_step(const char *run, int number, int step, bool whole)
{
    char *dir = xasprintf("%s/inc-%04d/step-%08d", run, number, step);
    struct ckpt_piece p = { .tensor = { "model/x", 1, { 2 } }, .count = { 2 }, .data = (float[]){ 1, 2 } };
    struct set_member m;
    struct attrs none = { 0 };
    set_prepare(dir, true);
    ckpt_write_member(dir, 0, 1, &p, 1, &m);
    if (whole)
        ckpt_write_index(dir, &m, 1, &none, NULL, NULL, false);
    free(dir);
}

static bool has_step(const char *run, int number, int step)
{
    char *dir = xasprintf("%s/inc-%04d/step-%08d", run, number, step);
    bool there = path_exists(dir);
    free(dir);
    return there;
}

static void assert_list(const char *run, const char *want)
{
    char **paths;
    int n = rundir_list(run, 1, &paths);
    struct buf b = { 0 };
    buf_add(&b, "", 0);
    for (int i = 0; i < n; i++)
        buf_addf(&b, "%s ", paths[i] + strlen(run) + 1);
    assert_string_equal(b.data, want);
    buf_free(&b);
    rundir_free_list(paths, n);
}

/* Our place in a Slurm job, as a text "ARRAY JOB TASK RESTART"; "-" for what is not set. */
static void be_attempt(const char *text)
{
    static const char *const names[] = { "SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID",
                                         "SLURM_RESTART_COUNT" };
    char word[4][32];
    assert_int_equal(sscanf(text, "%31s %31s %31s %31s", word[0], word[1], word[2], word[3]), 4);
    for (int i = 0; i < 4; i++)
        if (strcmp(word[i], "-") == 0)
            unsetenv(names[i]);
        else
            setenv(names[i], word[i], 1);
}

static void test_take_over(void **state)
{
    (void)state;
    static const struct {
        const char *alive, *start;
        int code;
    } cases[] = {
        { "- 7 - -", "- 7 - 1", 0 },   { "- 7 - 9", "- 7 - 10", 0 },   { "- 7 - 1", "- 7 - 1", 1 },
        { "- 7 - 1", "- 7 - -", 1 },   { "- 7 - -", "- 8 - 1", 1 },    { "- - - -", "- - - 1", 1 },
        { "5 6 1 3", "5 9 2 -", 0 },   { "5 6 2 -", "5 9 1 4", 1 },    { "5 6 2 -", "5 6 2 1", 0 },
        { "5 6 10 -", "5 9 9 -", 1 },  { "5 6 9 -", "5 9 10 -", 0 },   { "5 6 1 -", "- 6 - 1", 1 },
        { "- 5 - -", "5 6 1 -", 0 }, /* an id is of one job only */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[32];
        snprintf(name, sizeof name, "over%zu", i);
        char *run = at(name);
        be_attempt(cases[i].alive);
        struct rundir *r = rundir_begin(run, 0);
        be_attempt(cases[i].start);
        patience = 0.3;
        int code = run_child(try_begin, run);
        be_attempt("- - - -");
        if (code != cases[i].code)
            fail_msg("%s alive, %s starts: %d", cases[i].alive, cases[i].start, code);
        assert_int_equal(rundir_is_newest(r), code != 0);
        rundir_end(r);
        free(run);
    }
    /* of another host, whose locks we do not see: at once */
    char *run = at("over"), *lock = fake_life(run, 1, "elsewhere 4711 7 0.0\n");
    be_attempt("- 7 - 1");
    patience = 30;
    double before = now_seconds();
    assert_int_equal(run_child(try_begin, run), 0);
    assert_true(now_seconds() - before < 20);
    be_attempt("- - - -");
    free(lock);
    free(run);
}

static void demand(void *r) { rundir_demand_newest(r); }

static void test_fence(void **state)
{
    (void)state;
    char *run = at("fence");
    struct rundir *r = rundir_begin(run, 0);
    assert_int_equal(run_child(demand, r), 0);
    char *newer = fake_life(run, 2, "elsewhere 1 7 0.1\n");
    assert_int_equal(run_child(demand, r), 1);
    rundir_end(r);
    free(newer);
    free(run);
}

static void assert_state(const struct rundir *r, const char *want)
{
    char *path = path_join(rundir_path(r), "state"), text[64] = "";
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    free(path);
    assert_string_equal(text, want);
}

static void test_state(void **state)
{
    (void)state;
    char *run = at("run5");
    struct rundir *r = rundir_begin(run, 0);
    assert_state(r, "running 0\n");
    rundir_tell(r, "running", 1234567);
    assert_state(r, "running 1234567\n");
    char *path = path_join(rundir_path(r), "state"), *temp = path_join(rundir_path(r), "state.tmp");
    FILE *reader = fopen(path, "r"); /* whoever reads it meanwhile sees all of the line before */
    rundir_tell(r, "done", 7);
    char text[64] = "";
    text[fread(text, 1, sizeof text - 1, reader)] = '\0';
    fclose(reader);
    assert_string_equal(text, "running 1234567\n");
    assert_state(r, "done 7\n");
    assert_false(path_exists(temp));
    rundir_end(r);
    free(path);
    free(temp);
    free(run);
}

static void test_prune(void **state)
{
    (void)state;
    char *run = at("run4");
    assert_list(run, "");
    assert_null(rundir_try_open_ckpt(run, false));
    struct rundir *old = rundir_begin(run, 0);
    put_step(run, 1, 10, true);
    put_step(run, 1, 20, true);
    put_step(run, 1, 30, true);
    put_step(run, 1, 40, false);
    rundir_end(old);
    struct rundir *r = rundir_begin(run, 0);
    put_step(run, 2, 20, true);
    put_step(run, 2, 25, true);
    put_step(run, 2, 50, false);
    assert_list(run,
                "inc-0001/step-00000030 inc-0002/step-00000025 inc-0002/step-00000020 inc-0001/step-00000020 "
                "inc-0001/step-00000010 ");
    struct ckpt *c = rundir_try_open_ckpt(run, false);
    assert_non_null(c);
    assert_non_null(strstr(ckpt_dir(c), "inc-0001/step-00000030"));
    ckpt_close(c);
    char **tens = NULL;
    int n_tens = rundir_list(run, 10, &tens);
    assert_int_equal(n_tens, 4);
    rundir_free_list(tens, n_tens);
    rundir_prune(r, 1, 0, 20); /* the newest, that of this incarnation, and the newest multiple of 20: of two the newer's */
    assert_list(run, "inc-0001/step-00000030 inc-0002/step-00000025 inc-0002/step-00000020 ");
    put_step(run, 1, 10, true);
    rundir_prune(r, 1, 0, 0); /* the newest, and the newest of this incarnation */
    assert_list(run, "inc-0001/step-00000030 inc-0002/step-00000025 ");
    assert_false(has_step(run, 1, 40));
    assert_true(has_step(run, 2, 50)); /* perhaps being written just now */
    put_step(run, 2, 60, true);
    free(fake_life(run, 3, "elsewhere 1 7\n"));
    rundir_prune(r, 1, 0, 0); /* a newer one has begun: nothing is ours to remove */
    assert_list(run, "inc-0002/step-00000060 inc-0001/step-00000030 inc-0002/step-00000025 ");
    char *index = xasprintf("%s/inc-0002/step-00000060/index.h5", run);
    write_file(index, "torn", 4);
    fflush(NULL);
    int quiet = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    c = rundir_try_open_ckpt(run, false); /* passes over it, with a warning */
    dup2(quiet, STDERR_FILENO);
    close(quiet);
    close(null);
    assert_non_null(c);
    assert_non_null(strstr(ckpt_dir(c), "inc-0001/step-00000030"));
    ckpt_close(c);
    free(index);
    rundir_end(r);
    free(run);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_incarnations),
        cmocka_unit_test(test_other_hosts),
        cmocka_unit_test(test_heartbeat),
        cmocka_unit_test(test_take_over),
        cmocka_unit_test(test_fence),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_prune),
    };
    io_begin("io_run", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
