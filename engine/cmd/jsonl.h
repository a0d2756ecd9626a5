/* Commands that read JSON lines on stdin and write one JSON line for each. */
#ifndef MULL_ENGINE_CMD_JSONL_H
#define MULL_ENGINE_CMD_JSONL_H

#include "engine/core/error.h"

#include <jansson.h>

/* Calls row for each non-empty line of stdin, in order; row returns the answer or NULL with err filled. A bad row is
 * answered by {"error": its error line} and the rest goes on. Exit status: 1 when any row was bad. */
int mull_cmd_jsonl(const char *command, json_t *(*row)(void *ctx, const json_t *in, mull_error *err), void *ctx);

#endif
