/* mull metrics: a job's numbers as a table, JSON, CSV or a plot of characters. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json, csv, plot;
    const char *key;
} opts;

static const mull_opt metrics_opts[] = {
    {"--key", 'k', MULL_OPT_TEXT, offsetof(opts, key), NULL, "KEY", "only this metric"},
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "{\"key\",\"step\",\"value\",\"at\"} a line"},
    {"--csv", 0, MULL_OPT_FLAG, offsetof(opts, csv), NULL, NULL, "key,step,value,at with a heading"},
    {"--plot", 0, MULL_OPT_FLAG, offsetof(opts, plot), NULL, NULL, "draw each metric over its steps"},
    {0}};

enum { PLOT_ROWS = 12, PLOT_COLUMNS_MAX = 200, LABEL = 11 };

/* Points [from, to) share a key. */
static void plot(const json_t *points, size_t from, size_t to) {
    double lo = INFINITY, hi = -INFINITY, first = INFINITY, last = -INFINITY;
    for (size_t i = from; i < to; i++) {
        const json_t *p = json_array_get(points, i);
        double v = json_number_value(json_object_get(p, "value")), s = json_number_value(json_object_get(p, "step"));
        lo = fmin(lo, v), hi = fmax(hi, v), first = fmin(first, s), last = fmax(last, s);
    }
    int width = mull_term_width(stdout), columns = (width ? width : 80) - LABEL - 2;
    columns = columns < 10 ? 10 : columns > PLOT_COLUMNS_MAX ? PLOT_COLUMNS_MAX : columns;
    char grid[PLOT_ROWS][PLOT_COLUMNS_MAX + 1];
    for (int r = 0; r < PLOT_ROWS; r++) {
        memset(grid[r], ' ', (size_t)columns);
        grid[r][columns] = 0;
    }
    for (size_t i = from; i < to; i++) {
        const json_t *p = json_array_get(points, i);
        double v = json_number_value(json_object_get(p, "value")), s = json_number_value(json_object_get(p, "step"));
        int x = last > first ? (int)((s - first) / (last - first) * (columns - 1) + 0.5) : 0;
        int y = hi > lo ? (int)((v - lo) / (hi - lo) * (PLOT_ROWS - 1) + 0.5) : PLOT_ROWS / 2;
        grid[PLOT_ROWS - 1 - y][x] = '*';
    }
    char key[120];
    mull_text_clean(mull_text(json_array_get(points, from), "key"), 100, key, sizeof key);
    printf("%s (%zu points)\n", key, to - from);
    for (int r = 0; r < PLOT_ROWS; r++) {
        char label[24] = "";
        if (r == 0 || r == PLOT_ROWS - 1) snprintf(label, sizeof label, "%.4g", r ? lo : hi);
        printf("%*s |%s\n", LABEL, label, grid[r]);
    }
    printf("%*s  step %.0f to %.0f\n", LABEL, "", first, last);
}

static void print_points(const json_t *points, const opts *o) {
    static const mull_column columns[] = {
        {"KEY", .shrink = 8}, {"STEP", .right = true}, {"VALUE", .right = true}, {"AT"}};
    size_t i, from = 0, n = json_array_size(points);
    const json_t *p;
    mull_table t;
    mull_table_init(&t, columns, 4);
    if (o->csv) puts("key,step,value,at");
    json_array_foreach(points, i, p) {
        char step[24], value[40];
        snprintf(step, sizeof step, "%lld", (long long)json_integer_value(json_object_get(p, "step")));
        snprintf(value, sizeof value, o->csv ? "%.17g" : "%.6g", json_number_value(json_object_get(p, "value")));
        const char *cells[] = {mull_text(p, "key"), step, value, mull_text(p, "at")};
        if (o->json)
            mull_emit(json_incref((json_t *)(uintptr_t)p));
        else if (o->csv) {
            putchar('"');
            for (const char *k = cells[0]; *k; k++) {
                if (*k == '"') putchar('"');
                putchar(*k);
            }
            printf("\",%s,%s,%s\n", step, value, cells[3]);
        } else if (o->plot) {
            if (i + 1 == n || strcmp(cells[0], mull_text(json_array_get(points, i + 1), "key")) != 0) {
                plot(points, from, i + 1);
                from = i + 1;
            }
        } else
            mull_table_row(&t, cells);
    }
    if (t.nrows) mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
}

static int run_metrics(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words != 1) return mull_usage(cmd->name, words ? "one job at a time" : "which job? give its id");
    if (mull_id_check(cmd->name, argv[1])) return MULL_EXIT_USAGE;
    if (o.json + o.csv + o.plot > 1) return mull_usage(cmd->name, "give one of --json, --csv and --plot");
    char path[512], key[300] = "";
    if (o.key) mull_query_encode(o.key, key, sizeof key);
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    json_t *r;
    snprintf(path, sizeof path, "/v1/jobs/%.32s/metrics?limit=100000%s%s", argv[1], *key ? "&key=" : "", key);
    int rc = mull_client_get(c, "GET", path, NULL, &r);
    if (!rc) {
        const json_t *points = json_object_get(r, "points");
        if (json_array_size(points) || o.csv)
            print_points(points, &o);
        else if (!o.json)
            fprintf(stderr, "job %s has no metrics%s%s\n", argv[1], o.key ? " named " : "", o.key ? o.key : "");
        json_decref(r);
    }
    mull_client_close(c);
    return rc;
}

const mull_cmd mull_cmd_metrics = {"metrics",
                                   "ID [flags]",
                                   "a job's metrics as a table, JSON, CSV or a plot",
                                   "examples:\n  mull metrics 17 --key tok_s --plot\n  mull metrics 17 --csv >m.csv\n",
                                   metrics_opts,
                                   run_metrics};
