/* VSI-Bench: letters by equality, numbers by mean relative accuracy. */
#include "engine/eval/number.h"
#include "engine/eval/patterns.h"
#include "engine/eval/task_internal.h"
#include "engine/eval/vsi.h"

#include <math.h>
#include <string.h>

static bool listed(const char *const *list, const char *type) {
    for (; type && *list; list++)
        if (!strcmp(*list, type)) return true;
    return false;
}

bool mull__vsi_letters(const char *type) {
    static const char *const TYPES[] = {"object_rel_direction_easy",
                                        "object_rel_direction_medium",
                                        "object_rel_direction_hard",
                                        "object_rel_distance",
                                        "route_planning",
                                        "obj_appearance_order",
                                        NULL};
    return listed(TYPES, type);
}

bool mull__vsi_numbers(const char *type) {
    static const char *const TYPES[] = {"object_abs_distance", "object_counting", "object_size_estimation",
                                        "room_size_estimation", NULL};
    return listed(TYPES, type);
}

double mull__vsi_mra(double pred, double target) {
    /* 1 - numpy.linspace(.5, .95, 10), as it comes out in double */
    static const double LIMITS[] = {0.5,
                                    0.44999999999999996,
                                    0.4,
                                    0.35,
                                    0.30000000000000004,
                                    0.25,
                                    0.19999999999999996,
                                    0.15000000000000002,
                                    0.10000000000000009,
                                    0.050000000000000044};
    if (target == 0) return pred == 0; /* the release divides by zero */
    int hits = 0;
    double off = fabs(pred - target) / target;
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) hits += off <= LIMITS[i];
    return hits / 10.0;
}

/* The last [-+]?\d*\.\d+|[-+]?\d+ */
static mull__text last_signed_number(mull__text t) {
    mull__text best = {0};
    for (size_t i = 0; i < t.n;) {
        size_t from = i, k = i + (t.c[i] == '-' || t.c[i] == '+'), whole = k;
        while (k < t.n && mull__digit(t.c[k]) >= 0) k++;
        bool any = k > whole;
        if (k + 1 < t.n && t.c[k] == '.' && mull__digit(t.c[k + 1]) >= 0) {
            for (k++; k < t.n && mull__digit(t.c[k]) >= 0;) k++;
            any = true;
        }
        if (!any) {
            i++;
            continue;
        }
        best = mull__sub(t, from, k);
        i = k;
    }
    return best;
}

static mull__text fuzzy(mull__arena *a, mull__text t) {
    size_t space = mull__find_ascii(t, 0, " "), end = space == MULL__NPOS ? t.n : space;
    while (end > 0 && t.c[end - 1] == '.') end--;
    mull__text word = mull__strip(mull__sub(t, 0, end)), g[] = {
                                                             mull__match_phrase(t, MULL__PHRASES_VSI),
                                                             mull__match_count(t, "i counted a total of"),
                                                             mull__match_count(t, "count is"),
                                                             mull__match_answer(t, MULL__TAG_NOCASE),
                                                         };
    for (size_t i = 0; i < sizeof g / sizeof *g; i++)
        if (g[i].c) word = mull__strip(g[i]);
    mull__text low = mull__lower(a, word);
    if (low.n == 1 && low.c[0] >= 'a' && low.c[0] <= 'z') return word;
    mull__text number = last_signed_number(word);
    if (number.c) return number;
    mull__text capital = mull__last_capital(t);
    return capital.c ? capital : word;
}

/* float() of a column that may be text or a number. */
static bool column_number(mull__arena *a, const json_t *v, double *out) {
    if (json_is_number(v)) {
        *out = json_number_value(v);
        return true;
    }
    return json_is_string(v) && mull__py_float(a, mull__decode_json(a, v), out);
}

int mull__score_vsibench(mull__scoring *s, mull__text reply) {
    const json_t *type = mull__doc_need(s->doc, "question_type", s->err),
                 *truth = type ? mull__doc_need(s->doc, "ground_truth", s->err) : NULL;
    if (!truth) return MULL_EARG;
    const char *name = json_string_value(type), *key = "accuracy";
    mull__text in = mull__match_answer(reply, MULL__TAG_LINES), pred = in.c ? mull__strip(in) : fuzzy(s->a, reply);
    if (mull__vsi_letters(name)) {
        mull__text want = mull__decode_json(s->a, truth);
        s->score = mull__eq(mull__lower(s->a, pred), mull__lower(s->a, want));
    } else if (mull__vsi_numbers(name)) {
        double p = 0, g = 0;
        key = "MRA:.5:.95:.05";
        bool said = mull__py_float(s->a, pred, &p), known = column_number(s->a, truth, &g), both = said && known;
        if (both && g == 0 && s->compat == MULL_COMPAT_RELEASE) return mull__raise(s, "ZeroDivisionError");
        s->score = both ? mull__vsi_mra(p, g) : 0;
    } else if (s->compat == MULL_COMPAT_RELEASE)
        return mull__raise(s, "ValueError");
    else
        return mull_fail(s->err, MULL_EARG, "cannot score a reply", "question_type", "see the dataset's card",
                         "'%s' is no type of VSI-Bench", name ? name : "not a string");
    json_t *r = json_deep_copy(s->doc);
    json_object_set_new(r, "prediction", mull__text_json(reply));
    json_object_set_new(r, key, json_real(s->score));
    json_object_set_new(s->metrics, "vsibench_score", r);
    s->category = json_deep_copy(type);
    return MULL_OK;
}
