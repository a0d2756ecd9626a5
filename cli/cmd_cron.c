/* mull cron: schedules that submit a job. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/spec.h"

#include "schema/cron.h"

#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json, no_overlap;
    const char *tz, *team;
} opts;

static const mull_opt cron_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a line"},
    {"--tz", 0, MULL_OPT_TEXT, offsetof(opts, tz), NULL, "ZONE", "add: the schedule's time zone (default UTC)"},
    {"--no-overlap", 0, MULL_OPT_FLAG, offsetof(opts, no_overlap), NULL, NULL,
     "add: leave a time out while the last job has not ended"},
    {"--team", 0, MULL_OPT_TEXT, offsetof(opts, team), NULL, "TEAM", "rm: whose schedule (default: one's own)"},
    {0}};

static int list(bool json) {
    static const mull_column columns[] = {
        {"NAME", .shrink = 8},  {"TEAM", .shrink = 8}, {"SCHEDULE"}, {"ZONE"}, {"NEXT"}, {"LAST"},
        {"JOB", .right = true}, {"NOTE", .shrink = 8}};
    json_t *r, *o;
    size_t i;
    int rc = mull_ask("GET", "/v1/cron", NULL, &r);
    if (rc) return rc;
    mull_table t;
    mull_table_init(&t, columns, 8);
    json_array_foreach(json_object_get(r, "cron"), i, o) {
        const char *cells[] = {mull_text(o, "name"),     mull_text(o, "team"),        mull_text(o, "schedule"),
                               mull_text(o, "tz"),       mull_text(o, "next_at"),     mull_text(o, "last_at"),
                               mull_text(o, "last_job"), mull_text(o, "last_problem")};
        mull_table_row(&t, cells);
        if (json) mull_emit(json_incref(o));
    }
    if (!json && t.nrows)
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    else if (!json)
        fprintf(stderr, "no schedules; mull cron --help shows how to add one\n");
    mull_table_fini(&t);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int call(const char *method, const char *path, const json_t *body, const json_t *lines, const char *file,
                json_t **out) {
    mull_err err;
    mull_reply r;
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    int rc = mull_client_call(c, method, path, body, &r, &err);
    mull_client_close(c);
    if (rc) {
        mull_err_print(stderr, &err);
        return MULL_EXIT_FAILED;
    }
    if (r.status == 200) {
        *out = r.json;
        return MULL_EXIT_OK;
    }
    rc = mull_client_refused(&r, lines, file);
    json_decref(r.json);
    return rc;
}

static int add(const mull_cmd *cmd, const char *name, const char *schedule, const char *file, const opts *o) {
    char why[256], encoded[400], path[440];
    json_t *fields = mull_cron_parse(schedule, why, sizeof why), *lines = json_object(), *r = NULL;
    if (!fields) {
        json_decref(lines);
        return mull_usage(cmd->name, "'%s': %s", schedule, why);
    }
    json_decref(fields);
    int rc;
    json_t *spec = mull_spec_read(file, lines, &rc);
    if (spec) {
        mull_spec_absolute(spec);
        json_t *body = json_pack("{s:s, s:s, s:b, s:o}", "schedule", schedule, "tz", o->tz ? o->tz : "UTC",
                                 "no_overlap", o->no_overlap, "spec", spec);
        mull_query_encode(name, encoded, sizeof encoded);
        snprintf(path, sizeof path, "/v1/cron/%s", encoded);
        rc = call("PUT", path, body, lines, file, &r);
        json_decref(body);
    }
    json_decref(lines);
    if (rc) return rc;
    if (o->json)
        mull_emit(r);
    else
        fprintf(stderr, "schedule %s %s; next at %s\n", name,
                json_is_true(json_object_get(r, "created")) ? "added" : "changed", mull_text(r, "next_at"));
    if (!o->json) json_decref(r);
    return MULL_EXIT_OK;
}

static int rm(const char *name, const opts *o) {
    char encoded[400], team[400] = "", path[900];
    json_t *r = NULL;
    mull_query_encode(name, encoded, sizeof encoded);
    if (o->team) mull_query_encode(o->team, team, sizeof team);
    snprintf(path, sizeof path, "/v1/cron/%s%s%s", encoded, *team ? "?team=" : "", team);
    int rc = call("DELETE", path, NULL, NULL, NULL, &r);
    if (rc) return rc;
    if (o->json)
        mull_emit(json_incref(r));
    else
        fprintf(stderr, "schedule %s removed\n", name);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int run_cron(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    const char *verb = words ? argv[1] : "ls";
    if (!strcmp(verb, "ls")) return words > 1 ? mull_usage(cmd->name, "unexpected word '%s'", argv[2]) : list(o.json);
    if (!strcmp(verb, "rm"))
        return words == 2 ? rm(argv[2], &o) : mull_usage(cmd->name, "give the name of one schedule");
    if (strcmp(verb, "add") != 0) return mull_usage(cmd->name, "unknown action '%s'; there are ls, add, rm", verb);
    if (words != 4) return mull_usage(cmd->name, "give a name, a schedule in quotes and the file of a job spec");
    return add(cmd, argv[2], argv[3], argv[4], &o);
}

const mull_cmd mull_cmd_cron = {
    "cron",
    "ls|add|rm [NAME 'SCHEDULE' FILE] [flags]",
    "submit a job again and again by a schedule",
    "schedules: MINUTE HOUR DAY MONTH WEEKDAY as cron has them, or @hourly, @daily, @weekly, "
    "@monthly\n"
    "examples:\n  mull cron add nightly '30 2 * * mon-fri' eval.yaml --tz Europe/Berlin\n"
    "  mull cron ls; mull cron rm nightly\n",
    cron_opts,
    run_cron};
