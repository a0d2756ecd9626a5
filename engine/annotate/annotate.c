/* The order of an annotation's steps; see annotate.h. */
#include "engine/annotate/annotate.h"

#include "engine/annotate/folder.h"
#include "engine/annotate/media_cache.h"
#include "engine/annotate/output.h"
#include "engine/infer/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *const WHAT = "cannot use the output folder";

static int open_folder(int at, const char *name, int *fd, mull_error *err) {
    *fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd < 0 ? mull__io_fail(err, errno, WHAT, name) : MULL_OK;
}

/* An exclusive lock on a file of .mull: waits wait_s seconds for who has it. */
static int take_lock(mull__annotation *a, const char *name, double wait_s, int *fd, mull_error *err) {
    *fd = openat(a->work, name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0) return mull__io_fail(err, errno, WHAT, a->job->out);
    double start = mull_clock_ms();
    for (bool told = false; flock(*fd, LOCK_EX | LOCK_NB); told = true) {
        if (errno != EWOULDBLOCK && errno != EINTR) return mull__io_fail(err, errno, WHAT, a->job->out);
        if (mull_events_stopped(a->ev)) return mull__cancelled(err);
        if (mull_clock_ms() - start > wait_s * 1e3)
            return mull_fail(err, MULL_EIO, WHAT, a->job->out, "wait for it, or choose another --out",
                             "another process prepares the work in it");
        if (!told) mull_events_log(a->ev, "info", "waiting for another process that works in %s", a->job->out);
        mull_events_beat(a->ev);
        struct timespec t = {.tv_nsec = 100000000};
        nanosleep(&t, NULL);
    }
    return MULL_OK;
}

void mull__unlock(mull__annotation *a) {
    if (a->lock >= 0) close(a->lock);
    a->lock = -1;
}

static int open_out(mull__annotation *a, double wait_s, mull_error *err) {
    int rc = mull__make_folders(a->job->out, WHAT, err);
    if (!rc) rc = open_folder(AT_FDCWD, a->job->out, &a->out, err);
    if (rc) return rc;
    if (mkdirat(a->out, ".mull", 0777) && errno != EEXIST) return mull__io_fail(err, errno, WHAT, a->job->out);
    rc = open_folder(a->out, ".mull", &a->work, err);
    if (!rc) rc = take_lock(a, "lock", wait_s, &a->lock, err);
    return rc;
}

/* Outputs that this folder's state knows nothing of are somebody's, and stay. */
static int refuse_foreign(const mull__annotation *a, mull_error *err) {
    struct stat st;
    const char *const NAMES[] = {mull__output_name(a->job), "errors.jsonl"};
    for (size_t i = 0; i < 2; i++)
        if (!fstatat(a->out, NAMES[i], &st, AT_SYMLINK_NOFOLLOW))
            return mull_fail(err, MULL_EARG, WHAT, a->job->out, "choose another --out, or move the file away",
                             "it has a %s that is not of this annotation", NAMES[i]);
    return MULL_OK;
}

/* Sets rows_path and roots; a folder's rows are written and identified here. */
static int open_input(mull__annotation *a, mull_error *err) {
    const mull_job *j = a->job;
    struct stat st;
    if (stat(j->input, &st))
        return mull_fail_errno(err, errno, "cannot read the input", j->input, "check the path and its permissions");
    if (!S_ISDIR(st.st_mode)) {
        a->rows_path = realpath(j->input, NULL);
        char *copy = a->rows_path ? strdup(a->rows_path) : NULL;
        int rc = copy ? mull__roots_init(&a->roots, j->media_roots, dirname(copy), err)
                      : mull_fail(err, MULL_ENOMEM, "cannot read the input", j->input, "", "out of memory");
        free(copy);
        return rc;
    }
    if (!j->prompt && !json_array_size(j->prompts))
        return mull_fail(err, MULL_EARG, "cannot read the input", j->input, "give --prompt TEXT",
                         "a folder of media needs a prompt to ask about each");
    uint8_t md[32];
    int64_t others = 0;
    mull__sha *s = mull__sha_create();
    int rc = s ? mull__roots_init(&a->roots, j->media_roots, j->input, err)
               : mull_fail(err, MULL_ENOMEM, "cannot read the input", j->input, "", "out of memory");
    if (!rc) rc = mull__folder_rows(j->input, a->work, s, &others, err);
    if (!rc) {
        mull__sha_done(s, md);
        mull__hex(md, 32, a->input_hex);
        char *state = mull_path_join(j->out, ".mull");
        a->rows_path = state ? mull_path_join(state, "folder.jsonl") : NULL;
        free(state);
        if (!a->rows_path) rc = mull_fail(err, MULL_ENOMEM, "cannot read the input", j->input, "", "out of memory");
        if (others)
            mull_events_log(a->ev, "info", "%lld files of the folder are no images or videos", (long long)others);
    }
    mull__sha_destroy(s);
    return rc;
}

/* Whether there is a manifest: 1, then the input is identified and equal to it; 0, then it has been validated. */
static int open_state(mull__annotation *a, mull_error *err) {
    struct stat st;
    bool there = !fstatat(a->work, "manifest.json", &st, 0);
    int rc = there ? MULL_OK : refuse_foreign(a, err);
    if (!rc && there && !a->input_hex[0]) rc = mull__digest_file(a, a->rows_path, a->input_hex, err);
    if (!rc && there) return mull__manifest_read(a, err);
    return rc ? rc : mull__validate(a, err);
}

/* One process writes the outputs; the others, later, find them written. */
static int merge(mull__annotation *a, json_t **result, mull_error *err) {
    int fd = -1, rc = take_lock(a, "merge", 1e9, &fd, err);
    if (!rc) rc = mull__complete_read(a, result, err);
    if (rc == 0) rc = mull__merge(a, result, err);
    if (fd >= 0) close(fd);
    return rc < 0 ? rc : MULL_OK;
}

static int run(mull__annotation *a, json_t **result, mull_error *err) {
    mull_session s = {0};
    int rc = mull_session_open(a->job, &s, err);
    /* A shard found broken while merging is done again, once. */
    for (int round = 0; !rc; round++) {
        rc = mull__work(a, &s, err);
        if (rc) break;
        rc = merge(a, result, err);
        if (rc != MULL_EFORMAT || round) break;
        mull_events_log(a->ev, "warning", "%s (%s): %s; it is redone", err->what, err->where, err->why);
        rc = MULL_OK;
    }
    mull_session_fini(&s);
    /* Another process has come to the end of all meanwhile, and cleaned up under this one. */
    if (rc && rc != MULL_ECANCELLED && !*result && mull__complete_there(a)) {
        mull_error ignored;
        if (mull__complete_read(a, result, &ignored) == 1) rc = MULL_OK;
    }
    return rc;
}

/* What this process took, not what the annotation did: no part of the outputs. */
static void add_timings(const mull__annotation *a, json_t *result, double wall_ms) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu =
        (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
    int64_t loaded = 0, found = 0;
    if (a->media) mull__media_cache_stats(a->media, &loaded, &found);
    json_object_set_new(result, "media",
                        json_pack("{s:I, s:I}", "loaded", (json_int_t)loaded, "shared", (json_int_t)found));
    json_object_set_new(result, "timings",
                        json_pack("{s:f, s:f, s:f, s:I}", "wall_ms", wall_ms, "cpu_ms", cpu, "model_cpu_ms",
                                  a->model_cpu_ms, "peak_bytes", (json_int_t)u.ru_maxrss * 1024));
}

int mull_annotate(const mull_job *job, mull_events *ev, double lock_wait_s, json_t **result, mull_error *err) {
    mull__annotation a = {.job = job, .ev = ev, .out = -1, .work = -1, .lock = -1, .shard_rows = job->shard_rows};
    double start = mull_clock_ms();
    *result = NULL;
    char *copy = realpath(job->model, NULL), *name = copy ? basename(copy) : NULL;
    a.model_name = strdup(name ? name : "model");
    free(copy);
    int rc = a.model_name ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot annotate", "", "", "out of memory");
    if (!rc) rc = mull__output_check(job, err);
    if (!rc) rc = mull__digest_spec(&a, err);
    if (!rc) rc = mull__digest_model(&a, err);
    if (!rc) rc = open_out(&a, lock_wait_s, err);
    if (!rc) rc = open_input(&a, err);
    if (!rc) rc = open_state(&a, err);
    if (rc == 1) rc = mull__complete_read(&a, result, err);
    if (rc >= 0 && !*result) rc = run(&a, result, err);
    if (*result) add_timings(&a, *result, mull_clock_ms() - start);
    mull__media_cache_destroy(a.media);
    mull__roots_fini(&a.roots);
    mull__unlock(&a);
    if (a.work >= 0) close(a.work);
    if (a.out >= 0) close(a.out);
    free(a.rows_path);
    free(a.model_name);
    return rc < 0 ? rc : MULL_OK;
}
