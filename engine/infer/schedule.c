/* Which sequences run, and with how many rows; see the file comment of infer.c for the policy. */
#include "engine/infer/infer_internal.h"

#include "engine/infer/clock.h"

#include <string.h>

void mull__infer_sweep(mull_infer *f) {
    int kept = 0;
    for (int i = 0; i < f->nrunning; i++) {
        mull_seq *s = f->running[i];
        if (s->cancelled && !s->done) mull__infer_finish(f, s, MULL_FINISH_CANCELLED, NULL);
        if (!s->done) {
            f->running[kept++] = s;
            continue;
        }
        mull_seq_release(s, f->kv, f->features);
        mull_seq_destroy(s);
    }
    f->nrunning = kept;
    mull_seq **at = &f->waiting, *last = NULL;
    for (mull_seq *s; (s = *at);) {
        if (!s->cancelled) {
            last = s;
            at = &s->next;
            continue;
        }
        mull__infer_finish(f, s, MULL_FINISH_CANCELLED, NULL);
        *at = s->next; /* after the callback: it may have put a request behind s */
        mull_seq_destroy(s);
    }
    f->last_waiting = last;
}

void mull__infer_admit(mull_infer *f) {
    /* What the running ones will still take for the tokens they have now. */
    int64_t room = mull_kv_cache_available(f->kv);
    for (int i = 0; i < f->nrunning; i++) {
        int64_t left = mull_pages_of(f->running[i]->len) - f->running[i]->npages;
        room -= left > 0 ? left : 0;
    }
    while (f->waiting && f->nrunning < f->opts.max_batch) {
        mull_seq *s = f->waiting;
        room -= mull_pages_of(s->len + 1);
        /* Alone it always fits: no request is longer than the cache. */
        if (room < 0 && f->nrunning > 0) break;
        f->waiting = s->next;
        if (!f->waiting) f->last_waiting = NULL;
        s->next = NULL;
        if (s->start_ms <= 0) s->start_ms = mull_clock_ms();
        f->running[f->nrunning++] = s;
    }
}

/* Sends the youngest running sequence back to the head of the queue. */
static void preempt(mull_infer *f) {
    mull_seq *s = f->running[--f->nrunning];
    mull_seq_release(s, f->kv, f->features);
    s->rows = 0;
    s->next = f->waiting;
    f->waiting = s;
    if (!f->last_waiting) f->last_waiting = s;
    f->stats.preempted++;
}

/* Takes the pages that s needs up to end, from younger sequences if there is no other way. False when s itself had to
 * give way. */
static bool make_room(mull_infer *f, mull_seq *s, int64_t end) {
    while (!mull_seq_grow(s, f->kv, end)) {
        bool self = f->running[f->nrunning - 1] == s;
        preempt(f);
        if (self) return false;
    }
    return true;
}

/* Gets the features of the media that rows [from, to) show. False when that failed and s has ended. */
static bool need_features(mull_infer *f, mull_seq *s, int64_t from, int64_t to) {
    for (size_t i = 0; i < s->nmedia; i++) {
        mull_seq_medium *m = &s->media[i];
        int64_t a = (int64_t)m->first, b = a + m->media->tokens;
        if (m->feature || a >= to || b <= from) continue;
        mull_error err = {0};
        if (mull_features_get(f->features, m->media, &m->key, &m->feature, &s->vision_ms, &err)) {
            mull__infer_finish(f, s, MULL_FINISH_ERROR, &err);
            return false;
        }
    }
    return true;
}

void mull__infer_drop_features(mull_infer *f, mull_seq *s) {
    for (size_t i = 0; i < s->nmedia; i++) {
        mull_seq_medium *m = &s->media[i];
        if (!m->feature || s->computed < (int64_t)m->first + m->media->tokens) continue;
        mull_features_release(f->features, m->feature);
        m->feature = NULL;
    }
}

/* Rows [s->computed, + s->rows) of s into the batch from row on. */
static void fill(mull_infer *f, const mull_seq *s, int64_t row, int64_t stride) {
    for (int64_t i = 0; i < s->rows; i++) {
        int64_t t = s->computed + i;
        f->ids[row + i] = s->tokens[t];
        f->inputs[row + i] = NULL;
        for (int a = 0; a < 3; a++)
            f->pos[a * stride + row + i] = t < s->prompt ? s->pos[a * s->prompt + t] : (int32_t)(t + s->delta);
    }
    int64_t from = s->computed, to = from + s->rows;
    for (size_t m = 0; m < s->nmedia; m++) {
        const mull_feature *e = s->media[m].feature;
        if (!e) continue;
        int64_t first = (int64_t)s->media[m].first;
        for (int64_t t = first > from ? first : from; t < first + e->tokens && t < to; t++)
            f->inputs[row + t - from] = e->data + (t - first) * f->c->hidden;
    }
}

/* Does a running sequence before number i compute a beginning right now that s shares and that is not there yet? Then
 * waiting for it is cheaper than computing it again: a group of samples of one prompt computes the prompt once. */
static bool coming(const mull_infer *f, int i, mull_seq *s) {
    if (!mull_kv_cache_shares(f->kv)) return false;
    for (int k = 0; k < i; k++) {
        mull_seq *r = f->running[k];
        if (!r->matched || r->done || r->computed >= r->prompt) continue;
        if (mull_seq_common(s, r) > r->published) return true;
    }
    return false;
}

/* Decides how many rows of s run in this step and makes everything they need ready. */
static void plan(mull_infer *f, int i, int64_t *budget) {
    mull_seq *s = f->running[i];
    s->rows = 0;
    if (!s->matched && *budget > 0 && !coming(f, i, s)) {
        /* Not earlier, so that a prefix that another sequence computes meanwhile is found. */
        mull_seq_match(s, f->kv);
        if (s->cached < 0) s->cached = s->computed;
        s->matched = true;
    }
    int64_t left = s->len - s->computed;
    bool decoding = left == 1 && s->len > s->prompt;
    int64_t rows = decoding || left <= *budget ? left : *budget;
    if (!s->matched || rows == 0) return;
    if (!make_room(f, s, s->computed + rows)) return;
    if (!need_features(f, s, s->computed, s->computed + rows)) return;
    if (!decoding) *budget -= rows;
    s->rows = rows;
}

int mull__infer_build(mull_infer *f, mull_lm_batch *b) {
    int64_t budget = f->opts.prefill_chunk, stride = f->opts.max_batch + f->opts.prefill_chunk, row = 0;
    int n = 0, want = 0;
    /* Planning may shorten the list from its end, never before the sequence that is being planned. */
    for (int i = 0; i < f->nrunning; i++) plan(f, i, &budget);
    for (int i = 0; i < f->nrunning; i++) {
        mull_seq *s = f->running[i];
        if (!s->rows) continue;
        fill(f, s, row, stride);
        f->seqs[n++] = (mull_attn_seq){.row0 = row, .rows = s->rows, .pos0 = s->computed, .pages = s->pages};
        row += s->rows;
        if (s->computed + s->rows == s->len) f->want[want++] = (int32_t)(row - 1);
    }
    *b = (mull_lm_batch){.rows = row,
                         .ids = f->ids,
                         .features = f->inputs,
                         .pos = f->pos,
                         .pos_stride = stride,
                         .seqs = f->seqs,
                         .nseq = n,
                         .kv = f->views};
    return n;
}
