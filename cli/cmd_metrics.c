/* mull metrics: a job's numbers as a table, JSON, CSV or a plot of characters. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/runs.h"

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

static void csv_line(const json_t *p) {
    putchar('"');
    for (const char *k = mull_text(p, "key"); *k; k++) {
        if (*k == '"') putchar('"');
        putchar(*k);
    }
    printf("\",%lld,%.17g,%s\n", (long long)json_integer_value(json_object_get(p, "step")),
           json_number_value(json_object_get(p, "value")), mull_text(p, "at"));
}

/* The points of one key. */
static void print_points(const char *key, const json_t *points, const opts *o, mull_table *t) {
    size_t i;
    const json_t *p;
    if (o->plot) {
        mull_series s;
        if (mull_series_of(key, points, &s)) return;
        mull_plot(key, &s, 1, mull_term_width(stdout), stdout);
        mull_series_fini(&s);
        return;
    }
    json_array_foreach(points, i, p) {
        char step[24], value[40];
        if (o->json) {
            mull_emit(json_incref((json_t *)(uintptr_t)p));
        } else if (o->csv) {
            csv_line(p);
        } else {
            snprintf(step, sizeof step, "%lld", (long long)json_integer_value(json_object_get(p, "step")));
            snprintf(value, sizeof value, "%.6g", json_number_value(json_object_get(p, "value")));
            mull_table_row(t, (const char *const[]){key, step, value, mull_text(p, "at")});
        }
    }
}

/* Each metric of the job, or the one that was asked for, page by page: a long run has more points than one answer. */
static int print_all(mull_client *c, const char *id, const opts *o, size_t *count) {
    static const mull_column columns[] = {
        {"KEY", .shrink = 8}, {"STEP", .right = true}, {"VALUE", .right = true}, {"AT"}};
    json_t *keys = json_array(), *r;
    char path[96];
    int rc = MULL_EXIT_OK;
    snprintf(path, sizeof path, "/v1/jobs/%.40s/metrics?limit=1", id);
    if (o->key)
        json_array_append_new(keys, json_string(o->key));
    else if (!(rc = mull_client_get(c, "GET", path, NULL, &r))) {
        json_array_extend(keys, json_object_get(r, "keys"));
        json_decref(r);
    }
    mull_table t;
    mull_table_init(&t, columns, 4);
    if (!rc && o->csv) puts("key,step,value,at");
    for (size_t i = 0; i < json_array_size(keys) && !rc; i++) {
        const char *key = json_string_value(json_array_get(keys, i));
        rc = mull_run_points(c, id, key, &r);
        if (rc) break;
        *count += json_array_size(r);
        print_points(key, r, o, &t);
        json_decref(r);
    }
    if (t.nrows) mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
    json_decref(keys);
    return rc;
}

static int run_metrics(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words != 1) return mull_usage(cmd->name, words ? "one job at a time" : "which job? give its id");
    if (mull_id_check(cmd->name, argv[1])) return MULL_EXIT_USAGE;
    if (o.json + o.csv + o.plot > 1) return mull_usage(cmd->name, "give one of --json, --csv and --plot");
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    size_t count = 0;
    int rc = print_all(c, argv[1], &o, &count);
    if (!rc && !count && !o.json && !o.csv)
        fprintf(stderr, "job %s has no metrics%s%s\n", argv[1], o.key ? " named " : "", o.key ? o.key : "");
    mull_client_close(c);
    return rc;
}

const mull_cmd mull_cmd_metrics = {"metrics",
                                   "ID [flags]",
                                   "a job's metrics as a table, JSON, CSV or a plot",
                                   "examples:\n  mull metrics 17 --key tok_s --plot\n  mull metrics 17 --csv >m.csv\n",
                                   metrics_opts,
                                   run_metrics};
