/* A gang over two real workers on one machine: real scheduler, Redis and PostgreSQL, engines that are shell scripts.
 * All ranks know their place; a worker that is killed takes the whole gang down, and it runs again as a whole. */
#include "tests/scheduler/flow.h"

#include "tests/support/run.h"

static flow f;
static pid_t workers[2];

static pid_t start_worker(int i, int nth) {
    char node[16], state[128], engine[128], log[128];
    snprintf(node, sizeof node, "n%d", i);
    snprintf(state, sizeof state, "%s/worker%d.%d", f.s.dir, i, nth);
    snprintf(engine, sizeof engine, "%s/engine", f.s.dir);
    snprintf(log, sizeof log, "%s/worker%d.log", f.s.dir, i);
    const char *argv[] = {MULL_BIN_DIR "/mull-worker",
                          "--redis",
                          f.s.redis_addr,
                          "--state",
                          state,
                          "--node",
                          node,
                          "--engine",
                          engine,
                          "--devices",
                          "cpu:2",
                          NULL};
    return mull_spawn(log, argv);
}

static void write_script(const char *path, const char *text) {
    mull_write_file(path, text, strlen(text));
    assert_int_equal(chmod(path, 0755), 0);
}

static int setup(void **state) {
    (void)state;
    flow_start(&f, 0);
    char path[128], text[900];
    snprintf(path, sizeof path, "%s/engine", f.s.dir);
    /* Every rank writes where it is, waits for the others by looking for their files, then for the word to end. */
    snprintf(
        text, sizeof text,
        "#!/bin/sh\n"
        "read -r spec\n"
        "d=%s; me=$MULL_ATTEMPT\n"
        "f=${me##*:}\n"
        "echo $MULL_WORLD_SIZE $MULL_NODE_RANK $MULL_NODE_COUNT $MULL_LOCAL_RANK $MULL_MASTER_ADDR:$MULL_MASTER_PORT "
        "$MULL_NODES $$ >$d/new.$f.$MULL_RANK\n"
        "mv $d/new.$f.$MULL_RANK $d/rank.$f.$MULL_RANK\n"
        "trap 'echo $MULL_RANK >>$d/term.'$f'; exit 75' TERM\n"
        "while test ! -e $d/go.$f; do sleep 0.05; done\n"
        "exit $(cat $d/go.$f)\n",
        f.s.dir);
    write_script(path, text);
    for (int i = 0; i < 2; i++) workers[i] = start_worker(i, 0);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++)
        if (workers[i] > 0) mull_reap(workers[i], SIGTERM);
    flow_stop(&f);
    return 0;
}

static long long fence_of(long long job, int nth) {
    char sql[160];
    snprintf(sql, sizeof sql, "SELECT COALESCE(max(fence), 0) FROM attempt WHERE job = %lld AND attempt = %d", job,
             nth);
    for (int i = 0; i < 600; i++) {
        long long fence = mull_sql_int(f.pg, sql);
        if (fence) return fence;
        mull_sleep_ms(50);
    }
    fail_msg("attempt %d of job %lld was not made", nth, job);
    return 0;
}

typedef struct rank {
    int world, node_rank, nodes, local;
    char master[128], names[64];
    int pid;
} rank;

static rank read_rank(long long fence, int n) {
    char path[160];
    rank r = {0};
    snprintf(path, sizeof path, "%s/rank.%lld.%d", f.s.dir, fence, n);
    for (int i = 0; i < 600; i++) {
        char *text = mull_slurp(path, NULL);
        int got = text ? sscanf(text, "%d %d %d %d %127s %63s %d", &r.world, &r.node_rank, &r.nodes, &r.local, r.master,
                                r.names, &r.pid)
                       : 0;
        free(text);
        if (got == 7) return r;
        mull_sleep_ms(50);
    }
    fail_msg("rank %d of fence %lld has not begun", n, fence);
    return r;
}

static void let_go(long long fence, const char *status) {
    char path[160], tmp[170];
    snprintf(path, sizeof path, "%s/go.%lld", f.s.dir, fence);
    snprintf(tmp, sizeof tmp, "%s.new", path);
    mull_write_file(tmp, status, strlen(status));
    assert_int_equal(rename(tmp, path), 0);
}

static void ranks_know_their_place(void **state) {
    (void)state;
    long long id = flow_submit(&f, ",\"slots\":4"), fence = fence_of(id, 1);
    bool seen[2][2] = {{false}};
    char master[128] = "";
    for (int i = 0; i < 4; i++) {
        rank r = read_rank(fence, i);
        assert_int_equal(r.world, 4);
        assert_int_equal(r.nodes, 2);
        assert_int_equal(r.node_rank * 2 + r.local, i);
        seen[r.node_rank][r.local] = true;
        if (i == 0) strcpy(master, r.master);
        assert_string_equal(r.master, master);
        assert_true(!strcmp(r.names, "n0,n1") || !strcmp(r.names, "n1,n0"));
    }
    assert_true(seen[0][0] && seen[0][1] && seen[1][0] && seen[1][1]);
    assert_true(strlen(master) > 3);
    flow_expect(&f, id, "RUNNING", 10000);
    let_go(fence, "0\n");
    flow_expect(&f, id, "COMPLETED", 20000);
}

static bool is_gone(void *pid) {
    return !mull_pid_alive(*(pid_t *)pid);
}

static void a_killed_worker_takes_the_gang_down_and_it_runs_again(void **state) {
    (void)state;
    long long id = flow_submit(&f, ",\"slots\":4"), fence = fence_of(id, 1);
    rank r[4];
    for (int i = 0; i < 4; i++) r[i] = read_rank(fence, i);
    flow_expect(&f, id, "RUNNING", 10000);
    mull_reap(workers[1], SIGKILL);
    workers[1] = start_worker(1, 0);
    for (int i = 0; i < 4; i++) {
        pid_t pid = r[i].pid;
        if (!mull_wait_for(is_gone, &pid, 30000)) fail_msg("rank %d lives on", i);
    }
    long long next = fence_of(id, 2);
    assert_true(next > fence);
    for (int i = 0; i < 4; i++) read_rank(next, i);
    /* A rank that fails of its own fault fails the job, and the ranks of the other node are stopped. */
    rank zero = read_rank(next, 0);
    pid_t three = read_rank(next, 3).pid;
    (void)zero;
    char path[160];
    snprintf(path, sizeof path, "%s/rank.%lld.0", f.s.dir, next);
    assert_int_equal(kill(zero.pid, SIGKILL), 0); /* killed by a stranger: infrastructure, tried a third time */
    if (!mull_wait_for(is_gone, &three, 30000)) fail_msg("the other node's rank lives on");
    long long third = fence_of(id, 3);
    for (int i = 0; i < 4; i++) read_rank(third, i);
    let_go(third, "3\n");
    flow_expect(&f, id, "FAILED", 30000);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM attempt_part WHERE ended_at IS NULL"), 0);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM attempt WHERE ended_at IS NULL"), 0);
}

/* A second worker with the name of one that runs: that one ends, its engine too, and the job runs again on the other.
 */
static void of_two_workers_with_one_name_the_first_ends(void **state) {
    (void)state;
    long long id = flow_submit(&f, ",\"slots\":4"), fence = fence_of(id, 1);
    pid_t ranks[4];
    for (int i = 0; i < 4; i++) ranks[i] = read_rank(fence, i).pid;
    flow_expect(&f, id, "RUNNING", 10000);
    pid_t second = start_worker(1, 1);
    assert_int_equal(mull_reap(workers[1], 0), 2);
    workers[1] = second;
    for (int i = 0; i < 4; i++)
        if (!mull_wait_for(is_gone, &ranks[i], 30000)) fail_msg("rank %d lives on", i);
    long long next = fence_of(id, 2);
    for (int i = 0; i < 4; i++) read_rank(next, i);
    let_go(next, "0\n");
    flow_expect(&f, id, "COMPLETED", 30000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_know_their_place),
        cmocka_unit_test(a_killed_worker_takes_the_gang_down_and_it_runs_again),
        cmocka_unit_test(of_two_workers_with_one_name_the_first_ends),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
