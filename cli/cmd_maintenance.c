/* mull maintenance: windows in which nodes take no jobs. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <string.h>

typedef struct opts {
    bool json;
    const char *starts, *ends, *reason;
} opts;

static const mull_opt maintenance_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a line"},
    {"--start", 0, MULL_OPT_TEXT, offsetof(opts, starts), NULL, "TIME",
     "add: 2026-01-31T08:00:00Z or now+2h (default now)"},
    {"--end", 0, MULL_OPT_TEXT, offsetof(opts, ends), NULL, "TIME", "add: when it is over"},
    {"--reason", 0, MULL_OPT_TEXT, offsetof(opts, reason), NULL, "TEXT", "add: what people are told"},
    {0}};

static int list(bool json) {
    static const mull_column columns[] = {{"ID", .right = true},  {"STATE"}, {"FROM"}, {"TO"}, {"NODES", .shrink = 8},
                                          {"REASON", .shrink = 8}};
    json_t *r, *w;
    const json_t *v;
    size_t i, k;
    int rc = mull_ask("GET", "/v1/maintenance", NULL, &r);
    if (rc) return rc;
    mull_table t;
    mull_table_init(&t, columns, 6);
    json_array_foreach(json_object_get(r, "maintenance"), i, w) {
        char nodes[400] = "";
        json_array_foreach(json_object_get(w, "nodes"), k, v) {
            size_t at = strlen(nodes);
            snprintf(nodes + at, sizeof nodes - at, "%s%s", at ? "," : "", json_string_value(v));
        }
        const char *cells[] = {mull_text(w, "id"),      mull_text(w, "state"),    mull_text(w, "starts_at"),
                               mull_text(w, "ends_at"), *nodes ? nodes : "(all)", mull_text(w, "reason")};
        mull_table_row(&t, cells);
        if (json) mull_emit(json_incref(w));
    }
    if (!json && t.nrows)
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    else if (!json)
        fprintf(stderr, "no maintenance is planned\n");
    mull_table_fini(&t);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int add(const mull_cmd *cmd, char *const *nodes, int n, const opts *o) {
    if (!o->ends) return mull_usage(cmd->name, "when is it over? give --end");
    json_t *list = json_array(), *r;
    for (int i = 0; i < n; i++) json_array_append_new(list, json_string(nodes[i]));
    json_t *body = json_pack("{s:o, s:s, s:s, s:s}", "nodes", list, "starts", o->starts ? o->starts : "now", "ends",
                             o->ends, "reason", o->reason ? o->reason : "");
    int rc = mull_ask("POST", "/v1/maintenance", body, &r);
    json_decref(body);
    if (rc) return rc;
    if (o->json)
        mull_emit(json_incref(r));
    else
        fprintf(stderr, "maintenance %s planned\n", mull_text(r, "id"));
    json_decref(r);
    return MULL_EXIT_OK;
}

static int rm(const mull_cmd *cmd, const char *id, const opts *o) {
    char path[64];
    json_t *r;
    if (strspn(id, "0123456789") != strlen(id) || strlen(id) > 18)
        return mull_usage(cmd->name, "'%s' is no number of a window; mull maintenance ls lists them", id);
    snprintf(path, sizeof path, "/v1/maintenance/%s", id);
    int rc = mull_ask("DELETE", path, NULL, &r);
    if (rc) return rc;
    if (o->json)
        mull_emit(json_incref(r));
    else
        fprintf(stderr, "maintenance %s removed\n", id);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int run_maintenance(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    const char *verb = words ? argv[1] : "ls";
    if (!strcmp(verb, "ls")) return words > 1 ? mull_usage(cmd->name, "unexpected word '%s'", argv[2]) : list(o.json);
    if (!strcmp(verb, "add")) return add(cmd, argv + 2, words - 1, &o);
    if (!strcmp(verb, "rm"))
        return words == 2 ? rm(cmd, argv[2], &o) : mull_usage(cmd->name, "give the number of one window");
    return mull_usage(cmd->name, "unknown action '%s'; there are ls, add, rm", verb);
}

const mull_cmd mull_cmd_maintenance = {
    "maintenance",
    "ls|add|rm [NODE...|ID] [flags]",
    "windows in which nodes (none named: all) take no jobs",
    "Nothing starts on a node that may still run when its window begins: jobs without a time limit wait for its end. "
    "What\n"
    "runs goes on.\n"
    "examples:\n  mull maintenance add gpu1 gpu2 --start now+6h --end now+8h --reason 'new disks'\n"
    "  mull maintenance ls; mull maintenance rm 3\n",
    maintenance_opts,
    run_maintenance};
