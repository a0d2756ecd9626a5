/* mull quota: what teams may have of GPUs, places in the queue and room, and what they have; an admin sets the latter
 * two here, the shares of GPUs with mull team. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json;
    const char *pending, *spec, *log, *stored;
} opts;

static const mull_opt quota_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a team"},
    {"--pending", 0, MULL_OPT_TEXT, offsetof(opts, pending), NULL, "N",
     "jobs that may wait, tasks of arrays counted; none: any number"},
    {"--spec", 0, MULL_OPT_TEXT, offsetof(opts, spec), NULL, "SIZE", "of a job's spec: bytes, or with K, M, G, T"},
    {"--log", 0, MULL_OPT_TEXT, offsetof(opts, log), NULL, "SIZE", "of the log of an attempt; the rest is cut"},
    {"--stored", 0, MULL_OPT_TEXT, offsetof(opts, stored), NULL, "SIZE",
     "of uploads and published checkpoints together"},
    {0}};

enum { COLUMNS = 10 };

static const char *count_of(const json_t *team, const char *key, const char *none, char *out, size_t cap) {
    const json_t *v = json_object_get(team, key);
    if (!json_is_number(v)) return none;
    snprintf(out, cap, "%.0f", json_number_value(v));
    return out;
}

static const char *size_of(const json_t *team, const char *key, const char *none, char *out, size_t cap) {
    const json_t *v = json_object_get(team, key);
    if (!json_is_number(v)) return none;
    mull_bytes(json_number_value(v), out, cap);
    return out;
}

/* "12/1000", "12" without a limit. */
static const char *used_of(const char *used, const char *limit, char *out, size_t cap) {
    snprintf(out, cap, "%s%s%s", used, limit ? "/" : "", limit ? limit : "");
    return out;
}

static int look(bool json) {
    static const mull_column columns[COLUMNS] = {
        {"TEAM", .shrink = 8},     {"RUNNING", .right = true}, {"NOMINAL", .right = true}, {"BORROWED", .right = true},
        {"BORROW", .right = true}, {"LEND", .right = true},    {"PENDING", .right = true}, {"STORED", .right = true},
        {"SPEC", .right = true},   {"LOG", .right = true}};
    json_t *r, *team;
    size_t i;
    int rc = mull_ask("GET", "/v1/teams", NULL, &r);
    if (rc) return rc;
    mull_table t;
    mull_table_init(&t, columns, COLUMNS);
    json_array_foreach(json_object_get(r, "teams"), i, team) {
        char a[COLUMNS][80], b[4][40];
        const char *row[COLUMNS] = {mull_text(team, "name"),
                                    count_of(team, "running_gpus", "0", a[1], sizeof a[1]),
                                    count_of(team, "nominal", "-", a[2], sizeof a[2]),
                                    count_of(team, "borrowed", "0", a[3], sizeof a[3]),
                                    count_of(team, "borrow", "any", a[4], sizeof a[4]),
                                    count_of(team, "lend", "all", a[5], sizeof a[5]),
                                    used_of(count_of(team, "pending_tasks", "0", b[0], sizeof b[0]),
                                            count_of(team, "max_pending", NULL, b[1], sizeof b[1]), a[6], sizeof a[6]),
                                    used_of(size_of(team, "stored_bytes", "0 B", b[2], sizeof b[2]),
                                            size_of(team, "max_stored_bytes", NULL, b[3], sizeof b[3]), a[7],
                                            sizeof a[7]),
                                    size_of(team, "max_spec_bytes", "-", a[8], sizeof a[8]),
                                    size_of(team, "max_log_bytes", "-", a[9], sizeof a[9])};
        mull_table_row(&t, row);
        if (json) mull_emit(json_incref(team));
    }
    if (!json && t.nrows)
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    else if (!json)
        fprintf(stderr, "no teams yet: a team is made by mull team add, or by its first job\n");
    mull_table_fini(&t);
    json_decref(r);
    return MULL_EXIT_OK;
}

/* A whole number, of bytes perhaps with K, M, G or T (1024 and its powers); "none" takes the limit away. */
static int put(const mull_cmd *cmd, json_t *set, const char *key, const char *option, const char *text, bool bytes) {
    static const char units[] = "KMGT";
    if (!text) return 0;
    if (!strcmp(text, "none")) {
        json_object_set_new(set, key, json_null());
        return 0;
    }
    char *end;
    double x = strtod(text, &end);
    const char *unit = bytes && *end ? strchr(units, *end) : NULL;
    if (unit) x *= pow(1024, (double)(unit - units + 1));
    if (end == text || (unit ? end[1] : *end) || !(x >= 0 && x <= 9007199254740992.0) || (!unit && x != floor(x)))
        return mull_usage(cmd->name, "%s takes a whole number%s or none, not '%s'", option,
                          bytes ? " of bytes (10G for 10 x 1024^3)" : "", text);
    json_object_set_new(set, key, json_integer((json_int_t)x));
    return 0;
}

static int change(const mull_cmd *cmd, const char *team, const opts *o) {
    json_t *set = json_object(), *r;
    char name[400], path[440];
    int rc = put(cmd, set, "max_pending", "--pending", o->pending, false);
    if (!rc) rc = put(cmd, set, "max_spec_bytes", "--spec", o->spec, true);
    if (!rc) rc = put(cmd, set, "max_log_bytes", "--log", o->log, true);
    if (!rc) rc = put(cmd, set, "max_stored_bytes", "--stored", o->stored, true);
    if (!rc && json_object_size(set) == 0)
        rc = mull_usage(cmd->name, "what is to be set? give --pending, --spec, --log or --stored");
    mull_query_encode(team, name, sizeof name);
    snprintf(path, sizeof path, "/v1/teams/%s", name);
    if (!rc) rc = mull_ask("PUT", path, set, &r);
    if (!rc && o->json) mull_emit(json_incref(r));
    if (!rc && !o->json) fprintf(stderr, "quotas of team %s changed\n", team);
    if (!rc) json_decref(r);
    json_decref(set);
    return rc;
}

static int run(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    bool asks = o.pending || o.spec || o.log || o.stored;
    if (!words || !strcmp(argv[1], "ls")) {
        if (words > 1) return mull_usage(cmd->name, "unexpected word '%s'", argv[2]);
        return asks ? mull_usage(cmd->name, "to change quotas: mull quota set TEAM ...") : look(o.json);
    }
    if (strcmp(argv[1], "set") != 0) return mull_usage(cmd->name, "unknown action '%s'; there are ls, set", argv[1]);
    if (words != 2) return mull_usage(cmd->name, "give the name of one team");
    return change(cmd, argv[2], &o);
}

const mull_cmd mull_cmd_quota = {"quota",
                                 "[ls | set TEAM [flags]]",
                                 "what teams may have of GPUs, places in the queue and room",
                                 "examples:\n  mull quota set vision --pending 10000 --stored 2T --log 16M\n"
                                 "  mull quota set vision --stored none\n"
                                 "Shares of GPUs are set with mull team set.\n",
                                 quota_opts,
                                 run};
