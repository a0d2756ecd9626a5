/* mull team, share: what teams are promised and what they use. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json;
    const char *weight, *nominal, *borrow, *lend, *parent;
} opts;

static const mull_opt look_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a team"}, {0}};
static const mull_opt team_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a team"},
    {"--weight", 0, MULL_OPT_TEXT, offsetof(opts, weight), NULL, "W", "share against its siblings (1)"},
    {"--nominal", 0, MULL_OPT_TEXT, offsetof(opts, nominal), NULL, "GPUS", "GPUs of its own; none: no quota"},
    {"--borrow", 0, MULL_OPT_TEXT, offsetof(opts, borrow), NULL, "GPUS", "GPUs it may use beyond; none: any number"},
    {"--lend", 0, MULL_OPT_TEXT, offsetof(opts, lend), NULL, "GPUS", "of its own that others may use; none: all"},
    {"--parent", 0, MULL_OPT_TEXT, offsetof(opts, parent), NULL, "TEAM", "team above it; none: top level"},
    {0}};

typedef enum view { TEAMS, SHARE } view;

static void number_text(const json_t *o, const char *key, const char *none, char *out, size_t cap) {
    const json_t *v = json_object_get(o, key);
    if (json_is_number(v))
        snprintf(out, cap, "%.6g", json_number_value(v));
    else
        snprintf(out, cap, "%s", none);
}

static int look(view v, bool json) {
    static const mull_column teams[] = {{"TEAM", .shrink = 8},     {"PARENT", .shrink = 8},
                                        {"WEIGHT", .right = true}, {"NOMINAL", .right = true},
                                        {"BORROW", .right = true}, {"LEND", .right = true}},
                             share[] = {{"TEAM", .shrink = 8},      {"WEIGHT", .right = true},
                                        {"USED%", .right = true},   {"RUNNING", .right = true},
                                        {"NOMINAL", .right = true}, {"BORROWED", .right = true}};
    static const char *const keys[][6] = {{"name", "parent", "weight", "nominal", "borrow", "lend"},
                                          {"name", "weight", "used_share", "running", "nominal", "borrowed"}};
    json_t *r, *team;
    size_t i;
    int rc = mull_ask("GET", "/v1/teams", NULL, &r);
    if (rc) return rc;
    mull_table t;
    mull_table_init(&t, v == TEAMS ? teams : share, 6);
    json_array_foreach(json_object_get(r, "teams"), i, team) {
        char cells[6][80];
        const char *row[6];
        json_object_set_new(team, "running",
                            json_integer(json_integer_value(json_object_get(team, "running_gpus")) +
                                         json_integer_value(json_object_get(team, "running_slots"))));
        for (int k = 0; k < 6; k++) {
            const char *key = keys[v][k];
            bool text = !strcmp(key, "name") || !strcmp(key, "parent");
            row[k] = cells[k];
            if (text)
                row[k] = mull_text(team, key);
            else if (!strcmp(key, "used_share"))
                snprintf(cells[k], sizeof cells[k], "%.1f", 100 * json_number_value(json_object_get(team, key)));
            else
                number_text(team, key,
                            !strcmp(key, "nominal") ? "-"
                            : !strcmp(key, "lend")  ? "all"
                                                    : "any",
                            cells[k], sizeof cells[k]);
        }
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

/* "none" takes the limit away. */
static int put_number(const mull_cmd *cmd, json_t *set, const char *key, const char *text, bool whole) {
    if (!text) return 0;
    char *end;
    double x = strtod(text, &end);
    if (!strcmp(text, "none"))
        json_object_set_new(set, key, json_null());
    else if (end == text || *end || !(x >= 0 && x <= 1e6) || (whole && x != (double)(long)x))
        return mull_usage(cmd->name, "--%s takes a %snumber from 0 to 1000000, or none, not '%s'", key,
                          whole ? "whole " : "", text);
    else
        json_object_set_new(set, key, whole ? json_integer((json_int_t)x) : json_real(x));
    return 0;
}

static int run_team(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    const char *verb = words ? argv[1] : "ls";
    if (!strcmp(verb, "ls"))
        return words > 1 ? mull_usage(cmd->name, "unexpected word '%s'", argv[2]) : look(TEAMS, o.json);
    if (strcmp(verb, "add") != 0 && strcmp(verb, "set") != 0)
        return mull_usage(cmd->name, "unknown action '%s'; there are ls, add, set", verb);
    if (words != 2) return mull_usage(cmd->name, "give the name of one team");
    json_t *set = json_object(), *r;
    int rc = put_number(cmd, set, "weight", o.weight, false);
    if (!rc) rc = put_number(cmd, set, "nominal", o.nominal, true);
    if (!rc) rc = put_number(cmd, set, "borrow", o.borrow, true);
    if (!rc) rc = put_number(cmd, set, "lend", o.lend, true);
    if (o.parent)
        json_object_set_new(set, "parent", strcmp(o.parent, "none") == 0 ? json_null() : json_string(o.parent));
    if (!rc && !strcmp(verb, "set") && json_object_size(set) == 0)
        rc = mull_usage(cmd->name, "what is to be set? give --weight, --nominal, --borrow, --lend or --parent");
    char name[400], path[440];
    mull_query_encode(argv[2], name, sizeof name);
    snprintf(path, sizeof path, "/v1/teams/%s", name);
    if (!rc) rc = mull_ask("PUT", path, set, &r);
    if (!rc && o.json) mull_emit(json_incref(r));
    if (!rc && !o.json)
        fprintf(stderr, "team %s %s\n", argv[2], json_is_true(json_object_get(r, "created")) ? "added" : "changed");
    if (!rc) json_decref(r);
    json_decref(set);
    return rc;
}

static int run_look(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "unexpected word '%s'", argv[1]);
    return look(SHARE, o.json);
}

const mull_cmd mull_cmd_team = {"team",
                                "ls|add|set [NAME] [flags]",
                                "teams: weights, quotas, the tree of teams",
                                "examples:\n  mull team add vision --weight 2 --nominal 16 --lend 8\n"
                                "  mull team set vision --borrow none\n",
                                team_opts,
                                run_team};
const mull_cmd mull_cmd_share = {"share", "[--json]", "what teams used (half-life 7 days) and run now",
                                 NULL,    look_opts,  run_look};
