/* mull webhook: URLs that hear of jobs as their states change. */
#include "cli/args.h"
#include "cli/jobs.h"

#include "schema/jobspec.h"

#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json, yes;
    json_t *body;
    long limit;
} opts;

static const mull_opt webhook_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a line"},
    {"--on", 0, MULL_OPT_SPEC_TEXTS, offsetof(opts, body), "states", "STATE",
     "add: only when a job becomes this (again for more)"},
    {"--team", 0, MULL_OPT_SPEC_TEXT, offsetof(opts, body), "team", "TEAM", "add: jobs of this team (default: every)"},
    {"--note", 0, MULL_OPT_SPEC_TEXT, offsetof(opts, body), "note", "TEXT", "add: what it is for"},
    {"--limit", 'n', MULL_OPT_INT, offsetof(opts, limit), NULL, "N", "log: at most N, the newest (default 20)"},
    {"--yes", 'y', MULL_OPT_FLAG, offsetof(opts, yes), NULL, NULL, "rm: do not ask on a terminal"},
    {0}};

static void join(const json_t *list, char *out, size_t cap) {
    size_t i, n = 0;
    const json_t *v;
    snprintf(out, cap, "%s", json_array_size(list) ? "" : "all");
    json_array_foreach(list, i, v) {
        int k = snprintf(out + n, cap - n, "%s%s", n ? "," : "", json_string_value(v));
        if (k < 0 || (size_t)k >= cap - n) break;
        n += (size_t)k;
    }
}

static int list(bool json) {
    static const mull_column columns[] = {{"ID", .right = true}, {"TEAM", .shrink = 6},      {"URL", .shrink = 16},
                                          {"ON", .shrink = 8},   {"WAITING", .right = true}, {"LAST", .right = true},
                                          {"NOTE", .shrink = 8}};
    json_t *r, *w;
    size_t i;
    int rc = mull_ask("GET", "/v1/webhooks", NULL, &r);
    if (rc) return rc;
    mull_table t;
    mull_table_init(&t, columns, 7);
    json_array_foreach(json_object_get(r, "webhooks"), i, w) {
        char on[200], waiting[24], last[24] = "";
        join(json_object_get(w, "states"), on, sizeof on);
        snprintf(waiting, sizeof waiting, "%lld", (long long)json_integer_value(json_object_get(w, "waiting")));
        if (json_is_integer(json_object_get(w, "last_status")))
            snprintf(last, sizeof last, "%lld", (long long)json_integer_value(json_object_get(w, "last_status")));
        else if (*mull_text(w, "last_error"))
            snprintf(last, sizeof last, "failed");
        const char *team = mull_text(w, "team"), *note = mull_text(w, "note");
        const char *cells[] = {mull_text(w, "id"),
                               *team ? team : "(every)",
                               mull_text(w, "url"),
                               on,
                               waiting,
                               last,
                               *mull_text(w, "disabled_at") ? "off: the receiver said 410 Gone" : note};
        mull_table_row(&t, cells);
        if (json) mull_emit(json_incref(w));
    }
    if (!json && t.nrows)
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    else if (!json)
        fprintf(stderr, "no webhooks; mull webhook --help shows how to add one\n");
    mull_table_fini(&t);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int add(const char *url, const opts *o) {
    json_t *r;
    json_object_set_new(o->body, "url", json_string(url));
    int rc = mull_ask("POST", "/v1/webhooks", o->body, &r);
    if (rc) return rc;
    if (o->json) {
        mull_emit(r);
        return MULL_EXIT_OK;
    }
    fprintf(stderr, "webhook %s; its secret is shown only now, the receiver checks signatures with it:\n",
            mull_text(r, "id"));
    printf("%s\n", mull_text(r, "secret"));
    json_decref(r);
    return MULL_EXIT_OK;
}

static int history(const char *id, const opts *o) {
    static const mull_column columns[] = {
        {"ID", .right = true},     {"TYPE"},      {"JOB", .right = true}, {"CREATED"}, {"TRIES", .right = true},
        {"STATUS", .right = true}, {"DELIVERED"}, {"ERROR", .shrink = 10}};
    char path[96];
    json_t *r, *d;
    size_t i;
    snprintf(path, sizeof path, "/v1/webhooks/%.20s/deliveries?limit=%ld", id, o->limit);
    int rc = mull_ask("GET", path, NULL, &r);
    if (rc) return rc;
    mull_table t;
    mull_table_init(&t, columns, 8);
    json_array_foreach(json_object_get(r, "deliveries"), i, d) {
        char tries[24], status[24] = "";
        snprintf(tries, sizeof tries, "%lld", (long long)json_integer_value(json_object_get(d, "attempts")));
        if (json_is_integer(json_object_get(d, "status")))
            snprintf(status, sizeof status, "%lld", (long long)json_integer_value(json_object_get(d, "status")));
        const char *delivered = mull_text(d, "delivered_at");
        const char *cells[] = {mull_text(d, "id"),
                               mull_text(d, "type"),
                               mull_text(d, "job"),
                               mull_text(d, "created_at"),
                               tries,
                               status,
                               *mull_text(d, "given_up_at") ? "given up" : delivered,
                               mull_text(d, "error")};
        mull_table_row(&t, cells);
        if (o->json) mull_emit(json_incref(d));
    }
    if (!o->json && t.nrows)
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    else if (!o->json)
        fprintf(stderr, "webhook %s has had nothing to tell\n", id);
    mull_table_fini(&t);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int act(const char *method, const char *id, const char *behind, const char *done, const opts *o) {
    char path[64];
    json_t *r;
    snprintf(path, sizeof path, "/v1/webhooks/%.20s%s", id, behind);
    int rc = mull_ask(method, path, NULL, &r);
    if (rc) return rc;
    if (o->json)
        mull_emit(json_incref(r));
    else
        fprintf(stderr, "webhook %s %s\n", id, done);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int dispatch(const mull_cmd *cmd, char **argv, int words, const opts *o) {
    static const char *const verbs[] = {"ls", "add", "rm", "test", "log"};
    const char *verb = words ? argv[1] : "ls", *what = words > 1 ? argv[2] : "";
    size_t v = 0;
    while (v < 5 && strcmp(verb, verbs[v]) != 0) v++;
    if (v == 5) {
        const char *near = mull_nearest(verb, verbs, 5);
        return mull_usage(cmd->name, "unknown action '%s'%s%s%s", verb, near ? "; did you mean " : "", near ? near : "",
                          near ? "?" : "");
    }
    if (v == 0) return words > 1 ? mull_usage(cmd->name, "unexpected word '%s'", what) : list(o->json);
    if (words != 2) return mull_usage(cmd->name, v == 1 ? "give one URL" : "give the number of one webhook");
    if (v == 1) return add(what, o);
    if (strspn(what, "0123456789") != strlen(what) || strlen(what) > 18)
        return mull_usage(cmd->name, "'%s' is no number of a webhook; mull webhook ls lists them", what);
    if (v == 4) return history(what, o);
    if (v == 3) return act("POST", what, "/test", "is sent a webhook.test; mull webhook log shows how it went", o);
    if (!mull_confirm(o->yes, "remove webhook %s with what it has not been told yet?", what)) return MULL_EXIT_FAILED;
    return act("DELETE", what, "", "is removed", o);
}

static int run_webhook(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {.body = json_object(), .limit = 20};
    int words, parsed = mull_args_parse(cmd, argc, argv, &o, &words);
    int rc = parsed < 0 ? MULL_EXIT_OK : parsed ? MULL_EXIT_USAGE : MULL_EXIT_OK;
    if (!parsed && (o.limit < 1 || o.limit > 1000)) rc = mull_usage(cmd->name, "--limit is a number from 1 to 1000");
    if (!parsed && !rc) rc = dispatch(cmd, argv, words, &o);
    json_decref(o.body);
    return rc;
}

const mull_cmd mull_cmd_webhook = {
    "webhook",
    "ls|add|rm|test|log [URL|NUMBER] [flags]",
    "URLs that are told when states of jobs change, signed",
    "Each change is POSTed as JSON with webhook-id, webhook-timestamp and webhook-signature, as standardwebhooks.com\n"
    "has them, again and again for a day until the receiver answers 2xx; 410 turns the webhook off. For admins.\n"
    "examples:\n  mull webhook add https://ci.example/mull --on COMPLETED --on FAILED --team vision\n"
    "  mull webhook test 1; mull webhook log 1\n",
    webhook_opts,
    run_webhook};
