/* mull token and mull user: who may use the queue over the network. On this machine the socket knows its peer. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json;
    const char *user, *team, *role, *note;
    long long days;
} opts;

static const mull_opt token_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a line"},
    {"--user", 0, MULL_OPT_TEXT, offsetof(opts, user), NULL, "USER", "create: whom it speaks for"},
    {"--team", 0, MULL_OPT_TEXT, offsetof(opts, team), NULL, "TEAM", "create: whose jobs it sees (default: default)"},
    {"--role", 0, MULL_OPT_TEXT, offsetof(opts, role), NULL, "ROLE", "create: viewer, member (default) or admin"},
    {"--days", 0, MULL_OPT_INT, offsetof(opts, days), NULL, "N", "create: how long it is good (default: no end)"},
    {"--note", 0, MULL_OPT_TEXT, offsetof(opts, note), NULL, "TEXT", "create: what it is for"},
    {0}};
static const mull_opt user_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a line"}, {0}};

static int list_tokens(bool json) {
    static const mull_column columns[] = {
        {"ID", .right = true}, {"USER"}, {"TEAM"}, {"ROLE"}, {"STATE"}, {"MADE"}, {"ENDS"}, {"NOTE", .shrink = 8}};
    static const char *const keys[] = {"id", "user", "team", "role", "state", "created_at", "expires_at", "note"};
    json_t *r;
    int rc = mull_ask("GET", "/v1/tokens", NULL, &r);
    if (rc) return rc;
    mull_list_show(r, "tokens", columns, keys, 8, json);
    json_decref(r);
    return MULL_EXIT_OK;
}

static int create(const mull_cmd *cmd, const opts *o) {
    if (!o->user) return mull_usage(cmd->name, "whom is it for? give --user");
    if (o->days < 0) return mull_usage(cmd->name, "--days is a number from 0 (no end)");
    json_t *r,
        *body = json_pack("{s:s, s:s, s:s, s:s, s:I}", "user", o->user, "team", o->team ? o->team : "default", "role",
                          o->role ? o->role : "member", "note", o->note ? o->note : "", "days", (json_int_t)o->days);
    if (!body) return mull_usage(cmd->name, "the flags hold what is no UTF-8");
    int rc = mull_ask("POST", "/v1/tokens", body, &r);
    json_decref(body);
    if (rc) return rc;
    if (o->json) {
        mull_emit(json_incref(r));
    } else {
        fprintf(stderr, "token %s; it is shown only now:\n", mull_text(r, "id"));
        printf("%s\n", mull_text(r, "token"));
    }
    json_decref(r);
    return MULL_EXIT_OK;
}

static int revoke(const mull_cmd *cmd, const char *id, const opts *o) {
    char path[64];
    json_t *r;
    if (!*id || strspn(id, "0123456789") != strlen(id) || strlen(id) > 18)
        return mull_usage(cmd->name, "'%s' is no number of a token; mull token ls lists them", id);
    snprintf(path, sizeof path, "/v1/tokens/%s", id);
    int rc = mull_ask("DELETE", path, NULL, &r);
    if (rc) return rc;
    if (o->json)
        mull_emit(json_incref(r));
    else
        fprintf(stderr, "token %s of %s is revoked\n", id, mull_text(r, "user"));
    json_decref(r);
    return MULL_EXIT_OK;
}

static int run_token(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    const char *verb = words ? argv[1] : "ls";
    if (words > (strcmp(verb, "revoke") ? 1 : 2)) return mull_usage(cmd->name, "unexpected word '%s'", argv[words]);
    if (!strcmp(verb, "ls")) return list_tokens(o.json);
    if (!strcmp(verb, "create")) return create(cmd, &o);
    if (!strcmp(verb, "revoke"))
        return words == 2 ? revoke(cmd, argv[2], &o) : mull_usage(cmd->name, "give the number of one token");
    return mull_usage(cmd->name, "unknown action '%s'; there are ls, create, revoke", verb);
}

static int run_user(const mull_cmd *cmd, int argc, char **argv) {
    static const mull_column columns[] = {
        {"USER"}, {"SINCE"}, {"TOKENS", .right = true}, {"RUNNING", .right = true}, {"PENDING", .right = true}};
    static const char *const keys[] = {"name", "created_at", "tokens", "running", "pending"};
    opts o = {0};
    int words;
    json_t *r;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words > 1 || (words && strcmp(argv[1], "ls") != 0))
        return mull_usage(cmd->name, "'%s' is no action; there is ls (mull token create makes a user)", argv[words]);
    int rc = mull_ask("GET", "/v1/users", NULL, &r);
    if (rc) return rc;
    mull_list_show(r, "users", columns, keys, 5, o.json);
    json_decref(r);
    return MULL_EXIT_OK;
}

const mull_cmd mull_cmd_token = {
    "token",
    "ls|create|revoke [ID] [flags]",
    "tokens for the queue over the network",
    "A token speaks for a user in a team; an admin's for all teams. Its secret is shown once.\n"
    "examples:\n  mull token create --user ada --team vision --days 90\n"
    "  mull token ls; mull token revoke 3\n",
    token_opts,
    run_token};

const mull_cmd mull_cmd_user = {"user",
                                "ls [flags]",
                                "who uses the queue",
                                "Users come with their first job or token.\nexample:\n  mull user ls\n",
                                user_opts,
                                run_user};
