/* Short questions to the local servers, each with a time limit: does it answer? */
#ifndef MULL_CLI_PROBE_H
#define MULL_CLI_PROBE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* PING on Redis's socket. */
bool mull_probe_redis(const char *socket_path);
/* A value of CONFIG GET ("" when it does not say). */
void mull_probe_redis_setting(const char *socket_path, const char *name, char *out, size_t cap);
/* Whether PostgreSQL takes connections on the socket in this folder (it answers the request for TLS). */
bool mull_probe_postgres(const char *folder);
/* GET target on the front door's socket. The HTTP status, or 0 when nothing answers; *body (may be NULL) is a new
 * reference, or NULL when the answer is no JSON. */
int mull_probe_http(const char *socket_path, const char *target, json_t **body);

#endif
