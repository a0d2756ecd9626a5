/* Event objects, without their sequence number, which the queue gives. */
#include "schema/log.h"
#include "worker/worker_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t mull__unix_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static json_t *event(mull_worker *w, const char *type) {
    return json_pack("{s:i, s:s, s:s, s:s, s:I}", "v", 1, "type", type, "node", w->cfg.node, "boot", w->boot, "at",
                     (json_int_t)mull__unix_ms());
}

static json_t *event_of(mull_run *r, const char *type) {
    json_t *e = event(r->w, type);
    json_object_set_new(e, "job", json_string(r->job));
    json_object_set_new(e, "attempt", json_integer(r->attempt));
    json_object_set_new(e, "fence", json_integer(r->fence));
    return e;
}

static void push_text(mull_worker *w, char *text, size_t len) {
    if (!text) abort(); /* out of memory: the leader starts again what this worker cannot report */
    mull_evq_push(&w->evq, text, len);
    mull__flow(w);
    mull__pump(w);
}

static void push(mull_worker *w, json_t *e) {
    char *text = e ? json_dumps(e, JSON_COMPACT) : NULL;
    json_decref(e);
    push_text(w, text, text ? strlen(text) : 0);
}

void mull__report_hello(mull_worker *w, bool offering) {
    json_t *e = event(w, "node_hello");
    json_object_set_new(e, "devices", offering ? mull_devices_json(&w->devices) : json_array());
    json_object_set_new(e, "version", json_string(MULL_VERSION));
    size_t n;
    char *clean = mull_utf8_repair(w->cfg.address, strlen(w->cfg.address), &n);
    if (clean) json_object_set_new(e, "address", json_stringn(clean, n));
    free(clean);
    push(w, e);
}

void mull__report_started(mull_run *r, int pid) {
    json_t *e = event_of(r, "attempt_started");
    json_object_set_new(e, "pid", json_integer(pid));
    push(r->w, e);
}

/* The engine's own bytes are put into the event, not a copy that a parser and a writer made of them. */
void mull__report_engine(mull_run *r, int rank, const char *line, size_t n) {
    json_t *e = event_of(r, "engine");
    json_object_set_new(e, "rank", json_integer(rank));
    char *head = json_dumps(e, JSON_COMPACT);
    json_decref(e);
    size_t h = head ? strlen(head) - 1 : 0; /* without its brace */
    char *text = head ? malloc(h + n + 16) : NULL;
    if (!text) abort();
    memcpy(text, head, h);
    memcpy(text + h, ",\"line\":", 8);
    memcpy(text + h + 8, line, n);
    memcpy(text + h + 8 + n, "}", 2);
    free(head);
    push_text(r->w, text, h + n + 9);
}

void mull__report_log(mull_run *r, int rank, const char *stream, json_t *lines) {
    json_t *e = event_of(r, "log");
    json_object_set_new(e, "rank", json_integer(rank));
    json_object_set_new(e, "stream", json_string(stream));
    json_object_set_new(e, "lines", lines);
    push(r->w, e);
}

void mull__report_note(mull_run *r, int rank, const char *fmt, ...) {
    char text[1200];
    size_t n;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *clean = mull_utf8_repair(text, strlen(text), &n);
    json_t *lines = json_array();
    if (clean) json_array_append_new(lines, json_stringn(clean, n));
    free(clean);
    mull__report_log(r, rank, "worker", lines);
}

void mull__report_ended(mull_worker *w, const char *job, int attempt, int64_t fence, int code, int sig,
                        const char *class_, const char *message) {
    json_t *e = event(w, "attempt_ended");
    size_t n;
    char *clean = mull_utf8_repair(message, strlen(message), &n);
    json_object_set_new(e, "job", json_string(job));
    json_object_set_new(e, "attempt", json_integer(attempt));
    json_object_set_new(e, "fence", json_integer(fence));
    json_object_set_new(e, "exit_code", code >= 0 ? json_integer(code) : json_null());
    json_object_set_new(e, "exit_signal", code < 0 && sig > 0 ? json_integer(sig) : json_null());
    json_object_set_new(e, "class", json_string(class_));
    if (clean) json_object_set_new(e, "message", json_stringn(clean, n));
    free(clean);
    push(w, e);
    mull_log(MULL_LOG_INFO, "job %s attempt %d (fence %lld) ended: %s%s%s", job, attempt, (long long)fence, class_,
             *message ? ": " : "", message);
}

/* Not in the sequence: its number is the last one that was put into the stream before it. */
char *mull__heartbeat_text(mull_worker *w) {
    json_t *e = event(w, "node_heartbeat"), *list = json_array();
    for (mull_run *r = w->runs; r; r = r->next)
        json_array_append_new(
            list, json_pack("{s:s, s:i, s:I}", "job", r->job, "attempt", r->attempt, "fence", (json_int_t)r->fence));
    json_object_set_new(e, "seq", json_integer((json_int_t)w->evq.next - 1));
    json_object_set_new(e, "attempts", list);
    char *text = json_dumps(e, JSON_COMPACT);
    json_decref(e);
    return text;
}
