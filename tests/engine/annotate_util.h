/* Annotations for tests: a folder with a tiny model, and mull-engine as a process that can be killed. */
#ifndef MULL_TESTS_ENGINE_ANNOTATE_UTIL_H
#define MULL_TESTS_ENGINE_ANNOTATE_UTIL_H

#include "tests/engine/model_util.h"

#include "engine/model/init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

typedef struct place {
    char dir[64];
    char model[80], in[80], out[80];
} place;

static inline void place_init(place *p) {
    mull_error err = {0};
    snprintf(p->dir, sizeof p->dir, "/tmp/mull_annotate_XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->model, sizeof p->model, "%s/model", p->dir);
    snprintf(p->in, sizeof p->in, "%s/in.jsonl", p->dir);
    snprintf(p->out, sizeof p->out, "%s/out", p->dir);
    assert_int_equal(mull_init_checkpoint("tiny", p->model, 5, NULL, &err), 0);
}

static inline void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline void shell(const char *fmt, ...) {
    char command[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    int rc = system(command);
    if (rc) fprintf(stderr, "failed: %s\n", command);
    assert_int_equal(rc, 0);
}

static inline void place_fini(place *p) {
    shell("rm -rf %s", p->dir);
}

static inline void put_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void put_text(const char *path, const char *text) {
    put_file(path, text, strlen(text));
}

/* The caller frees out. */
static inline mull_buf get_file(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    mull_buf b = {0};
    mull_error err = {0};
    if (mull_read_file(path, 1 << 28, "file", &b, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    free(path);
    return b;
}

static inline bool there(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    struct stat st;
    bool yes = stat(path, &st) == 0;
    free(path);
    return yes;
}

static inline void same_files(const char *a, const char *b, const char *name) {
    mull_buf x = get_file(a, name), y = get_file(b, name);
    assert_int_equal(x.len, y.len);
    if (x.len) assert_memory_equal(x.data, y.data, x.len);
    mull_buf_fini(&x);
    mull_buf_fini(&y);
}

/* Line i (from 0) of a JSON lines file, NULL behind the last. The caller's. */
static inline json_t *line_of(const mull_buf *b, size_t i) {
    const char *p = b->data, *end = b->data + b->len;
    for (; p && p < end && i; i--) {
        p = memchr(p, '\n', (size_t)(end - p));
        p = p ? p + 1 : end;
    }
    if (!p || p >= end) return NULL;
    const char *lf = memchr(p, '\n', (size_t)(end - p));
    assert_non_null(lf); /* every line is whole */
    json_t *o = json_loadb(p, (size_t)(lf - p), JSON_ALLOW_NUL, NULL);
    assert_non_null(o);
    return o;
}

static inline size_t count_lines(const mull_buf *b) {
    size_t n = 0;
    for (size_t i = 0; i < b->len; i++) n += b->data[i] == '\n';
    return n;
}

/* A text inside JSON, by a path such as "error.code"; "" when there is none. */
static inline const char *text_at(const json_t *o, const char *path) {
    char key[64];
    while (o && *path) {
        size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        o = json_is_array(o) ? json_array_get(o, (size_t)atoi(key)) : json_object_get(o, key);
        path += n + (path[n] == '.');
    }
    return json_is_string(o) ? json_string_value(o) : "";
}

/* Starts mull-engine with args (NULL at the end); stdout and stderr go to files of dir, stdin comes from in (or
 * /dev/null). fsize: RLIMIT_FSIZE, 0 none. events: what becomes descriptor 3, -1 closed. */
static inline pid_t start_engine(const char *dir, const char *const *args, const char *in, int events, rlim_t fsize) {
    char out[128], err[128];
    snprintf(out, sizeof out, "%s/stdout", dir);
    snprintf(err, sizeof err, "%s/stderr", dir);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid) return pid;
    const char *argv[48] = {"mull-engine"};
    for (int i = 0; args[i]; i++) argv[i + 1] = args[i];
    int fd = events >= 0 ? dup2(events, 20) : -1;
    if (!freopen(in ? in : "/dev/null", "r", stdin) || !freopen(out, "w", stdout) || !freopen(err, "w", stderr))
        _exit(99);
    if (fd >= 0)
        dup2(fd, 3);
    else
        close(3);
    for (int i = 4; i < 64; i++) close(i);
    if (fsize) setrlimit(RLIMIT_FSIZE, &(struct rlimit){fsize, fsize});
    execv(MULL_BIN_DIR "/mull-engine", (char *const *)(uintptr_t)argv);
    _exit(98);
}

/* Its exit status, or -signal. */
static inline int wait_engine(pid_t pid) {
    int st;
    while (waitpid(pid, &st, 0) < 0) assert_int_equal(errno, EINTR);
    return WIFEXITED(st) ? WEXITSTATUS(st) : -WTERMSIG(st);
}

static inline void sleep_ms(int64_t ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Annotates p->in into out with up to 12 more flags. */
static inline pid_t start_annotate(const place *p, const char *out, rlim_t fsize, const char *const *more) {
    const char *args[40] = {"annotate", "--model", p->model, "--in", p->in, "--out", out, "--threads", "1"};
    for (int i = 0; more && more[i]; i++) args[9 + i] = more[i];
    return start_engine(p->dir, args, NULL, -1, fsize);
}

static inline int annotate(const place *p, const char *out, const char *const *more) {
    int rc = wait_engine(start_annotate(p, out, 0, more));
    if (rc) {
        mull_buf b = get_file(p->dir, "stderr");
        fprintf(stderr, "%s", b.data ? b.data : "");
        mull_buf_fini(&b);
    }
    return rc;
}

static inline bool stderr_has(const place *p, const char *text) {
    mull_buf b = get_file(p->dir, "stderr");
    bool yes = b.data && strstr(b.data, text);
    if (!yes) fprintf(stderr, "no '%s' in: %s", text, b.data ? b.data : "");
    mull_buf_fini(&b);
    return yes;
}

#endif
