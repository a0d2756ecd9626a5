/* Sampling; see sampler.h. Top-k and top-p take candidates from a binary heap ordered by (logit, then lower id), so
 * only those that are kept get sorted; without either the ids are walked in their own order. Probabilities and their
 * running sums are doubles. */
#include "engine/infer/sampler.h"

#include "engine/core/rng.h"

#include <math.h>
#include <stdlib.h>

int mull_idset_init(mull_idset *s, int32_t n) {
    s->n = n;
    s->bits = calloc(((size_t)n + 63) / 64, sizeof *s->bits);
    return s->bits ? MULL_OK : MULL_ENOMEM;
}

void mull_idset_fini(mull_idset *s) {
    free(s->bits);
    *s = (mull_idset){0};
}

void mull_idset_add(mull_idset *s, int32_t id) {
    if (id >= 0 && id < s->n) s->bits[(uint32_t)id >> 6] |= 1ull << (id & 63);
}

int mull_sampler_init(mull_sampler *s, int32_t vocab, mull_error *err) {
    *s = (mull_sampler){.vocab = vocab,
                        .cand = malloc((size_t)vocab * sizeof *s->cand),
                        .weight = malloc((size_t)vocab * sizeof *s->weight)};
    if (!s->cand || !s->weight) mull_sampler_fini(s);
    if (!s->cand) return mull_fail(err, MULL_ENOMEM, "cannot create the sampler", "", "", "out of memory");
    return MULL_OK;
}

void mull_sampler_fini(mull_sampler *s) {
    free(s->cand);
    free(s->weight);
    *s = (mull_sampler){0};
}

double mull_logsumexp(const float *x, int64_t n) {
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)expf(x[i] - top);
    return (double)top + log(sum);
}

static void penalize(float *logits, const mull_idset *seen, double penalty) {
    float p = (float)penalty;
    for (int32_t word = 0; word <= (seen->n - 1) / 64; word++)
        for (uint64_t w = seen->bits[word]; w; w &= w - 1) {
            float *z = &logits[word * 64 + __builtin_ctzll(w)];
            *z = *z < 0 ? *z * p : *z / p;
        }
}

/* The first id of the largest logit, NaNs passed over; -1 when none is above -inf. By blocks, whose largest values need
 * no branch each: one thread does this while all others wait. */
static int32_t argmax(const float *x, int32_t n) {
    enum { LANES = 16, BLOCK = 1024 };
    int32_t best = -1;
    float top = -INFINITY;
    for (int32_t at = 0; at < n; at += BLOCK) {
        int32_t end = n - at < BLOCK ? n : at + BLOCK, i = at;
        float m[LANES], most = top;
        for (int k = 0; k < LANES; k++) m[k] = top;
        for (; i + LANES <= end; i += LANES)
            for (int k = 0; k < LANES; k++) m[k] = x[i + k] > m[k] ? x[i + k] : m[k];
        for (int k = 0; k < LANES; k++) most = m[k] > most ? m[k] : most;
        for (; i < end; i++) most = x[i] > most ? x[i] : most;
        if (!(most > top)) continue;
        for (best = at; x[best] != most;) best++;
        top = most;
    }
    return best;
}

/* Whether a is drawn before b. */
static bool before(mull_candidate a, mull_candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(mull_candidate *heap, int32_t n, int32_t i) {
    mull_candidate x = heap[i];
    for (int32_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && before(heap[c + 1], heap[c])) c++;
        if (!before(heap[c], x)) break;
        heap[i] = heap[c];
    }
    heap[i] = x;
}

/* Moves the first of the heap behind its end and returns it. */
static mull_candidate heap_pop(mull_candidate *heap, int32_t *n) {
    mull_candidate top = heap[0];
    heap[0] = heap[--*n];
    heap[*n] = top;
    sift_down(heap, *n, 0);
    return top;
}

/* The candidate at which the running weight passes u * total. Rounding may leave none: then the last. */
static int32_t draw(const mull_candidate *c, int32_t n, float top, double total, double u) {
    double left = u * total;
    for (int32_t i = 0; i < n - 1; i++, c--) {
        left -= exp((double)(c->logit - top));
        if (left < 0) return c->id;
    }
    return c->id;
}

/* The same over weights that are there already. */
static int32_t walk(const double *weight, int32_t n, double left) {
    int32_t i = 0;
    while (i < n - 1 && (left -= weight[i]) >= 0) i++;
    return i;
}

int mull_sample(mull_sampler *s, float *logits, const mull_sampling *how, const mull_idset *banned,
                const mull_idset *seen, uint64_t index, int32_t *id, mull_error *err) {
    if (how->repetition_penalty != 1) penalize(logits, seen, how->repetition_penalty);
    if (banned)
        for (int32_t word = 0; word <= (banned->n - 1) / 64; word++)
            for (uint64_t w = banned->bits[word]; w; w &= w - 1) logits[word * 64 + __builtin_ctzll(w)] = -INFINITY;
    int32_t best = argmax(logits, s->vocab);
    if (best < 0 || !isfinite(logits[best]))
        return mull_fail(err, MULL_EINTERNAL, "cannot choose a token", "logits",
                         "check the checkpoint for broken weights", "those of token %llu hold no finite value",
                         (unsigned long long)index);
    *id = best;
    if (how->temperature <= 0) return MULL_OK;

    float top = (float)(logits[best] / how->temperature);
    int32_t n = 0;
    double total = 0;
    for (int32_t i = 0; i < s->vocab; i++) {
        float z = (float)(logits[i] / how->temperature);
        if (!(z > -INFINITY)) continue; /* banned */
        s->cand[n] = (mull_candidate){z, i};
        total += s->weight[n++] = exp((double)(z - top));
    }
    double u = mull_uniform(how->seed, index, 0);
    bool cut_k = how->top_k > 0 && how->top_k < n, cut_p = how->top_p < 1;
    if (!cut_k && !cut_p) {
        *id = s->cand[walk(s->weight, n, u * total)].id;
        return MULL_OK;
    }
    int32_t left = n, kept = 0;
    for (int32_t i = n / 2; i-- > 0;) sift_down(s->cand, n, i);
    if (cut_k) {
        total = 0;
        for (; kept < how->top_k; kept++) total += exp((double)(heap_pop(s->cand, &left).logit - top));
    }
    if (cut_p) {
        /* The kept ones after top-k lie sorted at the end, the first drawn last. */
        double sum = 0, want = how->top_p * total;
        int32_t most = cut_k ? kept : n, k = 0;
        do {
            mull_candidate c = k < kept ? s->cand[n - 1 - k] : heap_pop(s->cand, &left);
            sum += exp((double)(c.logit - top));
            k++;
        } while (k < most && sum < want);
        kept = k;
        total = sum;
    }
    *id = draw(&s->cand[n - 1], kept, top, total, u);
    return MULL_OK;
}
