/* Points of metrics on their way to PostgreSQL: taken out of the engine's metrics lines and laid down as COPY's binary
 * rows, so that they are neither JSON that the database parses nor statements that it plans. */
#ifndef MULL_SCHEDULER_STAGE_H
#define MULL_SCHEDULER_STAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum { MULL_STAGE_KEY_MAX = 500 }; /* bytes; an index row has to hold it */

typedef struct mull_stage {
    char *data; /* malloc'ed; begins with COPY's header once there is a row */
    size_t len, cap;
    size_t rows;
    bool failed; /* out of memory: the batch is to be given up */
} mull_stage;

#define MULL_STAGE_COPY "COPY pg_temp.metric_stage (i, key, step, value) FROM STDIN (FORMAT binary)"

/* When e is an engine event with a metrics line, moves its points here under the number i and leaves {"ev":"metrics",
 * "staged":i} in it, without "staged" when there was no point. What does not fit the line's shape is left out. No other
 * engine line keeps a "staged". */
void mull_stage_event(mull_stage *s, json_t *e, int i);
/* COPY's end mark; the data is then whole. Gives data away (NULL when there is no row). */
char *mull_stage_take(mull_stage *s, size_t *len);
void mull_stage_fini(mull_stage *s);

#endif
