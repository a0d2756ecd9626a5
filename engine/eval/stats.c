/* See stats.h. Sources: Efron 1979 (bootstrap), McNemar 1947 with the exact binomial, Fisher's sign flips. */
#include "engine/eval/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64 (Steele et al. 2014) over a counter */
static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static size_t below(uint64_t *state, size_t n) {
    return (size_t)((unsigned __int128)draw(state) * n >> 64);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, size_t n, double q) {
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

int mull_bootstrap(const mull_task *t, const mull_tally *tally, int rounds, mull_interval *out, mull_error *err) {
    *out = (mull_interval){mull_tally_headline(t, tally), NAN, NAN, NAN};
    if (!tally->n || rounds < 2) return MULL_OK;
    mull_tally sample = *tally;
    double *values = malloc((size_t)rounds * sizeof *values), sum = 0, squares = 0;
    sample.marks = malloc(tally->n * sizeof *sample.marks);
    int rc =
        values && sample.marks ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot bootstrap", NULL, NULL, "out of memory");
    uint64_t state = 42;
    for (int r = 0; r < rounds && !rc; r++) {
        for (size_t i = 0; i < tally->n; i++) sample.marks[i] = tally->marks[below(&state, tally->n)];
        values[r] = mull_tally_headline(t, &sample);
        sum += values[r];
    }
    for (int r = 0; r < rounds && !rc; r++) squares += (values[r] - sum / rounds) * (values[r] - sum / rounds);
    if (!rc) {
        qsort(values, (size_t)rounds, sizeof *values, by_value);
        out->stderr_ = sqrt(squares / (rounds - 1));
        out->low = percentile(values, (size_t)rounds, 0.025);
        out->high = percentile(values, (size_t)rounds, 0.975);
    }
    free(values);
    free(sample.marks);
    return rc;
}

/* 2 * P(X <= min) of a fair binomial over n, at most 1; by logarithms, so that any n works. */
static double mcnemar(size_t x, size_t y) {
    size_t n = x + y, k = x < y ? x : y;
    double p = 0;
    if (!n) return 1;
    for (size_t i = 0; i <= k; i++)
        p += exp(lgamma((double)n + 1) - lgamma((double)i + 1) - lgamma((double)(n - i) + 1) -
                 (double)n * 0.69314718055994530942);
    return p < 0.5 ? 2 * p : 1;
}

static double sign_flips(const double *d, size_t n, int rounds, double seen, uint64_t *state) {
    int hits = 0;
    for (int r = 0; r < rounds; r++) {
        double sum = 0;
        uint64_t bits = 0;
        for (size_t i = 0; i < n; i++) {
            if (i % 64 == 0) bits = draw(state);
            sum += bits >> (i % 64) & 1 ? d[i] : -d[i];
        }
        hits += fabs(sum) >= fabs(seen) - 1e-12;
    }
    return (hits + 1.0) / (rounds + 1.0);
}

int mull_compare_paired(const double *a, const double *b, size_t n, int rounds, mull_paired *out, mull_error *err) {
    double *d = malloc((n + 1) * sizeof *d), *means = malloc((size_t)(rounds > 0 ? rounds : 1) * sizeof *means),
           sum = 0;
    uint64_t state = 42;
    *out = (mull_paired){.n = n, .a = NAN, .b = NAN, .diff = NAN, .low = NAN, .high = NAN, .exact = true, .p = 1};
    if (!d || !means) {
        free(d);
        free(means);
        return mull_fail(err, MULL_ENOMEM, "cannot compare two runs", NULL, NULL, "out of memory");
    }
    if (n) out->a = out->b = 0;
    for (size_t i = 0; i < n; i++) {
        d[i] = b[i] - a[i];
        sum += d[i];
        out->a += a[i] / (double)n;
        out->b += b[i] / (double)n;
        out->exact = out->exact && (a[i] == 0 || a[i] == 1) && (b[i] == 0 || b[i] == 1);
        out->only_a += a[i] > b[i];
        out->only_b += b[i] > a[i];
    }
    if (n) {
        out->diff = sum / (double)n;
        for (int r = 0; r < rounds; r++) {
            means[r] = 0;
            for (size_t i = 0; i < n; i++) means[r] += d[below(&state, n)] / (double)n;
        }
        if (rounds > 1) {
            qsort(means, (size_t)rounds, sizeof *means, by_value);
            out->low = percentile(means, (size_t)rounds, 0.025);
            out->high = percentile(means, (size_t)rounds, 0.975);
        }
        out->p = out->exact ? mcnemar(out->only_a, out->only_b) : sign_flips(d, n, rounds, sum, &state);
        if (!out->exact) out->only_a = out->only_b = 0;
    }
    free(d);
    free(means);
    return MULL_OK;
}
