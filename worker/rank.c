/* One engine process: its supervisor, its pipes, and what is read from them.
 *
 * A rank ends when its supervisor has gone and its pipes have ended, so that its end is reported behind everything it
 * said. While events find no room anywhere, its pipes are not read and the engine waits. */
#include "schema/event_line.h"
#include "schema/log.h"
#include "schema/remove_tree.h"
#include "worker/cgroup.h"
#include "worker/stage.h"
#include "worker/supervise.h"
#include "worker/proc.h"
#include "worker/worker_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void maybe_finish(mull_rank *k);

/* ---- lines ---- */

static void flush_log(mull_rank *k, const char *stream) {
    if (!k->log) return;
    json_t *lines = k->log;
    k->log = NULL;
    k->log_bytes = 0;
    mull__report_log(k->run, k->rank, stream, lines);
}

static void add_log(mull_rank *k, const char *stream, const char *line, size_t n) {
    size_t len;
    char *clean = mull_utf8_repair(line, n, &len);
    json_t *text = clean ? json_stringn(clean, len) : NULL;
    free(clean);
    if (!k->log) k->log = json_array();
    if (!text || !k->log) abort();
    json_array_append_new(k->log, text);
    k->log_bytes += len;
    if (k->log_bytes >= MULL_LOG_EVENT_MAX - MULL_LOG_LINE_MAX) flush_log(k, stream);
}

static void on_out_line(void *arg, const char *line, size_t n) {
    add_log(arg, "stdout", line, n);
}

static void on_err_line(void *arg, const char *line, size_t n) {
    mull_rank *k = arg;
    mull_run *r = k->run;
    add_log(k, "stderr", line, n);
    if (n > 6 && !memcmp(line, "error:", 6) && !r->error_class[0] && !r->failed) {
        size_t len;
        char *clean = mull_utf8_repair(line, n, &len);
        if (clean) snprintf(r->message, sizeof r->message, "%s", clean);
        r->said = k->rank;
        free(clean);
    }
}

static void on_event_line(void *arg, const char *line, size_t n) {
    mull_rank *k = arg;
    if (!line) {
        mull__report_note(k->run, k->rank, "the engine wrote an event of %zu bytes; at most %d are possible: dropped",
                          n, MULL_ENGINE_LINE_MAX);
        return;
    }
    if (n > 0) mull__run_engine_line(k, line, n);
}

static void listen_to_engine(mull_rank *k) {
    if (k->heard) return;
    k->heard = k->paused = true;
    mull__rank_flow(k, mull_evq_full(&k->run->w->evq) && !k->run->w->hasty);
}

static void on_control_line(void *arg, const char *line, size_t n) {
    mull_rank *k = arg;
    char text[128];
    int a = 0, b = 0;
    unsigned long long start;
    if (!line || n >= sizeof text) return;
    memcpy(text, line, n);
    text[n] = 0;
    if (sscanf(text, "pid %d %llu", &a, &start) == 2) {
        k->pid = a;
        k->told_pid = true;
        if (mull_proc_record(k->record, a, start) != 0)
            mull_log(MULL_LOG_WARN, "cannot write %s; a leftover engine would not be found", k->record);
        mull__run_rank_started(k->run);
        listen_to_engine(k);
    } else if (sscanf(text, "fail %d", &a) == 1) {
        listen_to_engine(k);
        k->spawn_failed = true;
        snprintf(k->run->message, sizeof k->run->message, "error: cannot start the engine (%.900s): %s; check --engine",
                 k->run->w->cfg.engine, strerror(a));
    } else if (!strcmp(text, "lease")) {
        mull__run_lease_ended(k->run);
    } else if (sscanf(text, "exit %d %d", &a, &b) == 2) {
        k->ended = true;
        k->code = a;
        k->signal = b;
    }
}

/* ---- pipes ---- */

static void on_alloc(uv_handle_t *h, size_t size, uv_buf_t *buf) {
    (void)size;
    mull_rank *k = h->data;
    *buf = uv_buf_init(k->read_buf, sizeof k->read_buf); /* used up before the next read */
}

typedef struct flow {
    uv_pipe_t *pipe;
    mull_lines *lines;
    mull_line_cb cb;
    const char *stream;
} flow;

static flow flow_of(mull_rank *k, const uv_stream_t *s) {
    if (s == (uv_stream_t *)&k->out) return (flow){&k->out, &k->out_lines, on_out_line, "stdout"};
    if (s == (uv_stream_t *)&k->err) return (flow){&k->err, &k->err_lines, on_err_line, "stderr"};
    if (s == (uv_stream_t *)&k->events) return (flow){&k->events, &k->event_lines, on_event_line, NULL};
    return (flow){&k->control, &k->control_lines, on_control_line, NULL};
}

static void on_rank_handle_closed(uv_handle_t *h) {
    mull_rank *k = h->data;
    k->open--;
    maybe_finish(k);
}

static void end_pipe(mull_rank *k, const flow *f) {
    if (uv_is_closing((uv_handle_t *)f->pipe)) return;
    mull_lines_end(f->lines, f->cb, k);
    if (f->stream) flush_log(k, f->stream);
    if (f->pipe == &k->control) listen_to_engine(k);
    uv_close((uv_handle_t *)f->pipe, on_rank_handle_closed);
    k->pipes--;
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf) {
    mull_rank *k = s->data;
    flow f = flow_of(k, s);
    if (n > 0) {
        k->run->heard_ms = uv_now(&k->run->w->loop);
        if (mull_lines_feed(f.lines, buf->base, (size_t)n, f.cb, k) != 0) abort();
        if (f.stream) flush_log(k, f.stream);
    } else if (n < 0) {
        end_pipe(k, &f);
        maybe_finish(k);
    }
}

void mull__rank_flow(mull_rank *k, bool paused) {
    if (!k->heard || k->closing || k->paused == paused) return;
    k->paused = paused;
    uv_pipe_t *pipes[] = {&k->out, &k->err, &k->events};
    for (int i = 0; i < 3; i++) {
        if (uv_is_closing((uv_handle_t *)pipes[i])) continue;
        if (paused)
            uv_read_stop((uv_stream_t *)pipes[i]);
        else
            uv_read_start((uv_stream_t *)pipes[i], on_alloc, on_read);
    }
}

void mull__rank_order(mull_rank *k, const char *order, size_t n) {
    uv_buf_t b = uv_buf_init((char *)(uintptr_t)order, (unsigned)n);
    if (k->spawned && !uv_is_closing((uv_handle_t *)&k->control)) uv_try_write((uv_stream_t *)&k->control, &b, 1);
}

void mull__rank_lease(mull_rank *k) {
    const mull_run *r = k->run;
    char order[MULL_LEASE_ORDER];
    int one_machine = r->w->cfg.redis->is_unix;
    if (r->lease_s <= 0 || k->ended) return;
    mull__rank_order(k, order,
                     (size_t)mull_lease_order(order, one_machine, r->w->renewed_ms + (uint64_t)r->lease_s * 1000));
}

/* ---- the end ---- */

static void close_all(mull_rank *k) {
    if (k->closing) return;
    k->closing = true;
    uv_handle_t *handles[] = {(uv_handle_t *)&k->process,  (uv_handle_t *)&k->in,     (uv_handle_t *)&k->out,
                              (uv_handle_t *)&k->err,      (uv_handle_t *)&k->events, (uv_handle_t *)&k->control,
                              (uv_handle_t *)&k->last_call};
    for (size_t i = k->process_made ? 0 : 1; i < sizeof handles / sizeof *handles; i++)
        if (!uv_is_closing(handles[i])) uv_close(handles[i], on_rank_handle_closed);
}

static bool gone(const mull_rank *k) {
    return !k->spawned || !uv_is_active((const uv_handle_t *)&k->process);
}

static void maybe_finish(mull_rank *k) {
    if (!k->closing && gone(k) && k->pipes == 0) close_all(k);
    if (!k->closing || k->open > 0 || k->finished) return;
    k->finished = true;
    mull__run_rank_ended(k);
}

/* Somebody still holds a pipe of an engine that has gone. */
static void on_last_call(uv_timer_t *t) {
    mull_rank *k = t->data;
    if (k->paused) return; /* repeats: what is in the pipe is still wanted */
    uv_pipe_t *pipes[] = {&k->out, &k->err, &k->events, &k->control};
    for (int i = 0; i < 4; i++) {
        flow f = flow_of(k, (uv_stream_t *)pipes[i]);
        end_pipe(k, &f);
    }
    maybe_finish(k);
}

static void on_exit_cb(uv_process_t *p, int64_t status, int sig) {
    mull_rank *k = p->data;
    (void)status;
    if (sig) {
        /* A stranger killed the supervisor; the kernel kills its engine, and what that started carries our mark. */
        char mark[96];
        k->signal = sig;
        snprintf(mark, sizeof mark, "MULL_ATTEMPT=%s:%lld", k->run->w->boot, (long long)k->run->fence);
        mull_proc_kill_marked(mark);
    }
    uv_timer_start(&k->last_call, on_last_call, MULL_PIPES_MS, MULL_PIPES_MS);
    maybe_finish(k);
}

static void on_spec_written(uv_write_t *req, int status) {
    mull_rank *k = req->data;
    (void)status; /* an engine that does not read its spec says so by its exit status */
    if (!uv_is_closing((uv_handle_t *)&k->in)) uv_close((uv_handle_t *)&k->in, on_rank_handle_closed);
}

/* ---- the beginning ---- */

enum { ENV_MAX = 56, ENV_TEXT = 32 << 10 };

typedef struct env {
    char *at[ENV_MAX];
    int n;
    char text[ENV_TEXT];
    size_t used;
} env;

static void put(env *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(env *e, const char *fmt, ...) {
    size_t room = sizeof e->text - e->used;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text + e->used, room, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= room || e->n == ENV_MAX - 1) return;
    e->at[e->n++] = e->text + e->used;
    e->used += (size_t)n + 1;
}

/* What the supervisor confines the engine to (sandbox.h): sockets only where ranks meet or the engine serves, a user of
 * its own; and when there are roots, its own folder, that of the first rank, where ranks meet, and the roots of its
 * team. -1 when that does not fit, and then it may not run. */
static int put_sandbox(mull_rank *k, env *e) {
    const mull_run *r = k->run;
    const mull_worker_config *c = &r->w->cfg;
    const char *kind = json_string_value(json_object_get(r->spec, "kind"));
    if (r->world_size > 1 || (kind && !strcmp(kind, "serve"))) put(e, "MULL_SANDBOX_NETWORK=1");
    if (c->user.uid) put(e, "MULL_SANDBOX_USER=%u:%u", (unsigned)c->user.uid, (unsigned)c->user.gid);
    if (c->root_count == 0) return 0;
    char own[2 * sizeof k->dir + 2], write[12 << 10], engine[4096];
    snprintf(own, sizeof own, "%s:%s", k->dir, r->ranks[0]->dir);
    if (mull_sandbox_paths(c->roots, c->root_count, json_string_value(json_object_get(r->spec, "team")), own, write,
                           sizeof write) != 0)
        return -1;
    snprintf(engine, sizeof engine, "%s", c->engine);
    *strrchr(engine, '/') = 0;
    int before = e->n;
    put(e, "MULL_SANDBOX_READ=/usr:/lib:/lib64:/bin:/sbin:/etc:/proc:/sys:/opt:%s:%s", MULL_READ_DIRS, engine);
    put(e, "MULL_SANDBOX_WRITE=%s", write);
    return e->n == before + 2 ? 0 : -1;
}

/* Named variables only: whatever secrets the worker's own environment has stay here. -1 when it does not fit. */
static int make_env(mull_rank *k, env *e) {
    static const char *const passed[] = {
        "PATH",     "HOME",         "USER",          "LANG",         "LC_ALL",      "LC_CTYPE", "TZ", "LD_LIBRARY_PATH",
        "MULL_ISA", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"};
    const mull_run *r = k->run;
    const mull_worker_config *c = &r->w->cfg;
    const mull_node_device *d = r->device_count ? r->devices[k->rank % r->device_count] : NULL;
    int sharing = r->device_count ? (r->world + r->device_count - 1) / r->device_count : 1;
    int threads = d && d->threads > sharing ? d->threads / sharing : 1;
    e->n = 0;
    e->used = 0;
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
        const char *v = getenv(passed[i]);
        if (c->user.uid && !strcmp(passed[i], "HOME")) v = k->dir;
        if (c->user.uid && !strcmp(passed[i], "USER")) v = c->user.name;
        if (v) put(e, "%s=%s", passed[i], v);
    }
    put(e, "%s", r->w->marker);
    put(e, "MULL_ATTEMPT=%s:%lld", r->w->boot, (long long)r->fence);
    put(e, "MULL_RANK=%d", r->first_rank + k->rank);
    put(e, "MULL_WORLD_SIZE=%d", r->world_size);
    put(e, "MULL_LOCAL_RANK=%d", k->rank);
    put(e, "MULL_LOCAL_WORLD_SIZE=%d", r->world);
    put(e, "MULL_NODE_RANK=%d", r->node_rank);
    put(e, "MULL_NODE_COUNT=%d", r->node_count);
    if (r->master[0]) {
        const char *colon = strrchr(r->master, ':');
        put(e, "MULL_MASTER_ADDR=%.*s", (int)(colon - r->master), r->master);
        put(e, "MULL_MASTER_PORT=%s", colon + 1);
        put(e, "MULL_NODES=%s", r->nodes);
        put(e, "MULL_NODE_ADDR=%s", r->w->cfg.address);
        put(e, "MULL_GANG_SECRET=%s", r->secret);
    }
    const char *array = json_string_value(json_object_get(r->spec, "array_job"));
    if (array) {
        put(e, "MULL_ARRAY_JOB=%s", array);
        put(e, "MULL_ARRAY_INDEX=%lld", (long long)json_integer_value(json_object_get(r->spec, "array_index")));
    }
    /* Where ranks leave their addresses for each other: of this attempt alone, and gone with it. */
    if (r->world > 1 && r->node_count == 1) put(e, "MULL_RENDEZVOUS=%s/meet", r->ranks[0]->dir);
    put(e, "MULL_THREADS=%d", threads);
    put(e, "OMP_NUM_THREADS=%d", threads);
    put(e, "OPENBLAS_NUM_THREADS=%d", threads);
    put(e, "TMPDIR=%s", k->dir);
    if (r->cgroup) put(e, MULL_CGROUP_ENV "=%s", r->cgroup);
    put(e, "CUDA_DEVICE_ORDER=PCI_BUS_ID");
    put(e, "CUDA_VISIBLE_DEVICES=%s", d ? d->uuid : "");
    if (r->w->cfg.transfer) put(e, MULL_STAGE_ENV "=%s", r->w->cfg.state);
    if (r->w->cfg.transfer && r->world > 1) put(e, MULL_STAGE_READY_ENV "=%s/ready", r->ranks[0]->dir);
    int rc = put_sandbox(k, e);
    e->at[e->n] = NULL;
    return rc;
}

static void init_handles(mull_rank *k) {
    uv_loop_t *loop = &k->run->w->loop;
    uv_pipe_t *pipes[] = {&k->in, &k->out, &k->err, &k->events, &k->control};
    for (int i = 0; i < 5; i++) {
        uv_pipe_init(loop, pipes[i], 0);
        pipes[i]->data = k;
    }
    uv_timer_init(loop, &k->last_call);
    k->process.data = k->last_call.data = k->spec_write.data = k;
    k->open = 6; /* and the process, once uv_spawn has made it a handle */
    mull_lines_init(&k->out_lines, MULL_LOG_LINE_MAX, true);
    mull_lines_init(&k->err_lines, MULL_LOG_LINE_MAX, true);
    mull_lines_init(&k->event_lines, MULL_ENGINE_LINE_MAX, false);
    mull_lines_init(&k->control_lines, 256, false);
}

/* ours[i] / theirs[i]: the two ends of descriptor i of the supervisor. */
static int open_ends(int ours[5], int theirs[5]) {
    for (int i = 0; i < 5; i++) {
        int fd[2], rc;
        if (i == MULL_SUPERVISE_CONTROL)
            rc = uv_socketpair(SOCK_STREAM, 0, fd, UV_NONBLOCK_PIPE, 0);
        else if (i == 0)
            rc = uv_pipe(fd, 0, UV_NONBLOCK_PIPE);
        else
            rc = uv_pipe(fd, UV_NONBLOCK_PIPE, 0);
        if (rc != 0) {
            for (int j = 0; j < i; j++) {
                close(ours[j]);
                close(theirs[j]);
            }
            return rc;
        }
        ours[i] = i == 0 ? fd[1] : fd[0];
        theirs[i] = i == 0 ? fd[0] : fd[1];
    }
    return 0;
}

static int spawn(mull_rank *k, int theirs[5]) {
    const mull_worker_config *c = &k->run->w->cfg;
    const char *words[] = {"mull-worker", "__supervise", c->self, "__stage", c->engine, "run", NULL};
    const char *bare[] = {"mull-worker", "__supervise", c->engine, "run", NULL};
    char **argv = (char **)(uintptr_t)(c->transfer ? words : bare);
    uv_stdio_container_t stdio[5];
    env *e = malloc(sizeof *e);
    if (!e) return UV_ENOMEM;
    if (make_env(k, e) != 0) {
        free(e);
        return UV_E2BIG;
    }
    for (int i = 0; i < 5; i++) {
        stdio[i].flags = UV_INHERIT_FD;
        stdio[i].data.fd = theirs[i];
    }
    uv_process_options_t o = {.exit_cb = on_exit_cb,
                              .file = c->self,
                              .args = argv,
                              .env = e->at,
                              .cwd = k->dir,
                              .flags = UV_PROCESS_DETACHED,
                              .stdio_count = 5,
                              .stdio = stdio};
    int rc = uv_spawn(&k->run->w->loop, &k->process, &o);
    k->process_made = true; /* a handle even when it failed */
    k->open++;
    free(e);
    return rc;
}

static void send_spec(mull_rank *k) {
    mull_run *r = k->run;
    char *text = json_dumps(r->spec, JSON_COMPACT);
    if (!text) abort();
    /* Kept in the rank until written: the pipe holds less than a long spec. */
    uv_buf_t b = uv_buf_init(text, (unsigned)strlen(text));
    k->spec_text = text;
    if (uv_write(&k->spec_write, (uv_stream_t *)&k->in, &b, 1, on_spec_written) != 0)
        uv_close((uv_handle_t *)&k->in, on_rank_handle_closed);
}

static int try_start(mull_rank *k, const char **where) {
    int ours[5], theirs[5];
    uv_pipe_t *pipes[] = {&k->in, &k->out, &k->err, &k->events, &k->control};
    *where = k->dir;
    const mull_engine_user *u = &k->run->w->cfg.user;
    if (mkdir(k->dir, 0700) != 0 || (u->uid && chown(k->dir, u->uid, u->gid) != 0))
        return uv_translate_sys_error(errno);
    int rc = open_ends(ours, theirs);
    if (rc != 0) return rc;
    for (int i = 0; i < 5; i++) uv_pipe_open(pipes[i], ours[i]);
    *where = k->run->w->cfg.self;
    rc = spawn(k, theirs);
    for (int i = 0; i < 5; i++) close(theirs[i]);
    if (rc != 0) return rc;
    k->spawned = true;
    k->pipes = 4;
    uv_read_start((uv_stream_t *)&k->control, on_alloc, on_read);
    mull__rank_lease(k);
    send_spec(k);
    return 0;
}

void mull__rank_start(mull_rank *k) {
    const char *where;
    init_handles(k);
    int rc = try_start(k, &where);
    if (rc == 0) return;
    k->spawn_failed = true;
    snprintf(k->run->message, sizeof k->run->message,
             "error: cannot start the engine (%.900s): %s; see the worker's log", where, uv_strerror(rc));
    close_all(k);
}

/* ---- tidying up ---- */

static void remove_dir(uv_work_t *work) {
    mull_remove_tree(work->data); /* what stays goes when the worker starts again */
}

static void removed(uv_work_t *work, int status) {
    (void)status;
    free(work->data);
    free(work);
}

void mull__rank_free(mull_rank *k) {
    if (!k) return;
    unlink(k->record);
    uv_work_t *work = malloc(sizeof *work);
    if (work) work->data = strdup(k->dir);
    if (work && (!work->data || uv_queue_work(&k->run->w->loop, work, remove_dir, removed) != 0)) {
        free(work->data);
        free(work);
    }
    mull_lines_fini(&k->out_lines);
    mull_lines_fini(&k->err_lines);
    mull_lines_fini(&k->event_lines);
    mull_lines_fini(&k->control_lines);
    json_decref(k->log);
    free(k->spec_text);
    free(k);
}
