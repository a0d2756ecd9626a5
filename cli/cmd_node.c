/* mull node: the workers' nodes, taken out and back, labelled; tokens by which workers of other hosts join. */
#include "cli/args.h"
#include "cli/jobs.h"

#include "schema/jobspec.h"

#include <string.h>

typedef struct opts {
    bool json, watch;
    const char *node, *note;
    long minutes, uses;
} opts;

static const mull_opt node_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a line"},
    {"--watch", 'w', MULL_OPT_FLAG, offsetof(opts, watch), NULL, NULL, "ls: again every 2 seconds until interrupted"},
    {"--minutes", 0, MULL_OPT_INT, offsetof(opts, minutes), NULL, "N", "token: how long it is good (default: 60)"},
    {"--uses", 0, MULL_OPT_INT, offsetof(opts, uses), NULL, "N", "token: for so many joins, 0: any (default: 1)"},
    {"--node", 0, MULL_OPT_TEXT, offsetof(opts, node), NULL, "NAME", "token: only for a node of this name"},
    {"--note", 0, MULL_OPT_TEXT, offsetof(opts, note), NULL, "TEXT", "token: what it is for"},
    {0}};

static int change_node(const char *verb, const char *node, bool json) {
    char name[400], path[440];
    json_t *r;
    mull_query_encode(node, name, sizeof name);
    snprintf(path, sizeof path, "/v1/nodes/%s/%s", name, verb);
    int rc = mull_ask("POST", path, NULL, &r);
    if (rc) return rc;
    if (json)
        mull_emit(json_incref(r));
    else
        fprintf(stderr, "node %s is %s\n", node, mull_text(r, "state"));
    json_decref(r);
    return MULL_EXIT_OK;
}

/* key=value or WORD sets, KEY- takes away. */
static int label_node(const mull_cmd *cmd, const char *node, char *const *words, int n, bool json) {
    json_t *set = json_array(), *unset = json_array(), *body = json_pack("{s:o, s:o}", "set", set, "unset", unset), *r;
    int rc = MULL_EXIT_OK;
    for (int i = 0; i < n && !rc; i++) {
        size_t len = strlen(words[i]);
        if (len > 1 && words[i][len - 1] == '-' && !strchr(words[i], '='))
            json_array_append_new(unset, json_stringn(words[i], len - 1));
        else if (mull_label_ok(words[i]))
            json_array_append_new(set, json_string(words[i]));
        else
            rc = mull_usage(cmd->name, "'%s' is no label; give WORD, KEY=VALUE, or KEY- to take one away", words[i]);
    }
    char name[400], path[440];
    mull_query_encode(node, name, sizeof name);
    snprintf(path, sizeof path, "/v1/nodes/%s/labels", name);
    if (!rc) rc = mull_ask("POST", path, body, &r);
    json_decref(body);
    if (rc) return rc;
    if (json) {
        mull_emit(r);
        return MULL_EXIT_OK;
    }
    fprintf(stderr, "node %s:", node);
    size_t i;
    const json_t *v;
    json_array_foreach(json_object_get(r, "labels"), i, v) fprintf(stderr, "%s %s", i ? "," : "", json_string_value(v));
    fprintf(stderr, "%s\n", json_array_size(json_object_get(r, "labels")) ? "" : " no labels");
    json_decref(r);
    return MULL_EXIT_OK;
}

/* ---- tokens to join with ---- */

static int create_token(const mull_cmd *cmd, const opts *o) {
    json_t *r, *body = json_pack("{s:s?, s:I, s:I, s:s}", "node", o->node, "minutes", (json_int_t)o->minutes, "uses",
                                 (json_int_t)o->uses, "note", o->note ? o->note : "");
    if (!body) return mull_usage(cmd->name, "the flags hold what is no UTF-8");
    int rc = mull_ask("POST", "/v1/nodes/tokens", body, &r);
    json_decref(body);
    if (rc) return rc;
    if (o->json) {
        mull_emit(r);
        return MULL_EXIT_OK;
    }
    fprintf(stderr,
            "token %s, good until %s; it is shown only now. Put it into a file on the new host, then there:\n"
            "  mull-worker join https://THIS_HOST:PORT --token-file FILE --state DIR\n",
            mull_text(r, "id"), mull_text(r, "expires_at"));
    printf("%s\n", mull_text(r, "token"));
    json_decref(r);
    return MULL_EXIT_OK;
}

static int list_tokens(bool json) {
    static const mull_column columns[] = {
        {"ID", .right = true}, {"NODE"}, {"LEFT", .right = true}, {"STATE"}, {"BY"}, {"ENDS"}, {"NOTE", .shrink = 8}};
    static const char *const keys[] = {"id", "node", "uses_left", "state", "created_by", "expires_at", "note"};
    json_t *r;
    int rc = mull_ask("GET", "/v1/nodes/tokens", NULL, &r);
    if (rc) return rc;
    mull_list_show(r, "tokens", columns, keys, 7, json);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int revoke_token(const mull_cmd *cmd, const char *id, bool json) {
    char path[64];
    json_t *r;
    if (!*id || strspn(id, "0123456789") != strlen(id) || strlen(id) > 18)
        return mull_usage(cmd->name, "'%s' is no number of a token; mull node tokens lists them", id);
    snprintf(path, sizeof path, "/v1/nodes/tokens/%s", id);
    int rc = mull_ask("DELETE", path, NULL, &r);
    if (rc) return rc;
    if (json)
        mull_emit(json_incref(r));
    else
        fprintf(stderr, "token %s is revoked; nodes that joined with it stay (mull node revoke NAME)\n", id);
    json_decref(r);
    return MULL_EXIT_OK;
}

/* ---- */

static int run_node(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {.minutes = 60, .uses = 1};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    const char *verb = words ? argv[1] : "ls";
    if (!strcmp(verb, "drain") || !strcmp(verb, "resume") || !strcmp(verb, "revoke"))
        return words == 2 ? change_node(verb, argv[2], o.json) : mull_usage(cmd->name, "give the name of one node");
    if (!strcmp(verb, "label"))
        return words > 2 ? label_node(cmd, argv[2], argv + 3, words - 2, o.json)
                         : mull_usage(cmd->name, "give a node and labels: WORD, KEY=VALUE, or KEY- to take one away");
    if (!strcmp(verb, "revoke-token"))
        return words == 2 ? revoke_token(cmd, argv[2], o.json) : mull_usage(cmd->name, "give the number of one token");
    if (words > 1) return mull_usage(cmd->name, "unexpected word '%s'", argv[2]);
    if (!strcmp(verb, "ls")) return mull_nodes_show(o.json, o.watch);
    if (!strcmp(verb, "token")) return create_token(cmd, &o);
    if (!strcmp(verb, "tokens")) return list_tokens(o.json);
    return mull_usage(cmd->name,
                      "unknown action '%s'; there are ls, drain, resume, label, token, tokens, revoke-token, revoke",
                      verb);
}

const mull_cmd mull_cmd_node = {
    "node",
    "ls|drain|resume|label|token|tokens|revoke-token|revoke [NAME] [LABEL...] [flags]",
    "list the workers' nodes and their devices; take nodes out and back; label them; let hosts join",
    "examples:\n  mull node ls\n  mull node drain gpu3\n"
    "  mull node label gpu3 switch=leaf2 fast-disk old-\n"
    "  mull node token >token        # then on another host: mull-worker join https://HOST:PORT --token-file token "
    "--state DIR\n"
    "  mull node revoke gpu3         # its credentials are void, what runs there ends within seconds\n",
    node_opts,
    run_node};
