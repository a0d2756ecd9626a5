/* A worker program with a real Redis, and the leader played by hand: commands go straight into its inbox, events are
 * read from the stream, checked, taken in sequence and acknowledged, as the scheduler does it. The engine is a shell
 * script that runs the script its spec names. Everything that cannot be done fails the test. */
#ifndef MULL_TESTS_PLAY_H
#define MULL_TESTS_PLAY_H

#include "schema/event_line.h"
#include "schema/keys.h"
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include "tests/support/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SOON_MS = 20000, MANY_MS = 60000 };

typedef struct play {
    mull_servers s;
    char engine[96], state[96], log[96];
    const char *devices, *hang;
    const char *redis; /* NULL: the server's unix socket */
    pid_t worker;
    char boot[64], last[48]; /* last: id of the last entry read */
    long long seq;           /* all events up to here were taken */
    long long again, gaps;   /* events that came twice; times that some were missing */
    int scripts;
    bool mute;          /* acknowledges nothing */
    json_t *beat;       /* the latest heartbeat */
    long long asked_ms; /* last resync */
} play;

static inline void play_write(const char *path, const char *text) {
    mull_write_file(path, text, strlen(text));
    assert_int_equal(chmod(path, 0755), 0);
}

static inline void play_worker(play *p) {
    const char *argv[] = {MULL_BIN_DIR "/mull-worker",
                          "--redis",
                          p->redis ? p->redis : p->s.redis_addr,
                          "--state",
                          p->state,
                          "--node",
                          "node",
                          "--engine",
                          p->engine,
                          "--devices",
                          p->devices ? p->devices : "cpu:4",
                          "--hang-seconds",
                          p->hang ? p->hang : "600",
                          NULL};
    p->worker = mull_spawn(p->log, argv);
}

static inline void play_open(play *p) {
    memset(p, 0, sizeof *p);
    strcpy(p->last, "0-0");
    mull_servers_start(&p->s, MULL_WITH_REDIS);
    snprintf(p->engine, sizeof p->engine, "%s/engine", p->s.dir);
    snprintf(p->state, sizeof p->state, "%s/worker", p->s.dir);
    snprintf(p->log, sizeof p->log, "%s/worker.log", p->s.dir);
    play_write(p->engine, "#!/bin/sh\n"
                          "read -r spec\n"
                          "script=${spec#*'\"script\":\"'}\n"
                          ". \"${script%%'\"'*}\"\n");
}

static inline void play_close(play *p) {
    if (getenv("MULL_TEST_LOG")) {
        char *text = mull_slurp(p->log, NULL);
        print_message("%s", text ? text : "");
        free(text);
    }
    if (p->worker > 0) mull_reap(p->worker, SIGKILL);
    json_decref(p->beat);
    mull_servers_stop(&p->s);
}

/* ---- commands ---- */

static inline void play_tell(play *p, json_t *message) {
    char key[MULL_KEY_MAX];
    char *text = json_dumps(message, JSON_COMPACT);
    assert_non_null(text);
    mull_key_inbox(p->boot, key, sizeof key);
    const char *argv[] = {"XADD", key, "*", MULL_FIELD, text};
    json_decref(mull_redis_argv(&p->s, 5, argv));
    free(text);
    json_decref(message);
}

static inline json_t *play_start_message(play *p, long long job, long long fence, const char *script) {
    char path[128], id[24];
    snprintf(path, sizeof path, "%s/script.%d", p->s.dir, p->scripts++);
    snprintf(id, sizeof id, "%lld", job);
    play_write(path, script);
    json_t *m = json_pack("{s:i, s:s, s:s, s:i, s:I, s:i, s:i, s:i, s:i, s:[{s:s, s:i}], s:{s:s, s:s}}", "v", 1, "type",
                          "start", "job", id, "attempt", 1, "fence", (json_int_t)fence, "term", 1, "lease_s", 15,
                          "time_limit_s", 0, "grace_s", 2, "devices", "kind", "cpu", "index", 0, "spec", "kind",
                          "generate", "script", path);
    assert_non_null(m);
    return m;
}

static inline void play_start(play *p, long long job, long long fence, const char *script) {
    play_tell(p, play_start_message(p, job, fence, script));
}

static inline void play_cancel(play *p, long long job, long long fence, const char *reason) {
    char id[24];
    snprintf(id, sizeof id, "%lld", job);
    play_tell(p, json_pack("{s:i, s:s, s:s, s:I, s:s, s:i}", "v", 1, "type", "cancel", "job", id, "fence",
                           (json_int_t)fence, "reason", reason, "grace_s", 1));
}

static inline void play_ask(play *p, long long from) {
    p->asked_ms = mull_now_ms();
    play_tell(p, json_pack("{s:i, s:s, s:I}", "v", 1, "type", "resync", "from", (json_int_t)from));
}

/* ---- events ---- */

static inline const char *play_text(const json_t *e, const char *key) {
    const char *s = json_string_value(json_object_get(e, key));
    return s ? s : "";
}

static inline long long play_int(const json_t *e, const char *key) {
    return json_integer_value(json_object_get(e, key));
}

/* Takes one entry of the stream; the event when it is the next in the sequence, else NULL. */
static inline json_t *play_take(play *p, const char *text) {
    mull_err err;
    json_t *e = mull_event_parse(text, strlen(text), &err);
    if (!e) fail_msg("not a valid event: %s: %s", err.why, text);
    if (!strcmp(play_text(e, "type"), "node_heartbeat")) {
        json_decref(p->beat);
        p->beat = e;
        return NULL;
    }
    long long seq = play_int(e, "seq");
    if (strcmp(p->boot, play_text(e, "boot")) != 0 && !strcmp(play_text(e, "type"), "node_hello") && seq == 1) {
        snprintf(p->boot, sizeof p->boot, "%s", play_text(e, "boot"));
        p->seq = 0;
    }
    bool ours = !strcmp(p->boot, play_text(e, "boot"));
    if (ours && seq == p->seq + 1) {
        p->seq = seq;
        if (!p->mute) play_tell(p, json_pack("{s:i, s:s, s:I}", "v", 1, "type", "ack", "seq", (json_int_t)seq));
        return e;
    }
    p->again += ours && seq <= p->seq;
    if (ours && seq > p->seq + 1) {
        p->gaps++;
        if (mull_now_ms() - p->asked_ms > 1000) play_ask(p, p->seq + 1);
    }
    json_decref(e);
    return NULL;
}

/* The next event but heartbeats, or NULL when none comes in time. */
static inline json_t *play_next(play *p, int limit_ms) {
    json_t *e = NULL;
    for (long long until = mull_now_ms() + limit_ms; !e && mull_now_ms() < until;) {
        const char *argv[] = {"XREAD", "COUNT", "1", "STREAMS", MULL_KEY_EVENTS, p->last};
        json_t *reply = mull_redis_argv(&p->s, 6, argv);
        const json_t *entry = json_array_get(json_array_get(json_array_get(reply, 0), 1), 0);
        if (entry) {
            snprintf(p->last, sizeof p->last, "%s", json_string_value(json_array_get(entry, 0)));
            const char *text = json_string_value(json_array_get(json_array_get(entry, 1), 1));
            assert_non_null(text);
            e = play_take(p, text);
        } else {
            mull_sleep_ms(5);
        }
        json_decref(reply);
    }
    return e;
}

/* The next event of this type; those between are dropped. */
static inline json_t *play_await(play *p, const char *type, int limit_ms) {
    for (long long until = mull_now_ms() + limit_ms; mull_now_ms() < until;) {
        json_t *e = play_next(p, (int)(until - mull_now_ms()));
        if (e && !strcmp(play_text(e, "type"), type)) return e;
        json_decref(e);
    }
    char *log = mull_slurp(p->log, NULL);
    fail_msg("no %s came; the worker says:\n%s", type, log ? log : "");
    return NULL;
}

static inline void play_hello(play *p) {
    json_decref(play_await(p, "node_hello", SOON_MS));
}

/* The end of an attempt: class, exit status (-1: none), signal. Returns the event. */
static inline json_t *play_end(play *p, long long fence, const char *class_, int code, int sig) {
    json_t *e = play_await(p, "attempt_ended", SOON_MS);
    const json_t *c = json_object_get(e, "exit_code"), *s = json_object_get(e, "exit_signal");
    if (play_int(e, "fence") != fence || strcmp(play_text(e, "class"), class_) != 0 ||
        (json_is_null(c) ? -1 : json_integer_value(c)) != code || json_integer_value(s) != sig) {
        char *text = json_dumps(e, 0);
        fail_msg("ended as %s; expected fence %lld, %s, %d, %d", text, fence, class_, code, sig);
    }
    return e;
}

/* Leads to the end of a script's life: waits until the file that it writes its process id into is there. */
static inline pid_t play_pid(play *p, const char *name) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", p->s.dir, name);
    for (int i = 0; i < MANY_MS / 10; i++) {
        char *text = mull_slurp(path, NULL);
        long pid = text && strchr(text, '\n') ? strtol(text, NULL, 10) : 0;
        free(text);
        if (pid > 0) return (pid_t)pid;
        mull_sleep_ms(10);
    }
    fail_msg("%s was not written", path);
    return 0;
}

static inline bool play_is_dead(void *pid) {
    return !mull_pid_alive(*(pid_t *)pid);
}

static inline void play_expect_dead(pid_t pid, int limit_ms) {
    if (!mull_wait_for(play_is_dead, &pid, limit_ms)) fail_msg("process %d lives on", (int)pid);
}

#endif
