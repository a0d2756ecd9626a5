/* The thread pool: every part runs exactly once on any number of threads, runs see what earlier runs wrote, nested runs
 * work, sleeping workers wake, and the default number of threads obeys affinity and cgroup quotas. */
#include "engine/core/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PARTS = 64 };

typedef struct count_ctx {
    atomic_int hits[PARTS];
    mull_pool *pool;
} count_ctx;

static void count(void *ctx, int part, int parts) {
    count_ctx *c = ctx;
    if (part < 0 || part >= parts) abort(); /* cmocka's asserts cannot leave another thread */
    atomic_fetch_add(&c->hits[part], 1);
}
static void nested(void *ctx, int part, int parts) {
    (void)part, (void)parts;
    mull_pool_run(((count_ctx *)ctx)->pool, count, ctx, PARTS);
}

static void every_part_once(void **state) {
    (void)state;
    enum { RUNS = 500 };
    for (int threads = 1; threads <= 4; threads++) {
        count_ctx c = {.pool = mull_pool_create(threads)};
        assert_non_null(c.pool);
        assert_int_equal(mull_pool_threads(c.pool), threads);
        int want[PARTS] = {0};
        for (int i = 0; i < RUNS; i++) {
            int parts = i % (PARTS + 1);
            mull_pool_run(c.pool, count, &c, parts);
            for (int p = 0; p < parts; p++) want[p]++;
        }
        mull_pool_run(c.pool, nested, &c, 8);
        for (int p = 0; p < PARTS; p++) assert_int_equal(atomic_load(&c.hits[p]), want[p] + 8);
        mull_pool_destroy(c.pool);
    }
}

static void no_pool(void **state) {
    (void)state;
    count_ctx c = {0};
    assert_int_equal(mull_pool_threads(NULL), 1);
    mull_pool_run(NULL, count, &c, 3);
    mull_pool_run(NULL, count, &c, -1);
    for (int p = 0; p < 4; p++) assert_int_equal(atomic_load(&c.hits[p]), p < 3);
    mull_pool_destroy(NULL);
}

/* Plain memory, no atomics: what one run writes the next one reads on other threads (checked by the tsan preset too).
 */
typedef struct relay {
    long cell[PARTS];
    int round;
} relay;
static void pass_on(void *ctx, int part, int parts) {
    relay *r = ctx;
    int from = r->round % 2, mine = (part + r->round) % (parts / 2);
    long *a = r->cell + from * (parts / 2), *b = r->cell + (1 - from) * (parts / 2);
    if (part < parts / 2) b[mine] = a[(mine + 1) % (parts / 2)] + 1;
}

static void runs_are_ordered(void **state) {
    (void)state;
    mull_pool *pool = mull_pool_create(3);
    relay r = {0};
    for (r.round = 0; r.round < 2000; r.round++) mull_pool_run(pool, pass_on, &r, PARTS);
    for (int i = 0; i < PARTS / 2; i++) assert_int_equal(r.cell[i], 2000);
    mull_pool_destroy(pool);
}

static void slow_part(void *ctx, int part, int parts) {
    (void)parts;
    if (part == 1) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    count(ctx, part, parts);
}

/* Long pauses put the workers to sleep, a slow part the caller: both must wake, and burn nothing meanwhile. */
static void sleepers_wake(void **state) {
    (void)state;
    count_ctx c = {.pool = mull_pool_create(2)};
    clock_t before = clock();
    for (int i = 0; i < 10; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        mull_pool_run(c.pool, slow_part, &c, 2);
    }
    double cpu = (double)(clock() - before) / CLOCKS_PER_SEC;
    assert_int_equal(atomic_load(&c.hits[0]), 10);
    assert_int_equal(atomic_load(&c.hits[1]), 10);
    if (cpu > 0.15) fail_msg("%g s of CPU time for 0.4 s of waiting", cpu); /* spinning through would be 0.4 or more */
    mull_pool_destroy(c.pool);
}

static void affinity(void **state) {
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    mull_pool *pool = mull_pool_create(0);
    assert_in_range(mull_pool_threads(pool), 1, CPU_COUNT(&all));
    mull_pool_destroy(pool);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    pool = mull_pool_create(0);
    assert_int_equal(mull_pool_threads(pool), 1);
    mull_pool_destroy(pool);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

static void put(const char *dir, const char *name, const char *text) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void quota(void **state) {
    (void)state;
    char root[] = "/tmp/mull_test_pool_XXXXXX", self[600], dir[600], deep[700];
    assert_non_null(mkdtemp(root));
    snprintf(self, sizeof self, "%s/self", root);
    snprintf(dir, sizeof dir, "%s/a", root);
    snprintf(deep, sizeof deep, "%s/b c", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(mkdir(deep, 0700), 0);

    assert_int_equal(mull_pool_quota(root, self), 0); /* no files at all */
    put(root, "self", "1:cpu:/x\n0::/a/b c\n");
    assert_int_equal(mull_pool_quota(root, self), 0);
    put(deep, "cpu.max", "max 100000\n");
    assert_int_equal(mull_pool_quota(root, self), 0);
    put(dir, "cpu.max", "350000 100000\n");
    assert_int_equal(mull_pool_quota(root, self), 3); /* of the group above, rounded down */
    put(deep, "cpu.max", "50000 100000\n");
    assert_int_equal(mull_pool_quota(root, self), 1); /* at least one */
    put(deep, "cpu.max", "800000 100000\n");
    assert_int_equal(mull_pool_quota(root, self), 3); /* the least on the way up */
    put(dir, "cpu.max", "nonsense");
    assert_int_equal(mull_pool_quota(root, self), 8);
    put(root, "cpu.max", "200000 100000\n");
    assert_int_equal(mull_pool_quota(root, self), 2);

    const char *const files[] = {"a/b c/cpu.max", "a/cpu.max", "cpu.max", "self"};
    for (int i = 0; i < 4; i++) {
        snprintf(self, sizeof self, "%s/%s", root, files[i]);
        assert_int_equal(unlink(self), 0);
    }
    assert_int_equal(rmdir(deep) | rmdir(dir) | rmdir(root), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_part_once),  cmocka_unit_test(no_pool),
                                       cmocka_unit_test(runs_are_ordered), cmocka_unit_test(sleepers_wake),
                                       cmocka_unit_test(affinity),         cmocka_unit_test(quota)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
