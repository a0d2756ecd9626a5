/* The inference engine: continuous batching over a paged cache.
 *
 * Every step builds one batch: a row for each sequence that decodes and up to prefill_chunk rows of prompts, oldest
 * sequence first. A sequence that needs a page when there is none takes it from the youngest running one, which goes
 * back to the head of the queue and is computed again later; the oldest can always finish, so there is no deadlock, and
 * since rows do not influence each other the repeated work gives the same bits. Requests are admitted in order while
 * their pages fit. infer.h is the interface, sequence.h one request, schedule.c builds the batches. */
#include "engine/infer/infer_internal.h"

#include "engine/infer/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_BATCH = 32, DEFAULT_CHUNK = 512, AUTO_TOKENS_A_SEQ = 4096, IDLE_FEATURE_BYTES = 64 << 20 };

void mull_sampling_defaults(const mull_model *m, mull_sampling *s) {
    const mull_config *c = mull_model_config(m);
    *s = (mull_sampling){.max_new_tokens = 512, .top_p = 1, .repetition_penalty = c->gen_repetition_penalty};
    if (!c->gen_do_sample || c->gen_temperature < 1e-5) return;
    s->temperature = c->gen_temperature;
    s->top_p = c->gen_top_p;
    s->top_k = c->gen_top_k;
}

/* A quarter of the memory that is free now, but no more than full sequences of a usual length can use. */
static int64_t auto_cache_tokens(const mull_model *m, int batch, bool shares) {
    const mull_config *c = mull_model_config(m);
    long long kb = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld kB", &kb) == 1) break;
    if (f) fclose(f);
    int64_t token_bytes = 2ll * c->layers * c->kv_heads * c->head_dim * (int64_t)mull_model_kv_element(m);
    /* A device that is ours alone gives three quarters; the rest is for activations, features and logits. */
    if (!mull_model_on_host(m)) kb = (long long)(mull_model_free_bytes(m) / 1024 * (shares ? 1 : 3));
    int64_t fits = kb * 1024 / 4 / token_bytes, most = (int64_t)batch * AUTO_TOKENS_A_SEQ;
    if (most < c->max_positions) most = c->max_positions;
    if (kb == 0) fits = AUTO_TOKENS_A_SEQ;
    if (fits < MULL_PAGE_TOKENS) fits = MULL_PAGE_TOKENS;
    return fits < most ? fits : most;
}

/* Ids that must not be produced: those without a tokenizer entry, and the frame of media, which only a medium may fill.
 */
static int ban(mull_infer *f, mull_error *err) {
    const mull_config *c = f->c;
    if (mull_idset_init(&f->banned, c->vocab)) return mull_fail(err, MULL_ENOMEM, WHAT_CREATE, "", "", "out of memory");
    if (f->opts.raw) return MULL_OK;
    const int frame[] = {c->vision_start, c->vision_end, c->vision_pad, c->image_token, c->video_token};
    for (size_t i = 0; i < sizeof frame / sizeof *frame; i++) mull_idset_add(&f->banned, frame[i]);
    mull_buf text = {0};
    for (int32_t id = 0; f->tok && id < c->vocab; id++) {
        text.len = 0;
        if (id >= mull_tokenizer_size(f->tok) || mull_tokenizer_decode(f->tok, &id, 1, false, &text, NULL))
            mull_idset_add(&f->banned, id);
    }
    mull_buf_fini(&text);
    return MULL_OK;
}

int mull_infer_create(mull_model *m, const mull_tokenizer *tok, const mull_infer_opts *opts,
                      const mull_infer_callbacks *cb, mull_infer **out, mull_error *err) {
    const mull_config *c = mull_model_config(m);
    *out = NULL;
    mull_infer *f = calloc(1, sizeof *f);
    if (!f) return mull_fail(err, MULL_ENOMEM, WHAT_CREATE, "", "", "out of memory");
    *f = (mull_infer){.m = m, .c = c, .tok = tok, .cb = *cb};
    if (opts) f->opts = *opts;
    if (f->opts.max_batch <= 0) f->opts.max_batch = DEFAULT_BATCH;
    if (f->opts.prefill_chunk <= 0) f->opts.prefill_chunk = DEFAULT_CHUNK;
    if (f->opts.cache_tokens <= 0)
        f->opts.cache_tokens = auto_cache_tokens(m, f->opts.max_batch, f->opts.shares_device);
    size_t batch = (size_t)f->opts.max_batch, rows = batch + (size_t)f->opts.prefill_chunk;
    int rc = mull_kv_cache_create_for(m, f->opts.cache_tokens, !f->opts.no_prefix_cache, &f->kv, err);
    if (!rc) rc = mull_lm_create(m, (int64_t)rows, &f->lm, err);
    if (!rc) rc = ban(f, err);
    if (rc) goto fail;
    int64_t room = (int64_t)mull_kv_cache_pages(f->kv) * MULL_PAGE_TOKENS;
    f->max_len = room < c->max_positions ? room : c->max_positions;
    f->features = mull_features_create(m, f->opts.no_prefix_cache ? 0 : IDLE_FEATURE_BYTES);
    f->views = malloc((size_t)c->layers * sizeof *f->views);
    f->running = calloc(batch, sizeof *f->running);
    f->seqs = malloc(batch * sizeof *f->seqs);
    f->ids = malloc(rows * sizeof *f->ids);
    f->pos = malloc(3 * rows * sizeof *f->pos);
    f->inputs = malloc(rows * sizeof *f->inputs);
    f->want = malloc(batch * sizeof *f->want);
    f->hidden = malloc(batch * (size_t)c->hidden * sizeof *f->hidden);
    f->choices = malloc(batch * sizeof *f->choices);
    f->chosen = malloc(batch * sizeof *f->chosen);
    f->chosen_logprobs = malloc(batch * sizeof *f->chosen_logprobs);
    if (!f->features || !f->views || !f->running || !f->seqs || !f->ids || !f->pos || !f->inputs || !f->want ||
        !f->hidden || !f->choices || !f->chosen || !f->chosen_logprobs) {
        rc = mull_fail(err, MULL_ENOMEM, WHAT_CREATE, "", "", "out of memory");
        goto fail;
    }
    for (int i = 0; i < c->layers; i++) f->views[i] = mull_kv_cache_layer(f->kv, i);
    *out = f;
    return MULL_OK;
fail:
    mull_infer_destroy(f);
    return rc;
}

void mull_infer_destroy(mull_infer *f) {
    if (!f) return;
    for (int i = 0; i < f->nrunning; i++) {
        mull_seq_release(f->running[i], f->kv, f->features);
        mull_seq_destroy(f->running[i]);
    }
    for (mull_seq *s = f->waiting, *next; s; s = next) {
        next = s->next;
        mull_seq_destroy(s);
    }
    mull_constraints_destroy(f->rules); /* sequences hold references, not memory of it */
    mull_features_destroy(f->features);
    mull_kv_cache_destroy(f->kv);
    mull_lm_destroy(f->lm);
    mull__infer_choose_fini(f);
    mull_idset_fini(&f->banned);
    free(f->views);
    free(f->running);
    free(f->seqs);
    free(f->ids);
    free(f->pos);
    free(f->inputs);
    free(f->want);
    free(f->hidden);
    free(f->choices);
    free(f->chosen);
    free(f->chosen_logprobs);
    free(f);
}

int mull_infer_submit(mull_infer *f, const mull_request *r, mull_error *err) {
    mull_seq *s;
    mull_constraint *rule = NULL;
    int rc = MULL_OK;
    if (r->sampling.regex && !f->tok)
        return mull_fail(err, MULL_EUNSUPPORTED, "cannot take the request", "regex", "", "there is no tokenizer");
    if (r->sampling.regex && !f->rules)
        rc = mull_constraints_create(f->tok, f->c->vocab, f->c->eos, f->c->neos, &f->rules, err);
    if (!rc && r->sampling.regex) rc = mull_constraint_get(f->rules, r->sampling.regex, &rule, err);
    if (!rc) rc = mull_seq_create(f->c, f->tok, r, f->max_len, &s, err);
    if (rc) {
        mull_constraint_release(f->rules, rule);
        return rc;
    }
    s->rule = rule;
    s->rule_state = MULL_REGEX_START;
    *(f->waiting ? &f->last_waiting->next : &f->waiting) = s;
    f->last_waiting = s;
    f->pending++;
    return MULL_OK;
}

int mull_infer_cancel(mull_infer *f, uint64_t id) {
    bool found = false;
    for (int i = 0; i < f->nrunning; i++)
        if (f->running[i]->id == id) f->running[i]->cancelled = found = true;
    for (mull_seq *s = f->waiting; s; s = s->next)
        if (s->id == id) s->cancelled = found = true;
    return found ? MULL_OK : MULL_EMISSING;
}

int mull_infer_pending(const mull_infer *f) {
    return f->pending;
}

int mull_infer_forget(mull_infer *f, mull_error *err) {
    if (f->pending)
        return mull_fail(err, MULL_EARG, "cannot take new weights", "", "finish or cancel the requests first",
                         "%d requests are pending", f->pending);
    mull__infer_sweep(f);
    mull_kv_cache_forget(f->kv);
    return MULL_OK;
}

mull_features *mull_infer_features(mull_infer *f) {
    return f->features;
}

void mull_infer_get_stats(const mull_infer *f, mull_infer_stats *out) {
    *out = f->stats;
    out->media_encoded = mull_features_encoded(f->features);
    out->cache_tokens = (int64_t)mull_kv_cache_pages(f->kv) * MULL_PAGE_TOKENS;
    out->cache_peak_tokens = (int64_t)mull_kv_cache_peak_pages(f->kv) * MULL_PAGE_TOKENS;
    out->kv_bytes = (int64_t)mull_kv_cache_peak_pages(f->kv) * (int64_t)mull_kv_cache_page_bytes(f->kv);
}

/* Shows text that has become safe; last: the request is over. */
static void stream(mull_infer *f, mull_seq *s, bool last) {
    if (last && f->tok && !s->stream.stopped) mull_detok_flush(&s->detok, &s->stream.text);
    const char *piece;
    size_t len;
    mull_stream_update(&s->stream, last, &piece, &len);
    if (len && f->cb.on_text) f->cb.on_text(f->cb.ctx, s->id, piece, len);
}

void mull__infer_finish(mull_infer *f, mull_seq *s, mull_finish finish, const mull_error *why) {
    double now = mull_clock_ms(), first = s->first_ms > 0 ? s->first_ms : now;
    stream(f, s, true);
    mull_result r = {.id = s->id,
                     .ids = s->tokens + s->prompt,
                     .logprobs = s->logprobs,
                     .n = (size_t)(s->len - s->prompt),
                     .text = s->stream.text.data ? s->stream.text.data : "",
                     .text_len = s->stream.text.len,
                     .finish = finish,
                     .prompt_tokens = s->prompt,
                     .cached_tokens = s->cached > 0 ? s->cached : 0,
                     .vision_ms = s->vision_ms};
    if (s->start_ms > 0) {
        r.prefill_ms = first - s->start_ms - s->vision_ms;
        r.decode_ms = now - first;
    }
    if (why) r.error = *why;
    s->done = true;
    mull_constraint_release(f->rules, s->rule);
    s->rule = NULL;
    f->pending--;
    f->stats.prompt_tokens += s->prompt;
    f->stats.cached_tokens += r.cached_tokens;
    f->stats.output_tokens += s->len - s->prompt;
    f->cb.on_done(f->cb.ctx, &r);
}

static bool is_eos(const mull_config *c, int32_t id) {
    for (int i = 0; i < c->neos; i++)
        if (c->eos[i] == id) return true;
    return false;
}

void mull__infer_accept(mull_infer *f, mull_seq *s, int32_t id) {
    mull_error err = {0};
    int rc;
    if (s->first_ms <= 0) s->first_ms = mull_clock_ms();
    s->tokens[s->len++] = id;
    mull_idset_add(&s->seen, id);
    if ((!s->how.ignore_eos || s->rule) && is_eos(f->c, id)) {
        mull__infer_finish(f, s, MULL_FINISH_STOP, NULL);
        return;
    }
    /* In a raw run an id may have no text; then it simply shows none. */
    if (f->tok && (rc = mull_detok_push(&s->detok, id, &s->stream.text, &err)) && !f->opts.raw) {
        mull__infer_finish(f, s, MULL_FINISH_ERROR, &err);
        return;
    }
    bool whole = false; /* nothing can follow */
    if (s->rule && (rc = mull_constraint_step(f->rules, s->rule, id, &s->rule_state, &whole, &err))) {
        mull__infer_finish(f, s, MULL_FINISH_ERROR, &err);
        return;
    }
    if (whole) {
        stream(f, s, false);
        mull__infer_finish(f, s, MULL_FINISH_STOP, NULL);
        return;
    }
    if (s->len == s->max_len) {
        stream(f, s, false);
        mull__infer_finish(f, s, s->stream.stopped ? MULL_FINISH_STOP : MULL_FINISH_LENGTH, NULL);
        return;
    }
    stream(f, s, false);
    if (s->stream.stopped) mull__infer_finish(f, s, MULL_FINISH_STOP, NULL);
}

/* Lets the model's backend choose, which spares it the way of the logits to the host. False: the host has to. */
static bool choose_on_backend(mull_infer *f, int want) {
    if (mull_model_on_host(f->m)) return false;
    int n = 0;
    for (int i = 0; i < f->nrunning; i++) {
        const mull_seq *s = f->running[i];
        if (!s->rows || s->computed != s->len) continue;
        if (s->rule || (s->logprobs && s->how.logprobs_scaled)) return false; /* the host only */
        f->choices[n] = (mull_lm_choice){.temperature = s->how.temperature,
                                         .top_p = s->how.top_p,
                                         .penalty = s->how.repetition_penalty,
                                         .top_k = s->how.top_k,
                                         .seed = s->how.seed,
                                         .index = (uint64_t)(s->len - s->prompt),
                                         .seen = s->how.repetition_penalty != 1 ? s->seen.bits : NULL};
        n++;
    }
    return mull_lm_choose(f->lm, f->want, want, f->choices, f->banned.bits, f->chosen, f->chosen_logprobs);
}

/* Token row of the backend's choices becomes the next of s. */
static void take_choice(mull_infer *f, mull_seq *s, int row) {
    int64_t index = s->len - s->prompt;
    if (f->chosen[row] < 0) {
        mull_error err;
        mull_fail(&err, MULL_EINTERNAL, "cannot choose a token", "", "check the checkpoint for broken weights",
                  "the logits of token %lld hold no finite value", (long long)index);
        mull__infer_finish(f, s, MULL_FINISH_ERROR, &err);
        return;
    }
    if (s->logprobs) s->logprobs[index] = f->chosen_logprobs[row];
    mull__infer_accept(f, s, f->chosen[row]);
}

int mull_infer_step(mull_infer *f, mull_error *err) {
    double start = mull_clock_ms();
    mull__infer_sweep(f);
    mull__infer_admit(f);
    mull_lm_batch batch;
    int n = mull__infer_build(f, &batch);
    if (n > 0) {
        mull_lm_run(f->lm, &batch, NULL);
        f->stats.rows += batch.rows;
        int want = 0;
        for (int i = 0; i < f->nrunning; i++) {
            mull_seq *s = f->running[i];
            if (!s->rows) continue;
            s->computed += s->rows;
            mull_seq_publish(s, f->kv);
            mull__infer_drop_features(f, s);
            want += s->computed == s->len;
        }
        bool chosen = want && choose_on_backend(f, want);
        int rc = chosen ? MULL_OK : mull__infer_need_logits(f, want, err);
        if (rc) return rc;
        if (want && !chosen) mull_lm_row_logits(f->lm, f->want, want, f->hidden, f->logits);
        if ((rc = mull_model_status(f->m, err))) return rc;
        if (!chosen) mull__infer_choose(f);
        for (int i = 0, row = 0; chosen && i < f->nrunning; i++) {
            mull_seq *s = f->running[i];
            if (s->rows && s->computed == s->len) take_choice(f, s, row++);
        }
    }
    mull__infer_sweep(f);
    f->stats.steps++;
    f->stats.step_ms += mull_clock_ms() - start;
    return f->pending;
}
