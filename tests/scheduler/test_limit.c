/* Rate limits by key, with a clock of the test's own. */
#include "scheduler/limit.h"
#include "tests/support/check.h"

#include <stdio.h>

enum { S = 1000000 };

static void a_burst_then_the_rate(void **state) {
    (void)state;
    mull_limit *l = mull_limit_create(10, 5);
    uint64_t now = 77 * S, wait = 0;
    for (int i = 0; i < 5; i++) assert_int_equal(mull_limit_take(l, "a", now), 0);
    wait = mull_limit_take(l, "a", now);
    assert_int_equal(wait, S / 10);                    /* until one has come back */
    assert_int_equal(mull_limit_take(l, "b", now), 0); /* another's are its own */
    assert_int_not_equal(mull_limit_take(l, "a", now + wait - 1), 0);
    assert_int_equal(mull_limit_take(l, "a", now + wait), 0);
    assert_int_not_equal(mull_limit_take(l, "a", now + wait), 0);
    /* Over a minute of knocking every millisecond: the rate, and the burst that had been used up. */
    int got = 0;
    for (uint64_t t = now + wait; t < now + wait + 60 * S; t += 1000) got += mull_limit_take(l, "a", t) == 0;
    assert_in_range(got, 599, 600);
    /* A rest fills no more than the burst. */
    got = 0;
    for (int i = 0; i < 100; i++) got += mull_limit_take(l, "a", now + 3600ull * S) == 0;
    assert_int_equal(got, 5);
    mull_limit_destroy(l);
}

static void what_is_given_back_counts_not(void **state) {
    (void)state;
    mull_limit *l = mull_limit_create(1, 3);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(mull_limit_take(l, "a", S), 0);
        mull_limit_give(l, "a");
    }
    mull_limit_give(l, "nobody");
    for (int i = 0; i < 3; i++) assert_int_equal(mull_limit_take(l, "a", S), 0);
    assert_int_not_equal(mull_limit_take(l, "a", S), 0);
    mull_limit_destroy(l);
}

static void zero_is_no_limit(void **state) {
    (void)state;
    mull_limit *l = mull_limit_create(0, 1);
    for (int i = 0; i < 1000; i++) assert_int_equal(mull_limit_take(l, "a", S), 0);
    mull_limit_give(l, "a");
    mull_limit_destroy(l);
}

/* A flood of other keys, far more than there are slots, does not free one that has been stopped. */
static void many_keys_do_not_free_a_stopped_one(void **state) {
    (void)state;
    mull_limit *l = mull_limit_create(1, 20);
    while (mull_limit_take(l, "stopped", S) == 0) continue;
    for (int i = 0; i < 100000; i++) {
        char key[32];
        snprintf(key, sizeof key, "10.%d.%d.%d", i >> 16, i >> 8 & 255, i & 255);
        assert_int_equal(mull_limit_take(l, key, S), 0);
    }
    assert_int_not_equal(mull_limit_take(l, "stopped", S), 0);
    mull_limit_destroy(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_burst_then_the_rate),
        cmocka_unit_test(what_is_given_back_counts_not),
        cmocka_unit_test(zero_is_no_limit),
        cmocka_unit_test(many_keys_do_not_free_a_stopped_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
