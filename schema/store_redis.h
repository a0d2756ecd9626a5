/* An asynchronous Redis connection on a libuv loop that comes back by itself.
 *
 * Every command's callback is called exactly once, from the loop, never from inside mull_redis_command: with the reply,
 * or with NULL when the connection was not there or broke before the answer (the command may then have happened or
 * not). A blocking read (XREAD BLOCK) holds up its connection: give it one of its own. All calls from the loop's
 * thread. */
#ifndef MULL_SCHEMA_STORE_REDIS_H
#define MULL_SCHEMA_STORE_REDIS_H

#include "schema/store_redis_server.h"

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

typedef struct mull_redis mull_redis;
/* reply is valid during the call. */
typedef void (*mull_redis_cb)(const redisReply *reply, void *arg);

/* Connects at once and for ever again (50 ms doubling to 1 s after all hosts have been tried). on_connect is called
 * after every successful connect, when the server has taken user and password and, of several hosts, says that it is
 * the primary; it may be NULL. server must stay. NULL on no memory. */
mull_redis *mull_redis_create(uv_loop_t *loop, const mull_redis_server *server, void (*on_connect)(void *arg),
                              void *arg);
/* lens NULL: argv are NUL-terminated. cb NULL: the answer does not matter. */
void mull_redis_command(mull_redis *r, int argc, const char *const *argv, const size_t *lens, mull_redis_cb cb,
                        void *arg);
bool mull_redis_connected(const mull_redis *r);
/* Breaks a connection that has gone silent, failing what is pending; a new one is made. */
void mull_redis_reset(mull_redis *r);
/* Fails what is pending and stops; run the loop until its handles are closed, then destroy. */
void mull_redis_close(mull_redis *r);
void mull_redis_destroy(mull_redis *r);

#endif
