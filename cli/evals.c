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
