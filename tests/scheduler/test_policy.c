/* The scheduling policy by hand-made snapshots, one rule a test, and by random ones against properties that must hold
 * whatever the snapshot: nothing over-allocated, no quota exceeded, gangs whole, the same answer however the jobs are
 * ordered in the snapshot, nobody stopped who may not be. */
#include "scheduler/policy/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 512, HOUR = 3600000 };

/* A snapshot with room; tests fill it by hand. */
typedef struct snap {
    mull_policy_team teams[16];
    mull_policy_user users[32];
    mull_policy_job jobs[MOST];
    mull_policy_node nodes[64];
    mull_policy_running running[MOST];
    mull_policy_place places[MOST * 4];
    size_t nplaces;
    mull_policy_in in;
    mull_policy_start starts[MOST];
    mull_policy_place out_places[MOST * 4];
    mull_policy_preempt preempts[MOST];
    uint8_t reasons[MOST];
    mull_policy_out out;
    mull_policy *p;
} snap;

static snap *fresh(void) {
    snap *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->in = (mull_policy_in){.teams = s->teams,
                             .users = s->users,
                             .jobs = s->jobs,
                             .nodes = s->nodes,
                             .running = s->running,
                             .places = s->places,
                             .now_ms = 1000 * (int64_t)HOUR};
    s->out = (mull_policy_out){.starts = s->starts,
                               .max_starts = MOST,
                               .places = s->out_places,
                               .max_places = MOST * 4,
                               .preempts = s->preempts,
                               .max_preempts = MOST,
                               .reasons = s->reasons};
    s->p = mull_policy_create();
    assert_non_null(s->p);
    return s;
}

static void done(snap *s) {
    mull_policy_destroy(s->p);
    free(s);
}

static int add_team(snap *s, double weight, int nominal, int borrow, int lend) {
    s->teams[s->in.team_count] = (mull_policy_team){-1, weight, 0, nominal, borrow, lend};
    s->users[s->in.user_count++] = (mull_policy_user){(int32_t)s->in.team_count, 0};
    return (int)s->in.team_count++;
}

static void one_team(snap *s) {
    add_team(s, 1, -1, -1, -1);
}

static int add_node(snap *s, int gpus, int cpus) {
    s->nodes[s->in.node_count] =
        (mull_policy_node){.free_cuda = gpus, .total_cuda = gpus, .free_cpu = cpus, .total_cpu = cpus, .up = true};
    return (int)s->in.node_count++;
}

static mull_policy_job *add_job(snap *s, int user, int gpus, int priority) {
    mull_policy_job *j = &s->jobs[s->in.job_count++];
    *j = (mull_policy_job){
        .id = (int64_t)s->in.job_count, .gpus = gpus, .priority = priority, .user = user, .tasks = 1, .avoid_node = -1};
    return j;
}

/* A running job on one node; takes the room. minutes: how long it still runs, 0 = unknown. */
static mull_policy_running *add_running(snap *s, int user, int node, int gpus, int minutes) {
    mull_policy_running *r = &s->running[s->in.running_count++];
    *r = (mull_policy_running){.started_ms = s->in.now_ms - HOUR,
                               .saved_ms = s->in.now_ms - HOUR,
                               .ends_ms = minutes ? s->in.now_ms + (int64_t)minutes * 60000 : 0,
                               .first_place = (uint32_t)s->nplaces,
                               .place_count = 1,
                               .user = user,
                               .preemptible = false};
    s->places[s->nplaces++] = (mull_policy_place){(uint32_t)node, gpus};
    if (gpus)
        s->nodes[node].free_cuda -= gpus;
    else
        s->nodes[node].free_cpu--;
    return r;
}

static void run(snap *s) {
    s->in.place_count = s->nplaces;
    assert_int_equal(mull_policy_run(s->p, &s->in, &s->out), 0);
}

static bool starts(const snap *s, const mull_policy_job *j) {
    for (size_t i = 0; i < s->out.start_count; i++)
        if (s->starts[i].job == (uint32_t)(j - s->jobs)) return true;
    return false;
}
static mull_why why(const snap *s, const mull_policy_job *j) {
    return (mull_why)s->reasons[j - s->jobs];
}
static uint32_t node_of(const snap *s, const mull_policy_job *j) {
    for (size_t i = 0; i < s->out.start_count; i++)
        if (s->starts[i].job == (uint32_t)(j - s->jobs)) return s->out_places[s->starts[i].first_place].node;
    fail_msg("job %lld does not start", (long long)j->id);
    return 0;
}

/* ---- rules 1 and 2 ---- */

static void candidates_only(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    mull_policy_job *held = add_job(s, 0, 1, 0), *dep = add_job(s, 0, 1, 0), *later = add_job(s, 0, 1, 0),
                    *sooner = add_job(s, 0, 1, 0), *ok = add_job(s, 0, 1, 0);
    held->held = true;
    dep->dep = MULL_DEP_WAIT;
    later->eligible_ms = s->in.now_ms + 5000;
    sooner->eligible_ms = s->in.now_ms + 2000;
    run(s);
    assert_int_equal(s->out.start_count, 1);
    assert_true(starts(s, ok));
    assert_int_equal(why(s, held), MULL_WHY_HELD);
    assert_int_equal(why(s, dep), MULL_WHY_DEPENDENCY);
    assert_int_equal(why(s, later), MULL_WHY_BEGIN_TIME);
    assert_true(s->out.next_ms == sooner->eligible_ms);
    done(s);
}

static void priority_then_submission(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 2, 0);
    mull_policy_job *low = add_job(s, 0, 1, 0), *first = add_job(s, 0, 1, 5), *second = add_job(s, 0, 1, 5);
    run(s);
    assert_true(starts(s, first) && starts(s, second) && !starts(s, low));
    assert_int_equal(s->starts[0].job, 1);
    assert_int_equal(why(s, low), MULL_WHY_RESOURCES);
    done(s);
}

static void an_empty_cluster_is_dealt_out_by_weight(void **unused) {
    (void)unused;
    snap *s = fresh();
    add_team(s, 3, -1, -1, -1);
    add_team(s, 1, -1, -1, -1);
    add_node(s, 8, 0);
    for (int i = 0; i < 20; i++) add_job(s, i % 2, 1, 0);
    run(s);
    int of[2] = {0};
    for (size_t i = 0; i < s->out.start_count; i++) of[s->jobs[s->starts[i].job].user]++;
    assert_int_equal(of[0], 6);
    assert_int_equal(of[1], 2);
    done(s);
}

static void the_past_counts(void **unused) {
    (void)unused;
    snap *s = fresh();
    add_team(s, 1, -1, -1, -1);
    add_team(s, 1, -1, -1, -1);
    s->teams[0].used = 50;
    add_node(s, 4, 0);
    for (int i = 0; i < 8; i++) add_job(s, i % 2, 1, 0);
    run(s);
    for (size_t i = 0; i < s->out.start_count; i++) assert_int_equal(s->jobs[s->starts[i].job].user, 1);
    done(s);
}

static void groups_share_before_their_teams(void **unused) {
    (void)unused;
    snap *s = fresh();
    s->teams[0] = (mull_policy_team){-1, 1, 0, -1, -1, -1};                            /* a group of three teams */
    s->teams[1] = (mull_policy_team){-1, 1, 0, -1, -1, -1};                            /* a team of its own */
    for (int i = 2; i < 5; i++) s->teams[i] = (mull_policy_team){0, 1, 0, -1, -1, -1}; /* in the group */
    s->in.team_count = 5;
    for (int u = 0; u < 4; u++) s->users[u] = (mull_policy_user){u + 1, 0};
    s->in.user_count = 4;
    add_node(s, 8, 0);
    for (int i = 0; i < 40; i++) add_job(s, i % 4, 1, 0);
    run(s);
    int of[4] = {0};
    for (size_t i = 0; i < s->out.start_count; i++) of[s->jobs[s->starts[i].job].user]++;
    assert_int_equal(of[0], 4); /* half for the lone team, half for the group's three */
    assert_int_equal(of[1] + of[2] + of[3], 4);
    assert_true(of[1] && of[2] && of[3]);
    done(s);
}

static void users_of_a_team_share(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    s->users[s->in.user_count++] = (mull_policy_user){0, 0};
    add_node(s, 4, 0);
    for (int i = 0; i < 6; i++) add_job(s, 0, 1, 0);
    mull_policy_job *late = add_job(s, 1, 1, 0);
    run(s);
    assert_true(starts(s, late));
    done(s);
}

static void a_blocked_team_blocks_no_other(void **unused) {
    (void)unused;
    snap *s = fresh();
    add_team(s, 1, -1, -1, -1);
    add_team(s, 1, -1, -1, -1);
    add_node(s, 8, 0);
    add_node(s, 4, 0);
    add_running(s, 0, 0, 4, 60);
    s->teams[1].used = 100; /* the big job's team is looked at first */
    mull_policy_job *big = add_job(s, 0, 8, 9), *small = add_job(s, 1, 2, 0);
    run(s);
    assert_false(starts(s, big));
    assert_int_equal(why(s, big), MULL_WHY_RESOURCES);
    assert_true(starts(s, small)); /* beside the reservation, on the other node */
    assert_int_equal(node_of(s, small), 1);
    done(s);
}

/* ---- rule 3 ---- */

static void quota_borrow_and_lend(void **unused) {
    (void)unused;
    snap *s = fresh();
    add_team(s, 1, 4, 2, -1);
    add_team(s, 1, 4, -1, 3);
    add_node(s, 8, 0);
    for (int i = 0; i < 8; i++) add_job(s, 0, 1, 0);
    run(s);
    assert_int_equal(s->out.start_count, 6); /* 4 of its own and 2 borrowed */
    assert_int_equal(s->reasons[6], MULL_WHY_QUOTA);
    s->teams[0].borrow = -1;
    run(s);
    assert_int_equal(s->out.start_count, 7); /* the other lends 3 of its 4 */
    done(s);
}

static void what_the_nominal_holds_is_not_used_up(void **unused) {
    (void)unused;
    snap *s = fresh();
    add_team(s, 1, 4, 0, -1);
    add_node(s, 8, 0);
    add_running(s, 0, 0, 2, 60);
    mull_policy_job *big = add_job(s, 0, 4, 1), *small = add_job(s, 0, 1, 0);
    run(s);
    assert_int_equal(s->out.start_count, 0);
    assert_int_equal(why(s, big), MULL_WHY_QUOTA);
    assert_int_equal(why(s, small), MULL_WHY_PRIORITY);
    big->gpus = 6; /* beyond its nominal: it can only wait for a loan that may never come */
    run(s);
    assert_true(starts(s, small));
    done(s);
}

/* ---- rule 4 ---- */

static void small_jobs_fill_the_fullest_node(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    add_node(s, 8, 0);
    add_running(s, 0, 1, 5, 60);
    mull_policy_job *j = add_job(s, 0, 2, 0);
    run(s);
    assert_int_equal(node_of(s, j), 1);
    j->avoid_node = 1;
    run(s);
    assert_int_equal(node_of(s, j), 0);
    done(s);
}

static void labels_and_drains(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    add_node(s, 8, 0);
    s->nodes[1].labels = 2;
    mull_policy_job *j = add_job(s, 0, 2, 0), *never = add_job(s, 0, 2, 0);
    j->labels = 2;
    never->labels = 4;
    run(s);
    assert_int_equal(node_of(s, j), 1);
    assert_int_equal(why(s, never), MULL_WHY_RESOURCES);
    s->nodes[1].drained = true;
    run(s);
    assert_int_equal(why(s, j), MULL_WHY_DRAINED);
    done(s);
}

static void a_maintenance_window_lets_short_jobs_in(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    s->nodes[0].closes_ms = s->in.now_ms + HOUR;
    mull_policy_job *unknown = add_job(s, 0, 1, 0), *longer = add_job(s, 0, 1, 0), *shorter = add_job(s, 0, 1, 0);
    longer->time_limit_ms = 2 * HOUR;
    shorter->time_limit_ms = HOUR / 2;
    run(s);
    assert_true(starts(s, shorter) && !starts(s, longer) && !starts(s, unknown));
    done(s);
    s = fresh(); /* nor is the node's only place kept for those who may not have it */
    one_team(s);
    add_node(s, 1, 0);
    s->nodes[0].closes_ms = s->in.now_ms + HOUR;
    unknown = add_job(s, 0, 1, 0);
    shorter = add_job(s, 0, 1, 0);
    shorter->time_limit_ms = HOUR / 2;
    run(s);
    assert_true(starts(s, shorter) && !starts(s, unknown));
    done(s);
}

/* Several CPU slots: on one node where one has them, over several where none has. */
static void cpu_slots_come_together(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 0, 2);
    add_node(s, 0, 4);
    mull_policy_job *three = add_job(s, 0, 0, 0), *one = add_job(s, 0, 0, 0);
    three->slots = 3;
    run(s);
    assert_true(starts(s, three) && starts(s, one));
    assert_int_equal(s->out_places[0].node, 1);
    assert_int_equal(s->out_places[0].slots, 3);
    assert_int_equal(s->out_places[1].node, 0);
    done(s);
    s = fresh();
    one_team(s);
    add_node(s, 0, 2);
    add_node(s, 0, 4);
    mull_policy_job *six = add_job(s, 0, 0, 0), *late = add_job(s, 0, 0, 0);
    six->slots = 6;
    run(s);
    assert_true(starts(s, six) && !starts(s, late));
    assert_int_equal(s->starts[0].place_count, 2);
    assert_int_equal(s->out_places[0].slots + s->out_places[1].slots, 6);
    done(s);
}

static void gangs_take_the_fewest_nodes_under_one_switch(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    for (int i = 0; i < 6; i++) s->nodes[add_node(s, 8, 0)].switch_id = i / 3;
    add_running(s, 0, 0, 1, 60); /* the first switch has only two whole nodes */
    mull_policy_job *gang = add_job(s, 0, 24, 0);
    run(s);
    assert_true(starts(s, gang));
    assert_int_equal(s->starts[0].place_count, 3);
    for (int i = 0; i < 3; i++) assert_in_range(s->out_places[i].node, 3, 5);
    add_running(s, 0, 3, 1, 60); /* now neither has three: across the switches, still three whole nodes */
    run(s);
    assert_int_equal(s->starts[0].place_count, 3);
    add_running(s, 0, 1, 1, 60);
    add_running(s, 0, 2, 1, 60);
    run(s); /* two whole nodes and scattered ones: it waits rather than take a fourth */
    assert_false(starts(s, gang));
    assert_int_equal(why(s, gang), MULL_WHY_RESOURCES);
    done(s);
}

static void cpu_jobs_spread(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 0, 4);
    add_node(s, 0, 4);
    mull_policy_job *a = add_job(s, 0, 0, 0), *b = add_job(s, 0, 0, 0);
    run(s);
    assert_true(node_of(s, a) != node_of(s, b));
    done(s);
}

static void a_cpu_job_takes_a_gpu_where_there_is_nothing_else(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 2, 0);
    mull_policy_job *a = add_job(s, 0, 0, 0);
    run(s);
    assert_true(starts(s, a));
    assert_int_equal(s->out_places[0].gpus, 1);
    done(s);
}

static void arrays_start_task_by_task(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    mull_policy_job *a = add_job(s, 0, 1, 0);
    a->tasks = 5;
    run(s);
    assert_int_equal(s->out.start_count, 5);
    a->tasks = 50;
    run(s);
    assert_int_equal(s->out.start_count, 8);
    done(s);
}

/* ---- rule 5 ---- */

static void backfill_never_delays_the_reservation(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    add_running(s, 0, 0, 6, 60); /* in an hour all 8 are free */
    mull_policy_job *big = add_job(s, 0, 8, 5), *longer = add_job(s, 0, 1, 0), *fits = add_job(s, 0, 1, 0),
                    *unknown = add_job(s, 0, 1, 0);
    longer->time_limit_ms = 2 * HOUR;
    fits->time_limit_ms = HOUR / 2;
    run(s);
    assert_false(starts(s, big));
    assert_true(starts(s, fits));
    assert_false(starts(s, longer) || starts(s, unknown));
    done(s);
}

static void a_reservation_leaves_what_it_does_not_need(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    add_running(s, 0, 0, 6, 60);
    mull_policy_job *big = add_job(s, 0, 7, 5), *one = add_job(s, 0, 1, 0), *two = add_job(s, 0, 1, 0);
    run(s);
    assert_false(starts(s, big));
    assert_true(starts(s, one)); /* 8 - 7 */
    assert_false(starts(s, two));
    done(s);
}

static void unknown_ends_drain_a_node_for_the_big_job(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    add_node(s, 8, 0);
    add_running(s, 0, 0, 4, 0);
    add_running(s, 0, 1, 6, 0);
    mull_policy_job *big = add_job(s, 0, 8, 5);
    for (int i = 0; i < 10; i++) add_job(s, 0, 1, 0)->time_limit_ms = 60000;
    run(s);
    assert_false(starts(s, big));
    bool touched[2] = {false, false};
    for (size_t i = 0; i < s->out.place_count; i++) touched[s->out_places[i].node] = true;
    assert_true(touched[0] != touched[1]); /* one node is left alone until the big job has it */
    done(s);
}

/* ---- rule 6 ---- */

static void priority_preempts_the_least_loss(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    add_node(s, 8, 0);
    add_running(s, 0, 0, 8, 600);
    mull_policy_running *saved = add_running(s, 0, 1, 8, 600);
    s->running[0].preemptible = saved->preemptible = true;
    saved->saved_ms = s->in.now_ms - 60000;
    mull_policy_job *urgent = add_job(s, 0, 8, 5);
    run(s);
    assert_int_equal(s->out.preempt_count, 1);
    assert_int_equal(s->preempts[0].victim, 1);
    assert_false(s->preempts[0].reclaim);
    assert_false(starts(s, urgent));
    saved->ending = true; /* it was told; nobody else is stopped while it stops */
    urgent->nominated = true;
    run(s);
    assert_int_equal(s->out.preempt_count, 0);
    urgent->priority = 0; /* equal priority preempts nobody */
    saved->ending = false;
    urgent->nominated = false;
    run(s);
    assert_int_equal(s->out.preempt_count, 0);
    done(s);
}

static void young_and_unwilling_jobs_are_spared(void **unused) {
    (void)unused;
    snap *s = fresh();
    one_team(s);
    add_node(s, 8, 0);
    mull_policy_running *r = add_running(s, 0, 0, 8, 600);
    add_job(s, 0, 8, 5);
    r->preemptible = true;
    run(s);
    assert_int_equal(s->out.preempt_count, 1);
    r->min_run_ms = 2 * HOUR;
    run(s);
    assert_int_equal(s->out.preempt_count, 0);
    r->min_run_ms = 0;
    r->preemptible = false;
    run(s);
    assert_int_equal(s->out.preempt_count, 0);
    done(s);
}

static void lent_gpus_come_back_in_one_pass(void **unused) {
    (void)unused;
    snap *s = fresh();
    add_team(s, 1, 8, -1, -1);
    add_team(s, 1, 8, -1, -1);
    add_node(s, 8, 0);
    add_node(s, 8, 0);
    for (int i = 0; i < 8; i++)
        add_running(s, 1, i / 4, 2, 0)->preemptible = true; /* team 1 uses 16, 8 of them borrowed */
    mull_policy_job *own = add_job(s, 0, 4, 0), *more = add_job(s, 0, 4, 0), *toomuch = add_job(s, 0, 4, 0);
    run(s);
    assert_int_equal(s->out.preempt_count, 2); /* for the first blocked job of the team */
    for (size_t i = 0; i < 2; i++) {
        assert_true(s->preempts[i].reclaim);
        assert_int_equal(s->preempts[i].job, own - s->jobs);
        s->running[s->preempts[i].victim].ending = true;
    }
    own->nominated = true;
    run(s);
    assert_true(why(s, toomuch) != MULL_WHY_NONE && why(s, more) != MULL_WHY_NONE);
    for (size_t i = 0; i < s->out.preempt_count; i++) assert_true(s->preempts[i].job != (uint32_t)(own - s->jobs));
    done(s);
}

static void a_nominated_job_gets_what_was_freed_for_it(void **unused) {
    (void)unused;
    snap *s = fresh();
    add_team(s, 1, -1, -1, -1);
    add_team(s, 1, -1, -1, -1);
    s->teams[1].used = 100; /* by its share it would come last */
    add_node(s, 4, 0);
    for (int i = 0; i < 4; i++) add_job(s, 0, 1, 9);
    mull_policy_job *j = add_job(s, 1, 4, 0);
    j->nominated = true;
    run(s);
    assert_true(starts(s, j));
    assert_int_equal(s->out.start_count, 1);
    done(s);
}

/* ---- properties of random snapshots ---- */

static uint64_t state;
static uint32_t any(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % below);
}

static void scramble(snap *s, uint64_t seed) {
    state = seed * 2654435761u + 1;
    int teams = 1 + (int)any(5);
    for (int t = 0; t < teams; t++) {
        int nominal = any(3) ? (int)any(24) : -1;
        add_team(s, 1 + any(4), nominal, any(2) ? -1 : (int)any(16), any(2) ? -1 : (int)any(16));
        s->teams[t].used = any(100);
        if (any(2)) s->users[s->in.user_count++] = (mull_policy_user){t, any(50)};
    }
    int nodes = 1 + (int)any(20);
    for (int n = 0; n < nodes; n++) {
        add_node(s, any(5) ? (int)(1u << any(4)) : 0, (int)any(3));
        s->nodes[n].labels = any(4);
        s->nodes[n].switch_id = (int)any(3);
        s->nodes[n].up = any(10) != 0;
        s->nodes[n].drained = any(10) == 0;
        if (any(5) == 0) s->nodes[n].closes_ms = s->in.now_ms + any(4) * (int64_t)HOUR;
    }
    for (int n = 0; n < nodes; n++)
        while (s->nodes[n].free_cuda > 0 && any(3)) {
            mull_policy_running *r = add_running(s, (int)any((uint32_t)s->in.user_count), n,
                                                 1 + (int)any((uint32_t)s->nodes[n].free_cuda), (int)any(300));
            r->priority = (int)any(4);
            r->preemptible = any(3) != 0;
            r->min_run_ms = (int32_t)(any(2) * 2 * HOUR);
            r->saved_ms = s->in.now_ms - (int64_t)any(HOUR);
        }
    int jobs = (int)any(120);
    for (int i = 0; i < jobs; i++) {
        mull_policy_job *j =
            add_job(s, (int)any((uint32_t)s->in.user_count), (int)(any(4) ? 1u << any(4) : any(30)), (int)any(4));
        j->labels = any(6) ? 0 : any(4);
        j->held = any(20) == 0;
        j->tasks = any(10) ? 1 : (int)any(6);
        j->time_limit_ms = any(3) ? (int64_t)any(5 * HOUR) : 0;
        j->eligible_ms = any(15) ? 0 : s->in.now_ms + 1000;
        j->avoid_node = any(5) ? -1 : (int)any((uint32_t)nodes);
    }
}

static void check_room(const snap *s) {
    int32_t cuda[64] = {0}, cpu[64] = {0};
    for (size_t i = 0; i < s->out.start_count; i++) {
        const mull_policy_start *st = &s->starts[i];
        const mull_policy_job *j = &s->jobs[st->job];
        int32_t got = 0;
        assert_false(j->held || j->dep != MULL_DEP_MET || j->eligible_ms > s->in.now_ms);
        for (uint32_t k = 0; k < st->place_count; k++) {
            const mull_policy_place *at = &s->out_places[st->first_place + k];
            const mull_policy_node *n = &s->nodes[at->node];
            assert_true(n->up && !n->drained && (n->labels & j->labels) == j->labels);
            if (n->closes_ms) assert_true(j->time_limit_ms && s->in.now_ms + j->time_limit_ms <= n->closes_ms);
            for (uint32_t o = 0; o < k; o++) assert_true(s->out_places[st->first_place + o].node != at->node);
            got += at->gpus ? at->gpus : 1;
            if (at->gpus)
                cuda[at->node] += at->gpus;
            else
                cpu[at->node]++;
        }
        assert_int_equal(got, j->gpus ? j->gpus : 1); /* all of a gang or nothing */
    }
    for (size_t n = 0; n < s->in.node_count; n++) {
        assert_true(cuda[n] <= s->nodes[n].free_cuda);
        assert_true(cpu[n] <= s->nodes[n].free_cpu);
    }
}

static void check_quota(const snap *s) {
    int64_t use[16] = {0}, lent = 0, taken = 0;
    bool grew[16] = {false};
    for (size_t i = 0; i < s->in.running_count; i++)
        use[s->users[s->running[i].user].team] += s->places[s->running[i].first_place].gpus;
    int64_t before[16];
    memcpy(before, use, sizeof use);
    for (size_t i = 0; i < s->out.start_count; i++)
        for (uint32_t k = 0; k < s->starts[i].place_count; k++) {
            int team = s->users[s->jobs[s->starts[i].job].user].team,
                g = s->out_places[s->starts[i].first_place + k].gpus;
            use[team] += g;
            grew[team] |= g > 0;
        }
    bool any_grew = false;
    for (size_t t = 0; t < s->in.team_count; t++) {
        const mull_policy_team *q = &s->teams[t];
        if (q->nominal < 0) continue;
        int64_t guaranteed = q->lend < 0 || q->lend > q->nominal ? 0 : q->nominal - q->lend;
        if (grew[t] && q->borrow >= 0) assert_true(use[t] <= q->nominal + q->borrow);
        lent += q->nominal - guaranteed;
        taken += use[t] > guaranteed ? use[t] - guaranteed : 0;
        any_grew |= grew[t] && use[t] > guaranteed;
    }
    if (any_grew) assert_true(taken <= lent);
}

static void check_victims(const snap *s) {
    bool seen[MOST] = {false};
    for (size_t i = 0; i < s->out.preempt_count; i++) {
        const mull_policy_preempt *x = &s->preempts[i];
        const mull_policy_running *r = &s->running[x->victim];
        assert_false(seen[x->victim]);
        seen[x->victim] = true;
        assert_true(r->preemptible && !r->ending && s->in.now_ms - r->started_ms >= r->min_run_ms);
        if (s->jobs[x->job].tasks == 1) assert_false(starts(s, &s->jobs[x->job]));
        int mine = s->users[s->jobs[x->job].user].team, his = s->users[r->user].team;
        assert_true(x->reclaim == (mine != his));
        if (!x->reclaim) assert_true(r->priority < s->jobs[x->job].priority);
        if (x->reclaim) assert_true(s->teams[mine].nominal >= s->jobs[x->job].gpus && s->teams[his].nominal >= 0);
    }
}

static void random_snapshots(void **unused) {
    (void)unused;
    size_t started = 0, stopped = 0;
    for (uint64_t seed = 1; seed <= 4000; seed++) {
        snap *s = fresh();
        scramble(s, seed);
        run(s);
        check_room(s);
        check_quota(s);
        check_victims(s);
        started += s->out.start_count;
        stopped += s->out.preempt_count;
        done(s);
    }
    assert_true(started > 10000 && stopped > 100); /* the snapshots do exercise the rules */
}

/* What is decided does not depend on where a job stands in the snapshot. */
static void order_of_the_snapshot_does_not_matter(void **unused) {
    (void)unused;
    for (uint64_t seed = 1; seed <= 500; seed++) {
        snap *a = fresh(), *b = fresh();
        scramble(a, seed);
        scramble(b, seed);
        for (size_t i = 0, n = b->in.job_count; i < n / 2; i++) {
            mull_policy_job t = b->jobs[i];
            b->jobs[i] = b->jobs[n - 1 - i];
            b->jobs[n - 1 - i] = t;
        }
        run(a);
        run(b);
        assert_int_equal(a->out.start_count, b->out.start_count);
        for (size_t i = 0; i < a->out.start_count; i++) {
            assert_true(a->jobs[a->starts[i].job].id == b->jobs[b->starts[i].job].id);
            assert_memory_equal(&a->out_places[a->starts[i].first_place], &b->out_places[b->starts[i].first_place],
                                a->starts[i].place_count * sizeof(mull_policy_place));
        }
        assert_int_equal(a->out.preempt_count, b->out.preempt_count);
        done(a);
        done(b);
    }
}

/* Time is played on in steps with endless small jobs arriving: the big job must start before long. */
static void nothing_starves(void **unused) {
    (void)unused;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        snap *s = fresh();
        state = seed;
        add_team(s, 1, -1, -1, -1);
        add_team(s, 1, -1, -1, -1);
        for (int i = 0; i < 4; i++) add_node(s, 8, 0);
        mull_policy_job big = {.id = 1, .gpus = any(2) ? 8 : 32, .tasks = 1, .avoid_node = -1, .time_limit_ms = HOUR};
        int64_t next = 2, begin = s->in.now_ms;
        bool started = false;
        while (!started) {
            assert_true(s->in.now_ms - begin < 12 * (int64_t)HOUR);
            s->in.job_count = 0;
            s->jobs[s->in.job_count++] = big;
            for (int i = 0; i < 30; i++) {
                mull_policy_job *j = add_job(s, (int)any(2), 1 + (int)any(4), 0);
                j->id = next++;
                j->time_limit_ms = any(4) ? (int64_t)(1 + any(120)) * 60000 : 0;
            }
            run(s);
            for (size_t i = 0; i < s->out.start_count; i++) {
                const mull_policy_job *j = &s->jobs[s->starts[i].job];
                started |= j->id == 1;
                for (uint32_t k = 0; k < s->starts[i].place_count && !started; k++) {
                    const mull_policy_place *at = &s->out_places[s->starts[i].first_place + k];
                    mull_policy_running *r = add_running(s, j->user, (int)at->node, at->gpus, 0);
                    r->started_ms = s->in.now_ms;
                    r->preemptible = false;
                    r->ends_ms = j->time_limit_ms ? s->in.now_ms + j->time_limit_ms : 0;
                    /* what nobody knows: it takes two hours at most */
                    r->saved_ms = s->in.now_ms + (j->time_limit_ms ? j->time_limit_ms : (int64_t)any(2 * HOUR));
                }
            }
            s->in.now_ms += 60000;
            for (size_t i = 0; i < s->in.running_count;) {
                if (s->running[i].saved_ms > s->in.now_ms) {
                    i++;
                    continue;
                }
                const mull_policy_place *at = &s->places[s->running[i].first_place];
                s->nodes[at->node].free_cuda += at->gpus;
                s->running[i] = s->running[--s->in.running_count];
            }
            assert_true(s->in.running_count < MOST - 40);
            /* places are compacted so that the array does not run full */
            mull_policy_place kept[MOST];
            for (size_t i = 0; i < s->in.running_count; i++) {
                kept[i] = s->places[s->running[i].first_place];
                s->running[i].first_place = (uint32_t)i;
            }
            memcpy(s->places, kept, s->in.running_count * sizeof *kept);
            s->nplaces = s->in.running_count;
        }
        done(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(candidates_only),
        cmocka_unit_test(priority_then_submission),
        cmocka_unit_test(an_empty_cluster_is_dealt_out_by_weight),
        cmocka_unit_test(the_past_counts),
        cmocka_unit_test(groups_share_before_their_teams),
        cmocka_unit_test(users_of_a_team_share),
        cmocka_unit_test(a_blocked_team_blocks_no_other),
        cmocka_unit_test(quota_borrow_and_lend),
        cmocka_unit_test(what_the_nominal_holds_is_not_used_up),
        cmocka_unit_test(small_jobs_fill_the_fullest_node),
        cmocka_unit_test(labels_and_drains),
        cmocka_unit_test(a_maintenance_window_lets_short_jobs_in),
        cmocka_unit_test(gangs_take_the_fewest_nodes_under_one_switch),
        cmocka_unit_test(cpu_jobs_spread),
        cmocka_unit_test(cpu_slots_come_together),
        cmocka_unit_test(a_cpu_job_takes_a_gpu_where_there_is_nothing_else),
        cmocka_unit_test(arrays_start_task_by_task),
        cmocka_unit_test(backfill_never_delays_the_reservation),
        cmocka_unit_test(a_reservation_leaves_what_it_does_not_need),
        cmocka_unit_test(unknown_ends_drain_a_node_for_the_big_job),
        cmocka_unit_test(priority_preempts_the_least_loss),
        cmocka_unit_test(young_and_unwilling_jobs_are_spared),
        cmocka_unit_test(lent_gpus_come_back_in_one_pass),
        cmocka_unit_test(a_nominated_job_gets_what_was_freed_for_it),
        cmocka_unit_test(random_snapshots),
        cmocka_unit_test(order_of_the_snapshot_does_not_matter),
        cmocka_unit_test(nothing_starves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
