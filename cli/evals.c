/* Figures of evaluations as a table; see jobs.h. */
#include "cli/jobs.h"

#include <string.h>

static void figure(const json_t *v, char out[32]) {
    out[0] = 0;
    if (json_is_number(v)) snprintf(out, 32, "%.4f", json_number_value(v));
}

void mull_eval_table(const json_t *results, FILE *f) {
    static const mull_column columns[] = {{"TASK"},
                                          {"METRIC", .shrink = 8},
                                          {"VALUE", .right = true},
                                          {"95 % FROM", .right = true},
                                          {"TO", .right = true},
                                          {"ROWS", .right = true},
                                          {"ERRORS", .right = true}};
    mull_table t;
    size_t i;
    const json_t *r;
    if (!json_array_size(results)) return;
    mull_table_init(&t, columns, 7);
    json_array_foreach(results, i, r) {
        char value[32], low[32], high[32], rows[24], errors[24];
        figure(json_object_get(r, "value"), value);
        figure(json_object_get(r, "low"), low);
        figure(json_object_get(r, "high"), high);
        snprintf(rows, sizeof rows, "%lld", (long long)json_integer_value(json_object_get(r, "n")));
        snprintf(errors, sizeof errors, "%lld", (long long)json_integer_value(json_object_get(r, "errors")));
        const char *cells[] = {mull_text(r, "task"), mull_text(r, "metric"), value, low, high, rows, errors};
        mull_table_row(&t, cells);
    }
    mull_table_print(&t, f, mull_term_width(f), mull_term_color(f));
    mull_table_fini(&t);
}

void mull_follow_table(const json_t *follow, FILE *f) {
    static const mull_column columns[] = {
        {"STEP", .right = true}, {"JOB", .right = true},   {"STATE", .state = true},     {"TASK"},
        {"METRIC", .shrink = 8}, {"VALUE", .right = true}, {"95 % FROM", .right = true}, {"TO", .right = true}};
    static const json_t *const none = NULL;
    mull_table t;
    size_t i;
    const json_t *j;
    mull_table_init(&t, columns, 8);
    json_array_foreach(json_object_get(follow, "jobs"), i, j) {
        const json_t *results = json_object_get(j, "eval_results");
        size_t n = json_array_size(results);
        for (size_t k = 0; k < (n ? n : 1); k++) {
            const json_t *r = n ? json_array_get(results, k) : none;
            char step[24], value[32], low[32], high[32];
            snprintf(step, sizeof step, "%lld", (long long)json_integer_value(json_object_get(j, "step")));
            figure(json_object_get(r, "value"), value);
            figure(json_object_get(r, "low"), low);
            figure(json_object_get(r, "high"), high);
            const char *cells[] = {step,
                                   mull_text(j, "id"),
                                   mull_text(j, "state"),
                                   mull_text(r, "task"),
                                   mull_text(r, "metric"),
                                   value,
                                   low,
                                   high};
            mull_table_row(&t, cells);
        }
    }
    if (t.nrows) mull_table_print(&t, f, mull_term_width(f), mull_term_color(f));
    mull_table_fini(&t);
}

void mull_compare_table(const json_t *compared, FILE *f) {
    static const mull_column columns[] = {{"TASK"},
                                          {"ROWS", .right = true},
                                          {"A", .right = true},
                                          {"B", .right = true},
                                          {"B - A", .right = true},
                                          {"95 % FROM", .right = true},
                                          {"TO", .right = true},
                                          {"P", .right = true},
                                          {"TEST", .shrink = 6}};
    const char *task;
    json_t *r;
    mull_table t;
    mull_table_init(&t, columns, 9);
    json_object_foreach(json_object_get(compared, "tasks"), task, r) {
        char rows[24], a[32], b[32], diff[32], low[32], high[32], p[32];
        snprintf(rows, sizeof rows, "%lld", (long long)json_integer_value(json_object_get(r, "n")));
        figure(json_object_get(r, "a"), a);
        figure(json_object_get(r, "b"), b);
        figure(json_object_get(r, "diff"), diff);
        figure(json_object_get(r, "low"), low);
        figure(json_object_get(r, "high"), high);
        figure(json_object_get(r, "p"), p);
        const char *cells[] = {task, rows, a, b, diff, low, high, p, mull_text(r, "test")};
        mull_table_row(&t, cells);
    }
    mull_table_print(&t, f, mull_term_width(f), mull_term_color(f));
    mull_table_fini(&t);
    size_t i;
    json_array_foreach(json_object_get(compared, "missing"), i, r) {
        char clean[120];
        mull_text_clean(json_string_value(r), 100, clean, sizeof clean);
        fprintf(f, "only in one of the two: %s\n", clean);
    }
}
