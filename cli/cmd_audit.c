/* mull audit: who changed what, and whether anybody has changed that since. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json;
    long long limit;
    const char *head;
} opts;

static const mull_opt audit_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a line"},
    {"--limit", 0, MULL_OPT_INT, offsetof(opts, limit), NULL, "N", "ls: the newest N (default 50)"},
    {"--head", 0, MULL_OPT_TEXT, offsetof(opts, head), NULL, "N:HASH", "verify: what an earlier verify printed"},
    {0}};

static int list(const opts *o) {
    static const mull_column columns[] = {{"ID", .right = true}, {"AT"}, {"ACTOR"}, {"KIND"}, {"JOB"}, {"DETAIL"}};
    char path[64];
    json_t *r, *v;
    size_t i;
    snprintf(path, sizeof path, "/v1/audit?limit=%lld", o->limit);
    int rc = mull_ask("GET", path, NULL, &r);
    if (rc) return rc;
    mull_table t;
    mull_table_init(&t, columns, sizeof columns / sizeof *columns);
    json_array_foreach(json_object_get(r, "events"), i, v) {
        char *detail = json_dumps(json_object_get(v, "detail"), JSON_COMPACT);
        mull_table_row(&t, (const char *[]){mull_text(v, "id"), mull_text(v, "at"), mull_text(v, "actor"),
                                            mull_text(v, "kind"), mull_text(v, "job"),
                                            detail && strcmp(detail, "{}") != 0 ? detail : ""});
        free(detail);
        if (o->json) mull_emit(json_incref(v));
    }
    if (!o->json) mull_table_print(&t, stdout, mull_term_width(stdout), false);
    mull_table_fini(&t);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int broken(const json_t *at) {
    json_int_t n = json_integer_value(json_object_get(at, "n"));
    const char *event = mull_text(at, "event");
    char where[80];
    if (n)
        snprintf(where, sizeof where, "entry %lld%s%.20s", (long long)n, *event ? ", event " : "", event);
    else
        snprintf(where, sizeof where, "event %.20s", event);
    mull_complain("the audit has been tampered with", where, "compare with a backup of the database", "%s",
                  mull_text(at, "why"));
    return MULL_EXIT_FAILED;
}

/* An earlier head must lie in the chain as it was: then nothing before it has been changed or cut off. */
static int check_head(const char *text) {
    char path[80], hash[65];
    long long n;
    json_t *r;
    if (sscanf(text, "%lld:%64[0-9a-f]", &n, hash) != 2 || n < 1 || strlen(hash) != 64)
        return mull_usage("audit", "--head '%s' is not N:HASH as verify prints it", text);
    snprintf(path, sizeof path, "/v1/audit/verify?after=%lld&limit=1", n - 1);
    int rc = mull_ask("GET", path, NULL, &r);
    if (rc) return rc;
    bool same = json_integer_value(json_object_get(r, "n")) == n && !strcmp(mull_text(r, "hash"), hash);
    json_decref(r);
    if (same) return MULL_EXIT_OK;
    mull_complain("the audit has been tampered with", text, "compare with a backup of the database",
                  "the chain does not have this entry: its end was cut off, or it was made anew");
    return MULL_EXIT_FAILED;
}

static int verify(const opts *o) {
    long long after = 0, checked = 0;
    int rc = o->head ? check_head(o->head) : MULL_EXIT_OK;
    for (bool more = true; more && !rc;) {
        char path[80];
        json_t *r;
        snprintf(path, sizeof path, "/v1/audit/verify?after=%lld", after);
        if ((rc = mull_ask("GET", path, NULL, &r))) return rc;
        const json_t *at = json_object_get(r, "broken");
        if (json_is_object(at)) rc = broken(at);
        checked += json_integer_value(json_object_get(r, "checked"));
        after = json_integer_value(json_object_get(r, "n"));
        more = json_is_true(json_object_get(r, "more"));
        if (!rc && !more && o->json)
            mull_emit(json_pack("{s:I, s:I, s:s}", "checked", (json_int_t)checked, "n", (json_int_t)after, "hash",
                                mull_text(r, "hash")));
        else if (!rc && !more && after)
            printf("%lld entries, none changed; head %lld:%s\n", checked, after, mull_text(r, "hash"));
        else if (!rc && !more)
            printf("no entries yet\n");
        json_decref(r);
    }
    return rc;
}

static int run_audit(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {.limit = 50};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    const char *verb = words ? argv[1] : "ls";
    if (words > 1) return mull_usage(cmd->name, "unexpected word '%s'", argv[words]);
    if (o.limit < 1 || o.limit > 1000) return mull_usage(cmd->name, "--limit is a number from 1 to 1000");
    if (!strcmp(verb, "ls")) return list(&o);
    if (!strcmp(verb, "verify")) return verify(&o);
    return mull_usage(cmd->name, "unknown action '%s'; there are ls, verify", verb);
}

const mull_cmd mull_cmd_audit = {
    "audit",
    "ls|verify [flags]",
    "who changed what, and whether that record is whole",
    "What people change is chained by hashes. verify reads the chain from its start and names the first entry that\n"
    "does not fit (exit status 1). It prints the chain's head: keep it elsewhere, and a later verify --head shows "
    "that\n"
    "nothing up to there was changed or cut off. For admins.\n"
    "examples:\n  mull audit ls --limit 200\n  mull audit verify\n",
    audit_opts,
    run_audit};
