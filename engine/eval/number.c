/* See number.h. */
#include "engine/eval/number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Digits, the point and signs of t as ASCII for strtod, which rounds correctly whatever the length. */
static char *ascii_number(mull__arena *a, mull__text t) {
    char *s = mull__alloc(a, t.n + 1);
    size_t k = 0;
    if (!s) return NULL;
    for (size_t i = 0; i < t.n; i++) {
        int d = mull__digit(t.c[i]);
        if (d >= 0)
            s[k++] = (char)('0' + d);
        else if (t.c[i] != '_')
            s[k++] = (char)t.c[i];
    }
    s[k] = 0;
    return s;
}

/* Digits with single underscores between them; the place behind them, or from when there are none. */
static size_t digits(mull__text t, size_t from) {
    size_t i = from;
    while (i < t.n) {
        if (mull__digit(t.c[i]) >= 0 ||
            (t.c[i] == '_' && i > from && mull__digit(t.c[i - 1]) >= 0 && i + 1 < t.n && mull__digit(t.c[i + 1]) >= 0))
            i++;
        else
            break;
    }
    return i;
}

/* Letters are compared as ASCII alone: the long s spells no "inf"inity here. */
static bool word_is(mull__text t, const char *lower) {
    if (t.n != strlen(lower)) return false;
    for (size_t i = 0; i < t.n; i++)
        if (t.c[i] >= 0x80 || mull__fold(t.c[i]) != (unsigned char)lower[i]) return false;
    return true;
}

bool mull__py_float(mull__arena *a, mull__text t, double *out) {
    t = mull__strip(t);
    size_t i = t.n && (t.c[0] == '-' || t.c[0] == '+') ? 1 : 0;
    bool minus = i && t.c[0] == '-';
    mull__text body = mull__sub(t, i, t.n);
    if (word_is(body, "inf") || word_is(body, "infinity")) {
        *out = minus ? -INFINITY : INFINITY;
        return true;
    }
    if (word_is(body, "nan")) {
        *out = NAN;
        return true;
    }
    size_t whole = digits(t, i), end = whole;
    bool any = whole > i;
    if (end < t.n && t.c[end] == '.') {
        size_t more = digits(t, end + 1);
        any = any || more > end + 1;
        end = more;
    }
    if (!any) return false;
    if (end < t.n && (t.c[end] == 'e' || t.c[end] == 'E')) {
        size_t e = end + 1;
        if (e < t.n && (t.c[e] == '-' || t.c[e] == '+')) e++;
        end = digits(t, e);
        if (end == e) return false;
    }
    if (end != t.n) return false;
    char *s = ascii_number(a, t);
    if (!s) return false;
    *out = strtod(s, NULL);
    return true;
}

/* mantissa digits m (no point) times 10^(exp10 - len + 1), as a double */
static double compose(const char *m, int exp10, bool minus) {
    char s[64];
    snprintf(s, sizeof s, "%s%c.%se%d", minus ? "-" : "", m[0], m + 1, exp10);
    return strtod(s, NULL);
}

/* The next decimal of the same length; false when it grows by a digit. */
static bool bump(char *m) {
    for (size_t i = strlen(m); i-- > 0;) {
        if (m[i] < '9') {
            m[i]++;
            return true;
        }
        m[i] = '0';
    }
    return false;
}

/* The shortest digits that read back as x, the closest of them. Below a power of two the gap is half as wide, so the
 * rounded decimal may fail where its upper neighbour reads back (2**-44). */
static void shortest(double x, char m[24], int *exp10) {
    for (int p = 1; p <= 17; p++) {
        char s[48], up[24];
        snprintf(s, sizeof s, "%.*e", p - 1, fabs(x));
        size_t k = 0;
        char *at = s;
        for (; *at && *at != 'e'; at++)
            if (*at != '.') m[k++] = *at;
        m[k] = 0;
        *exp10 = atoi(at + 1);
        if (compose(m, *exp10, false) == fabs(x)) return;
        memcpy(up, m, k + 1);
        if (bump(up) && compose(up, *exp10, false) == fabs(x)) {
            memcpy(m, up, k + 1);
            return;
        }
    }
}

void mull__py_repr(double x, char out[MULL__REPR_BYTES]) {
    if (isnan(x) || isinf(x)) {
        snprintf(out, MULL__REPR_BYTES, "%s", isnan(x) ? "nan" : x < 0 ? "-inf" : "inf");
        return;
    }
    const char *sign = signbit(x) ? "-" : "";
    if (x == 0) {
        snprintf(out, MULL__REPR_BYTES, "%s0.0", sign);
        return;
    }
    char m[24] = "";
    int e = 0;
    shortest(x, m, &e);
    size_t n = strlen(m);
    while (n > 1 && m[n - 1] == '0') m[--n] = 0;
    if (e < -4 || e >= 16)
        snprintf(out, MULL__REPR_BYTES, "%s%c%s%se%s%02d", sign, m[0], n > 1 ? "." : "", m + 1, e < 0 ? "-" : "+",
                 abs(e));
    else if (e < 0)
        snprintf(out, MULL__REPR_BYTES, "%s0.%.*s%s", sign, -e - 1, "000", m);
    else if ((int)n <= e + 1)
        snprintf(out, MULL__REPR_BYTES, "%s%s%.*s.0", sign, m, e + 1 - (int)n, "000000000000000");
    else
        snprintf(out, MULL__REPR_BYTES, "%s%.*s.%s", sign, e + 1, m, m + e + 1);
}

double mull__py_round2(double x) {
    if (!(fabs(x) < 1e16)) return x; /* no decimals left, and inf, nan */
    char s[64];
    snprintf(s, sizeof s, "%.2f", x);
    return strtod(s, NULL);
}

bool mull__last_number(mull__arena *a, mull__text t, bool keep_sign, double *out) {
    t = mull__replace(a, t, ',', 0);
    size_t from = 0, to = 0;
    for (size_t i = 0; i < t.n;) {
        size_t k = i;
        while (k < t.n && mull__digit(t.c[k]) >= 0) k++;
        if (k == i && t.c[i] != '.') {
            i++;
            continue;
        }
        size_t frac = k;
        if (k < t.n && t.c[k] == '.')
            for (frac = k + 1; frac < t.n && mull__digit(t.c[frac]) >= 0;) frac++;
        if (k < t.n && frac > k + 1) k = frac; /* a point without digits behind it stays outside */
        if (k == i) {
            i++;
            continue;
        }
        from = i;
        to = i = k;
    }
    if (to == from) return false;
    char *s = ascii_number(a, mull__sub(t, from, to));
    if (!s) return false;
    *out = strtod(s, NULL);
    bool minus =
        from > 0 && t.c[from - 1] == '-' && !(from > 1 && t.c[from - 2] != '_' && mull__is_word(t.c[from - 2]));
    if (keep_sign && minus) *out = -*out;
    return true;
}
