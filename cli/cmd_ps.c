/* mull ps, queue and node ls: what is there now. -w shows it again every two seconds. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/spec.h"

#include "schema/jobspec.h"
#include "schema/states.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct look {
    bool json, watch, wide;
    const char *output, *state, *team, *array, *simulate;
    long limit;
} look;

#define LOOK_OPTS                                                                                                      \
    {"--json", 0, MULL_OPT_FLAG, offsetof(look, json), NULL, NULL, "one JSON object a line"}, {                        \
        "--watch", 'w', MULL_OPT_FLAG, offsetof(look, watch), NULL, NULL, "again every 2 seconds until interrupted"    \
    }

static const mull_opt ps_opts[] = {
    LOOK_OPTS,
    {"--output", 'o', MULL_OPT_TEXT, offsetof(look, output), NULL, "table|wide|json", "form (default table)"},
    {"--state", 's', MULL_OPT_TEXT, offsetof(look, state), NULL, "STATE", "only jobs in this state"},
    {"--team", 0, MULL_OPT_TEXT, offsetof(look, team), NULL, "TEAM", "only jobs of this team"},
    {"--array", 0, MULL_OPT_TEXT, offsetof(look, array), NULL, "ID", "the tasks of this array that have begun"},
    {"--limit", 'n', MULL_OPT_INT, offsetof(look, limit), NULL, "N", "at most N jobs, the newest (default 100)"},
    {0}};
static const mull_opt queue_opts[] = {LOOK_OPTS,
                                      {"--simulate", 0, MULL_OPT_TEXT, offsetof(look, simulate), NULL, "FILE",
                                       "when would the job of this spec start? nothing is submitted"},
                                      {0}};

static int pick_form(const mull_cmd *cmd, look *o) {
    static const char *const forms[] = {"table", "wide", "json"};
    if (!o->output || !strcmp(o->output, "table")) return 0;
    o->wide = !strcmp(o->output, "wide");
    if (!strcmp(o->output, "json")) o->json = true;
    if (o->wide || o->json) return 0;
    const char *near = mull_nearest(o->output, forms, 3);
    return mull_usage(cmd->name, "--output takes table, wide or json, not '%s'%s%s%s", o->output,
                      near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static int check_state(const mull_cmd *cmd, const char *state) {
#define X(name, terminal, meaning) #name,
    static const char *const names[] = {MULL_JOB_STATES(X)};
#undef X
    if (mull_job_state(state)) return 0;
    const char *near = mull_nearest(state, names, sizeof names / sizeof *names);
    return mull_usage(cmd->name, "unknown state '%s'%s%s%s", state, near ? "; did you mean " : "", near ? near : "",
                      near ? "?" : "");
}

/* Repeats show until interrupted when asked to; on a terminal each time on a clean screen. */
static int watching(const look *o, int (*show)(mull_client *, const look *)) {
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    int rc;
    do {
        if (o->watch && !o->json && isatty(STDOUT_FILENO)) fputs("\033[H\033[2J", stdout);
        rc = show(c, o);
        fflush(stdout);
        if (o->watch) mull_pause(2);
    } while (o->watch && !ferror(stdout));
    mull_client_close(c);
    return rc;
}

static int emit_each(json_t *list) {
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) mull_emit(json_incref(v));
    return MULL_EXIT_OK;
}

/* Pages of at most a thousand until limit jobs are there. */
static int read_jobs(mull_client *c, const char *state, const char *team, const char *array, long limit, json_t *all) {
    char s[64] = "", t[256] = "", cursor[32] = "", path[512];
    if (state) mull_query_encode(state, s, sizeof s);
    if (team) mull_query_encode(team, t, sizeof t);
    while (limit > 0) {
        long page = limit < 1000 ? limit : 1000;
        snprintf(path, sizeof path, "/v1/jobs?limit=%ld%s%s%s%s%s%s%s%s", page, *s ? "&state=" : "", s,
                 *t ? "&team=" : "", t, array ? "&array=" : "", array ? array : "", *cursor ? "&cursor=" : "", cursor);
        json_t *r;
        int rc = mull_client_get(c, "GET", path, NULL, &r);
        if (rc) return rc;
        json_array_extend(all, json_object_get(r, "jobs"));
        const char *next = json_string_value(json_object_get(r, "next_cursor"));
        snprintf(cursor, sizeof cursor, "%s", next ? next : "");
        json_decref(r);
        limit -= page;
        if (!*cursor) break;
    }
    return MULL_EXIT_OK;
}

static int show_ps(mull_client *c, const look *o) {
    json_t *jobs = json_array();
    int rc = read_jobs(c, o->state, o->team, o->array, o->limit, jobs);
    if (!rc && o->json)
        emit_each(jobs);
    else if (!rc && json_array_size(jobs))
        mull_jobs_table(jobs, o->wide);
    else if (!rc && o->array)
        fprintf(stderr, "no task of job %s has begun, or it is no array\n", o->array);
    else if (!rc)
        fprintf(stderr, "no jobs%s%s; mull submit --help shows how to make one\n", o->state ? " in state " : "",
                o->state ? o->state : "");
    json_decref(jobs);
    return rc;
}

static int run_ps(const mull_cmd *cmd, int argc, char **argv) {
    look o = {.limit = 100};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "unexpected word '%s'; mull show ID shows one job", argv[1]);
    if (o.limit < 1) return mull_usage(cmd->name, "--limit takes a number from 1");
    if (o.array && (mull_id_check(cmd->name, o.array) || strchr(o.array, '_')))
        return mull_usage(cmd->name, "--array takes the id of an array");
    if (pick_form(cmd, &o) || (o.state && check_state(cmd, o.state))) return MULL_EXIT_USAGE;
    return watching(&o, show_ps);
}

const mull_cmd mull_cmd_ps = {"ps",
                              "[flags]",
                              "list jobs, the newest first",
                              "examples:\n  mull ps\n  mull ps -s RUNNING -w\n  mull ps --json | head -1\n",
                              ps_opts,
                              run_ps};

/* "RUNNING 2, PENDING 5" */
static void counts(const json_t *o, char *out, size_t cap) {
    size_t n = 0;
    const char *key;
    json_t *v;
    out[0] = 0;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        int k = snprintf(out + n, cap - n, "%s%s %lld", n ? ", " : "", key, (long long)json_integer_value(v));
        if (k < 0 || (size_t)k >= cap - n) break;
        n += (size_t)k;
    }
}

/* 2026-01-31T08:00:00.000Z as "in 12:30", "now" */
static void until_text(const char *when, char *out, size_t cap) {
    json_t *t = json_string(when);
    double at = mull_when(t), left = at - mull_now();
    json_decref(t);
    out[0] = 0;
    if (!isfinite(at)) return;
    char span[40];
    mull_span(left > 0 ? left : 0, span, sizeof span);
    snprintf(out, cap, left < 2 ? "now" : "in %s", span);
}

static void print_next(const json_t *next) {
    static const mull_column columns[] = {{"NEXT", .right = true},
                                          {"TEAM", .shrink = 6},
                                          {"USER", .shrink = 6},
                                          {"PRI", .right = true},
                                          {"GPUS", .right = true},
                                          {"SLOTS", .right = true},
                                          {"STARTS"}};
    mull_table t;
    size_t i;
    const json_t *j;
    mull_table_init(&t, columns, 7);
    json_array_foreach(next, i, j) {
        char starts[60], numbers[3][16];
        static const char *const keys[] = {"priority", "gpus", "slots"};
        until_text(mull_text(j, "estimated_start"), starts, sizeof starts);
        for (int k = 0; k < 3; k++)
            snprintf(numbers[k], sizeof numbers[k], "%lld", (long long)json_integer_value(json_object_get(j, keys[k])));
        const char *cells[] = {
            mull_text(j, "id"), mull_text(j, "team"), mull_text(j, "user"), numbers[0], numbers[1], numbers[2], starts};
        if (i < 20) mull_table_row(&t, cells);
    }
    if (t.nrows) {
        putchar('\n');
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    }
    mull_table_fini(&t);
}

static int simulate(const look *o) {
    int rc;
    json_t *lines = json_object(), *spec = mull_spec_read(o->simulate, lines, &rc), *r;
    mull_client *c = spec ? mull_client_or_complain() : NULL;
    mull_reply reply = {0};
    mull_err err;
    if (spec) mull_spec_absolute(spec);
    if (c) {
        json_t *body = json_pack("{s:O}", "spec", spec);
        rc = mull_client_call(c, "POST", "/v1/queue/simulate", body, &reply, &err);
        json_decref(body);
        if (rc) mull_err_print(stderr, &err);
        if (rc) rc = MULL_EXIT_FAILED;
        if (!rc && reply.status != 200) rc = mull_client_refused(&reply, lines, o->simulate);
        mull_client_close(c);
    } else if (spec) {
        rc = MULL_EXIT_FAILED;
    }
    json_decref(spec);
    json_decref(lines);
    r = reply.json;
    if (!rc && o->json) {
        mull_emit(json_incref(r));
    } else if (!rc) {
        char text[60];
        const char *when = mull_text(r, "estimated_start"), *bound = mull_text(r, "not_before");
        until_text(*when ? when : bound, text, sizeof text);
        if (*when)
            printf("it would start %s (%s), behind %lld other starts\n", text, when,
                   (long long)json_integer_value(json_object_get(r, "ahead_count")));
        else if (*bound)
            printf("it would not start before %s (%s); farther was not looked\n", bound, text);
        else
            printf("it would not start: no node can hold it, or its quota never has room; see: mull node ls, mull "
                   "quota\n");
        if (json_integer_value(json_object_get(r, "assumed")) > 0)
            printf("%lld of the jobs before it have no time limit: an hour is assumed for each\n",
                   (long long)json_integer_value(json_object_get(r, "assumed")));
        if (*mull_text(r, "note")) printf("%s\n", mull_text(r, "note"));
    }
    json_decref(r);
    return rc;
}

static int show_queue(mull_client *c, const look *o) {
    json_t *q;
    int rc = mull_client_get(c, "GET", "/v1/queue?next=1", NULL, &q);
    if (rc) return rc;
    if (o->json) {
        mull_emit(q);
        return MULL_EXIT_OK;
    }
    char text[600];
    const json_t *slots = json_object_get(q, "slots"), *leader = json_object_get(q, "leader");
    counts(json_object_get(q, "states"), text, sizeof text);
    printf("jobs     %s\n", *text ? text : "none");
    counts(json_object_get(q, "reasons"), text, sizeof text);
    if (*text) printf("pending  %s\n", text);
    printf("slots    %lld of %lld busy\n", (long long)json_integer_value(json_object_get(slots, "busy")),
           (long long)json_integer_value(json_object_get(slots, "total")));
    printf("leader   %s, term %lld%s\n", mull_text(leader, "holder"),
           (long long)json_integer_value(json_object_get(leader, "term")),
           json_is_true(json_object_get(leader, "alive")) ? "" : " (not renewed)");
    print_next(json_object_get(q, "next"));
    json_decref(q);
    return MULL_EXIT_OK;
}

static int run_queue(const mull_cmd *cmd, int argc, char **argv) {
    look o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "unexpected word '%s'", argv[1]);
    return o.simulate ? simulate(&o) : watching(&o, show_queue);
}

const mull_cmd mull_cmd_queue = {
    "queue",
    "[--simulate FILE] [flags]",
    "jobs by state and reason, slots in use, what starts next and when",
    "Estimates assume that jobs without a time limit run an hour and that nobody else submits.\n"
    "examples:\n  mull queue\n  mull queue --simulate job.yaml\n",
    queue_opts,
    run_queue};

static void devices_text(const json_t *devices, char *out, size_t cap) {
    static const char *const kinds[] = {"cpu", "cuda"};
    size_t n = 0;
    out[0] = 0;
    for (int k = 0; k < 2; k++) {
        int count = 0;
        size_t i;
        const json_t *d;
        json_array_foreach(devices, i, d) count += !strcmp(mull_text(d, "kind"), kinds[k]);
        if (count) n += (size_t)snprintf(out + n, cap - n, "%s%s:%d", n ? "," : "", kinds[k], count);
    }
}

static int show_nodes(mull_client *c, const look *o) {
    static const mull_column columns[] = {{"NAME", .shrink = 8},    {"STATE", .state = true}, {"DEVICES"},
                                          {"RUNNING", .shrink = 8}, {"SEEN", .right = true},  {"VERSION"},
                                          {"LABELS", .shrink = 6},  {"NOTE", .shrink = 6}};
    json_t *r;
    int rc = mull_client_get(c, "GET", "/v1/nodes", NULL, &r);
    if (rc) return rc;
    json_t *nodes = json_object_get(r, "nodes");
    mull_table t;
    mull_table_init(&t, columns, 8);
    size_t i, k;
    const json_t *n, *a;
    json_array_foreach(nodes, i, n) {
        char devices[64], running[200] = "", seen[40] = "";
        devices_text(json_object_get(n, "devices"), devices, sizeof devices);
        json_array_foreach(json_object_get(n, "running"), k, a) {
            size_t at = strlen(running);
            snprintf(running + at, sizeof running - at, "%s%s", at ? " " : "", mull_text(a, "job"));
        }
        double when = mull_when(json_object_get(n, "last_seen"));
        if (isfinite(when)) mull_span(mull_now() - when, seen, sizeof seen);
        char labels[200] = "", note[200] = "";
        json_array_foreach(json_object_get(n, "labels"), k, a) {
            size_t at = strlen(labels);
            snprintf(labels + at, sizeof labels - at, "%s%s", at ? "," : "", json_string_value(a));
        }
        const json_t *window = json_array_get(json_object_get(n, "maintenance"), 0);
        if (*mull_text(n, "quarantine"))
            snprintf(note, sizeof note, "quarantined: %s", mull_text(n, "quarantine"));
        else if (window)
            snprintf(note, sizeof note, "maintenance from %s", mull_text(window, "starts_at"));
        const char *cells[] = {
            mull_text(n, "name"), mull_text(n, "state"), devices, running, seen, mull_text(n, "version"), labels, note};
        mull_table_row(&t, cells);
    }
    if (o->json)
        emit_each(nodes);
    else if (t.nrows)
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    else
        fprintf(stderr, "no nodes: no worker has said hello yet\n");
    mull_table_fini(&t);
    json_decref(r);
    return MULL_EXIT_OK;
}

int mull_nodes_show(bool json, bool watch) {
    look o = {.json = json, .watch = watch};
    return watching(&o, show_nodes);
}
