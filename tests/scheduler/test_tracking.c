/* Runs and checkpoints: what an engine tells of them becomes what the front door says, for a worker played by hand. */
#include "tests/scheduler/flow.h"

static flow f;
static by_hand w;

static int start(void **state) {
    (void)state;
    flow_start(&f, 0);
    worker_hello(&w, &f, "n1", "boot-track", 4);
    return 0;
}
static int stop(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

#define SHA_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define SHA_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static void line(const attempt *a, const char *text) {
    char m[3000];
    snprintf(m, sizeof m, "\"rank\":0,\"line\":%s", text);
    say_of(&w, a, "engine", m);
}

static void tell_run(const attempt *a, const char *model, const char *parent, const char *best) {
    char text[1200];
    snprintf(text, sizeof text,
             "{\"ev\":\"run\",\"config\":{\"learning_rate\":0.5,\"metric_for_best_model\":\"%s\"},\"seed\":7,"
             "\"parent\":\"%s\",\"resumed\":null,\"hashes\":{\"config\":\"c\",\"model\":\"%s\",\"data\":\"d\"}}",
             best, parent, model);
    line(a, text);
}

static void checkpoint(const attempt *a, const char *path, int step, double loss) {
    char text[900];
    snprintf(text, sizeof text,
             "{\"ev\":\"checkpoint\",\"path\":\"%s\",\"step\":%d,\"bytes\":30,\"sha256\":\"" SHA_A "\","
             "\"files\":[{\"name\":\"model.safetensors\",\"bytes\":20,\"sha256\":\"" SHA_B "\"}],"
             "\"metrics\":{\"loss_mean\":%g}}",
             path, step, loss);
    line(a, text);
}

static void metric(const attempt *a, int step, double loss, double acc) {
    char text[200];
    snprintf(text, sizeof text, "{\"ev\":\"metric\",\"step\":%d,\"values\":{\"loss\":%g,\"accuracy\":%g}}", step, loss,
             acc);
    line(a, text);
}

static double number(const json_t *o, const char *a, const char *b) {
    return json_number_value(json_object_get(json_object_get(o, a), b));
}

/* Submits and begins a job of this name; a retry of class requeue begins the next attempt. */
static attempt begin(const char *name) {
    char more[100];
    snprintf(more, sizeof more, ",\"name\":\"%s\"", name);
    flow_submit(&f, more);
    return begin_next(&w);
}

static json_t *checkpoints(long long job, const char *more) {
    char target[100];
    snprintf(target, sizeof target, "/v1/checkpoints?job=%lld%s", job, more);
    json_t *j = flow_get(&f, target), *list = json_incref(json_object_get(j, "checkpoints"));
    json_decref(j);
    return list;
}

/* The id of a job's checkpoint at this step. */
static const char *id_at(long long job, int step) {
    static char id[24];
    json_t *list = checkpoints(job, ""), *c;
    size_t i;
    id[0] = 0;
    json_array_foreach(list, i, c) {
        if (json_integer_value(json_object_get(c, "step")) == step) snprintf(id, sizeof id, "%s", text_of(c, "id"));
    }
    json_decref(list);
    assert_true(*id);
    return id;
}

static int act(const char *id, const char *op) {
    char target[100];
    snprintf(target, sizeof target, "/v1/checkpoints/%s/%s", id, op);
    return mull_http_do(f.sock, "POST", target, NULL, NULL, NULL);
}

static json_t *run_of(long long job) {
    char target[64];
    snprintf(target, sizeof target, "/v1/runs/%lld", job);
    return flow_get(&f, target);
}

static void a_run_with_its_metrics_and_parent(void **state) {
    (void)state;
    attempt a = begin("warm up"), b;
    tell_run(&a, SHA_A, "/base", "none");
    metric(&a, 1, 3, 0.25);
    metric(&a, 2, 1.5, 0.75);
    metric(&a, 3, 2, 0.5);
    checkpoint(&a, "/out/a/checkpoint-3", 3, 2);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, a.job, "COMPLETED", 20000);
    b = begin("second stage");
    tell_run(&b, SHA_B, "/out/a/checkpoint-3", "none");
    end_attempt(&w, &b, "ok", 0);
    flow_expect(&f, b.job, "COMPLETED", 20000);

    json_t *r = run_of(a.job), *loss = json_object_get(json_object_get(r, "metrics"), "loss"),
           *acc = json_object_get(json_object_get(r, "metrics"), "accuracy");
    assert_string_equal(text_of(json_object_get(r, "hashes"), "model"), SHA_A);
    assert_int_equal(json_integer_value(json_object_get(r, "seed")), 7);
    assert_true(number(r, "config", "learning_rate") == 0.5);
    assert_true(json_number_value(json_object_get(loss, "last")) == 2);
    assert_true(json_number_value(json_object_get(loss, "min")) == 1.5);
    assert_int_equal(json_integer_value(json_object_get(loss, "min_step")), 2);
    assert_int_equal(json_integer_value(json_object_get(loss, "max_step")), 1);
    assert_int_equal(json_integer_value(json_object_get(loss, "points")), 3);
    assert_int_equal(json_integer_value(json_object_get(acc, "max_step")), 2);
    assert_int_equal(json_array_size(json_object_get(r, "checkpoints")), 1);
    json_decref(r);

    const char *ckpt = id_at(a.job, 3);
    char target[64], parent[24];
    r = run_of(b.job);
    snprintf(parent, sizeof parent, "%lld", a.job);
    assert_string_equal(text_of(json_object_get(r, "parent"), "checkpoint"), ckpt);
    assert_string_equal(text_of(json_object_get(r, "parent"), "run"), parent);
    json_decref(r);
    snprintf(target, sizeof target, "/v1/checkpoints/%s", ckpt);
    json_t *c = flow_get(&f, target);
    assert_string_equal(text_of(c, "sha256"), SHA_A);
    assert_string_equal(text_of(json_array_get(json_object_get(c, "files"), 0), "sha256"), SHA_B);
    assert_true(number(c, "metrics", "loss_mean") == 2);
    assert_int_equal(atoll(json_string_value(json_array_get(json_object_get(c, "runs"), 0))), b.job);
    json_decref(c);

    json_t *list = flow_get(&f, "/v1/runs?name=STAGE&kind=generate"), *runs = json_object_get(list, "runs");
    assert_int_equal(json_array_size(runs), 1);
    assert_string_equal(text_of(json_array_get(runs, 0), "name"), "second stage");
    json_decref(list);
    list = flow_get(&f, "/v1/runs?limit=1");
    assert_int_equal(json_array_size(json_object_get(list, "runs")), 1);
    snprintf(target, sizeof target, "/v1/runs?cursor=%s", text_of(list, "next_cursor"));
    json_decref(list);
    list = flow_get(&f, target);
    assert_int_equal(json_array_size(json_object_get(list, "runs")), 1);
    assert_string_equal(text_of(json_array_get(json_object_get(list, "runs"), 0), "name"), "warm up");
    json_decref(list);
}

/* A later attempt with another model: the record is the later one's, and the audit has both. */
static void an_attempt_that_follows_from_something_else(void **state) {
    (void)state;
    attempt a = begin("moved");
    tell_run(&a, SHA_A, "/base", "none");
    checkpoint(&a, "/out/m/checkpoint-1", 1, 5);
    end_attempt(&w, &a, "requeue", 75);
    a = begin_next(&w);
    assert_int_equal(a.attempt, 2);
    tell_run(&a, SHA_B, "/base", "none");
    checkpoint(&a, "/out/m/checkpoint-1", 1, 4); /* written again: one row, the later values */
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, a.job, "COMPLETED", 20000);
    json_t *r = run_of(a.job), *j = flow_show(&f, a.job), *e;
    assert_string_equal(text_of(json_object_get(r, "hashes"), "model"), SHA_B);
    assert_int_equal(json_integer_value(json_object_get(r, "attempt")), 2);
    assert_int_equal(json_array_size(json_object_get(r, "checkpoints")), 1);
    assert_true(number(json_array_get(json_object_get(r, "checkpoints"), 0), "metrics", "loss_mean") == 4);
    size_t i;
    int changed = 0;
    json_array_foreach(json_object_get(j, "events"), i, e) changed += !strcmp(text_of(e, "kind"), "run_changed");
    assert_int_equal(changed, 1);
    json_decref(r);
    json_decref(j);
}

static void what_is_needed_stays(void **state) {
    (void)state;
    attempt a = begin("keeper"), b;
    tell_run(&a, SHA_A, "/base", "loss");
    checkpoint(&a, "/out/k/checkpoint-1", 1, 1);
    checkpoint(&a, "/out/k/checkpoint-2", 2, 3);
    checkpoint(&a, "/out/k/checkpoint-3", 3, 2);
    checkpoint(&a, "/out/k/checkpoint-4", 4, 4);
    line(&a, "{\"ev\":\"checkpoint_removed\",\"path\":\"/out/k/checkpoint-2\",\"step\":2}");
    metric(&a, 4, 1, 1);
    end_attempt(&w, &a, "requeue", 75);
    a = begin_next(&w);                                    /* what was said before is recorded, and the job runs */
    assert_int_equal(act(id_at(a.job, 4), "remove"), 409); /* it would go on from there */
    assert_int_equal(act(id_at(a.job, 1), "remove"), 409); /* the best */
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, a.job, "COMPLETED", 20000);
    json_t *list = checkpoints(a.job, "&state=REMOVED");
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(text_of(json_array_get(list, 0), "removed_by"), "retention");
    json_decref(list);

    b = begin("child");
    tell_run(&b, SHA_B, "/out/k/checkpoint-3", "none");
    metric(&b, 1, 1, 1);
    end_attempt(&w, &b, "requeue", 75);
    b = begin_next(&w);
    assert_int_equal(act(id_at(a.job, 3), "remove"), 409); /* a running job began with it */
    end_attempt(&w, &b, "ok", 0);
    flow_expect(&f, b.job, "COMPLETED", 20000);
    assert_int_equal(act(id_at(a.job, 3), "pin"), 200);
    assert_int_equal(act(id_at(a.job, 3), "remove"), 409);
    assert_int_equal(act(id_at(a.job, 3), "unpin"), 200);
    assert_int_equal(act(id_at(a.job, 3), "remove"), 200);
    assert_int_equal(act(id_at(a.job, 3), "remove"), 200); /* again: nothing to do */
    assert_int_equal(act(id_at(a.job, 3), "pin"), 409);
    assert_int_equal(act(id_at(a.job, 4), "remove"), 200);
    assert_int_equal(act(id_at(a.job, 1), "remove"), 409); /* the only one */
    assert_int_equal(act(id_at(a.job, 1), "remove?force=1"), 200);
    list = checkpoints(a.job, "&state=PUBLISHED");
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
}

/* Points come in pages by step, and the names of all metrics with any page. */
static void metrics_in_pages(void **state) {
    (void)state;
    attempt a = begin("pages");
    for (int i = 1; i <= 7; i++) metric(&a, i, i, 10 * i);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, a.job, "COMPLETED", 20000);
    char target[120];
    snprintf(target, sizeof target, "/v1/jobs/%lld/metrics?key=loss&limit=3&after=3", a.job);
    json_t *j = flow_get(&f, target), *points = json_object_get(j, "points"), *keys = json_object_get(j, "keys");
    assert_int_equal(json_array_size(points), 3);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(points, 2), "step")), 6);
    assert_int_equal(json_array_size(keys), 2);
    assert_string_equal(json_string_value(json_array_get(keys, 0)), "accuracy");
    json_decref(j);
}

static void metrics(const attempt *a, long long seq, int from, int n, double add) {
    char *m = malloc(200 + (size_t)n * 60);
    int at = sprintf(m, "%s,\"rank\":0,\"line\":{\"ev\":\"metrics\",\"keys\":[\"loss\",\"lr\"],\"steps\":[", a->ids);
    for (int i = 0; i < n; i++) at += sprintf(m + at, "%s%d", i ? "," : "", from + i);
    at += sprintf(m + at, "],\"values\":[");
    for (int i = 0; i < n; i++)
        at += sprintf(m + at, "%s[%g,%s]", i ? "," : "", from + i + add, i % 2 ? "null" : "0.5");
    sprintf(m + at, "]}");
    if (seq)
        say_as(&w, seq, "engine", m);
    else
        say(&w, "engine", m);
    free(m);
}

/* Words that only the recorder may use, and lines without a point, alone in their batches. */
static void lines_that_pretend(void **state) {
    (void)state;
    attempt a = begin("pretends");
    line(&a, "{\"ev\":\"metrics\",\"keys\":[],\"steps\":[],\"values\":[],\"staged\":0}");
    mull_sleep_ms(300);
    line(&a, "{\"ev\":\"heartbeat\",\"staged\":\"0\"}");
    line(&a, "{\"ev\":\"progress\",\"done\":3,\"total\":9,\"staged\":1}");
    metrics(&a, 0, 1, 3, 0);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, a.job, "COMPLETED", 20000);
    json_t *r = run_of(a.job);
    assert_int_equal(json_object_size(json_object_get(r, "metrics")), 2);
    assert_true(number(r, "progress", "done") == 3);
    json_decref(r);
}

/* Points in bulk: each once, whatever comes twice; the first of a step stands, also over attempts; what is malformed or
 * belongs to nobody is left out and stops nothing. */
static void points_in_bulk(void **state) {
    (void)state;
    attempt a = begin("bulk"), old;
    char text[3000];
    metrics(&a, 0, 1, 500, 0);
    metrics(&a, w.seq, 1, 500, 7);     /* the same event again */
    metrics(&a, w.seq + 3, 900, 5, 0); /* a gap */
    metrics(&a, 0, 501, 100, 0);
    line(&a, "{\"ev\":\"metrics\",\"keys\":[\"odd\",7,null],\"steps\":[1,\"x\",3],\"values\":[[1],[2],\"y\",[4]]}");
    line(&a, "{\"ev\":\"metrics\",\"keys\":[\"half\"],\"steps\":[4611686018427387904],\"values\":[[1e308]]}");
    line(&a, "{\"ev\":\"metrics\",\"keys\":[],\"steps\":[],\"values\":[]}");
    snprintf(text, sizeof text,
             "{\"ev\":\"metrics\",\"keys\":[\"%0600d\",\"caf\u00e9\\u0000\"],\"steps\":[2],\"values\":[[1,2]]}", 7);
    line(&a, text);
    /* One that PostgreSQL refuses, in the middle: the batch is recorded carefully, with its points. */
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":99999999999999999999,\"total\":1}");
    metrics(&a, 0, 601, 10, 0);
    old = a;
    end_attempt(&w, &a, "requeue", 75);
    a = begin_next(&w);
    metrics(&old, 0, 700, 5, 0); /* of an attempt that has ended */
    metrics(&a, 0, 606, 10, 0.5);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, a.job, "COMPLETED", 20000);
    json_t *r = run_of(a.job), *loss = json_object_get(json_object_get(r, "metrics"), "loss"),
           *lr = json_object_get(json_object_get(r, "metrics"), "lr");
    assert_int_equal(json_integer_value(json_object_get(loss, "points")), 615);
    assert_int_equal(json_integer_value(json_object_get(lr, "points")), 250 + 50 + 5 + 5);
    assert_true(json_number_value(json_object_get(loss, "last")) == 615.5);
    assert_true(json_number_value(json_object_get(loss, "min")) == 1);    /* not the second telling's 8 */
    assert_int_equal(json_object_size(json_object_get(r, "metrics")), 5); /* odd, half, caf… */
    assert_true(number(json_object_get(r, "metrics"), "half", "last") == 1e308);
    json_decref(r);
    char target[120];
    snprintf(target, sizeof target, "/v1/jobs/%lld/metrics?key=loss&after=604&limit=3", a.job);
    json_t *j = flow_get(&f, target), *points = json_object_get(j, "points");
    static const double WANT[] = {605, 606, 607};
    for (size_t i = 0; i < 3; i++)
        assert_true(json_number_value(json_object_get(json_array_get(points, i), "value")) == WANT[i]);
    json_decref(j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_with_its_metrics_and_parent),
        cmocka_unit_test(an_attempt_that_follows_from_something_else),
        cmocka_unit_test(what_is_needed_stays),
        cmocka_unit_test(metrics_in_pages),
        cmocka_unit_test(points_in_bulk),
        cmocka_unit_test(lines_that_pretend),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
