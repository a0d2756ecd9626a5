/* Evaluations that follow a training job, with a worker played by hand: one job a checkpoint whatever is delivered
 * twice or rolled back, hold and release, cancel, and what becomes of the follower in the end. */
#include "tests/scheduler/flow.h"

#include <sys/wait.h>

static flow f;
static by_hand w;
static char recipe[96], data[96];

static int setup(void **state) {
    (void)state;
    flow_start(&f, 0);
    snprintf(recipe, sizeof recipe, "%s/recipe.yaml", f.s.dir);
    snprintf(data, sizeof data, "%s/data", f.s.dir);
    fclose(fopen(recipe, "w"));
    mkdir(data, 0755);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

static long long post(const char *spec, int want) {
    int status;
    json_t *j = mull_http_json(f.sock, "POST", "/v1/jobs", spec, &status);
    char *text = json_dumps(j, 0);
    if (status != want) fail_msg("%d: %s", status, text);
    free(text);
    long long id = atoll(text_of(j, "id"));
    json_decref(j);
    return id;
}

static long long train(void) {
    char spec[600];
    snprintf(spec, sizeof spec, "{\"kind\":\"train\",\"config\":\"%s\",\"out\":\"%s/run\"}", recipe, f.s.dir);
    return post(spec, 201);
}

static long long follow(long long source, const char *every, const char *more, int want) {
    char spec[900];
    snprintf(
        spec, sizeof spec,
        "{\"kind\":\"eval\",\"tasks\":[\"erqa\"],\"data\":\"%s\",\"out\":\"%s/out\",\"name\":\"watch\",\"priority\":7,"
        "\"after\":\"checkpoint:%lld:%s\"%s}",
        data, f.s.dir, source, every, more);
    return post(spec, want);
}

static void checkpoint(const attempt *a, int step) {
    char m[300];
    snprintf(m, sizeof m, "\"rank\":0,\"line\":{\"ev\":\"checkpoint\",\"path\":\"%s\",\"step\":%d}", f.model, step);
    char *at = strstr(m, "\",\"step");
    memmove(at + 2, at, strlen(at) + 1);
    at[0] = '/';
    at[1] = (char)('a' + step % 26); /* each has its own path */
    say_of(&w, a, "engine", m);
}

static long long made(long long follower) {
    char sql[200];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM job_follow_child WHERE follow = %lld", follower);
    return mull_sql_int(f.pg, sql);
}

typedef struct expected {
    long long follower, n;
} expected;

static bool has_made(void *arg) {
    const expected *e = arg;
    return made(e->follower) == e->n;
}

static void expect_made(long long follower, long long n) {
    expected e = {follower, n};
    if (!mull_wait_for(has_made, &e, 15000)) fail_msg("%lld jobs, not %lld", made(follower), n);
}

/* Id of the k-th job that a follower made. */
static long long child(long long follower, size_t k) {
    json_t *j = flow_show(&f, follower);
    const json_t *one = json_array_get(json_object_get(json_object_get(j, "follow"), "jobs"), k);
    assert_non_null(one);
    long long id = atoll(text_of(one, "id"));
    json_decref(j);
    return id;
}

/* The rows of an evaluation over HTTP. */
static void expect_samples(long long job) {
    char target[80];
    int status;
    snprintf(target, sizeof target, "/v1/jobs/%lld/samples?task=erqa", job);
    json_t *j = flow_get(&f, target), *list = json_object_get(j, "samples");
    assert_int_equal(json_array_size(list), 1);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "id")), 3);
    assert_true(json_number_value(json_object_get(json_array_get(list, 0), "score")) == 0.5);
    json_decref(j);
    snprintf(target, sizeof target, "/v1/jobs/%lld/samples?task=erqa&after=3", job);
    j = flow_get(&f, target);
    assert_int_equal(json_array_size(json_object_get(j, "samples")), 0);
    json_decref(j);
    snprintf(target, sizeof target, "/v1/jobs/%lld/samples?limit=0", job);
    json_decref(mull_http_json(f.sock, "GET", target, NULL, &status));
    assert_int_equal(status, 400);
    json_decref(mull_http_json(f.sock, "GET", "/v1/jobs/999999/samples?task=erqa", NULL, &status));
    assert_int_equal(status, 404);
}

static void one_job_a_checkpoint(void **state) {
    (void)state;
    worker_hello(&w, &f, "n1", "boot-1", 1);
    long long source = train();
    attempt a = begin_next(&w);
    assert_int_equal(a.job, source);
    checkpoint(&a, 1); /* before the follower: it is found */
    long long all = follow(source, "every", "", 201), even = follow(source, "2", "", 201);
    expect_made(all, 1);
    checkpoint(&a, 2);
    expect_made(all, 2);
    expect_made(even, 1);
    /* the same line again, as a resumed attempt says it: published before, so nothing new */
    checkpoint(&a, 2);
    checkpoint(&a, 4);
    expect_made(all, 3);
    expect_made(even, 2);
    /* a transaction that does not commit leaves neither the checkpoint nor its job */
    char sql[400];
    snprintf(sql, sizeof sql,
             "BEGIN; INSERT INTO checkpoint (job, attempt, path, step) VALUES (%lld, 1, '/x', 6); ROLLBACK", source);
    free(mull_sql(f.pg, sql));
    assert_int_equal(made(all), 3);
    /* what is made is the follower's own, with the checkpoint as model */
    json_t *j = flow_show(&f, child(all, 1));
    const json_t *spec = json_object_get(j, "spec");
    char want[200];
    snprintf(want, sizeof want, "%s/out/step-2", f.s.dir);
    assert_string_equal(text_of(spec, "out"), want);
    snprintf(want, sizeof want, "%s/c", f.model);
    assert_string_equal(text_of(spec, "model"), want);
    assert_string_equal(text_of(j, "name"), "watch@2");
    assert_int_equal(json_integer_value(json_object_get(spec, "step")), 2);
    assert_int_equal(json_integer_value(json_object_get(j, "priority")), 7);
    assert_null(json_object_get(spec, "after"));
    json_decref(j);
    /* the follower itself never starts: the worker's next job is one that was made */
    json_t *why = flow_get(&f, "/v1/queue");
    json_decref(why);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, source, "COMPLETED", 15000);
    long long evaluated = 0;
    for (int i = 0; i < 5; i++) {
        a = begin_next(&w);
        assert_true(a.job != all && a.job != even);
        if (i == 1) evaluated = a.job;
        if (i == 1) {
            say_of(
                &w, &a, "engine",
                "\"rank\":0,\"line\":{\"ev\":\"eval\",\"task\":\"erqa\",\"result\":{\"metric\":\"m\",\"value\":0.25}}");
            say_of(&w, &a, "engine",
                   "\"rank\":0,\"line\":{\"ev\":\"eval\",\"task\":\"erqa\",\"samples\":[{\"id\":3,\"score\":1}]}");
            /* said again by a later attempt: replaced */
            say_of(&w, &a, "engine",
                   "\"rank\":0,\"line\":{\"ev\":\"eval\",\"task\":\"erqa\",\"samples\":[{\"id\":3,\"score\":0.5}]}");
        }
        end_attempt(&w, &a, "ok", 0);
    }
    flow_expect(&f, all, "COMPLETED", 15000);
    flow_expect(&f, even, "COMPLETED", 15000);
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM metric m JOIN run r ON r.id = m.run WHERE r.job = %lld AND m.key = "
             "'eval/erqa/m' AND m.value = 0.25",
             source);
    assert_int_equal(mull_sql_int(f.pg, sql), 1);
    expect_samples(evaluated);
    assert_int_equal(
        mull_sql_int(f.pg, "SELECT count(*) FROM eval_result WHERE sample = 3 AND result->>'score' = '0.5'"), 1);
}

static void hold_release_and_cancel(void **state) {
    (void)state;
    worker_hello(&w, &f, "n1", "boot-2", 1);
    long long source = train();
    attempt a = begin_next(&w);
    long long held = follow(source, "every", ",\"hold\":true", 201), other = follow(source, "every", "", 201);
    checkpoint(&a, 3);
    expect_made(other, 1);
    assert_int_equal(made(held), 0);
    assert_int_equal(flow_act(&f, held, "release"), 200);
    expect_made(held, 1);
    assert_int_equal(flow_act(&f, other, "cancel"), 200);
    flow_expect(&f, child(other, 0), "CANCELLED", 15000);
    checkpoint(&a, 5);
    expect_made(held, 2);
    assert_int_equal(made(other), 1);
    end_attempt(&w, &a, "user", 1);
    flow_expect(&f, source, "FAILED", 15000);
    /* one of two evaluations fails: so does the follower, and says it */
    for (int i = 0; i < 2; i++) {
        a = begin_next(&w);
        end_attempt(&w, &a, i ? "user" : "ok", i);
    }
    flow_expect(&f, held, "FAILED", 15000);
    json_t *j = flow_show(&f, held);
    assert_string_equal(text_of(j, "message"), "1 of 2 jobs of its checkpoints completed");
    json_decref(j);
}

/* A checkpoint that is published while its follower is being submitted: neither transaction sees the other's rows. */
static void in_the_same_moment(void **state) {
    (void)state;
    worker_hello(&w, &f, "n1", "boot-5", 1);
    long long source = train();
    attempt a = begin_next(&w);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char sql[400];
        snprintf(sql, sizeof sql,
                 "BEGIN; INSERT INTO checkpoint (job, attempt, path, step) VALUES (%lld, 1, '%s/z', 3); "
                 "SELECT pg_sleep(2); COMMIT",
                 source, f.model);
        free(mull_sql(f.pg, sql));
        _exit(0);
    }
    mull_sleep_ms(700);
    long long follower = follow(source, "every", "", 201);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    expect_made(follower, 1);
    end_attempt(&w, &a, "ok", 0);
    a = begin_next(&w);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, follower, "COMPLETED", 15000);
}

/* A checkpoint that retention takes away before its turn is not waited for and not held against the follower. */
static void removed_before_its_turn(void **state) {
    (void)state;
    worker_hello(&w, &f, "n1", "boot-4", 1);
    long long source = train();
    attempt a = begin_next(&w);
    long long follower = follow(source, "every", "", 201);
    checkpoint(&a, 8);
    checkpoint(&a, 9);
    expect_made(follower, 2);
    char m[300];
    snprintf(m, sizeof m, "\"rank\":0,\"line\":{\"ev\":\"checkpoint_removed\",\"path\":\"%s/%c\",\"step\":8}", f.model,
             'a' + 8);
    long long first = child(follower, 0), second = child(follower, 1);
    say_of(&w, &a, "engine", m);
    flow_expect(&f, first, "CANCELLED", 15000);
    json_t *j = flow_show(&f, first);
    assert_non_null(strstr(text_of(j, "message"), "its checkpoint was removed"));
    json_decref(j);
    end_attempt(&w, &a, "ok", 0);
    a = begin_next(&w);
    assert_int_equal(a.job, second);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, follower, "COMPLETED", 15000);
    j = flow_show(&f, follower);
    assert_string_equal(text_of(j, "message"), "1 of 1 jobs of its checkpoints completed; 1 removed before their turn");
    json_decref(j);
}

static void nothing_to_follow(void **state) {
    (void)state;
    worker_hello(&w, &f, "n1", "boot-3", 1);
    long long source = train();
    attempt a = begin_next(&w);
    long long lonely = follow(source, "every", "", 201);
    char target[64];
    snprintf(target, sizeof target, "/v1/jobs/%lld/why", lonely);
    json_decref(flow_get(&f, target));
    end_attempt(&w, &a, "user", 1);
    flow_expect(&f, lonely, "FAILED", 15000);
    json_t *j = flow_show(&f, lonely);
    assert_non_null(strstr(text_of(j, "message"), "without a checkpoint"));
    json_decref(j);
    follow(lonely, "every", "", 400); /* no training job */
    follow(999999, "every", "", 400);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_job_a_checkpoint),
                                       cmocka_unit_test(hold_release_and_cancel), cmocka_unit_test(in_the_same_moment),
                                       cmocka_unit_test(removed_before_its_turn), cmocka_unit_test(nothing_to_follow)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
