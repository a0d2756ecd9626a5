/* Device lists, the class of an end, and what is read from /proc. */
#include "schema/states.h"
#include "worker/classify.h"
#include "worker/devices.h"
#include "worker/proc.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void device_lists(void **state) {
    (void)state;
    mull_device_ask a;
    mull_err err;
    assert_int_equal(mull_devices_parse("cpu:2", &a, &err), 0);
    assert_int_equal(a.cpu, 2);
    assert_int_equal(mull_devices_parse("cuda:all", &a, &err), 0);
    assert_true(a.cuda_all && a.cpu == 0);
    assert_int_equal(mull_devices_parse("cuda:3,0+cpu:1", &a, &err), 0);
    assert_int_equal(a.cuda_count, 2);
    assert_int_equal(a.cuda[0], 0);
    assert_int_equal(a.cuda[1], 3);
    assert_int_equal(a.cpu, 1);
    static const char *const wrong[] = {"",
                                        "cpu",
                                        "cpu:",
                                        "cpu:0",
                                        "cpu:-1",
                                        "cpu:257",
                                        "cpu:1x",
                                        "gpu:1",
                                        "cuda:",
                                        "cuda:,1",
                                        "cuda:1,",
                                        "cuda:1,1",
                                        "cuda:0+cuda:1",
                                        "cpu:1+",
                                        "cpu:1+cpu:1",
                                        "cuda:ALL",
                                        "cpu: 1",
                                        "cpu:99999999999",
                                        "cuda:0,,1"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (mull_devices_parse(wrong[i], &a, &err) != MULL_ERR_ARG) fail_msg("accepted: '%s'", wrong[i]);
}

static void cpu_slots_share_the_cpus(void **state) {
    (void)state;
    mull_device_ask a;
    static mull_devices d;
    mull_err err;
    assert_int_equal(mull_devices_parse("cpu:1", &a, &err), 0);
    assert_int_equal(mull_devices_find(&a, &d, &err), 0);
    int all = d.at[0].threads, sum = 0;
    assert_true(all >= 1 && d.at[0].memory > 0);
    assert_int_equal(mull_devices_parse("cpu:3", &a, &err), 0);
    assert_int_equal(mull_devices_find(&a, &d, &err), 0);
    assert_int_equal(d.count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(d.at[i].index, i);
        assert_true(d.at[i].threads >= 1);
        sum += d.at[i].threads;
    }
    assert_true(sum == all || (all < 3 && sum <= 3));
    assert_ptr_equal(mull_devices_get(&d, false, 2), &d.at[2]);
    assert_null(mull_devices_get(&d, true, 0));
    assert_null(mull_devices_get(&d, false, 3));
}

static void classes(void **state) {
    (void)state;
    static const struct {
        mull_end end;
        const char *want;
    } cases[] = {
        {{.code = 0}, "ok"},
        {{.code = 1}, "user"},
        {{.code = 2}, "user"},
        {{.code = 75}, "requeue"},
        {{.code = 3}, "user"},
        {{.code = 126}, "infra"},
        {{.code = 127}, "infra"},
        {{.code = -1, .signal = SIGKILL}, "infra"},
        {{.code = -1, .signal = SIGSEGV, .oom_seen = true}, "infra"},
        {{.code = -1, .signal = SIGKILL, .oom_seen = true}, "oom"},
        {{.code = 1, .error_class = "oom"}, "oom"},
        {{.code = 1, .error_class = "infra"}, "infra"},
        {{.code = 1, .error_class = "user"}, "user"},
        {{.code = 75, .error_class = "requeue"}, "requeue"},
        {{.spawn_failed = true}, "infra"},
        {{.stop = MULL_STOP_CANCEL, .code = -1, .signal = SIGTERM}, "cancelled"},
        {{.stop = MULL_STOP_CANCEL, .code = 75}, "cancelled"},
        {{.stop = MULL_STOP_CANCEL, .code = 0}, "ok"},
        {{.stop = MULL_STOP_TIMEOUT, .code = -1, .signal = SIGKILL, .oom_seen = true}, "timeout"},
        {{.stop = MULL_STOP_TIMEOUT, .code = 75}, "timeout"},
        {{.stop = MULL_STOP_DRAIN, .code = 75}, "requeue"},
        {{.stop = MULL_STOP_DRAIN, .code = -1, .signal = SIGKILL, .oom_seen = true}, "requeue"},
        {{.stop = MULL_STOP_HANG, .code = -1, .signal = SIGKILL}, "infra"},
        {{.stop = MULL_STOP_HANG, .code = 0}, "ok"},
        {{.stop = MULL_STOP_DRAIN, .code = 1}, "user"},
        {{.stop = MULL_STOP_PREEMPT, .code = -1, .signal = SIGTERM}, "requeue"},
        {{.stop = MULL_STOP_STALE, .code = -1, .signal = SIGKILL}, "infra"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = mull_classify(&cases[i].end);
        assert_non_null(mull_class(got));
        if (strcmp(got, cases[i].want) != 0) fail_msg("case %zu: %s, not %s", i, got, cases[i].want);
    }
    assert_int_equal(mull_stop_of("timeout"), MULL_STOP_TIMEOUT);
    assert_int_equal(mull_stop_of("stale"), MULL_STOP_STALE);
    assert_int_equal(mull_stop_of("cancel"), MULL_STOP_CANCEL);
    assert_int_equal(mull_stop_of("whatever"), MULL_STOP_CANCEL);
}

static pid_t sleeper(void) {
    int ready[2];
    char c;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        (void)!write(ready[1], "x", 1);
        sleep(60);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static int killed_by(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void records_name_processes_for_good(void **state) {
    (void)state;
    char dir[] = "/tmp/mull-proc-XXXXXX", a[64], b[64], c[64];
    assert_non_null(mkdtemp(dir));
    snprintf(a, sizeof a, "%s/1.0", dir);
    snprintf(b, sizeof b, "%s/2.0", dir);
    snprintf(c, sizeof c, "%s/3.0", dir);
    pid_t ours = sleeper(), other = sleeper(), children[8];
    assert_int_equal(mull_proc_children(getpid(), children, 8), 2);
    assert_int_equal(mull_proc_record(a, ours, mull_proc_start(ours)), 0);
    assert_int_equal(mull_proc_record(b, other, mull_proc_start(other) + 1), 0); /* the id has been used again */
    FILE *f = fopen(c, "w");
    fputs("torn", f);
    fclose(f);
    assert_int_equal(mull_proc_kill_recorded(dir), 1);
    assert_int_equal(killed_by(ours), SIGKILL);
    assert_int_equal(kill(other, 0), 0);
    kill(other, SIGTERM);
    assert_int_equal(killed_by(other), SIGTERM);
    assert_int_equal(rmdir(dir), 0); /* the records are gone */
    assert_int_equal(mull_proc_start(ours), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(device_lists), cmocka_unit_test(cpu_slots_share_the_cpus),
                                       cmocka_unit_test(classes), cmocka_unit_test(records_name_processes_for_good)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
