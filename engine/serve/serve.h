/* Serving a model over HTTP in OpenAI's shape: POST /v1/chat/completions (whole or streamed), GET /v1/models. A job of
 * kind serve runs until it is stopped.
 *
 * Two threads share the work. One runs libuv and the HTTP server; it parses requests and loads their media on libuv's
 * pool. The other, the caller's, owns the inference engine: requests reach it through an inbox and join the running
 * batch at its next step; pieces of text and ends come back through an outbox, whose reader is woken once a step. A
 * request belongs to the HTTP thread; the engine's thread holds it from the inbox until it has reported its end.
 *
 * Paths in requests are refused unless the job allows folders (media_roots). Without a key file the address must be one
 * of this machine. */
#ifndef MULL_ENGINE_SERVE_SERVE_H
#define MULL_ENGINE_SERVE_SERVE_H

#include "engine/job/events.h"
#include "engine/job/spec.h"

/* Serves until it is told to stop: *result has the totals, and MULL_ECANCELLED is returned (there is no other good
 * end). Requests under way get a few seconds then. */
int mull_serve_job(const mull_job *job, mull_events *ev, json_t **result, mull_error *err);

#endif
