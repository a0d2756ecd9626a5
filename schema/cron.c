/* See cron.h. */
#include "schema/cron.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

typedef struct field {
    const char *name, *any; /* any: key that says whether it was a star, NULL: nobody asks */
    int lo, hi;
    const char *words; /* three letters each, from lo on */
} field;

static const field FIELDS[5] = {{"minute", NULL, 0, 59, NULL},
                                {"hour", "hour_any", 0, 23, NULL},
                                {"dom", "dom_any", 1, 31, NULL},
                                {"month", NULL, 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"},
                                {"dow", "dow_any", 0, 7, "sunmontuewedthufrisatsun"}};

static const char *const NAMED[][2] = {{"@hourly", "0 * * * *"},  {"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
                                       {"@weekly", "0 0 * * 0"},  {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"},
                                       {"@annually", "0 0 1 1 *"}};

static int number(const field *f, const char **s) {
    int v = 0, n = 0;
    while (isdigit((unsigned char)(*s)[n]) && n < 3) v = v * 10 + ((*s)[n++] - '0');
    for (int i = 0; !n && f->words && i <= f->hi - f->lo; i++)
        if (!strncasecmp(*s, f->words + (size_t)3 * i, 3)) {
            v = f->lo + i;
            n = 3;
        }
    *s += n;
    return n && v >= f->lo && v <= f->hi ? v : -1;
}

/* One element of a list: a star, a number or a range, with a step or without. */
static bool element(const field *f, const char **s, uint64_t *set) {
    int lo = f->lo, hi = f->hi, step = 1;
    bool star = **s == '*', range = star;
    if (star) {
        ++*s;
    } else {
        lo = hi = number(f, s);
        if (lo < 0) return false;
        if (**s == '-') {
            ++*s;
            hi = number(f, s);
            range = true;
        }
    }
    if (**s == '/') {
        ++*s;
        if (!range) hi = f->hi; /* 5/15: from 5 on */
        field steps = {.lo = 1, .hi = 99};
        step = number(&steps, s);
    }
    if (hi < lo || step < 1) return false;
    for (int v = lo; v <= hi; v += step) *set |= (uint64_t)1 << v;
    return true;
}

static bool read_field(const field *f, const char **s, json_t *out) {
    uint64_t set = 0;
    bool star = **s == '*' && (!(*s)[1] || isspace((unsigned char)(*s)[1]));
    do {
        if (!element(f, s, &set)) return false;
    } while (**s == ',' && (++*s, true));
    if (**s && !isspace((unsigned char)**s)) return false;
    if (f->hi == 7) set = (set | set >> 7) & 0x7f; /* 7 is Sunday too */
    json_t *list = json_array();
    for (int v = 0; v < 64; v++)
        if (set >> v & 1) json_array_append_new(list, json_integer(v));
    json_object_set_new(out, f->name, list);
    if (f->any) json_object_set_new(out, f->any, json_boolean(star));
    return true;
}

json_t *mull_cron_parse(const char *text, char *why, size_t why_cap) {
    const char *s = text;
    for (size_t i = 0; i < sizeof NAMED / sizeof *NAMED; i++)
        if (!strcasecmp(text, NAMED[i][0])) s = NAMED[i][1];
    json_t *out = json_object();
    int i = 0;
    for (; i < 5; i++) {
        while (isspace((unsigned char)*s)) s++;
        if (!*s || !read_field(&FIELDS[i], &s, out)) break;
    }
    while (isspace((unsigned char)*s)) s++;
    if (i == 5 && !*s) return out;
    if (i < 5)
        snprintf(why, why_cap,
                 "the field %s is wrong or missing; a schedule is 'MINUTE HOUR DAY MONTH WEEKDAY', such as "
                 "'30 2 * * mon-fri', or @hourly, @daily, @weekly, @monthly",
                 FIELDS[i].name);
    else
        snprintf(why, why_cap, "a schedule has five fields; there is more behind them");
    json_decref(out);
    return NULL;
}
