/* Events; see events.h. One mutex guards the descriptor and everything but the stop flags. */
#include "engine/job/events.h"

#include "engine/text/utf8.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { POINTS_STEPS = 256, POINTS_MS = 1000 }; /* of a metrics line: most steps, longest wait */
enum { TICK_MS = 250, HEARTBEAT_MS = 2000, LOST_GRACE_MS = 15000, LINES_EVERY_MS = 5000 };

static atomic_bool signalled; /* lock-free, so a handler may set it; other threads read it */

struct mull_events {
    int fd;
    bool human, terminal, threaded;
    pthread_t thread;
    pthread_mutex_t lock;          /* the descriptor, stderr's progress line, the times below */
    int64_t progress_ms, errors;   /* errors: -1: nobody counts them */
    bool line_open;                /* a progress line on the terminal waits to be overwritten */
    json_t *keys, *steps, *values; /* of the metrics line that is being gathered; keys NULL: none */
    int64_t points_ms;             /* when its first step came */
    atomic_bool lost, quit, loading;
    atomic_long beats;
};

static void on_signal(int sig) {
    (void)sig;
    atomic_store(&signalled, true);
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* With the lock held. A write that a signal interrupts while nobody reads gives up, so that a stopped reader cannot
 * keep the job from stopping. */
static void put(mull_events *e, const char *s, size_t n) {
    while (n && e->fd >= 0 && !atomic_load(&e->lost)) {
        ssize_t w = write(e->fd, s, n);
        if (w >= 0) {
            s += w;
            n -= (size_t)w;
        } else if (errno != EINTR || atomic_load(&signalled)) {
            atomic_store(&e->lost, true);
        }
    }
}

/* With the lock held. */
static void put_points(mull_events *e) {
    if (!e->keys) return;
    json_t *line =
        json_pack("{s:s,s:o,s:o,s:o}", "ev", "metrics", "keys", e->keys, "steps", e->steps, "values", e->values);
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(line);
    e->keys = e->steps = e->values = NULL;
    size_t n = text ? strlen(text) : 0;
    if (text) text[n] = '\n'; /* over the NUL */
    if (text && n <= MULL_EVENT_LINE_MAX) put(e, text, n + 1);
    free(text);
}

static void flush_points(mull_events *e, int64_t older_than_ms) {
    pthread_mutex_lock(&e->lock);
    if (e->keys && now_ms() - e->points_ms >= older_than_ms) put_points(e);
    pthread_mutex_unlock(&e->lock);
}

static bool same_keys(const json_t *keys, const json_t *values) {
    const char *key;
    json_t *v;
    size_t i = 0;
    json_object_foreach((json_t *)(uintptr_t)values, key, v) {
        const char *have = json_string_value(json_array_get(keys, i++));
        if (!have || strcmp(have, key) != 0) return false;
    }
    return i == json_array_size(keys);
}

void mull_events_metrics(mull_events *e, int64_t step, const json_t *values) {
    const char *key;
    json_t *v, *row = json_array();
    pthread_mutex_lock(&e->lock);
    if (e->keys && !same_keys(e->keys, values)) put_points(e);
    if (!e->keys) {
        e->keys = json_array();
        e->steps = json_array();
        e->values = json_array();
        e->points_ms = now_ms();
        json_object_foreach((json_t *)(uintptr_t)values, key, v) json_array_append_new(e->keys, json_string(key));
    }
    json_object_foreach((json_t *)(uintptr_t)values, key, v)
        json_array_append_new(row, json_real(json_number_value(v)));
    json_array_append_new(e->steps, json_integer((json_int_t)step));
    json_array_append_new(e->values, row);
    if (json_array_size(e->steps) >= POINTS_STEPS || now_ms() - e->points_ms >= POINTS_MS) put_points(e);
    pthread_mutex_unlock(&e->lock);
}

static void *tick(void *arg) {
    mull_events *e = arg;
    int64_t beat_ms = now_ms(), lost_ms = 0;
    long seen = -1;
    while (!atomic_load(&e->quit)) {
        struct pollfd p = {.fd = e->fd};
        if (e->fd >= 0 && !atomic_load(&e->lost)) {
            /* A pipe or socket without a reader shows at once, not at the next line. */
            if (poll(&p, 1, 0) > 0 && (p.revents & (POLLERR | POLLHUP | POLLNVAL))) atomic_store(&e->lost, true);
        }
        int64_t now = now_ms();
        if (atomic_load(&e->lost) && !lost_ms) lost_ms = now;
        bool loading = atomic_load(&e->loading);
        flush_points(e, POINTS_MS);
        if ((mull_events_stopped(e) && loading) || (lost_ms && now - lost_ms > LOST_GRACE_MS)) _exit(MULL_EXIT_REQUEUE);
        long beats = atomic_load(&e->beats);
        if (now - beat_ms >= HEARTBEAT_MS && (loading || beats != seen)) {
            seen = beats;
            beat_ms = now;
            mull_events_emit(e, "heartbeat", json_pack("{s:s}", "phase", loading ? "loading" : "working"));
        }
        struct timespec t = {.tv_nsec = TICK_MS * 1000000l};
        nanosleep(&t, NULL);
    }
    return NULL;
}

int mull_events_create(int fd, bool human, mull_events **out, mull_error *err) {
    mull_events *e = calloc(1, sizeof *e);
    if (!e) return mull_fail(err, MULL_ENOMEM, "cannot start", "events", "", "out of memory");
    e->fd = fd;
    e->errors = -1;
    e->human = human;
    e->terminal = human && isatty(STDERR_FILENO);
    atomic_store(&e->loading, true);
    pthread_mutex_init(&e->lock, NULL);
    atomic_store(&signalled, false);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    struct sigaction sa = {.sa_handler = on_signal}; /* no SA_RESTART: a blocked write has to return */
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    /* The signals belong to the job's own thread. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    e->threaded = pthread_create(&e->thread, NULL, tick, e) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    *out = e;
    return MULL_OK;
}

void mull_events_destroy(mull_events *e) {
    if (!e) return;
    atomic_store(&e->quit, true);
    if (e->threaded) pthread_join(e->thread, NULL);
    flush_points(e, 0);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

void mull_events_loading(mull_events *e, bool loading) {
    atomic_store(&e->loading, loading);
    mull_events_beat(e);
}

void mull_events_beat(mull_events *e) {
    atomic_fetch_add(&e->beats, 1);
}

bool mull_events_stopped(const mull_events *e) {
    return atomic_load(&signalled) || atomic_load(&e->lost);
}

void mull_events_emit(mull_events *e, const char *type, json_t *fields) {
    if (strcmp(type, "heartbeat") && strcmp(type, "log") && strcmp(type, "progress")) flush_points(e, 0);
    json_t *line = json_pack("{s:s}", "ev", type);
    if (fields) json_object_update(line, fields);
    json_decref(fields);
    char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(line);
    size_t n = text ? strlen(text) : 0;
    if (n > MULL_EVENT_LINE_MAX) {
        free(text);
        mull_events_log(e, "warning", "an event of type %s with %zu bytes was too long to send", type, n);
        return;
    }
    if (text) {
        text[n] = '\n'; /* over the NUL: the line goes out in one write */
        pthread_mutex_lock(&e->lock);
        put(e, text, n + 1);
        pthread_mutex_unlock(&e->lock);
    }
    free(text);
}

static void show_progress(mull_events *e, int64_t done, int64_t total, const char *unit, int64_t tokens, double eta_s) {
    char eta[48] = "";
    if (eta_s >= 0) {
        long long s = (long long)(eta_s + 0.5);
        snprintf(eta, sizeof eta, ", %lld:%02lld:%02lld left", s / 3600, s / 60 % 60, s % 60);
    }
    fprintf(stderr, "%s%lld of %lld %s, %lld tokens%s%s", e->terminal ? "\r\x1b[K" : "", (long long)done,
            (long long)total, unit, (long long)tokens, eta, e->terminal ? "" : "\n");
    e->line_open = e->terminal;
    if (e->terminal && done == total) {
        fputc('\n', stderr);
        e->line_open = false;
    }
    fflush(stderr);
}

void mull_events_errors(mull_events *e, int64_t errors) {
    pthread_mutex_lock(&e->lock);
    e->errors = errors;
    pthread_mutex_unlock(&e->lock);
}

void mull_events_progress(mull_events *e, int64_t done, int64_t total, const char *unit, int64_t tokens, double eta_s,
                          bool last) {
    int64_t now = now_ms(), every = e->human && !e->terminal ? LINES_EVERY_MS : 1000;
    mull_events_beat(e);
    pthread_mutex_lock(&e->lock);
    bool due = last || !e->progress_ms || now - e->progress_ms >= every;
    if (due) e->progress_ms = now;
    int64_t errors = e->errors;
    if (due && e->human) show_progress(e, done, total, unit, tokens, eta_s);
    pthread_mutex_unlock(&e->lock);
    if (!due) return;
    json_t *o = json_pack("{s:I, s:I, s:s, s:I, s:o}", "done", (json_int_t)done, "total", (json_int_t)total, "unit",
                          unit, "tokens", (json_int_t)tokens, "eta_s",
                          eta_s >= 0 ? json_integer((json_int_t)(eta_s + 0.5)) : json_null());
    if (errors >= 0) json_object_set_new(o, "errors", json_integer((json_int_t)errors));
    mull_events_emit(e, "progress", o);
}

json_t *mull_json_text(const char *s, size_t n) {
    json_t *v = json_stringn(s, n);
    if (v) return v;
    mull_buf b = {0};
    if (!mull_utf8_lossy(s, n, true, NULL, &b)) v = json_stringn(b.data ? b.data : "", b.len);
    mull_buf_fini(&b);
    return v;
}

void mull_events_log(mull_events *e, const char *level, const char *fmt, ...) {
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (e->human) {
        pthread_mutex_lock(&e->lock);
        fprintf(stderr, "%s%s: %s\n", e->line_open ? "\r\x1b[K" : "", level, text);
        e->line_open = false;
        pthread_mutex_unlock(&e->lock);
    }
    mull_events_emit(e, "log", json_pack("{s:s, s:o}", "level", level, "text", mull_json_text(text, strlen(text))));
}

const char *mull_error_class(int code) {
    switch (code) {
    case MULL_ENOMEM:
        return "oom";
    case MULL_EIO:
    case MULL_ENOSPACE:
    case MULL_EINTERNAL:
        return "infra"; /* a full disk too: another node, or the same later, can go on where this one ended */
    case MULL_ECANCELLED:
        return "requeue";
    default:
        return "user";
    }
}

void mull_events_error(mull_events *e, const mull_error *err) {
    char line[sizeof(mull_error) + 64];
    mull_error_line(err, line, sizeof line);
    mull_events_emit(e, "error",
                     json_pack("{s:s, s:o, s:o, s:o, s:o, s:s, s:o}", "class", mull_error_class(err->code), "what",
                               mull_json_text(err->what, strlen(err->what)), "where",
                               mull_json_text(err->where, strlen(err->where)), "why",
                               mull_json_text(err->why, strlen(err->why)), "todo",
                               mull_json_text(err->todo, strlen(err->todo)), "code", mull_status_name(err->code),
                               "message", mull_json_text(line, strlen(line))));
}
