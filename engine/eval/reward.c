/* See reward.h. */
#include "engine/eval/reward.h"

#include "engine/eval/number.h"
#include "engine/eval/patterns.h"
#include "engine/eval/rouge.h"

#include <math.h>
#include <string.h>

static mull__text printed(mull__arena *a, double x) {
    char s[MULL__REPR_BYTES];
    mull__py_repr(x, s);
    return mull__decode(a, s, strlen(s));
}

/* method.md, section 6. An empty match counts as none, though the remaining patterns are not tried then. */
static mull__text extract(mull__arena *a, mull__text t, bool keep_sign) {
    bool matched, capital;
    double x;
    mull__text g = mull__extract_match(t, MULL__PHRASES_REWARD, &matched, &capital);
    if (matched && !capital && mull__last_number(a, g, keep_sign, &x)) g = printed(a, x);
    if (matched && g.n) return g;
    g = mull__last_capital(t);
    if (g.c) return g;
    return mull__last_number(a, t, keep_sign, &x) ? printed(a, x) : t;
}

static double clip(double x) {
    return x > 1 ? 1 : x > 0 ? x : 0;
}

static double free_form(mull__arena *a, mull__text gold, mull__text pred) {
    mull__rouge r;
    mull__rouge_score(a, gold, pred, &r);
    return clip((r.rouge1.f + r.rouge2.f + r.rouge_l.f) / 3);
}

/* Both sides are read again from how they print: "1e+16" is 16 then, "inf" no number. */
static double by_number(mull__arena *a, mull__text gold, mull__text pred, bool keep_sign, bool relative) {
    double g, o;
    if (!mull__last_number(a, gold, keep_sign, &g) || !mull__last_number(a, pred, keep_sign, &o)) return 0;
    if (!relative) return mull__py_round2(g) == mull__py_round2(o);
    double diff = (fabs(o - g) + 1e-9) / (fabs(g) + 1e-9);
    return 1 - clip(diff);
}

static double accuracy(mull__arena *a, const char *type, mull__text gold, mull__text pred, bool keep_sign) {
    if (!strcmp(type, "multiple choice")) return mull__eq(mull__strip(gold), mull__strip(pred));
    if (!strcmp(type, "numerical")) return by_number(a, gold, pred, keep_sign, false);
    if (!strcmp(type, "regression")) return by_number(a, gold, pred, keep_sign, true);
    if (!strcmp(type, "OCR")) return clip(1 - mull__wer(a, gold, pred));
    if (!strcmp(type, "free-form")) return free_form(a, gold, pred);
    return 0;
}

int mull_reward_score(const char *completion, size_t completion_len, const char *solution, size_t solution_len,
                      const char *problem_type, mull_compat compat, mull_reward *out, mull_error *err) {
    mull__arena a = {0};
    bool keep_sign = compat != MULL_COMPAT_RELEASE;
    *out = (mull_reward){0};
    mull__text content = mull__decode(&a, completion, completion_len);
    mull__text pred = extract(&a, content, keep_sign);
    mull__text gold = extract(&a, mull__decode(&a, solution, solution_len), keep_sign);
    out->accuracy = accuracy(&a, problem_type, gold, pred, keep_sign);
    out->format = mull__has_answer(content) ? 0.5 : 0;
    out->total = out->accuracy + out->format;
    bool failed = mull__text_utf8(pred, &out->extract) || mull__text_utf8(gold, &out->gold) || a.failed;
    mull__arena_fini(&a);
    return failed ? mull_fail(err, MULL_ENOMEM, "cannot score a completion", NULL, NULL, "out of memory") : MULL_OK;
}

void mull_reward_fini(mull_reward *r) {
    mull_buf_fini(&r->extract);
    mull_buf_fini(&r->gold);
}
