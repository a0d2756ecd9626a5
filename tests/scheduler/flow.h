/* A scheduler with real servers, and a worker played by hand: what a worker says goes straight into Redis, what it is
 * told is read from its inbox. Everything that cannot be done fails the test. */
#ifndef MULL_TESTS_FLOW_H
#define MULL_TESTS_FLOW_H

#include "tests/support/servers.h"

#include "tests/support/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct flow {
    mull_servers s;
    char pg[160], sock[96], log[96], model[96];
    pid_t scheduler;
} flow;

typedef struct by_hand {
    flow *f;
    char node[32], boot[40], last[40]; /* last: id of the last inbox entry read */
    long long seq;
    long long fence; /* of the newest attempt that began */
} by_hand;

static inline pid_t flow_serve_as(flow *f, const char *sock, const char *name) {
    char listen[128];
    snprintf(listen, sizeof listen, "unix:%s", sock);
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler",
                          "serve",
                          "--pg",
                          f->pg,
                          "--redis",
                          f->s.redis_addr,
                          "--listen",
                          listen,
                          "--name",
                          name,
                          NULL};
    return mull_spawn(f->log, argv);
}

static inline bool flow_ready(void *arg) {
    return mull_http_do(arg, "GET", "/readyz", NULL, NULL, NULL) == 200;
}

static inline void flow_serve(flow *f) {
    f->scheduler = flow_serve_as(f, f->sock, "one");
    assert_true(mull_wait_for(flow_ready, f->sock, 20000));
}

static inline void flow_migrate(flow *f) {
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler", "migrate", "--pg", f->pg, NULL};
    assert_int_equal(mull_reap(mull_spawn(f->log, argv), 0), 0);
}

/* Servers, a database with the tables, a folder that passes for a checkpoint. */
static inline void flow_prepare(flow *f, unsigned flags) {
    memset(f, 0, sizeof *f);
    mull_servers_start(&f->s, MULL_WITH_REDIS | MULL_WITH_PG | flags);
    mull_servers_database(&f->s, f->pg);
    snprintf(f->sock, sizeof f->sock, "%s/mull.sock", f->s.dir);
    snprintf(f->log, sizeof f->log, "%s/scheduler.log", f->s.dir);
    snprintf(f->model, sizeof f->model, "%s/model", f->s.dir);
    mkdir(f->model, 0755);
    char config[128];
    snprintf(config, sizeof config, "%s/config.json", f->model);
    fclose(fopen(config, "w"));
    flow_migrate(f);
}

static inline void flow_start(flow *f, unsigned flags) {
    flow_prepare(f, flags);
    flow_serve(f);
}

static inline void flow_stop(flow *f) {
    int status = mull_reap(f->scheduler, SIGTERM);
    if (status != 0 || getenv("MULL_TEST_LOG")) {
        char line[2000];
        FILE *log = fopen(f->log, "r");
        while (log && fgets(line, sizeof line, log)) fputs(line, stderr);
        if (log) fclose(log);
    }
    mull_servers_stop(&f->s);
    assert_int_equal(status, 0);
}

/* ---- HTTP ---- */

static inline json_t *flow_get(flow *f, const char *target) {
    int status;
    json_t *j = mull_http_json(f->sock, "GET", target, NULL, &status);
    if (status != 200) print_error("GET %s: %d\n", target, status);
    assert_int_equal(status, 200);
    assert_non_null(j);
    return j;
}

/* Submits {"kind":"generate", model, prompt} with further members (", \"a\": 1" or ""); the id. */
static inline long long flow_submit(flow *f, const char *more) {
    char body[2000];
    int status;
    snprintf(body, sizeof body, "{\"spec\":{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"hi\"%s}}", f->model,
             more);
    json_t *j = mull_http_json(f->sock, "POST", "/v1/jobs", body, &status);
    if (status != 201) {
        char *text = json_dumps(j, JSON_ENCODE_ANY);
        print_error("submit: %d %s\n", status, text);
        free(text);
    }
    assert_int_equal(status, 201);
    long long id = atoll(json_string_value(json_object_get(j, "id")));
    json_decref(j);
    return id;
}

static inline int flow_act(flow *f, long long job, const char *what) {
    char target[64];
    snprintf(target, sizeof target, "/v1/jobs/%lld/%s", job, what);
    return mull_http_do(f->sock, "POST", target, NULL, NULL, NULL);
}

static inline json_t *flow_show(flow *f, long long job) {
    char target[64];
    snprintf(target, sizeof target, "/v1/jobs/%lld", job);
    return flow_get(f, target);
}

static inline const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

typedef struct state_wait {
    flow *f;
    long long job;
    const char *state;
} state_wait;

static inline bool state_is(void *arg) {
    state_wait *w = arg;
    json_t *j = flow_show(w->f, w->job);
    bool ok = strcmp(text_of(j, "state"), w->state) == 0;
    json_decref(j);
    return ok;
}

static inline void flow_expect(flow *f, long long job, const char *state, int limit_ms) {
    state_wait w = {f, job, state};
    if (mull_wait_for(state_is, &w, limit_ms)) return;
    json_t *j = flow_show(f, job);
    char *text = json_dumps(j, JSON_INDENT(1));
    fail_msg("job %lld never became %s: %s", job, state, text);
}

/* Value of a sample of /metrics. */
static inline double flow_metric(flow *f, const char *name) {
    char *text, line[128];
    assert_int_equal(mull_http_do(f->sock, "GET", "/metrics", NULL, NULL, &text), 200);
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(text, line);
    double v = at ? atof(at + strlen(line)) : -1;
    free(text);
    return v;
}

/* ---- the worker ---- */

static inline void say_raw(flow *f, const char *message) {
    const char *argv[] = {"XADD", "mull:events", "*", "m", message};
    json_decref(mull_redis_argv(&f->s, 5, argv));
}

/* An event with the next number; members without braces. */
static inline void say_as(by_hand *w, long long seq, const char *type, const char *members) {
    char *m = malloc(strlen(members) + 400);
    sprintf(m, "{\"v\":1,\"type\":\"%s\",\"node\":\"%s\",\"boot\":\"%s\",\"seq\":%lld,\"at\":1790000000000%s%s}", type,
            w->node, w->boot, seq, *members ? "," : "", members);
    say_raw(w->f, m);
    free(m);
}
static inline void say(by_hand *w, const char *type, const char *members) {
    say_as(w, ++w->seq, type, members);
}

static inline void heartbeat(by_hand *w, const char *attempts) {
    char m[600];
    snprintf(m, sizeof m, "\"attempts\":[%s]", attempts);
    say_as(w, 0, "node_heartbeat", m);
}

/* The next inbox message of this type within the limit, others are passed over; NULL when none comes. */
static inline json_t *hear(by_hand *w, const char *type, int limit_ms) {
    long long until = mull_now_ms() + limit_ms;
    char key[80];
    snprintf(key, sizeof key, "mull:inbox:%s", w->boot);
    do {
        const char *argv[] = {"XREAD", "COUNT", "1", "STREAMS", key, w->last};
        json_t *r = mull_redis_argv(&w->f->s, 6, argv);
        json_t *entry = json_array_get(json_array_get(json_array_get(r, 0), 1), 0);
        if (!entry) {
            json_decref(r);
            mull_sleep_ms(5);
            continue;
        }
        snprintf(w->last, sizeof w->last, "%s", json_string_value(json_array_get(entry, 0)));
        json_t *m = json_loads(json_string_value(json_array_get(json_array_get(entry, 1), 1)), 0, NULL);
        json_decref(r);
        assert_non_null(m);
        if (strcmp(text_of(m, "type"), type) == 0) return m;
        json_decref(m);
    } while (mull_now_ms() < until);
    return NULL;
}

static inline void worker_hello(by_hand *w, flow *f, const char *node, const char *boot, int cpus) {
    memset(w, 0, sizeof *w);
    w->f = f;
    snprintf(w->node, sizeof w->node, "%s", node);
    snprintf(w->boot, sizeof w->boot, "%s", boot);
    strcpy(w->last, "0-0");
    char devices[4096] = "\"devices\":[";
    for (int i = 0; i < cpus; i++)
        sprintf(devices + strlen(devices), "%s{\"kind\":\"cpu\",\"index\":%d}", i ? "," : "", i);
    strcat(devices, "]");
    say(w, "node_hello", devices);
    /* Only then: a job submitted now may not go to the worker that this one replaces. */
    json_t *m = hear(w, "ack", 20000);
    assert_non_null(m);
    json_decref(m);
}

typedef struct attempt {
    long long job, attempt, fence;
    char ids[120]; /* members "job","attempt","fence" of an event */
} attempt;

/* Waits for a start and says that it began. A start comes again when the leader does not know yet that the attempt has
 * begun, above all after the leader was killed: as a worker does, that is passed over. */
static inline attempt begin_next(by_hand *w) {
    json_t *m = hear(w, "start", 20000);
    while (m && json_integer_value(json_object_get(m, "fence")) <= w->fence) {
        json_decref(m);
        m = hear(w, "start", 20000);
    }
    assert_non_null(m);
    w->fence = json_integer_value(json_object_get(m, "fence"));
    attempt a = {atoll(text_of(m, "job")), json_integer_value(json_object_get(m, "attempt")),
                 json_integer_value(json_object_get(m, "fence")), ""};
    json_decref(m);
    snprintf(a.ids, sizeof a.ids, "\"job\":\"%lld\",\"attempt\":%lld,\"fence\":%lld", a.job, a.attempt, a.fence);
    char more[200];
    snprintf(more, sizeof more, "%s,\"pid\":4711", a.ids);
    say(w, "attempt_started", more);
    return a;
}

static inline void say_of(by_hand *w, const attempt *a, const char *type, const char *members) {
    char *m = malloc(strlen(members) + 200);
    sprintf(m, "%s,%s", a->ids, members);
    say(w, type, m);
    free(m);
}

static inline void end_attempt(by_hand *w, const attempt *a, const char *class, int code) {
    char m[200];
    snprintf(m, sizeof m, "\"exit_code\":%d,\"exit_signal\":null,\"class\":\"%s\",\"message\":\"it ended\"", code,
             class);
    say_of(w, a, "attempt_ended", m);
}

#endif
