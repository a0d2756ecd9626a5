/* Collectives between processes: values, order of the sums, and what the others see when a rank ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/engine/ranks_util.h"

#include <dirent.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>

enum { N = 3 * (1 << 20) + 17 }; /* more than one piece of a reduction */

static char dir[64];

static void clean(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
    rmdir(path);
}

static void all_ok(int world, rank_fn fn, void *ctx) {
    int status[MULL_WORLD_MAX];
    snprintf(dir, sizeof dir, "/tmp/mull_comm_XXXXXX");
    assert_non_null(mkdtemp(dir));
    run_ranks(world, dir, fn, ctx, status);
    clean(dir);
    for (int r = 0; r < world; r++) assert_int_equal(status[r], 0);
}

/* Values of which the sum depends on its order. */
static float value(int rank, int64_t i) {
    uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)rank * 40503u;
    return (float)(x >> 8) * (rank == 1 ? 1e3f : 1e-4f) - (float)(x & 255);
}

static int sums(mull_comm *c, void *ctx) {
    (void)ctx;
    int world = mull_comm_world(c), rank = mull_comm_rank(c);
    mull_error err = {0};
    float *x = malloc(N * sizeof *x), *want = malloc(N * sizeof *want), *y = malloc(N * sizeof *y);
    uint16_t *h = malloc(N * sizeof *h);
    RANK_CHECK(x && want && y && h);
    for (int64_t i = 0; i < N; i++) {
        want[i] = value(0, i);
        for (int r = 1; r < world; r++) want[i] += value(r, i); /* in the order of the ranks */
        x[i] = y[i] = value(rank, i);
    }
    RANK_CHECK(mull_comm_all_reduce(c, x, MULL_F32, N, &err) == 0);
    RANK_CHECK(!memcmp(x, want, N * sizeof *x));
    /* Cuts of any kind, an empty part among them: the own part is the same sum, the rest stays. */
    int64_t cuts[MULL_WORLD_MAX + 1] = {0, 5, N};
    if (world == 3) cuts[2] = 5, cuts[3] = N;
    RANK_CHECK(mull_comm_reduce_scatter(c, y, MULL_F32, cuts, &err) == 0);
    for (int64_t i = 0; i < N; i++) {
        bool own = i >= cuts[rank] && i < cuts[rank + 1];
        float w = own ? want[i] : value(rank, i);
        RANK_CHECK(!memcmp(&y[i], &w, sizeof w));
    }
    RANK_CHECK(mull_comm_all_gather(c, y, MULL_F32, cuts, &err) == 0);
    RANK_CHECK(!memcmp(y, want, N * sizeof *y));
    /* bf16: float32 inside, one rounding. */
    for (int64_t i = 0; i < N; i++) h[i] = mull_f32_to_bf16(value(rank, i));
    RANK_CHECK(mull_comm_all_reduce(c, h, MULL_BF16, N, &err) == 0);
    for (int64_t i = 0; i < N; i++) {
        float s = mull_bf16_to_f32(mull_f32_to_bf16(value(0, i)));
        for (int r = 1; r < world; r++) s += mull_bf16_to_f32(mull_f32_to_bf16(value(r, i)));
        RANK_CHECK(h[i] == mull_f32_to_bf16(s));
    }
    RANK_CHECK(world == 1 || mull_comm_all_reduce(c, x, MULL_I64, 1, &err) == MULL_EINTERNAL);
    free(x);
    free(y);
    free(h);
    free(want);
    return 0;
}

static int moves(mull_comm *c, void *ctx) {
    (void)ctx;
    int world = mull_comm_world(c), rank = mull_comm_rank(c);
    mull_error err = {0};
    for (int round = 0; round < 200; round++) {
        int64_t mine = rank * 1000 + round, all[8] = {0}, one = rank == round % world ? round : -1;
        RANK_CHECK(mull_comm_collect(c, &mine, sizeof mine, all, &err) == 0);
        for (int r = 0; r < world; r++) RANK_CHECK(all[r] == r * 1000 + round);
        RANK_CHECK(mull_comm_broadcast(c, &one, sizeof one, round % world, &err) == 0);
        RANK_CHECK(one == round);
        RANK_CHECK(mull_comm_barrier(c, &err) == 0);
    }
    return 0;
}

static void collectives(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    for (int world = 1; world <= 3; world++) {
        all_ok(world, moves, NULL);
        all_ok(world, sums, NULL);
    }
}

/* Rank 1 dies as the context says; the others get an error, soon, and then at once. */
static int lose(mull_comm *c, void *ctx) {
    mull_error err = {0};
    RANK_CHECK(mull_comm_barrier(c, &err) == 0);
    float x = 1;
    if (mull_comm_rank(c) == 1 && *(int *)ctx) {
        raise(*(int *)ctx);
        return 2;
    }
    if (mull_comm_rank(c) == 1) return 7;
    RANK_CHECK(mull_comm_all_reduce(c, &x, MULL_F32, 1, &err) == MULL_EIO);
    RANK_CHECK(!strcmp(err.what, "lost another rank") && err.why[0]);
    RANK_CHECK(mull_comm_barrier(c, &err) == MULL_EIO);
    return 0;
}

static void a_lost_rank_is_an_error(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    int how[] = {SIGKILL, 0}, status[3];
    for (int i = 0; i < 2; i++) {
        time_t start = time(NULL);
        snprintf(dir, sizeof dir, "/tmp/mull_comm_XXXXXX");
        assert_non_null(mkdtemp(dir));
        run_ranks(3, dir, lose, &how[i], status);
        clean(dir);
        assert_int_equal(status[0], 0);
        assert_int_equal(status[1], how[i] ? 128 + SIGKILL : 7);
        assert_int_equal(status[2], 0);
        assert_true(time(NULL) - start < 30); /* far below the time that silence may last */
    }
}

/* ---- over several hosts: ranks meet through rank 0 */

static char port[8];

static void new_port(void) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    snprintf(port, sizeof port, "%d", ntohs(sa.sin_port));
    close(fd);
}

static void at_master(int world, mull_comm_opts *at) {
    new_port();
    for (int r = 0; r < world; r++)
        at[r] = (mull_comm_opts){
            .master = "localhost", .port = port, .secret = "s3cret", .address = "127.0.0.1", .timeout_s = 60};
}

/* Somebody who is not one of the ranks: connects again and again and says anything, or nothing. Returns its pid. */
static pid_t stranger(void) {
    pid_t pid = fork();
    if (pid) return pid;
    unsigned seed = 1;
    alarm(200);
    for (;;) {
        struct sockaddr_in sa = {
            .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        unsigned char noise[200];
        for (size_t i = 0; i < sizeof noise; i++) noise[i] = (unsigned char)rand_r(&seed);
        if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0 && seed % 3)
            (void)!send(fd, noise, seed % sizeof noise, MSG_NOSIGNAL);
        usleep(20000);
        close(fd);
    }
}

static void ranks_of_several_hosts(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    mull_comm_opts at[3];
    int status[3];
    at_master(3, at);
    pid_t noise = stranger();
    run_ranks_at(3, at, moves, NULL, status);
    for (int r = 0; r < 3; r++) assert_int_equal(status[r], 0);
    run_ranks_at(3, at, sums, NULL, status);
    kill(noise, SIGKILL);
    waitpid(noise, NULL, 0);
    for (int r = 0; r < 3; r++) assert_int_equal(status[r], 0);
    int how = SIGKILL;
    at_master(3, at);
    run_ranks_at(3, at, lose, &how, status);
    assert_int_equal(status[0], 0);
    assert_int_equal(status[1], 128 + SIGKILL);
    assert_int_equal(status[2], 0);
}

static void a_rank_without_the_secret_stays_outside(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    mull_comm_opts at[2];
    int status[2];
    at_master(2, at);
    at[0].timeout_s = 3;
    at[1].secret = "another";
    time_t start = time(NULL);
    run_ranks_at(2, at, moves, NULL, status);
    assert_int_equal(status[0], 125); /* nobody came */
    assert_int_equal(status[1], 125);
    assert_true(time(NULL) - start < 30);
}

static void environment(void **state) {
    (void)state;
    mull_comm_opts o;
    mull_error err = {0};
    const char *const names[] = {"MULL_RANK", "MULL_WORLD_SIZE", "MULL_RENDEZVOUS", "MULL_COMM_TIMEOUT_S"};
    const char *const hosts[] = {"MULL_MASTER_ADDR", "MULL_MASTER_PORT", "MULL_GANG_SECRET", "MULL_NODE_ADDR"};
    for (int i = 0; i < 4; i++) unsetenv(names[i]);
    assert_int_equal(mull_comm_from_env(&o, &err), 0);
    assert_int_equal(o.world, 1);
    setenv("MULL_WORLD_SIZE", "2", 1);
    setenv("MULL_RANK", "1", 1);
    assert_int_equal(mull_comm_from_env(&o, &err), MULL_EARG); /* where would they meet? */
    for (int i = 0; i < 4; i++) {                              /* each of them is needed */
        setenv(hosts[i], "x", 1);
        assert_int_equal(mull_comm_from_env(&o, &err), i < 3 ? MULL_EARG : 0);
    }
    for (int i = 0; i < 4; i++) unsetenv(hosts[i]);
    setenv("MULL_RENDEZVOUS", "/nowhere", 1);
    assert_int_equal(mull_comm_from_env(&o, &err), 0);
    assert_true(o.world == 2 && o.rank == 1 && !strcmp(o.rendezvous, "/nowhere"));
    const char *const bad[] = {"2", "-1", "x", "1x", "99999999999999999999"};
    for (int i = 0; i < 5; i++) {
        setenv("MULL_RANK", bad[i], 1);
        assert_int_equal(mull_comm_from_env(&o, &err), MULL_EARG);
        assert_string_equal(err.where, "MULL_RANK");
    }
    mull_comm *c = NULL;
    o = (mull_comm_opts){.rank = 0, .world = 2, .rendezvous = "/nowhere/at/all"};
    assert_int_not_equal(mull_comm_create(&o, &c, &err), 0);
    assert_null(c);
    for (int i = 0; i < 4; i++) unsetenv(names[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(collectives), cmocka_unit_test(a_lost_rank_is_an_error),
                                       cmocka_unit_test(ranks_of_several_hosts),
                                       cmocka_unit_test(a_rank_without_the_secret_stays_outside),
                                       cmocka_unit_test(environment)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
