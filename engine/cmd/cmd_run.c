/* mull-engine run: a job spec on stdin, events as JSON lines on descriptor 3, words on stderr. What the worker starts,
 * and what a person can start to see exactly what the worker sees. */
#include "engine/annotate/annotate.h"
#include "engine/cmd/cmd.h"
#include "engine/job/eval.h"
#include "engine/job/generate.h"
#include "engine/job/rollout.h"
#include "engine/job/train.h"
#include "engine/serve/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EVENTS = 3 };
static const double LOCK_WAIT_S = 60;      /* for an earlier attempt to die */
static const double PREPARE_WAIT_S = 3600; /* for another process to read the whole input */

static const char USAGE[] =
    "usage: mull-engine run < SPEC.json 3> EVENTS.jsonl\n\n"
    "Runs a job of kind generate, annotate, train, eval, serve or rollout. Events on descriptor 3: hello, heartbeat, "
    "progress,\n"
    "metric, metrics, run, checkpoint, eval, log, artifact, result, error. Without a descriptor 3 no events are "
    "written. SIGTERM: "
    "saves what is "
    "done and exits with 75.\n";

static int read_spec(mull_buf *text, mull_error *err) {
    char chunk[65536];
    ssize_t n;
    while ((n = read(STDIN_FILENO, chunk, sizeof chunk)) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return mull_fail_errno(err, errno, "cannot read the job spec", "stdin", "");
        if (text->len + (size_t)n > MULL_JOB_SPEC_MAX)
            return mull_fail(err, MULL_EARG, "cannot read the job spec", "stdin", "", "it has more than %d bytes",
                             MULL_JOB_SPEC_MAX);
        if (mull_buf_add(text, chunk, (size_t)n))
            return mull_fail(err, MULL_ENOMEM, "cannot read the job spec", "stdin", "", "out of memory");
    }
    return MULL_OK;
}

static void hello(mull_events *ev, const mull_job *j) {
    mull_events_emit(ev, "hello",
                     json_pack("{s:s, s:I, s:s, s:s, s:s}", "version", MULL_VERSION, "pid", (json_int_t)getpid(),
                               "kind", mull_job_kind_name(j->kind), "job", j->id, "device",
                               j->gpus > 0 ? "cuda" : "cpu"));
    if (j->unknown[0]) mull_events_log(ev, "warning", "this engine does not use these keys: %s", j->unknown);
}

static void send_result(mull_events *ev, json_t *result) {
    /* A line has a limit; the text matters more than the ids, and the files have all of it. */
    size_t n = json_dumpb(result, NULL, 0, JSON_COMPACT);
    if (n > MULL_EVENT_LINE_MAX / 2) json_object_del(result, "ids");
    if (json_dumpb(result, NULL, 0, JSON_COMPACT) > MULL_EVENT_LINE_MAX - 64) {
        json_object_del(result, "text");
        json_object_set_new(result, "cut", json_true());
    }
    mull_events_emit(ev, "result", json_pack("{s:o}", "result", result));
}

static int exit_of(int code, bool spec_read) {
    if (code == MULL_ECANCELLED) return MULL_EXIT_REQUEUE;
    return spec_read ? MULL_EXIT_FAILED : MULL_EXIT_USAGE;
}

static int serve_job(const mull_job *job, mull_events *ev, json_t **result, mull_error *err) {
#if MULL_HAVE_SERVE
    return mull_serve_job(job, ev, result, err);
#else
    (void)job, (void)ev, (void)result;
    return mull_fail(err, MULL_EUNSUPPORTED, "cannot serve", "kind", "build without MULL_ENGINE_ONLY",
                     "this build of the engine has no HTTP server");
#endif
}

int mull_cmd_run(int argc, char **argv) {
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(USAGE, stdout);
        return MULL_EXIT_OK;
    }
    if (argc > 1) return mull_cmd_usage("run", "unexpected argument '%s'", argv[1]);
    /* Before anything is opened, which could take the number 3. */
    int fd = fcntl(EVENTS, F_GETFD) < 0 ? -1 : EVENTS, flags = fd < 0 ? 0 : fcntl(fd, F_GETFL);
    if (fd >= 0 && (flags & O_ACCMODE) == O_RDONLY) fd = -1;
    if (fd < 0)
        fprintf(stderr, "note: descriptor 3 is not open for writing: no events are written\n");
    else
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    mull_buf text = {0};
    mull_job job = {0};
    mull_events *ev = NULL;
    mull_error err = {0};
    json_t *result = NULL;
    int rc = mull_events_create(fd, false, &ev, &err);
    bool spec_read = false;
    if (!rc) rc = read_spec(&text, &err);
    if (!rc) rc = mull_job_parse(text.data ? text.data : "", text.len, &job, &err);
    if (!rc) {
        spec_read = true;
        hello(ev, &job);
        rc = job.kind == MULL_JOB_ANNOTATE  ? mull_annotate(&job, ev, PREPARE_WAIT_S, &result, &err)
             : job.kind == MULL_JOB_TRAIN   ? mull_train_job(&job, ev, &result, &err)
             : job.kind == MULL_JOB_SERVE   ? serve_job(&job, ev, &result, &err)
             : job.kind == MULL_JOB_ROLLOUT ? mull_rollout_job(&job, ev, &result, &err)
             : job.kind == MULL_JOB_EVAL    ? mull_eval_job(&job, ev, LOCK_WAIT_S, &result, &err)
                                            : mull_generate(&job, ev, &result, &err);
    }
    if (!rc) {
        if (result) send_result(ev, result); /* ranks but the first have none */
    } else {
        mull_error_print(stderr, &err);
        if (ev && rc != MULL_ECANCELLED) mull_events_error(ev, &err);
    }
    mull_events_destroy(ev);
    mull_job_fini(&job);
    mull_buf_fini(&text);
    return rc ? exit_of(rc, spec_read) : MULL_EXIT_OK;
}
