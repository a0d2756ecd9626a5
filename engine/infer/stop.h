/* Streamed text with stop strings: what could still become a stop string is held back until it cannot. */
#ifndef MULL_ENGINE_INFER_STOP_H
#define MULL_ENGINE_INFER_STOP_H

#include "engine/core/buf.h"

#include <stdbool.h>

typedef struct mull_stream {
    mull_buf text;  /* everything decoded so far, cut at a stop string once one was found */
    size_t sent;    /* bytes of text that may be shown */
    size_t checked; /* no stop string starts before this */
    char **stop;    /* owned copies */
    int nstop;
    bool stopped;
} mull_stream;

/* Copies the stop strings. An empty one is MULL_EARG. */
int mull_stream_init(mull_stream *s, const char *const *stop, int nstop, mull_error *err);
void mull_stream_fini(mull_stream *s);
/* Takes note of bytes that were appended to s->text: finds the first stop string (then text ends before it and stopped
 * is set) and says through *piece and *len what has become safe to show. last: nothing will follow. */
void mull_stream_update(mull_stream *s, bool last, const char **piece, size_t *len);

#endif
