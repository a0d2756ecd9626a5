/* See redis_users.h. */
#include "scheduler/redis_users.h"

#include "schema/keys.h"
#include "schema/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char PREFIX[] = "node-";
enum { USER_MAX = 140 };

void mull__redis_user_make(mull_redis *redis, const char *node, const char *password_sum, mull_redis_cb cb, void *arg) {
    char user[USER_MAX], password[80];
    snprintf(user, sizeof user, "%s%s", PREFIX, node);
    snprintf(password, sizeof password, "#%s", password_sum);
    /* Events can be written and not read: another node's hold its boot, which is the name of its inbox. */
    const char *argv[] = {"ACL",
                          "SETUSER",
                          user,
                          "reset",
                          "on",
                          password,
                          "+ping",
                          "+role",
                          "(+xadd %W~" MULL_KEY_EVENTS ")",
                          "(+xread +xtrim +xinfo|stream +expire +del ~mull:inbox:*)"};
    mull_redis_command(redis, sizeof argv / sizeof *argv, argv, NULL, cb, arg);
}

void mull__redis_user_drop(mull_redis *redis, const char *node, mull_redis_cb cb, void *arg) {
    char user[USER_MAX];
    snprintf(user, sizeof user, "%s%s", PREFIX, node);
    const char *argv[] = {"ACL", "DELUSER", user};
    mull_redis_command(redis, 3, argv, NULL, cb, arg);
}

/* NULL without memory: the next look does it. */
char *mull__redis_users_listed(const redisReply *users) {
    char *names = NULL;
    size_t size;
    FILE *m = users && users->type == REDIS_REPLY_ARRAY ? open_memstream(&names, &size) : NULL;
    if (!m) return NULL;
    fputc('\n', m);
    for (size_t i = 0; i < users->elements; i++) {
        const char *user = users->element[i]->str;
        if (user && !strncmp(user, PREFIX, sizeof PREFIX - 1) && strlen(user) < USER_MAX)
            fprintf(m, "%s\n", user + sizeof PREFIX - 1);
    }
    if (fclose(m) == 0) return names;
    free(names);
    return NULL;
}

static void on_made(const redisReply *reply, void *arg) {
    (void)arg;
    if (reply && reply->type == REDIS_REPLY_ERROR)
        mull_log(MULL_LOG_WARN, "Redis refuses a node's user: %s; the scheduler's own user needs +acl", reply->str);
}

static bool has(const PGresult *rows, const char *node) {
    for (int i = 0; i < PQntuples(rows); i++)
        if (!strcmp(PQgetvalue(rows, i, 0), node)) return true;
    return false;
}

void mull__redis_users_restore(mull_redis *redis, char *listed, const PGresult *rows, bool all) {
    for (int i = 0; i < PQntuples(rows); i++) {
        char line[USER_MAX + 2];
        snprintf(line, sizeof line, "\n%.130s\n", PQgetvalue(rows, i, 0));
        if (all || !strstr(listed, line))
            mull__redis_user_make(redis, PQgetvalue(rows, i, 0), PQgetvalue(rows, i, 1), on_made, NULL);
    }
    for (char *save, *node = strtok_r(listed, "\n", &save); node; node = strtok_r(NULL, "\n", &save))
        if (!has(rows, node)) mull__redis_user_drop(redis, node, NULL, NULL);
}
