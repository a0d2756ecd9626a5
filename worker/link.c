/* Both ways to Redis. Events go out in order; what is under way is bounded, so an absent leader cannot fill Redis. If
 * the stream loses events (a flushed or older server), the leader asks for them, or the worker sees that its oldest
 * unacknowledged one is not there any more, and they are sent again: the leader drops what it has. */
#include "schema/keys.h"
#include "schema/log.h"
#include "worker/supervise.h"
#include "worker/worker_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* STREAM_MAX: a bound for Redis's sake when no leader trims for long; what it cuts is sent again. */
#define STREAM_MAX "200000"
enum { BLOCK_MS = 5000, AGAIN_MS = 1000, INBOX_LIFE_S = 86400 };

typedef struct sent {
    mull_worker *w;
    uint64_t seq, epoch;
} sent;

/* ---- events out ---- */

static void on_published(const redisReply *reply, void *arg) {
    sent *s = arg;
    mull_worker *w = s->w;
    uint64_t seq = s->seq;
    bool current = s->epoch == w->link_epoch;
    free(s);
    if (!reply || !current) return; /* the next connection sends all of it again */
    w->out_ms = uv_now(&w->loop);
    if (reply->type == REDIS_REPLY_ERROR) {
        if (!w->complained) mull_log(MULL_LOG_WARN, "Redis refuses an event: %s; trying again", reply->str);
        w->complained = true;
        mull_evq_rewind(&w->evq, seq);
        w->rewind_ms = uv_now(&w->loop); /* pump waits a moment */
        return;
    }
    if (w->complained) mull_log(MULL_LOG_INFO, "Redis takes events again");
    w->complained = false;
    mull_evq_entry *e = mull_evq_find(&w->evq, seq);
    unsigned long long ms, n;
    if (e && reply->str && sscanf(reply->str, "%llu-%llu", &ms, &n) == 2) {
        e->id_ms = ms;
        e->id_n = n;
    }
}

static void publish(mull_worker *w, const char *text, size_t len, mull_redis_cb cb, void *arg) {
    const char *argv[] = {"XADD", MULL_KEY_EVENTS, "MAXLEN", "~", STREAM_MAX, "*", MULL_FIELD, text};
    size_t lens[] = {4, strlen(MULL_KEY_EVENTS), 6, 1, strlen(STREAM_MAX), 1, strlen(MULL_FIELD), len};
    mull_redis_command(w->out, 8, argv, lens, cb, arg);
}

void mull__pump(mull_worker *w) {
    uint64_t seq;
    const mull_evq_entry *e;
    if (!w->out || !mull_redis_connected(w->out)) return;
    if (w->complained && uv_now(&w->loop) - w->rewind_ms < AGAIN_MS) return;
    while ((e = mull_evq_publish(&w->evq, &seq))) {
        if (seq == w->evq.acked + 1) w->ack_ms = uv_now(&w->loop);
        char head[48];
        int h = snprintf(head, sizeof head, "{\"seq\":%llu,", (unsigned long long)seq);
        char *text = malloc((size_t)h + e->len);
        sent *s = malloc(sizeof *s);
        if (!text || !s) abort();
        memcpy(text, head, (size_t)h);
        memcpy(text + h, e->text + 1, e->len - 1);
        *s = (sent){w, seq, w->link_epoch};
        publish(w, text, (size_t)h + e->len - 1, on_published, s);
        free(text);
    }
}

void mull__resync(mull_worker *w, uint64_t from) {
    uint64_t now = uv_now(&w->loop);
    /* A leader that reads a long gap asks once for every piece it reads; the first answer is enough. */
    if (from == w->rewind_from && now - w->rewind_ms < AGAIN_MS) return;
    /* Asked for what was acknowledged: an old message, or, when it is asked again and again and nothing is
     * acknowledged meanwhile, a database that has been emptied or is older than it was. Then no event of this boot can
     * ever be recorded again. */
    if (from > 0 && from <= w->evq.acked) {
        if (w->doubts++ == 0) w->doubt_ms = now;
        if (w->doubts >= MULL_DOUBTS && now - w->doubt_ms >= MULL_DOUBT_MS) {
            mull_log(MULL_LOG_ERROR,
                     "the leader has lost what it had recorded of this boot (it asks for %llu, had acknowledged %llu): "
                     "starting over",
                     (unsigned long long)from, (unsigned long long)w->evq.acked);
            mull__start_over(w);
            return;
        }
    }
    w->rewind_from = from;
    w->rewind_ms = now;
    mull_log(MULL_LOG_INFO, "the leader asks for events from %llu on; sending from %llu", (unsigned long long)from,
             (unsigned long long)(from > w->evq.acked ? from : w->evq.acked + 1));
    mull_evq_rewind(&w->evq, from);
    mull__pump(w);
}

static void on_looked(const redisReply *reply, void *arg) {
    mull_worker *w = arg;
    w->asking = false;
    if (!reply || (reply->type == REDIS_REPLY_ARRAY && reply->elements > 0)) return;
    /* Recorded and trimmed (its acknowledgement was lost) or lost: sending it again settles both. So it does when the
     * question is refused: a node that joined by token may not read the stream, in which others' events are. */
    mull_evq_rewind(&w->evq, 0);
    w->ack_ms = uv_now(&w->loop);
    mull__pump(w);
}

/* Nothing was acknowledged for a while: is the oldest event under way still in the stream? */
static void look_for_oldest(mull_worker *w) {
    const mull_evq_entry *e = mull_evq_find(&w->evq, w->evq.acked + 1);
    if (w->asking || !e || e->id_ms == 0 || w->evq.next <= w->evq.acked + 1) return;
    char id[48];
    snprintf(id, sizeof id, "%llu-%llu", (unsigned long long)e->id_ms, (unsigned long long)e->id_n);
    const char *argv[] = {"XRANGE", MULL_KEY_EVENTS, id, id};
    w->asking = true;
    mull_redis_command(w->out, 4, argv, NULL, on_looked, w);
}

static void on_out_connected(void *arg) {
    mull_worker *w = arg;
    w->link_epoch++;
    w->asking = false;
    w->out_ms = w->ack_ms = uv_now(&w->loop);
    mull_evq_rewind(&w->evq, 0);
    mull__pump(w);
}

typedef struct beat_sent {
    mull_worker *w;
    uint64_t at_ms; /* in the leases' clock */
} beat_sent;

static void on_beat_sent(const redisReply *reply, void *arg) {
    beat_sent b = *(beat_sent *)arg;
    free(arg);
    if (!reply) return;
    b.w->out_ms = uv_now(&b.w->loop);
    if (reply->type != REDIS_REPLY_ERROR) mull__leases_renew(b.w, b.at_ms);
}

void mull__link_beat(mull_worker *w) {
    uint64_t now = uv_now(&w->loop);
    if (w->cfg.redis->is_unix) mull__leases_renew(w, mull_lease_clock_ms(1));
    if (mull_redis_connected(w->out)) {
        char *text = mull__heartbeat_text(w), life[16];
        beat_sent *b = malloc(sizeof *b);
        if (!text || !b) abort();
        *b = (beat_sent){w, mull_lease_clock_ms(w->cfg.redis->is_unix)};
        publish(w, text, strlen(text), on_beat_sent, b);
        free(text);
        snprintf(life, sizeof life, "%d", INBOX_LIFE_S);
        const char *argv[] = {"EXPIRE", w->inbox, life};
        mull_redis_command(w->out, 3, argv, NULL, NULL, NULL);
        if (now - w->ack_ms >= MULL_STALL_MS) look_for_oldest(w);
        if (now - w->out_ms >= MULL_SILENCE_MS) mull_redis_reset(w->out);
    } else {
        w->out_ms = now;
    }
    if (!mull_redis_connected(w->in))
        w->in_ms = now;
    else if (now - w->in_ms >= MULL_SILENCE_MS)
        mull_redis_reset(w->in);
    mull__pump(w);
}

void mull__flow(mull_worker *w) {
    bool full = mull_evq_full(&w->evq) && !w->hasty;
    for (mull_run *r = w->runs; r; r = r->next)
        for (int i = 0; r->ranks && i < r->world; i++)
            if (r->ranks[i]) mull__rank_flow(r->ranks[i], full);
}

/* ---- commands in ---- */

static void read_inbox(mull_worker *w);

/* The stream was lost and begun anew if it ends before what was read already. */
static void on_info(const redisReply *reply, void *arg) {
    mull_worker *w = arg;
    if (!reply) return;
    const char *last = "0-0"; /* no such key */
    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i + 1 < reply->elements; i += 2)
        if (strcmp(reply->element[i]->str, "last-generated-id") == 0) last = reply->element[i + 1]->str;
    unsigned long long a = 0, b = 0, c = 0, d = 0;
    sscanf(last, "%llu-%llu", &a, &b);
    sscanf(w->cursor, "%llu-%llu", &c, &d);
    if (c > a || (c == a && d > b)) snprintf(w->cursor, sizeof w->cursor, "0-0");
    read_inbox(w);
}

static void check_inbox(mull_worker *w) {
    const char *argv[] = {"XINFO", "STREAM", w->inbox};
    mull_redis_command(w->in, 3, argv, NULL, on_info, w);
}

static void take_entries(mull_worker *w, const redisReply *entries) {
    for (size_t i = 0; i < entries->elements; i++) {
        const redisReply *entry = entries->element[i];
        if (entry->type != REDIS_REPLY_ARRAY || entry->elements < 2 || !entry->element[0]->str) continue;
        snprintf(w->cursor, sizeof w->cursor, "%s", entry->element[0]->str);
        const redisReply *fields = entry->element[1];
        if (fields->type != REDIS_REPLY_ARRAY) continue;
        for (size_t k = 0; k + 1 < fields->elements; k += 2)
            if (fields->element[k]->str && !strcmp(fields->element[k]->str, MULL_FIELD) && fields->element[k + 1]->str)
                mull__command(w, fields->element[k + 1]->str, (size_t)fields->element[k + 1]->len);
    }
    const char *argv[] = {"XTRIM", w->inbox, "MINID", w->cursor};
    if (entries->elements) mull_redis_command(w->out, 4, argv, NULL, NULL, NULL);
}

static void on_inbox(const redisReply *reply, void *arg) {
    mull_worker *w = arg;
    w->reading = false;
    w->in_ms = uv_now(&w->loop);
    if (!reply || w->closed) return; /* the next connection reads again */
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 && reply->element[0]->elements >= 2) {
        take_entries(w, reply->element[0]->element[1]);
        read_inbox(w);
        return;
    }
    if (reply->type == REDIS_REPLY_ERROR) {
        mull_log(MULL_LOG_WARN, "reading the inbox: %s", reply->str);
        return; /* the heartbeat finds the silence and connects anew */
    }
    check_inbox(w);
}

static void read_inbox(mull_worker *w) {
    if (w->reading || w->closed) return;
    char block[16];
    snprintf(block, sizeof block, "%d", BLOCK_MS);
    const char *argv[] = {"XREAD", "COUNT", "100", "BLOCK", block, "STREAMS", w->inbox, w->cursor};
    w->reading = true;
    mull_redis_command(w->in, 8, argv, NULL, on_inbox, w);
}

static void on_in_connected(void *arg) {
    mull_worker *w = arg;
    w->in_ms = uv_now(&w->loop);
    w->reading = false;
    check_inbox(w);
}

int mull__link_open(mull_worker *w) {
    mull_key_inbox(w->boot, w->inbox, sizeof w->inbox);
    snprintf(w->cursor, sizeof w->cursor, "0-0");
    w->out = mull_redis_create(&w->loop, w->cfg.redis, on_out_connected, w);
    w->in = mull_redis_create(&w->loop, w->cfg.redis, on_in_connected, w);
    return w->out && w->in ? 0 : MULL_ERR_NOMEM;
}

void mull__link_close(mull_worker *w) {
    if (w->out) mull_redis_close(w->out);
    if (w->in) mull_redis_close(w->in);
}
