/* Sharing a task's rows between processes: no row is given out twice, what a dead process had is taken over, and a
 * shard that cannot be read is answered again. Locks belong to open files, so two claimants in one process see each
 * other. */
#include "engine/eval/claims.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 3 * MULL__EVAL_SHARD + 5 };

typedef struct place {
    char dir[64];
    int work;
} place;

static int setup(void **state) {
    place *p = calloc(1, sizeof *p);
    assert_non_null(p);
    strcpy(p->dir, "/tmp/mull-claims-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    p->work = open(p->dir, O_RDONLY | O_DIRECTORY);
    assert_true(p->work >= 0);
    *state = p;
    return 0;
}

static int teardown(void **state) {
    place *p = *state;
    char command[96];
    close(p->work);
    snprintf(command, sizeof command, "rm -rf %s", p->dir);
    assert_int_equal(system(command), 0);
    free(p);
    return 0;
}

static void answer(mull__claims *c, mull__claim *claim, int64_t row) {
    char line[40];
    int n = snprintf(line, sizeof line, "{\"row\":%lld}", (long long)row);
    mull__kind kind = row % 10 == 3 ? MULL_KIND_ERROR : MULL_KIND_OK;
    assert_int_equal(mull__shard_append(claim->shard, row, kind, 1, 1, line, (size_t)n, NULL), MULL_OK);
    assert_int_equal(mull__claims_answered(c, claim, NULL), MULL_OK);
}

static bool one(mull__claims *c, int64_t *row, mull__claim **claim) {
    assert_int_equal(mull__claims_next(c, row, claim, NULL), MULL_OK);
    return *claim != NULL;
}

static void expect_merged(const place *p, mull__claims *c) {
    mull__sink ok, bad;
    char hex[65], path[96], line[64], want[64];
    assert_int_equal(mull__sink_open(&ok, p->work, "ok", NULL), MULL_OK);
    assert_int_equal(mull__sink_open(&bad, p->work, "bad", NULL), MULL_OK);
    assert_int_equal(mull__claims_merge(c, &ok, &bad, NULL), MULL_OK);
    assert_int_equal(mull__sink_commit(&ok, hex, NULL), MULL_OK);
    mull__sink_fini(&ok);
    mull__sink_fini(&bad);
    snprintf(path, sizeof path, "%s/ok", p->dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (int i = 0; i < ROWS; i++) {
        if (i % 10 == 3) continue;
        snprintf(want, sizeof want, "{\"row\":%d}\n", i);
        assert_non_null(fgets(line, sizeof line, f));
        assert_string_equal(line, want);
    }
    fclose(f);
}

static void two_share(void **state) {
    const place *p = *state;
    mull__claims a, b;
    mull__claim *x, *y;
    int64_t row = 0, other = 0;
    int seen[ROWS] = {0};
    assert_int_equal(mull__claims_init(&a, p->work, ROWS, NULL), MULL_OK);
    assert_int_equal(mull__claims_init(&b, p->work, ROWS, NULL), MULL_OK);
    /* both have rows in hand at once, of different shards */
    assert_true(one(&a, &row, &x) && one(&b, &other, &y));
    assert_int_equal(row, 0);
    assert_int_equal(other, MULL__EVAL_SHARD);
    for (bool more = true; more;) {
        more = false;
        if (x) {
            seen[row]++;
            answer(&a, x, row);
            more |= one(&a, &row, &x);
        }
        if (y) {
            seen[other]++;
            answer(&b, y, other);
            more |= one(&b, &other, &y);
        }
    }
    for (int i = 0; i < ROWS; i++) assert_int_equal(seen[i], 1);
    assert_int_equal(mull__claims_look(&a, NULL), MULL_OK);
    assert_int_equal(mull__claims_look(&b, NULL), MULL_OK);
    assert_true(mull__claims_complete(&a) && mull__claims_complete(&b));
    assert_int_equal(a.done, ROWS);
    assert_int_equal(b.done, ROWS);
    expect_merged(p, &a);
    mull__claims_fini(&a);
    mull__claims_fini(&b);
}

static void a_dead_one_is_followed(void **state) {
    const place *p = *state;
    mull__claims a, b;
    mull__claim *x;
    int64_t row;
    assert_int_equal(mull__claims_init(&a, p->work, ROWS, NULL), MULL_OK);
    assert_int_equal(mull__claims_init(&b, p->work, ROWS, NULL), MULL_OK);
    for (int i = 0; i < 10; i++) {
        assert_true(one(&a, &row, &x));
        answer(&a, x, row);
    }
    assert_true(one(&a, &row, &x)); /* given out, never answered */
    int n = 0;
    while (one(&b, &row, &x)) {
        assert_true(row >= MULL__EVAL_SHARD);
        answer(&b, x, row);
        n++;
    }
    assert_int_equal(n, ROWS - MULL__EVAL_SHARD);
    assert_int_equal(mull__claims_look(&b, NULL), MULL_OK);
    assert_false(mull__claims_complete(&b));
    mull__claims_fini(&a);
    for (n = 0; one(&b, &row, &x); n++) {
        assert_int_equal(row, 10 + n);
        answer(&b, x, row);
    }
    assert_int_equal(n, MULL__EVAL_SHARD - 10);
    assert_true(mull__claims_complete(&b));
    assert_int_equal(b.done, ROWS);
    expect_merged(p, &b);
    mull__claims_fini(&b);
}

static void a_bad_shard_is_answered_again(void **state) {
    const place *p = *state;
    mull__claims a;
    mull__claim *x;
    mull__sink ok, bad;
    int64_t row;
    char path[96];
    assert_int_equal(mull__claims_init(&a, p->work, ROWS, NULL), MULL_OK);
    while (one(&a, &row, &x)) answer(&a, x, row);
    snprintf(path, sizeof path, "%s/shard-00000001.rows", p->dir);
    assert_int_equal(truncate(path, 200), 0);
    assert_int_equal(mull__sink_open(&ok, p->work, "ok", NULL), MULL_OK);
    assert_int_equal(mull__sink_open(&bad, p->work, "bad", NULL), MULL_OK);
    assert_int_equal(mull__claims_merge(&a, &ok, &bad, NULL), MULL_EFORMAT);
    mull__sink_fini(&ok);
    mull__sink_fini(&bad);
    assert_false(mull__claims_complete(&a));
    int n = 0;
    for (; one(&a, &row, &x); n++) answer(&a, x, row);
    assert_true(n > 0 && n < MULL__EVAL_SHARD);
    expect_merged(p, &a);
    mull__claims_fini(&a);
}

static void no_rows(void **state) {
    const place *p = *state;
    mull__claims a;
    mull__claim *x;
    int64_t row;
    assert_int_equal(mull__claims_init(&a, p->work, 0, NULL), MULL_OK);
    assert_false(one(&a, &row, &x));
    assert_true(mull__claims_complete(&a));
    mull__claims_fini(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(two_share, setup, teardown),
                                       cmocka_unit_test_setup_teardown(a_dead_one_is_followed, setup, teardown),
                                       cmocka_unit_test_setup_teardown(a_bad_shard_is_answered_again, setup, teardown),
                                       cmocka_unit_test_setup_teardown(no_rows, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
