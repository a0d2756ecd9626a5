/* The users that nodes have in Redis: one each, with just enough to be a worker. Redis forgets them when it restarts,
 * and a replica never knew them: the leader makes them again from PostgreSQL whenever it has connected. */
#ifndef MULL_SCHEDULER_REDIS_USERS_H
#define MULL_SCHEDULER_REDIS_USERS_H

#include "schema/store_pg.h"
#include "schema/store_redis.h"

/* password_sum: SHA-256 as hexadecimal digits. cb may be NULL. */
void mull__redis_user_make(mull_redis *redis, const char *node, const char *password_sum, mull_redis_cb cb, void *arg);
/* Deletes the user and ends its connections. */
void mull__redis_user_drop(mull_redis *redis, const char *node, mull_redis_cb cb, void *arg);
/* The nodes among the answer to ACL USERS, a line each with a newline before the first; malloc'ed, or NULL. */
char *mull__redis_users_listed(const redisReply *users);
/* Makes those that the rows of mull_node_users say and the list has not (all: every one, for its password may be an old
 * one), and drops those that are listed and not said. The rows must be read after the list: a node's row is written
 * before its user is made, so one that joins meanwhile is in both or in none. listed is changed. */
void mull__redis_users_restore(mull_redis *redis, char *listed, const PGresult *rows, bool all);

#endif
