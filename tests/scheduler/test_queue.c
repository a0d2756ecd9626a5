/* The arrays behind the leader's picture of the queue. */
#include "scheduler/queue.h"
#include "tests/support/check.h"

#include <math.h>
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
    assert_int_equal(mull_queue_pick(&q, &(mull_policy_place){0, 2, 0}, picked), 2);
    mull_queue_hold(&q, 0, true, 0, 7);
    mull_queue_hold(&q, 0, true, 1, 7);
    assert_non_null(mull_queue_put_attempt(&q, &(mull_attempt){.fence = 7, .job = 1, .node = 0}));
    assert_int_equal(mull_queue_pick(&q, &(mull_policy_place){0, 1, 0}, picked), 0);
    assert_int_equal(mull_queue_policy_node(&q, 0).free_cuda, 0);
    assert_int_equal(mull_queue_put_node(&q, "a", "boot2", devices, 4), 0); /* holders survive a new list */
    assert_int_equal(mull_queue_policy_node(&q, 0).free_cuda, 0);
    mull_queue_del_attempt(&q, 7);
    assert_int_equal(mull_queue_policy_node(&q, 0).free_cuda, 2);
    mull_queue_put_job(&q, &(mull_policy_job){.id = 5, .dep = MULL_DEP_WAIT, .tasks = 1});
    mull_queue_put_job(&q, &(mull_policy_job){.id = 9, .tasks = 2});
    assert_int_equal(q.waiting, 1);
    mull_queue_take_tasks(&q, 9, 2); /* an array at its limit waits for an end too */
    assert_int_equal(q.waiting, 2);
    mull_queue_put_job(&q, &(mull_policy_job){.id = 9, .tasks = 1});
    assert_int_equal(q.waiting, 1);
    int64_t ids[] = {9}, missing[4];
    assert_int_equal(mull_queue_missing_jobs(&q, 0, 100, ids, 1, missing, 4), 1);
    assert_int_equal(missing[0], 5);
    mull_queue_put_job(&q, &(mull_policy_job){.id = 5, .tasks = 1});
    assert_int_equal(q.waiting, 0);
    mull_queue_del_job(&q, 5);
    assert_null(mull_queue_job(&q, 5));
    assert_non_null(mull_queue_job(&q, 9));
    mull_queue_fini(&q);
}

static mull_team_row row(const char *name, const char *parent, int32_t nominal) {
    mull_team_row r = {.team = {.parent = -1, .weight = 2, .used = 8, .nominal = nominal, .borrow = -1, .lend = -1}};
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(r.parent, sizeof r.parent, "%s", parent);
    return r;
}

static void parents_come_before_their_children(void **state) {
    (void)state;
    mull_queue q = {0};
    int32_t ann = mull_queue_user(&q, "vision", "ann"), new = mull_queue_user(&q, "new", "ann");
    assert_int_equal(ann, 0);
    assert_int_equal(new, 1);
    assert_int_equal(mull_queue_user(&q, "vision", "ann"), 0);
    mull_team_row rows[] = {row("vision", "lab", 4), row("speech", "lab", 2), row("lab", "", -1), row("a", "b", 1),
                            row("b", "a", 1)};
    assert_int_equal(mull_queue_set_teams(&q, rows, 5), 0);
    assert_int_equal(q.team_count, 6); /* new is known to memory only */
    for (size_t i = 0; i < q.team_count; i++) assert_true(q.teams[i].parent < (int32_t)i);
    int32_t vision = mull_queue_find_team(&q, "vision"), lab = mull_queue_find_team(&q, "lab");
    assert_int_equal(q.users[ann].team, vision);
    assert_int_equal(q.users[new].team, mull_queue_find_team(&q, "new"));
    assert_int_equal(q.teams[vision].parent, lab);
    assert_int_equal(q.teams[vision].nominal, 4);
    assert_int_equal(q.teams[q.users[new].team].nominal, -1);
    assert_int_equal(mull_queue_user(&q, "vision", "ann"), ann);
    mull_queue_fini(&q);
}

static void use_decays_and_adds_up_the_tree(void **state) {
    (void)state;
    mull_queue q = {0};
    mull_team_row rows[] = {row("lab", "", -1), row("vision", "lab", 4), row("idle", "", -1)};
    assert_int_equal(mull_queue_set_teams(&q, rows, 3), 0);
    int32_t u = mull_queue_user(&q, "vision", "ann");
    mull_queue_put_node(&q, "n", "b", NULL, 0);
    assert_non_null(mull_queue_put_attempt(&q, &(mull_attempt){.fence = 1, .user = u, .gpus = 4}));
    mull_queue_age_usage(&q, 1000, 1000); /* one half-life: half of 8, and half of what runs */
    /* All of these are exact in binary. */
    assert_true(q.users[u].used == 2);
    assert_true(q.teams[mull_queue_find_team(&q, "vision")].used == 6);
    assert_true(q.teams[mull_queue_find_team(&q, "lab")].used == 6);
    assert_true(q.teams[mull_queue_find_team(&q, "idle")].used == 4);
    assert_int_equal(mull_queue_set_teams(&q, rows, 3), 0); /* what is remembered is newer than what is read */
    assert_true(q.teams[mull_queue_find_team(&q, "idle")].used == 4);
    for (int i = 0; i < 100; i++) mull_queue_age_usage(&q, 500, 1000);
    assert_true(fabs(q.users[u].used - 4) < 1e-9); /* tends to what runs; 50 half-lives are 1e-15 */
    mull_queue_fini(&q);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_map_agrees_with_an_array),
        cmocka_unit_test(devices_follow_their_attempts),
        cmocka_unit_test(parents_come_before_their_children),
        cmocka_unit_test(use_decays_and_adds_up_the_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
