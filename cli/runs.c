/* See runs.h. */
#include "cli/runs.h"

#include "cli/args.h"
#include "cli/jobs.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { PAGE = 100000 };

int mull_run_read(mull_client *c, const char *id, json_t **run) {
    char path[64];
    snprintf(path, sizeof path, "/v1/runs/%.40s", id);
    return mull_client_get(c, "GET", path, NULL, run);
}

int mull_run_points(mull_client *c, const char *id, const char *key, json_t **points) {
    char path[512], encoded[300];
    long long after = 0;
    *points = json_array();
    mull_query_encode(key, encoded, sizeof encoded);
    for (;;) {
        json_t *r;
        snprintf(path, sizeof path, "/v1/jobs/%.40s/metrics?limit=%d&key=%s&after=%lld", id, PAGE, encoded, after);
        int rc = mull_client_get(c, "GET", path, NULL, &r);
        if (rc) {
            json_decref(*points);
            *points = NULL;
            return rc;
        }
        const json_t *page = json_object_get(r, "points");
        size_t n = json_array_size(page);
        json_array_extend(*points, (json_t *)(uintptr_t)page);
        after = n ? (long long)json_integer_value(json_object_get(json_array_get(page, n - 1), "step")) : after;
        json_decref(r);
        if (n < PAGE) return MULL_EXIT_OK;
    }
}

bool mull_metric_rises(const char *key) {
    static const char *const words[] = {"acc", "reward", "score", "tok_s", "mfu", "per_s", "f1", "rouge", "bleu"};
    if (!strncmp(key, "eval/", 5)) return true; /* the headline of every task does, MMSI-Bench's "average" too */
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasestr(key, words[i])) return true;
    return false;
}

double mull_metric_best(const json_t *summary, bool rises, long long *step) {
    const json_t *v = json_object_get(summary, rises ? "max" : "min");
    *step = (long long)json_integer_value(json_object_get(summary, rises ? "max_step" : "min_step"));
    return json_is_number(v) ? json_number_value(v) : NAN;
}

int mull_series_of(const char *name, const json_t *points, mull_series *out) {
    size_t n = json_array_size(points);
    double *steps = malloc((n + 1) * sizeof *steps), *values = malloc((n + 1) * sizeof *values);
    *out = (mull_series){.name = name, .steps = steps, .values = values};
    if (!steps || !values) {
        mull_series_fini(out);
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *p = json_array_get(points, i);
        double v = json_number_value(json_object_get(p, "value"));
        if (!isfinite(v)) continue;
        steps[out->n] = json_number_value(json_object_get(p, "step"));
        values[out->n++] = v;
    }
    return 0;
}

void mull_series_fini(mull_series *s) {
    free((void *)(uintptr_t)s->steps);
    free((void *)(uintptr_t)s->values);
    *s = (mull_series){0};
}
