/* See stage.h.
 *
 *   spec on standard input -> paths fetched to STATE/stage/PATH -> the engine, whose spec names those
 *   engine's lines on descriptor 3 -> a published checkpoint is brought to the front door first -> the worker, with the
 *   paths that everybody else knows
 *   engine's end -> all of `out` is brought -> its exit status is ours
 *
 * So a checkpoint that the queue knows of is there, whatever becomes of this node. At the start `out` is made as it is
 * there: what an earlier attempt on this node wrote and did not bring is gone, what others brought is gone on from.
 * Files in the stage stay for the next job and are compared by SHA-256. SIGTERM is the engine's (it is in our process
 * group); this process ends when it has brought what the engine left. */
#include "worker/stage.h"

#include "schema/event_line.h"
#include "schema/remove_tree.h"
#include "schema/transfer/transfer.h"
#include "worker/join.h"
#include "worker/lines.h"
#include "worker/worker_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 3, SPEC_MAX = 16 << 20, LONGEST = (1 << 20) - 2048, FAILED = 1 };
static const char WHAT[] = "cannot run the job here";

typedef struct stage {
    mull_joined joined;
    mull_transfer *transfer;
    json_t *spec;
    char root[4200]; /* STATE/stage */
    char *out;       /* as everybody knows it */
    char out_here[8400];
    bool first;        /* the rank of this node that fetches and brings */
    const char *ready; /* MULL_STAGE_READY_ENV; NULL: it is the only one */
    bool failed;
    int64_t said_ms; /* when the latest sign of life was given */
    int lines;       /* where the engine's lines come from */
    pid_t engine;
} stage;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- saying ---- */

static void say(const char *text, size_t n) {
    while (n > 0) {
        ssize_t k = write(EVENTS, text, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return;
        text += k;
        n -= (size_t)k;
    }
}

static void say_json(json_t *j) {
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    if (text) {
        say(text, strlen(text));
        say("\n", 1);
    }
    free(text);
    json_decref(j);
}

/* class: infra for what another try may do better, user for what it will not. */
static int complain(const mull_err *err, const char *class_) {
    char line[2700];
    mull_err_print(stderr, err);
    say_json(json_pack("{s:s, s:s, s:s, s:s}", "ev", "error", "class", class_, "what", err->what, "message",
                       mull_err_line(err, line, sizeof line)));
    return FAILED;
}

static const char *class_of(int rc) {
    return rc == MULL_ERR_UNSUPPORTED || rc == MULL_ERR_MISSING || rc == MULL_ERR_ARG ? "user" : "infra";
}

static void note(const char *verb, const char *path, const mull_transfer_counts *n) {
    char text[4600];
    if (n->files == 0) return;
    snprintf(text, sizeof text, "%s %lld files (%lld bytes; %lld were there) of %.4000s", verb, (long long)n->files,
             (long long)n->bytes, (long long)n->kept, path);
    say_json(json_pack("{s:s, s:s, s:s}", "ev", "log", "level", "info", "text", text));
}

/* While files travel the engine says nothing, or is not read: the worker must not take the attempt for hung. */
static void on_alive(void *arg) {
    enum { EVERY_MS = 2000 };
    stage *s = arg;
    int64_t now = now_ms();
    if (now - s->said_ms < EVERY_MS) return;
    s->said_ms = now;
    say_json(json_pack("{s:s, s:s}", "ev", "heartbeat", "phase", "transferring"));
}

/* ---- the ranks of one node ---- */

/* The first rank holds a lock on the ready file until it is done, and then the file says how it went: one letter. */
static int hold_ready(const stage *s, mull_err *err) {
    int fd = open(s->ready, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && flock(fd, LOCK_EX) == 0) return fd;
    mull_fail_errno(err, errno, WHAT, s->ready, "check the worker's state folder");
    if (fd >= 0) close(fd);
    return -1;
}

static int tell_ready(const stage *s, int fd, int rc, mull_err *err) {
    if (write(fd, !rc ? "y" : !strcmp(class_of(rc), "user") ? "u" : "i", 1) != 1 && !rc)
        rc = mull_fail_errno(err, errno, WHAT, s->ready, "check the worker's state folder");
    close(fd);
    return rc;
}

/* For the other ranks: until the first one has fetched, however long that takes while it lives. */
static int await_first(const stage *s, mull_err *err) {
    enum { BEGIN_MS = 60000, LOCK_MS = 5000, PAUSE_US = 50000 };
    int64_t until = now_ms() + BEGIN_MS;
    int fd;
    char how = 0;
    while ((fd = open(s->ready, O_RDONLY | O_CLOEXEC)) < 0 && errno == ENOENT && now_ms() < until) usleep(PAUSE_US);
    /* Empty and not locked: it has made the file a moment ago, or it is dead. */
    until = now_ms() + LOCK_MS;
    while (fd >= 0 && flock(fd, LOCK_SH) == 0 && pread(fd, &how, 1, 0) != 1 && now_ms() < until) {
        flock(fd, LOCK_UN);
        usleep(PAUSE_US);
    }
    if (fd >= 0) close(fd);
    if (how == 'y') return 0;
    return mull_fail(err, how == 'u' ? MULL_ERR_ARG : MULL_ERR_UNAVAILABLE, WHAT, s->ready,
                     "see what the first rank says", "the first rank of this node has not fetched the job's files");
}

/* ---- fetching ---- */

static int fetch(stage *s, const char *path, bool exact, mull_err *err) {
    char here[8400];
    mull_transfer_counts n = {0};
    snprintf(here, sizeof here, "%s%.4000s", s->root, path);
    int rc = mull_transfer_pull(s->transfer, path, here, exact, &n, err);
    note("fetched", path, &n);
    return rc;
}

/* A path in the spec becomes the one here, and is fetched. */
static int take(stage *s, json_t *where, const char *key, size_t index, mull_err *err) {
    json_t *v = key ? json_object_get(where, key) : json_array_get(where, index);
    const char *path = json_string_value(v);
    char here[8400];
    if (!path || path[0] != '/') return 0;
    int rc = s->first ? fetch(s, path, false, err) : 0;
    if (rc) return rc;
    snprintf(here, sizeof here, "%s%.4000s", s->root, path);
    if (key)
        json_object_set_new(where, key, json_string(here));
    else
        json_array_set_new(where, index, json_string(here));
    return 0;
}

static int take_all(stage *s, mull_err *err) {
    static const char *const single[] = {"model", "input", "data", "config"};
    static const char *const lists[] = {"images", "videos", "media_roots"};
    int rc = 0;
    for (size_t i = 0; i < sizeof single / sizeof *single && !rc; i++) rc = take(s, s->spec, single[i], 0, err);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        json_t *list = json_object_get(s->spec, lists[i]);
        for (size_t k = 0; k < json_array_size(list) && !rc; k++) rc = take(s, list, NULL, k, err);
    }
    return rc;
}

/* What only works where everybody sees the same folder. */
static int check(const stage *s, mull_err *err) {
    static const char todo[] = "let it run on nodes that share the folder: start their workers without --transfer, and "
                               "choose them by label";
    const char *nodes = getenv("MULL_NODE_COUNT");
    if (nodes && atoi(nodes) > 1)
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, s->out, todo, "jobs over several nodes share their folders");
    if (json_integer_value(json_object_get(s->spec, "shards")) > 1)
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, s->out, todo,
                         "tasks that share the rows of one input share their folder");
    return 0;
}

/* Other jobs wait: they find what they need then. Whoever waits is well: who holds it must give signs of life itself.
 */
static int lock_stage(stage *s, mull_err *err) {
    enum { PAUSE_US = 50000 };
    char path[4300];
    mkdir(s->root, 0700);
    snprintf(path, sizeof path, "%s/lock", s->root);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), rc = -1;
    while (fd >= 0 && (rc = flock(fd, LOCK_EX | LOCK_NB)) != 0 && errno == EWOULDBLOCK) {
        on_alive(s);
        usleep(PAUSE_US);
    }
    if (rc == 0) return fd;
    mull_fail_errno(err, errno, WHAT, path, "check the worker's state folder");
    if (fd >= 0) close(fd);
    return -1;
}

static int fetch_all(stage *s, mull_err *err) {
    int rc = check(s, err), lock = rc || !s->first ? -1 : lock_stage(s, err);
    if (rc || (s->first && lock < 0)) return rc ? rc : err->code;
    rc = take_all(s, err);
    if (!rc && s->out && s->first) {
        rc = fetch(s, s->out, true, err);
        if (rc == MULL_ERR_MISSING) { /* nothing there yet, and so nothing here */
            mull_remove_tree(s->out_here);
            rc = 0;
        }
    }
    if (!rc && s->out) json_object_set_new(s->spec, "out", json_string(s->out_here));
    if (!rc && s->out) json_object_set_new(s->spec, "output", json_string(s->out_here));
    if (lock >= 0) close(lock);
    return rc;
}

static int prepare(stage *s, mull_err *err) {
    int ready = s->ready && s->first ? hold_ready(s, err) : -1;
    if (s->ready && s->first && ready < 0) return err->code;
    int rc = s->ready && !s->first ? await_first(s, err) : 0;
    if (!rc) rc = fetch_all(s, err);
    return ready >= 0 ? tell_ready(s, ready, rc, err) : rc;
}

/* ---- bringing ---- */

static int bring(stage *s, const char *here, mull_err *err) {
    mull_transfer_counts n = {0};
    const char *path = here + strlen(s->root);
    int rc = mull_transfer_push(s->transfer, here, path, &n, err);
    note("brought", path, &n);
    return rc;
}

/* Folders here become the ones that everybody knows, in all texts. */
static json_t *outward(const stage *s, const json_t *v) {
    size_t n = strlen(s->root), i;
    const char *key;
    json_t *x, *copy;
    switch (json_typeof(v)) {
    case JSON_STRING:
        if (strncmp(json_string_value(v), s->root, n) == 0 && json_string_value(v)[n] == '/')
            return json_string(json_string_value(v) + n);
        return json_incref((json_t *)(uintptr_t)v);
    case JSON_ARRAY:
        copy = json_array();
        json_array_foreach((json_t *)(uintptr_t)v, i, x) json_array_append_new(copy, outward(s, x));
        return copy;
    case JSON_OBJECT:
        copy = json_object();
        json_object_foreach((json_t *)(uintptr_t)v, key, x) json_object_set_new(copy, key, outward(s, x));
        return copy;
    default:
        return json_incref((json_t *)(uintptr_t)v);
    }
}

static void on_line(void *arg, const char *line, size_t n) {
    stage *s = arg;
    mull_err err;
    json_t *o = line && memmem(line, n, s->root, strlen(s->root)) ? json_loadb(line, n, JSON_ALLOW_NUL, NULL) : NULL;
    if (!o) {
        if (line) {
            say(line, n);
            say("\n", 1);
        }
        return;
    }
    const char *ev = json_string_value(json_object_get(o, "ev"));
    const char *path = json_string_value(json_object_get(o, "path"));
    int rc = 0;
    if (ev && path && s->first && !strncmp(path, s->root, strlen(s->root))) {
        if (!strcmp(ev, "checkpoint") || !strcmp(ev, "artifact")) rc = bring(s, path, &err);
        if (!strcmp(ev, "checkpoint_removed")) rc = mull_transfer_remove(s->transfer, path + strlen(s->root), &err);
    }
    if (rc && !s->failed) { /* what is not there must not be told of; the engine goes on from what is, elsewhere */
        s->failed = true;
        complain(&err, "infra");
        kill(s->engine, SIGKILL);
    }
    if (!rc) say_json(outward(s, o));
    json_decref(o);
}

/* ---- the engine ---- */

static int start_engine(stage *s, char **argv, int *spec_fd, mull_err *err) {
    int in[2], events[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(events, O_CLOEXEC) != 0)
        return mull_fail_errno(err, errno, WHAT, "pipe", NULL);
    pid_t parent = getpid();
    s->engine = fork();
    if (s->engine < 0) return mull_fail_errno(err, errno, WHAT, "fork", NULL);
    if (s->engine == 0) {
        signal(SIGTERM, SIG_DFL);
        signal(SIGPIPE, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(FAILED);
        dup2(in[0], 0);
        dup2(events[1], EVENTS);
        unsetenv(MULL_STAGE_ENV);
        unsetenv(MULL_STAGE_READY_ENV);
        int why = mull_sandbox_enter_env();
        if (!why) {
            execv(argv[0], argv);
            why = errno;
        }
        fprintf(stderr, "error: cannot start the engine (%s): %s; check --engine\n", argv[0], strerror(why));
        _exit(127);
    }
    close(in[0]);
    close(events[1]);
    *spec_fd = in[1];
    s->lines = events[0];
    return 0;
}

/* Reads the engine's lines to their end and waits for it. Its exit status. */
static int attend(stage *s, int spec_fd) {
    char *text = json_dumps(s->spec, JSON_COMPACT), *buf = malloc(1 << 16);
    mull_lines lines;
    int status = 0;
    mull_lines_init(&lines, LONGEST, false);
    for (size_t done = 0, n = text ? strlen(text) : 0; done < n;) {
        ssize_t k = write(spec_fd, text + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) break; /* an engine that does not read its spec says so by its exit status */
        done += (size_t)k;
    }
    close(spec_fd);
    for (ssize_t k; buf && ((k = read(s->lines, buf, 1 << 16)) > 0 || (k < 0 && errno == EINTR));)
        if (k > 0) mull_lines_feed(&lines, buf, (size_t)k, on_line, s);
    mull_lines_end(&lines, on_line, s);
    mull_lines_fini(&lines);
    free(text);
    free(buf);
    while (waitpid(s->engine, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFSIGNALED(status) && !s->failed) { /* so that the supervisor sees what it would see of the engine */
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
}

static json_t *read_spec(mull_err *err) {
    char *text = malloc(SPEC_MAX);
    size_t n = 0;
    for (ssize_t k; text && n < SPEC_MAX && ((k = read(0, text + n, SPEC_MAX - n)) > 0 || (k < 0 && errno == EINTR));)
        if (k > 0) n += (size_t)k;
    json_t *spec = text ? json_loadb(text, n, 0, NULL) : NULL;
    free(text);
    if (!spec) mull_fail(err, MULL_ERR_FORMAT, WHAT, "standard input", NULL, "there is no spec");
    return spec;
}

static int open_stage(stage *s, mull_err *err) {
    const char *state = getenv(MULL_STAGE_ENV), *rank = getenv("MULL_LOCAL_RANK");
    static char job[32];
    if (!state) return mull_fail(err, MULL_ERR_ARG, WHAT, MULL_STAGE_ENV, NULL, "only the worker starts this");
    snprintf(s->root, sizeof s->root, "%.4000s/stage", state);
    s->first = !rank || atoi(rank) == 0;
    s->ready = getenv(MULL_STAGE_READY_ENV);
    if (!(s->spec = read_spec(err))) return err->code;
    int rc = mull_joined_read(state, &s->joined, err);
    if (rc) return rc;
    const json_t *id = json_object_get(s->spec, "job");
    if (json_is_integer(id))
        snprintf(job, sizeof job, "%lld", (long long)json_integer_value(id));
    else
        snprintf(job, sizeof job, "%s", json_string_value(id) ? json_string_value(id) : "0");
    const char *out = json_string_value(json_object_get(s->spec, "out"));
    if (out) s->out = strdup(out); /* the spec's own changes */
    if (s->out) snprintf(s->out_here, sizeof s->out_here, "%s%.4000s", s->root, s->out);
    mull_transfer_opts o = {.server = s->joined.server,
                            .bearer = s->joined.secret,
                            .ca = s->joined.ca,
                            .job = job,
                            .alive = on_alive,
                            .arg = s,
                            .fence = json_integer_value(json_object_get(s->spec, "fence"))};
    return (s->transfer = mull_transfer_open(&o, err)) ? 0 : err->code;
}

static int run(stage *s, char **engine_argv) {
    mull_err err;
    int spec_fd = -1, rc = open_stage(s, &err);
    if (!rc) rc = prepare(s, &err);
    if (rc) return complain(&err, class_of(rc));
    if (start_engine(s, engine_argv, &spec_fd, &err) != 0) return complain(&err, "infra");
    int status = attend(s, spec_fd);
    if (s->out && s->first && access(s->out_here, F_OK) == 0 && !s->failed && bring(s, s->out_here, &err) != 0)
        status = complain(&err, "infra");
    return status;
}

int mull_stage_main(char **engine_argv) {
    stage s = {.lines = -1};
    signal(SIGTERM, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    int status = run(&s, engine_argv);
    mull_transfer_close(s.transfer);
    mull_joined_fini(&s.joined);
    json_decref(s.spec);
    free(s.out);
    return status;
}
