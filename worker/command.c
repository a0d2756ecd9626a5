/* What the leader asks. Every command may come twice or late; each is safe to obey again. */
#include "schema/event_line.h"
#include "schema/log.h"
#include "worker/worker_internal.h"

#include <stdlib.h>
#include <string.h>

typedef enum seen { SEEN_NEW, SEEN_SAME, SEEN_OLDER } seen;

/* Of the last few thousand starts; an older one is not sent again, because its end has long been recorded. */
static seen known(const mull_worker *w, int64_t job, int64_t fence) {
    size_t n = w->known_count < MULL_KNOWN_FENCES ? w->known_count : MULL_KNOWN_FENCES;
    seen s = SEEN_NEW;
    for (size_t i = 0; i < n; i++) {
        if (w->known[i].fence == fence) return SEEN_SAME;
        if (w->known[i].job == job && w->known[i].fence > fence) s = SEEN_OLDER;
    }
    return s;
}

static void remember(mull_worker *w, int64_t job, int64_t fence) {
    size_t at = w->known_count++ % MULL_KNOWN_FENCES;
    w->known[at].job = job;
    w->known[at].fence = fence;
}

static int64_t integer(const json_t *o, const char *key, int64_t otherwise) {
    const json_t *v = json_object_get(o, key);
    return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

int mull__grace_of(const json_t *o) {
    int64_t s = integer(o, "grace_s", MULL_GRACE_DEFAULT_S);
    return s < 0 ? 0 : s > 3600 ? 3600 : (int)s;
}

static void start(mull_worker *w, json_t *msg) {
    const char *job = json_string_value(json_object_get(msg, "job"));
    int64_t fence = integer(msg, "fence", 0), id = strtoll(job, NULL, 10);
    int attempt = (int)integer(msg, "attempt", 0);
    if (strlen(job) > 20 || fence <= 0) {
        mull_log(MULL_LOG_WARN, "a start command names no possible job or fence; ignored");
        return;
    }
    seen s = known(w, id, fence);
    if (s == SEEN_SAME) return;
    if (s == SEEN_OLDER) {
        mull_log(MULL_LOG_WARN, "job %s: a start with the old fence %lld is refused", job, (long long)fence);
        return;
    }
    remember(w, id, fence);
    if (w->draining) {
        mull__report_ended(w, job, attempt, fence, -1, 0, "requeue", "its worker was leaving before it could start");
        return;
    }
    /* A newer fence means that the leader has given up the older attempt. */
    for (mull_run *r = w->runs; r; r = r->next)
        if (!strcmp(r->job, job) && !r->end_seq) mull__run_stop(r, MULL_STOP_STALE, 0);
    mull__run_add(w, job, attempt, fence, msg);
}

static void cancel(mull_worker *w, const json_t *msg) {
    const char *job = json_string_value(json_object_get(msg, "job"));
    const char *reason = json_string_value(json_object_get(msg, "reason"));
    int64_t fence = integer(msg, "fence", 0), id = strtoll(job, NULL, 10);
    mull_stop why = mull_stop_of(reason);
    mull_run *r = mull__run_find(w, fence);
    if (r) {
        mull__run_stop(r, why, mull__grace_of(msg));
    } else if (why == MULL_STOP_CANCEL && strlen(job) <= 20 && known(w, id, fence) == SEEN_NEW) {
        /* Its start was lost; the leader waits for its end. */
        remember(w, id, fence);
        mull__report_ended(w, job, 0, fence, -1, 0, "cancelled", "cancelled before it started");
    }
}

static void ack(mull_worker *w, const json_t *msg) {
    int64_t seq = integer(msg, "seq", 0);
    w->doubts = 0;
    if (seq <= 0 || (uint64_t)seq <= w->evq.acked) return;
    mull_evq_ack(&w->evq, (uint64_t)seq);
    w->ack_ms = uv_now(&w->loop);
    mull__runs_acked(w);
    mull__flow(w);
    mull__pump(w);
}

void mull__command(mull_worker *w, const char *text, size_t len) {
    mull_err err;
    json_t *msg = mull_inbox_parse(text, len, &err);
    if (!msg) {
        mull_log(MULL_LOG_WARN, "a command is not valid: %s", err.why);
        return;
    }
    const char *type = json_string_value(json_object_get(msg, "type"));
    if (!strcmp(type, "start"))
        start(w, msg);
    else if (!strcmp(type, "cancel"))
        cancel(w, msg);
    else if (!strcmp(type, "ack"))
        ack(w, msg);
    else if (!strcmp(type, "resync"))
        mull__resync(w, integer(msg, "from", 0) > 0 ? (uint64_t)integer(msg, "from", 0) : 0);
    else if (!strcmp(type, "replaced"))
        mull__replaced(w);
    else if (!strcmp(type, "shutdown_drain"))
        mull__drain(w);
    json_decref(msg);
}
