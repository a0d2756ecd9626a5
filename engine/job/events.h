/* What a running job tells: JSON lines on a descriptor (for the worker), or words on stderr (by hand). Also where it
 * learns that it has to stop: SIGTERM, SIGINT, or nobody reads the events any more.
 *
 * A thread sends heartbeats: always while the job loads, later only when the job has moved since the last one, so that
 * a hang shows. It ends the process (status 75) when the job should stop but is inside a long load, or when the reader
 * is gone and the job does not come to its end soon; whatever is on disk is sound at any time. */
#ifndef MULL_ENGINE_JOB_EVENTS_H
#define MULL_ENGINE_JOB_EVENTS_H

#include "engine/core/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct mull_events mull_events;

enum { MULL_EVENT_LINE_MAX = (1 << 20) - 4096 }; /* bytes of a line; the contract's limit is 1 MiB */

/* fd: where lines go, -1: nowhere. human: progress and logs on stderr too. Installs handlers for SIGTERM and SIGINT and
 * ignores SIGPIPE and SIGXFSZ. One a process. */
int mull_events_create(int fd, bool human, mull_events **out, mull_error *err);
void mull_events_destroy(mull_events *e);

/* Loading may take long and writes nothing; it is where a job begins. */
void mull_events_loading(mull_events *e, bool loading);
/* The job has moved. Cheap. */
void mull_events_beat(mull_events *e);
/* It has to stop: save what is done and exit 75. */
bool mull_events_stopped(const mull_events *e);

/* {"ev":type, ...fields}; takes the reference of fields (an object or NULL). A line over the limit is not sent but
 * reported as a log. */
void mull_events_emit(mull_events *e, const char *type, json_t *fields);
/* The numbers of a step (a flat object, borrowed). They travel as metrics lines of many steps, at most about a second
 * later, and before any line but heartbeats, logs and progress, so that a checkpoint's steps are told before it is. */
void mull_events_metrics(mull_events *e, int64_t step, const json_t *values);
/* At most one a second unless last. eta_s < 0: unknown. */
void mull_events_progress(mull_events *e, int64_t done, int64_t total, const char *unit, int64_t tokens, double eta_s,
                          bool last);
/* Of what is done, how much came to nothing; told with each progress from now on. */
void mull_events_errors(mull_events *e, int64_t errors);
void mull_events_log(mull_events *e, const char *level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void mull_events_error(mull_events *e, const mull_error *err);
/* How the queue treats a failure: user, oom, infra or requeue. */
const char *mull_error_class(int code);
/* The text as a JSON string; what is no UTF-8 becomes U+FFFD. */
json_t *mull_json_text(const char *s, size_t n);

#endif
