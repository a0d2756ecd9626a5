/* Tokens from rows of logits, on the host. A row of 152,000 logits costs a millisecond or two of exponentials, which
 * with a group of samples is a good part of a decoding step: rows are chosen from in parallel, each by the thread that
 * has it alone, and only then accepted, in order. A token depends on its own row alone, so neither changes a bit. */
#include "engine/infer/infer_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct mull__pick {
    mull_seq *s;
    float *logits;
    int32_t id;
    int rc;
    mull_error err;
} pick;

void mull__infer_choose_fini(mull_infer *f) {
    for (int i = 0; i < f->samplers; i++) mull_sampler_fini(&f->sampler[i]);
    free(f->sampler);
    free(f->picks);
    free(f->logits);
    free(f->raw_logits);
}

int mull__infer_need_logits(mull_infer *f, int n, mull_error *err) {
    if (n <= f->logit_rows) return MULL_OK;
    size_t row = (size_t)f->c->vocab;
    int threads = mull_pool_threads(mull_model_pool(f->m)), samplers = threads < n ? threads : n;
    float *logits = realloc(f->logits, (size_t)n * row * sizeof *logits);
    if (logits) f->logits = logits;
    float *raw = realloc(f->raw_logits, (size_t)samplers * row * sizeof *raw);
    if (raw) f->raw_logits = raw;
    pick *picks = realloc(f->picks, (size_t)n * sizeof *picks);
    if (picks) f->picks = picks;
    mull_sampler *s = realloc(f->sampler, (size_t)samplers * sizeof *s);
    if (s) f->sampler = s;
    if (!logits || !raw || !picks || !s)
        return mull_fail(err, MULL_ENOMEM, "cannot decode", "", "lower max_batch", "no memory for %d rows of logits",
                         n);
    for (; f->samplers < samplers; f->samplers++) {
        int rc = mull_sampler_init(&f->sampler[f->samplers], f->c->vocab, err);
        if (rc) return rc;
    }
    f->logit_rows = n;
    return MULL_OK;
}

/* worker: whose memory is free to use. */
static void choose(mull_infer *f, pick *p, int worker) {
    mull_seq *s = p->s;
    int64_t index = s->len - s->prompt, vocab = f->c->vocab;
    float *raw = f->raw_logits + worker * vocab;
    double lse = 0;
    p->rc = MULL_OK;
    if (s->logprobs) {
        /* Before penalty and temperature, which overwrite the row. */
        memcpy(raw, p->logits, (size_t)vocab * sizeof *raw);
        if (s->how.logprobs_scaled && s->how.temperature > 0) {
            float mul = (float)(1 / s->how.temperature);
            for (int64_t i = 0; i < vocab; i++) raw[i] *= mul;
        }
        lse = mull_logsumexp(raw, vocab);
    }
    if (s->rule) p->rc = mull_constraint_apply(f->rules, s->rule, s->rule_state, p->logits, &p->err);
    if (!p->rc)
        p->rc = mull_sample(&f->sampler[worker], p->logits, &s->how, &f->banned, &s->seen, (uint64_t)index, &p->id,
                            &p->err);
    if (!p->rc && s->logprobs) s->logprobs[index] = (float)((double)raw[p->id] - lse);
}

typedef struct job {
    mull_infer *f;
    int n;
} job;

/* Constraints keep tables that grow as they are used: one thread is through with those before the others' rows. */
static void part_of(void *ctx, int part, int parts) {
    const job *j = ctx;
    for (int i = part; i < j->n; i += parts)
        if (!j->f->picks[i].s->rule) choose(j->f, &j->f->picks[i], part);
}

void mull__infer_choose(mull_infer *f) {
    int n = 0;
    for (int i = 0; i < f->nrunning; i++) {
        mull_seq *s = f->running[i];
        if (!s->rows || s->computed != s->len) continue;
        f->picks[n] = (pick){.s = s, .logits = f->logits + (size_t)n * (size_t)f->c->vocab};
        n++;
    }
    for (int i = 0; i < n; i++)
        if (f->picks[i].s->rule) choose(f, &f->picks[i], 0);
    job j = {f, n};
    if (n) mull_pool_run(mull_model_pool(f->m), part_of, &j, n < f->samplers ? n : f->samplers);
    for (int i = 0; i < n; i++) {
        pick *p = &f->picks[i];
        if (p->rc)
            mull__infer_finish(f, p->s, MULL_FINISH_ERROR, &p->err);
        else
            mull__infer_accept(f, p->s, p->id);
    }
}
