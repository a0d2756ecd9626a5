/* Names in Redis. README.md says what lies under them. */
#ifndef MULL_SCHEMA_KEYS_H
#define MULL_SCHEMA_KEYS_H

#include <stddef.h>

#define MULL_KEY_READY "mull:ready"   /* stream, front door -> leader: hints that a job wants attention */
#define MULL_KEY_EVENTS "mull:events" /* stream, workers -> leader: what happened */
#define MULL_READY_GROUP "scheduler"  /* consumer group on MULL_KEY_READY */
#define MULL_FIELD "m"                /* the one field of every entry: a JSON object */

enum { MULL_KEY_MAX = 80 };
/* mull:inbox:BOOT, the stream of commands to one start of a worker. */
void mull_key_inbox(const char *boot, char *out, size_t cap);

#endif
