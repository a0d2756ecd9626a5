/* mull-sim as a program: a small trace gives the same answer twice, no GPU is given away twice, and a trace file with a
 * bad row is refused with its line. */
#include "scheduler/sim/sim.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const mull_trace_config SMALL = {7, 4, 3, 64, 2000, .5, .95};
static const mull_sim_config CLUSTER = {8, 8, 4, 15000, 1800000, 60000, 600000, 7 * 24 * 3600e3};

/* FNV-1a of when every job began and ended. */
static uint64_t play(void) {
    mull_trace t;
    mull_sim_result r;
    assert_int_equal(mull_trace_make(&SMALL, &t), 0);
    assert_int_equal(mull_sim_run(&t, &CLUSTER, &r), 0);
    assert_int_equal(r.double_booked, 0);
    uint64_t h = 14695981039346656037u;
    size_t began = 0;
    for (size_t i = 0; i < t.n; i++) {
        int64_t v[3] = {r.jobs[i].start_ms, r.jobs[i].end_ms, r.jobs[i].preempted};
        for (size_t k = 0; k < sizeof v; k++) h = (h ^ ((unsigned char *)v)[k]) * 1099511628211u;
        began += r.jobs[i].start_ms >= 0;
        assert_true(r.jobs[i].start_ms < 0 || r.jobs[i].start_ms >= t.jobs[i].submit_ms);
        assert_true(r.jobs[i].end_ms < 0 || r.jobs[i].end_ms - r.jobs[i].start_ms >= t.jobs[i].run_ms);
    }
    assert_int_equal(began, t.n); /* nothing starves */
    assert_int_equal(r.finished, t.n);
    assert_true(r.busy_gpu_ms > 0);
    mull_sim_fini(&r);
    mull_trace_fini(&t);
    return h;
}

static void the_same_trace_gives_the_same_answer(void **state) {
    (void)state;
    assert_true(play() == play());
}

static int read_text(const char *text) {
    char path[] = "/tmp/mull-trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    mull_trace t;
    int rc = mull_trace_read(path, &t);
    unlink(path);
    if (rc == 0) mull_trace_fini(&t);
    return rc;
}

#define HEAD "submit_s,run_s,limit_s,gpus,team,priority\n"

static void bad_rows_are_refused(void **state) {
    (void)state;
    assert_int_equal(read_text(HEAD "0,60,120,1,0,0\n5,60,0,2,1,3\n"), 0);
    static const char *const bad[] = {"",
                                      HEAD "0,60,120,1,red\n",
                                      HEAD "x,60,120,1,0,0\n",
                                      HEAD "0,nan,120,1,0,0\n",
                                      HEAD "0,60,120,-1,0,0\n",
                                      HEAD "-1,60,120,1,0,0\n",
                                      HEAD "9,60,120,1,0,0\n5,60,120,1,0,0\n",
                                      HEAD "0,1e300,120,1,0,0\n",
                                      HEAD "0,60,120,1,,0\n",
                                      HEAD "0,60,120,99999999999,0,0\n",
                                      HEAD "0,60,120,1,4294967296,0\n",
                                      HEAD "0,60,120,1,0,0,1\n",
                                      HEAD "0,60,120,1,0,0 x\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (read_text(bad[i]) == 0) fail_msg("taken: %s", bad[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_trace_gives_the_same_answer),
        cmocka_unit_test(bad_rows_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
