/* Adding up scores: what lmms-eval's aggregation functions give, from one list of (category, score). */
#include "engine/eval/number.h"
#include "engine/eval/task_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int mull_tally_add_score(mull_tally *t, const char *category, double score) {
    if (!t->categories) t->categories = json_array();
    if (!t->index) t->index = json_object();
    const json_t *known = json_object_get(t->index, category);
    size_t place = known ? (size_t)json_integer_value(known) : json_array_size(t->categories);
    if (!known && (json_array_append_new(t->categories, json_string(category)) ||
                   json_object_set_new(t->index, category, json_integer((json_int_t)place))))
        return MULL_ENOMEM;
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        struct mull_mark *p = realloc(t->marks, cap * sizeof *p);
        if (!p) return MULL_ENOMEM;
        t->marks = p;
        t->cap = cap;
    }
    t->marks[t->n++] = (struct mull_mark){(uint32_t)place, 1, score};
    return MULL_OK;
}

int mull_tally_add(mull_tally *t, const mull_scored *s) {
    const char *category = json_string_value(s->category);
    return s->correct_known ? mull_tally_add_score(t, category ? category : "unknown", s->score) : MULL_OK;
}

void mull_tally_fini(mull_tally *t) {
    free(t->marks);
    json_decref(t->categories);
    json_decref(t->index);
    memset(t, 0, sizeof *t);
}

typedef struct sums {
    double sum, n;
} sums;

static double mean(sums s) {
    return s.n > 0 ? s.sum / s.n : NAN;
}

/* Sums of each category and of all ([count]); NULL on no memory. Categories that cannot count (MMVU's unknown ones)
 * are left to the caller. */
static sums *add_up(const mull_tally *t) {
    size_t n = json_array_size(t->categories);
    sums *s = calloc(n + 1, sizeof *s);
    if (!s) return NULL;
    for (size_t i = 0; i < t->n; i++) {
        const struct mull_mark *m = &t->marks[i];
        double w = (double)m->weight;
        s[m->category].sum += w * m->score;
        s[m->category].n += w;
        s[n].sum += w * m->score;
        s[n].n += w;
    }
    return s;
}

static const char *category_name(const mull_tally *t, size_t i) {
    return json_string_value(json_array_get(t->categories, i));
}

static double mean_groups(const sums *s, size_t n) {
    sums all = {0};
    for (size_t i = 0; i < n; i++)
        if (s[i].n > 0) {
            all.sum += mean(s[i]);
            all.n++;
        }
    return mean(all);
}

static const char *vsi_suffix(const char *type) {
    return strstr(type, "distance") && !strstr(type, "rel_")                      ? "MRA:.5:.95:.05"
           : !strcmp(type, "object_counting") || strstr(type, "_size_estimation") ? "MRA:.5:.95:.05"
                                                                                  : "accuracy";
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The eight groups in order of name, the three levels of direction as one; out may be NULL. */
static double vsi(const mull_tally *t, const sums *s, json_t *out) {
    size_t n = json_array_size(t->categories);
    const char **names = calloc(n + 1, sizeof *names);
    sums all = {0}, direction = {0};
    char key[160];
    if (!names) return NAN;
    for (size_t i = 0; i < n; i++) names[i] = category_name(t, i);
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        double m = mean(s[json_integer_value(json_object_get(t->index, names[i]))]);
        if (isnan(m)) continue;
        sums *into = strncmp(names[i], "object_rel_direction_", 21) ? &all : &direction;
        into->sum += m;
        into->n++;
        snprintf(key, sizeof key, "%.100s_%s", names[i], vsi_suffix(names[i]));
        if (into == &all && out) json_object_set_new(out, key, json_real(m));
    }
    if (direction.n > 0) {
        all.sum += mean(direction);
        all.n++;
        if (out) json_object_set_new(out, "object_rel_direction_accuracy", json_real(mean(direction)));
    }
    if (out && all.n > 0) json_object_set_new(out, "overall", json_real(mean(all)));
    free(names);
    return mean(all);
}

static double round5(double x) {
    char s[64];
    if (isnan(x)) return x;
    snprintf(s, sizeof s, "%.5f", x);
    return strtod(s, NULL);
}

/* Subjects of MMVU; others are in no average. */
static bool mmvu_subject(const char *name) {
    static const char *const SUBJECTS[] = {"Biology",
                                           "Chemistry",
                                           "Modern_Physics",
                                           "Astronomy",
                                           "Geography",
                                           "Materials_Science",
                                           "Neurobiology",
                                           "Electromagnetism",
                                           "Thermodynamics",
                                           "Mechanics",
                                           "Civil_Engineering",
                                           "Electrical_Engineering",
                                           "Mechanical_Engineering",
                                           "Biomedical_Engineering",
                                           "Electronics_and_Communication",
                                           "Computer_Science",
                                           "Clinical_Medicine",
                                           "Basic_Medicine",
                                           "Preventive_Medicine",
                                           "Pharmacy",
                                           "Dentistry",
                                           "Art",
                                           "Literature",
                                           "History",
                                           "Law",
                                           "Economics",
                                           "Management"};
    for (size_t i = 0; i < sizeof SUBJECTS / sizeof *SUBJECTS; i++)
        if (!strcmp(SUBJECTS[i], name)) return true;
    return false;
}

static double mmvu(const mull_tally *t, const sums *s) {
    sums all = {0};
    for (size_t i = 0; i < json_array_size(t->categories); i++)
        if (mmvu_subject(category_name(t, i))) {
            all.sum += s[i].sum;
            all.n += s[i].n;
        }
    return 100 * mean(all);
}

static double headline(const mull_task *t, const mull_tally *tally, const sums *s, json_t *parts) {
    size_t n = json_array_size(tally->categories);
    switch (t->aggregate) {
    case MULL__MEAN_GROUPS:
        return mean_groups(s, n);
    case MULL__VSI:
        return vsi(tally, s, parts);
    case MULL__VSTAR:
        return 100 * mean(s[n]);
    case MULL__PERCENT:
        return mmvu(tally, s);
    case MULL__PERCENT5:
        return round5(100 * mean(s[n]));
    case MULL__MEAN5:
        return round5(mean(s[n]));
    default:
        return mean(s[n]);
    }
}

double mull_tally_headline(const mull_task *t, const mull_tally *tally) {
    sums *s = add_up(tally);
    double x = s ? headline(t, tally, s, NULL) : NAN;
    free(s);
    return x;
}

static void set(json_t *out, const char *before, const char *metric, const char *behind, double x) {
    mull_buf key = {0};
    if (!mull_buf_printf(&key, "%s%s%s,none", before, metric, behind))
        json_object_set_new(out, key.data, isnan(x) ? json_null() : json_real(x));
    mull_buf_fini(&key);
}

json_t *mull_tally_results(const mull_task *t, const mull_tally *tally) {
    sums *s = add_up(tally);
    json_t *out = json_object(), *parts = json_object();
    if (!s || !out || !parts) goto done;
    double x = headline(t, tally, s, parts);
    json_object_set_new(out, "alias", json_string(t->name));
    if (t->aggregate == MULL__VSI)
        json_object_set(out, "vsibench_score,none", parts);
    else
        set(out, "", t->metric, "", x);
    for (size_t i = 0; i < json_array_size(tally->categories); i++) {
        if (t->aggregate == MULL__MMSI) set(out, "", category_name(tally, i), "", mean(s[i]));
        if (t->aggregate == MULL__VSTAR) set(out, "vstar_", category_name(tally, i), "_acc", 100 * mean(s[i]));
    }
done:
    json_decref(parts);
    free(s);
    return out;
}

json_t *mull_tally_groups(const mull_tally *tally) {
    sums *s = add_up(tally);
    json_t *out = json_object();
    for (size_t i = 0; s && out && i < json_array_size(tally->categories); i++)
        json_object_set_new(out, category_name(tally, i),
                            json_pack("{s:f, s:I}", "score", mean(s[i]), "n", (json_int_t)s[i].n));
    free(s);
    return out;
}
