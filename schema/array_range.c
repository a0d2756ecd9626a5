/* See array_range.h. */
#include "schema/array_range.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Digits only, at most ten of them. */
static int number(const char **s, int64_t *out) {
    int n = 0;
    *out = 0;
    while ((*s)[n] >= '0' && (*s)[n] <= '9' && n < 10) *out = *out * 10 + ((*s)[n++] - '0');
    if ((*s)[n] >= '0' && (*s)[n] <= '9') return -1;
    *s += n;
    return n ? 0 : -1;
}

typedef struct range {
    int64_t lo, hi, step;
} range;

/* N, N-M or N-M:S. NULL or what is wrong. */
static const char *read_range(const char **s, range *r) {
    if (number(s, &r->lo)) return "an index is a number from 0 to 1000000000";
    r->hi = r->lo;
    r->step = 1;
    if (**s == '-') {
        ++*s;
        if (number(s, &r->hi)) return "a range is FIRST-LAST";
        if (r->hi < r->lo) return "a range begins with its smaller index";
        if (**s == ':') {
            ++*s;
            if (number(s, &r->step) || r->step < 1) return "a step behind ':' is a number from 1";
        }
    }
    return r->hi > MULL_ARRAY_INDEX_MAX || r->step > MULL_ARRAY_INDEX_MAX ? "an index is a number from 0 to 1000000000"
                                                                          : NULL;
}

static const char *read_all(const char *s, json_t *out) {
    json_t *los = json_object_get(out, "los"), *steps = json_object_get(out, "steps"),
           *starts = json_object_get(out, "starts");
    int64_t total = 0, limit = 0, last = -1;
    for (;; s++) {
        range r;
        const char *wrong = read_range(&s, &r);
        if (wrong) return wrong;
        if (r.lo <= last) return "ranges ascend and name no index twice";
        if (json_array_size(los) == MULL_ARRAY_RANGES_MAX) return "at most 256 ranges are possible";
        last = r.hi;
        json_array_append_new(los, json_integer(r.lo));
        json_array_append_new(steps, json_integer(r.step));
        json_array_append_new(starts, json_integer(total));
        total += (r.hi - r.lo) / r.step + 1;
        if (total > MULL_ARRAY_TASKS_MAX) return "an array has at most 1000000 tasks";
        if (*s != ',') break;
    }
    if (*s == '%') {
        s++;
        if (number(&s, &limit) || limit < 1) return "a limit behind '%' is a number from 1";
    }
    if (*s) return "it goes on where it should end";
    json_object_set_new(out, "total", json_integer(total));
    json_object_set_new(out, "lim", limit > 0 && limit < total ? json_integer(limit) : json_null());
    return NULL;
}

json_t *mull_array_parse(const char *text, char *why, size_t why_cap) {
    json_t *out = json_pack("{s:s, s:[], s:[], s:[]}", "range", text, "los", "steps", "starts");
    const char *wrong = out ? read_all(text, out) : "it is no text, or there is no memory";
    if (!wrong) return out;
    snprintf(why, why_cap, "%s", wrong);
    json_decref(out);
    return NULL;
}
