/* mull usage: tokens and device hours by team. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct opts {
    bool json;
    long days;
} opts;

static const mull_opt usage_opts[] = {
    {"--days", 'd', MULL_OPT_INT, offsetof(opts, days), NULL, "N", "jobs that ended in the last N days (default 30)"},
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a team"},
    {0}};

static int run_usage(const mull_cmd *cmd, int argc, char **argv) {
    static const mull_column COLUMNS[] = {{"TEAM", .shrink = 8},
                                          {"JOBS", .right = true},
                                          {"PROMPT TOKENS", .right = true},
                                          {"OUTPUT TOKENS", .right = true},
                                          {"SLOT HOURS", .right = true},
                                          {"GPU HOURS", .right = true}};
    static const char *const KEYS[] = {"team", "jobs", "prompt_tokens", "output_tokens", "slot_hours", "gpu_hours"};
    opts o = {.days = 30};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "unexpected word '%s'", argv[1]);
    if (o.days < 1 || o.days > 3650) return mull_usage(cmd->name, "--days takes a number from 1 to 3650");
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    char path[64];
    json_t *r, *team;
    size_t i;
    snprintf(path, sizeof path, "/v1/usage?days=%ld", o.days);
    int rc = mull_client_get(c, "GET", path, NULL, &r);
    mull_client_close(c);
    if (rc) return rc;
    mull_table t;
    mull_table_init(&t, COLUMNS, 6);
    json_array_foreach(json_object_get(r, "teams"), i, team) {
        char cells[6][80];
        const char *row[6] = {mull_text(team, "team")};
        for (int k = 1; k < 6; k++) {
            const json_t *v = json_object_get(team, KEYS[k]);
            if (k < 4)
                snprintf(cells[k], sizeof cells[k], "%lld", (long long)json_integer_value(v));
            else
                snprintf(cells[k], sizeof cells[k], "%.2f", json_number_value(v));
            row[k] = cells[k];
        }
        mull_table_row(&t, row);
        if (o.json) mull_emit(json_incref(team));
    }
    if (!o.json && t.nrows)
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    else if (!o.json)
        fprintf(stderr, "no job has ended in the last %ld days\n", o.days);
    mull_table_fini(&t);
    json_decref(r);
    return MULL_EXIT_OK;
}

const mull_cmd mull_cmd_usage = {"usage",
                                 "[--days N] [--json]",
                                 "tokens and device hours of each team",
                                 "Tokens are those of answers: generate and annotate jobs.\n",
                                 usage_opts,
                                 run_usage};
