/* The policy's rules as properties of thousands of random snapshots, and the arrays behind it. */
#include "scheduler/policy/policy.h"
#include "scheduler/queue.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 20260131;
static uint32_t roll(uint32_t n) { /* xorshift64*: the same on every machine */
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (uint32_t)((seed * 2685821657736338717u) >> 33) % n;
}

enum { JOBS = 60, NODES = 8, NOW = 1000 };
typedef struct snapshot {
    mull_policy_job jobs[JOBS];
    mull_policy_node nodes[NODES], before[NODES];
    size_t jn, nn;
    mull_policy_decision d[JOBS];
    uint8_t reasons[JOBS];
    uint32_t scratch[JOBS];
    mull_policy_out out;
} snapshot;

static void random_snapshot(snapshot *s) {
    memset(s, 0, sizeof *s);
    s->jn = roll(JOBS + 1);
    s->nn = roll(NODES + 1);
    for (size_t i = 0; i < s->jn; i++)
        s->jobs[i] = (mull_policy_job){.id = (int64_t)i + 1,
                                       .eligible_ms = roll(4) ? 0 : NOW + (int64_t)roll(3) - 1,
                                       .priority = (int32_t)roll(5) - 2,
                                       .gpus = roll(2) ? (int32_t)roll(6) : 0,
                                       .avoid_node = roll(4) || !s->nn ? -1 : (int32_t)roll((uint32_t)s->nn),
                                       .dep = (uint8_t)(roll(5) ? MULL_DEP_MET : MULL_DEP_WAIT),
                                       .held = roll(8) == 0};
    for (size_t i = 0; i < s->nn; i++) {
        int32_t cpu = roll(3) ? (int32_t)roll(5) : 0, cuda = roll(2) ? (int32_t)roll(9) : 0;
        s->nodes[i] = (mull_policy_node){
            (int32_t)roll((uint32_t)cpu + 1), cpu, (int32_t)roll((uint32_t)cuda + 1), cuda, roll(6) != 0, roll(6) == 0};
    }
    memcpy(s->before, s->nodes, sizeof s->before);
}

static void run(snapshot *s, size_t most) {
    mull_policy_in in = {s->jobs, s->jn, s->nodes, s->nn, NOW};
    s->out = (mull_policy_out){.decisions = s->d, .max_decisions = most, .reasons = s->reasons, .scratch = s->scratch};
    mull_policy_run(&in, &s->out);
}

static bool candidate(const mull_policy_job *j) {
    return !j->held && j->dep == MULL_DEP_MET && j->eligible_ms <= NOW;
}
static bool earlier(const mull_policy_job *a, const mull_policy_job *b) {
    return a->priority != b->priority ? a->priority > b->priority : a->id < b->id;
}
/* What job j takes of node n, from its own description and not the policy's code. */
static void cost(const mull_policy_job *j, const mull_policy_node *n, int32_t *cpu, int32_t *cuda) {
    *cpu = *cuda = 0;
    if (j->gpus > 0)
        *cuda = j->gpus;
    else if (n->total_cpu > 0)
        *cpu = 1;
    else
        *cuda = 1;
}

static void nothing_is_given_twice(void **state) {
    (void)state;
    size_t started = 0;
    for (int round = 0; round < 20000; round++) {
        snapshot s;
        random_snapshot(&s);
        run(&s, JOBS);
        bool seen[JOBS] = {false};
        for (size_t i = 0; i < s.out.decision_count; i++) {
            const mull_policy_job *j = &s.jobs[s.d[i].job];
            mull_policy_node *n = &s.before[s.d[i].node];
            int32_t cpu, cuda;
            assert_true(s.d[i].job < s.jn && s.d[i].node < s.nn && !seen[s.d[i].job]);
            seen[s.d[i].job] = true;
            assert_true(candidate(j) && n->up && !n->drained);
            cost(j, n, &cpu, &cuda);
            n->free_cpu -= cpu;
            n->free_cuda -= cuda;
            assert_true(n->free_cpu >= 0 && n->free_cuda >= 0);
            started++;
        }
        for (size_t i = 0; i < s.jn; i++) assert_int_equal(s.reasons[i] == MULL_WHY_NONE, seen[i]);
    }
    assert_true(started > 20000); /* the rounds were not empty */
}

/* By construction nobody starves: after the pass, no job was started while an earlier one of its kind, whose turn it is
 * and that some node's hardware can hold, was left waiting. */
static void nobody_is_passed_by_who_came_later(void **state) {
    (void)state;
    for (int round = 0; round < 20000; round++) {
        snapshot s;
        random_snapshot(&s);
        run(&s, JOBS);
        for (size_t i = 0; i < s.jn; i++) {
            const mull_policy_job *w = &s.jobs[i];
            if (s.reasons[i] == MULL_WHY_NONE || !candidate(w)) continue;
            bool holdable = false;
            for (size_t k = 0; k < s.nn; k++) {
                int32_t cpu, cuda;
                cost(w, &s.nodes[k], &cpu, &cuda);
                holdable |= s.nodes[k].up && !s.nodes[k].drained && s.nodes[k].total_cpu >= cpu &&
                            s.nodes[k].total_cuda >= cuda &&
                            (w->gpus > 0 || s.nodes[k].total_cpu + s.nodes[k].total_cuda > 0);
            }
            for (size_t k = 0; holdable && k < s.jn; k++)
                if (s.reasons[k] == MULL_WHY_NONE && (s.jobs[k].gpus > 0) == (w->gpus > 0))
                    assert_true(earlier(&s.jobs[k], w));
        }
    }
}

/* The first candidate of each kind that fits now is started: capacity is not left lying. */
static void the_first_that_fits_starts(void **state) {
    (void)state;
    for (int round = 0; round < 20000; round++) {
        snapshot s;
        random_snapshot(&s);
        run(&s, JOBS);
        const mull_policy_job *first = NULL;
        for (size_t i = 0; i < s.jn; i++)
            if (candidate(&s.jobs[i]) && (!first || earlier(&s.jobs[i], first))) first = &s.jobs[i];
        bool fits = false;
        for (size_t k = 0; first && k < s.nn; k++) {
            int32_t cpu, cuda;
            cost(first, &s.before[k], &cpu, &cuda);
            fits |=
                s.before[k].up && !s.before[k].drained && s.before[k].free_cpu >= cpu && s.before[k].free_cuda >= cuda;
        }
        if (fits) assert_int_equal(s.reasons[first - s.jobs], MULL_WHY_NONE);
    }
}

static void the_order_of_the_array_does_not_matter(void **state) {
    (void)state;
    for (int round = 0; round < 5000; round++) {
        snapshot a, b;
        random_snapshot(&a);
        b = a;
        for (size_t i = b.jn; i > 1; i--) {
            size_t k = roll((uint32_t)i);
            mull_policy_job t = b.jobs[i - 1];
            b.jobs[i - 1] = b.jobs[k];
            b.jobs[k] = t;
        }
        run(&a, JOBS);
        run(&b, JOBS);
        assert_int_equal(a.out.decision_count, b.out.decision_count);
        assert_int_equal(a.out.next_ms, b.out.next_ms);
        for (size_t i = 0; i < a.out.decision_count; i++) {
            assert_int_equal(a.jobs[a.d[i].job].id, b.jobs[b.d[i].job].id);
            assert_int_equal(a.d[i].node, b.d[i].node);
        }
    }
}

static void a_pass_in_pieces_is_the_same_pass(void **state) {
    (void)state;
    for (int round = 0; round < 5000; round++) {
        snapshot a, b;
        random_snapshot(&a);
        b = a;
        run(&a, JOBS);
        size_t at = 0;
        for (;;) { /* two decisions at a time; what is started leaves the list */
            run(&b, 2);
            if (b.out.decision_count == 0) break;
            for (size_t i = 0; i < b.out.decision_count; i++, at++) {
                assert_true(at < a.out.decision_count);
                assert_int_equal(b.jobs[b.d[i].job].id, a.jobs[a.d[at].job].id);
                b.jobs[b.d[i].job].held = true;
            }
        }
        assert_int_equal(at, a.out.decision_count);
    }
}

static void a_failed_node_is_the_last_choice(void **state) {
    (void)state;
    mull_policy_node nodes[2] = {{4, 4, 0, 0, true, false}, {1, 4, 0, 0, true, false}};
    mull_policy_job job = {.id = 1, .avoid_node = 0};
    mull_policy_decision d;
    uint32_t scratch;
    mull_policy_in in = {&job, 1, nodes, 2, NOW};
    mull_policy_out out = {.decisions = &d, .max_decisions = 1, .scratch = &scratch};
    mull_policy_run(&in, &out);
    assert_int_equal(d.node, 1);
    nodes[1].free_cpu = 0;
    mull_policy_run(&in, &out);
    assert_int_equal(d.node, 0);
}

static void the_map_agrees_with_an_array(void **state) {
    (void)state;
    enum { IDS = 500 };
    mull_idmap m = {0};
    uint32_t want[IDS + 1] = {0}; /* 0: absent */
    size_t n = 0;
    for (int i = 0; i < 200000; i++) {
        int64_t id = 1 + roll(IDS);
        uint32_t value = 1 + roll(1000000);
        if (roll(3)) {
            assert_int_equal(mull_idmap_put(&m, id * 1000003, value), 0);
            n += want[id] == 0;
            want[id] = value;
        } else {
            mull_idmap_del(&m, id * 1000003);
            n -= want[id] != 0;
            want[id] = 0;
        }
        assert_int_equal(m.count, n);
        int64_t look = 1 + roll(IDS);
        uint32_t got = 0;
        assert_int_equal(mull_idmap_get(&m, look * 1000003, &got), want[look] != 0);
        if (want[look]) assert_int_equal(got, want[look]);
    }
    mull_idmap_fini(&m);
}

static void devices_follow_their_attempts(void **state) {
    (void)state;
    mull_queue q = {0};
    mull_device devices[4] = {{false, 0, 0}, {false, 1, 0}, {true, 0, 0}, {true, 1, 0}}, picked[4];
    assert_int_equal(mull_queue_put_node(&q, "a", "boot1", devices, 4), 0);
    q.nodes[0].up = true;
    assert_int_equal(mull_queue_pick(&q, 0, 2, picked), 2);
    mull_queue_hold(&q, 0, true, 0, 7);
    mull_queue_hold(&q, 0, true, 1, 7);
    assert_non_null(mull_queue_put_attempt(&q, &(mull_attempt){.fence = 7, .job = 1, .node = 0}));
    assert_int_equal(mull_queue_pick(&q, 0, 1, picked), 0);
    assert_int_equal(mull_queue_policy_node(&q, 0).free_cuda, 0);
    assert_int_equal(mull_queue_put_node(&q, "a", "boot2", devices, 4), 0); /* holders survive a new list */
    assert_int_equal(mull_queue_policy_node(&q, 0).free_cuda, 0);
    mull_queue_del_attempt(&q, 7);
    assert_int_equal(mull_queue_policy_node(&q, 0).free_cuda, 2);
    mull_queue_put_job(&q, &(mull_policy_job){.id = 5, .dep = MULL_DEP_WAIT});
    mull_queue_put_job(&q, &(mull_policy_job){.id = 9});
    assert_int_equal(q.waiting, 1);
    int64_t ids[] = {9}, missing[4];
    assert_int_equal(mull_queue_missing_jobs(&q, 0, 100, ids, 1, missing, 4), 1);
    assert_int_equal(missing[0], 5);
    mull_queue_put_job(&q, &(mull_policy_job){.id = 5});
    assert_int_equal(q.waiting, 0);
    mull_queue_del_job(&q, 5);
    assert_null(mull_queue_job(&q, 5));
    assert_non_null(mull_queue_job(&q, 9));
    mull_queue_fini(&q);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_given_twice),
        cmocka_unit_test(nobody_is_passed_by_who_came_later),
        cmocka_unit_test(the_first_that_fits_starts),
        cmocka_unit_test(the_order_of_the_array_does_not_matter),
        cmocka_unit_test(a_pass_in_pieces_is_the_same_pass),
        cmocka_unit_test(a_failed_node_is_the_last_choice),
        cmocka_unit_test(the_map_agrees_with_an_array),
        cmocka_unit_test(devices_follow_their_attempts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
