/* The event queue: order, numbers, acknowledgement, sending again, the spool, a damaged spool and a full disk. */
#include "worker/evq.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/mull-evq-XXXXXX", path[64];
static const mull_evq_limits SMALL = {
    .head_count = 4, .head_bytes = 1000, .flight_count = 3, .flight_bytes = 1000, .spool_bytes = 1 << 20};

static void push(mull_evq *q, int i) {
    char text[32];
    snprintf(text, sizeof text, "{\"n\":%d}", i);
    char *copy = strdup(text);
    mull_evq_push(q, copy, strlen(copy));
}

/* Publishes and acknowledges everything; the events must be numbered seq … and hold from, from + 1 … */
static void drain(mull_evq *q, uint64_t seq, int from, int count) {
    for (int done = 0; done < count;) {
        uint64_t s;
        const mull_evq_entry *e = mull_evq_publish(q, &s);
        assert_non_null(e);
        assert_int_equal(s, seq + (uint64_t)done);
        int n = -1;
        assert_int_equal(sscanf(e->text, "{\"n\":%d}", &n), 1);
        assert_int_equal(n, from + done);
        mull_evq_ack(q, s);
        done++;
    }
}

static void keeps_order_through_the_spool(void **state) {
    (void)state;
    mull_evq q;
    mull_err err;
    assert_int_equal(mull_evq_init(&q, path, &SMALL, &err), 0);
    for (int i = 0; i < 100; i++) push(&q, i);
    assert_int_equal(q.head.count, 4);
    assert_int_equal(q.spool.count, 96);
    assert_int_equal(mull_evq_last(&q), 100);
    assert_false(mull_evq_full(&q));
    drain(&q, 1, 0, 50);
    for (int i = 100; i < 120; i++) push(&q, i);
    drain(&q, 51, 50, 70);
    assert_true(mull_evq_empty(&q));
    assert_int_equal(q.spool.end, 0); /* the file is empty again */
    push(&q, 7);
    drain(&q, 121, 7, 1);
    mull_evq_fini(&q);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void window_rewind_ack(void **state) {
    (void)state;
    mull_evq q;
    mull_err err;
    uint64_t s;
    assert_int_equal(mull_evq_init(&q, path, &SMALL, &err), 0);
    for (int i = 0; i < 10; i++) push(&q, i);
    for (int i = 1; i <= 3; i++) {
        assert_non_null(mull_evq_publish(&q, &s));
        assert_int_equal(s, i);
    }
    assert_null(mull_evq_publish(&q, &s)); /* three are under way */
    mull_evq_rewind(&q, 2);
    assert_non_null(mull_evq_publish(&q, &s));
    assert_int_equal(s, 2);
    mull_evq_rewind(&q, 0); /* all that is held */
    mull_evq_ack(&q, 2);    /* recorded from the first time */
    assert_non_null(mull_evq_publish(&q, &s));
    assert_int_equal(s, 3);
    mull_evq_ack(&q, 2);    /* again, late */
    mull_evq_ack(&q, 1000); /* never sent: ignored */
    assert_int_equal(q.acked, 2);
    mull_evq_rewind(&q, 1); /* recorded already: from 3 */
    drain(&q, 3, 2, 8);
    assert_int_equal(q.flight_bytes, 0);
    assert_int_equal(q.head.bytes, 0);
    mull_evq_fini(&q);
}

static void large_events_go_one_by_one(void **state) {
    (void)state;
    mull_evq q;
    mull_err err;
    uint64_t s;
    assert_int_equal(mull_evq_init(&q, path, &SMALL, &err), 0);
    for (int i = 0; i < 3; i++) {
        char *big = malloc(5001);
        memset(big, 'x', 5000);
        big[5000] = 0;
        mull_evq_push(&q, big, 5000);
    }
    for (uint64_t i = 1; i <= 3; i++) {
        assert_non_null(mull_evq_publish(&q, &s));
        assert_int_equal(s, i);
        assert_null(mull_evq_publish(&q, &s));
        mull_evq_ack(&q, i);
    }
    mull_evq_fini(&q);
}

/* What a torn tail loses is lost, but the numbers go on without a gap, or the leader would wait for ever. */
static void torn_tail(void **state) {
    (void)state;
    mull_evq q;
    mull_err err;
    assert_int_equal(mull_evq_init(&q, path, &SMALL, &err), 0);
    for (int i = 0; i < 10; i++) push(&q, i);
    assert_int_equal(truncate(path, (off_t)q.spool.end - 3), 0);
    drain(&q, 1, 0, 9); /* 0…3 from memory, 4…8 from the file */
    mull_evq_settle(&q);
    assert_true(mull_evq_empty(&q));
    for (int i = 50; i < 60; i++) push(&q, i);
    drain(&q, 10, 50, 10);
    mull_evq_fini(&q);
}

static void overwritten_record(void **state) {
    (void)state;
    mull_spool s;
    mull_err err;
    char *text;
    size_t n;
    uint64_t lost;
    assert_int_equal(mull_spool_open(&s, path, 1 << 20, &err), 0);
    assert_int_equal(mull_spool_put(&s, "first", 5, &err), 0);
    assert_int_equal(mull_spool_put(&s, "second", 6, &err), 0);
    assert_int_equal(mull_spool_put(&s, "third", 5, &err), 0);
    assert_int_equal(pwrite(s.fd, "X", 1, 8 + 5 + 8 + 2), 1);
    assert_int_equal(mull_spool_get(&s, &text, &n, &lost, &err), 0);
    assert_string_equal(text, "first");
    free(text);
    assert_int_equal(mull_spool_get(&s, &text, &n, &lost, &err), MULL_ERR_FORMAT);
    assert_int_equal(lost, 2);
    assert_int_equal(mull_spool_get(&s, &text, &n, &lost, &err), MULL_ERR_MISSING);
    mull_spool_close(&s);
}

/* A file size limit makes the kernel refuse writes, in the middle of a record, as a full disk does. */
static void full_disk(void **state) {
    (void)state;
    mull_evq q;
    mull_err err;
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(mull_evq_init(&q, path, &SMALL, &err), 0);
    small = (struct rlimit){100, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < 30; i++) push(&q, i);
    assert_true(mull_evq_full(&q));
    assert_true(q.spool.end <= 100);
    drain(&q, 1, 0, 10); /* what is ahead can leave meanwhile */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    mull_evq_settle(&q);
    assert_false(mull_evq_full(&q));
    for (int i = 30; i < 40; i++) push(&q, i);
    drain(&q, 11, 10, 30);
    assert_true(mull_evq_empty(&q));
    mull_evq_fini(&q);
}

static int make_dir(void **state) {
    (void)state;
    snprintf(path, sizeof path, "%s/spool", mkdtemp(dir));
    return 0;
}

static int remove_dir(void **state) {
    (void)state;
    return rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(keeps_order_through_the_spool),
                                       cmocka_unit_test(window_rewind_ack),
                                       cmocka_unit_test(large_events_go_one_by_one),
                                       cmocka_unit_test(torn_tail),
                                       cmocka_unit_test(overwritten_record),
                                       cmocka_unit_test(full_disk)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
