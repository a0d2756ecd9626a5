/* See jobs.h. */
#include "cli/jobs.h"

#include "cli/args.h"
#include "schema/states.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* JSON escapes the control characters of ASCII. The later ones (DEL, and U+0080 to U+009F, among them CSI, which begins
 * an order to some terminals) may stand in it as they are, so they are escaped here. */
static int write_safely(const char *bytes, size_t n, void *arg) {
    bool *half = arg; /* the first byte of such a character has come */
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (*half && c >= 0x80 && c < 0xA0)
            printf("\\u00%02x", c);
        else if (*half)
            printf("\xC2%c", c);
        else if (c == 0x7F)
            printf("\\u007f");
        else if (c != 0xC2)
            putchar(c);
        *half = !*half && c == 0xC2;
    }
    return ferror(stdout) ? -1 : 0;
}

void mull_emit(json_t *json) {
    bool half = false;
    int rc = json ? json_dump_callback(json, write_safely, &half, JSON_COMPACT) : -1;
    json_decref(json);
    if (rc != 0 || fputc('\n', stdout) == EOF || fflush(stdout) != 0) exit(mull_output_failed());
}

int mull_output_failed(void) {
    if (errno == EPIPE) return MULL_EXIT_FAILED; /* the reader has seen enough */
    return mull_complain("cannot write output", "stdout", "check the disk", "%s", strerror(errno));
}

const char *mull_text(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

int mull_id_check(const char *cmd, const char *text) {
    size_t n = strspn(text, "0123456789"), m = text[n] == '_' ? strspn(text + n + 1, "0123456789") : 0;
    if (n && n <= 18 && strspn(text, "0") < n && m <= 10 && !text[n + m + (m > 0)]) return 0;
    return mull_usage(cmd, "'%s' is no job id; ids are numbers (ARRAY_INDEX for a task), mull ps lists them", text);
}

mull_client *mull_client_or_complain(void) {
    mull_err err;
    mull_client *c = mull_client_open(&err);
    if (!c) mull_err_print(stderr, &err);
    return c;
}

int mull_ask(const char *method, const char *path, const json_t *body, json_t **out) {
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    int rc = mull_client_get(c, method, path, body, out);
    mull_client_close(c);
    return rc;
}

void mull_query_encode(const char *text, char *out, size_t cap) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    size_t n = 0;
    for (; *text && n + 4 < cap; text++) {
        if (strchr(plain, *text))
            out[n++] = *text;
        else
            n += (size_t)snprintf(out + n, 4, "%%%02X", (unsigned char)*text);
    }
    out[n] = 0;
}

bool mull_confirm(bool yes, const char *fmt, ...) {
    char answer[16];
    if (yes || !isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) return true;
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs(" [y/N] ", stderr);
    bool agreed = fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
    if (!agreed) fputs("nothing was changed\n", stderr);
    return agreed;
}

void mull_pause(double seconds) {
    struct timespec ts = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
    nanosleep(&ts, NULL);
}

static volatile sig_atomic_t interrupted;
static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

int mull_job_exit(const json_t *job) {
    const char *state = mull_text(job, "state");
    const json_t *status = json_object_get(job, "exit");
    if (!strcmp(state, "COMPLETED")) return MULL_EXIT_OK;
    if (!strcmp(state, "CANCELLED")) return MULL_WAIT_CANCELLED;
    if (!strcmp(state, "TIMEOUT")) return MULL_WAIT_TIMEOUT;
    if (!strcmp(state, "FAILED")) {
        json_int_t n = json_integer_value(status);
        return n > 0 && n < 256 ? (int)n : MULL_EXIT_FAILED;
    }
    return MULL_WAIT_OTHER;
}

void mull_job_epilogue(const json_t *job) {
    double begun = mull_when(json_object_get(job, "started_at")), ended = mull_when(json_object_get(job, "ended_at"));
    char span[40] = "", message[1600];
    if (isfinite(begun) && isfinite(ended)) mull_span(ended - begun, span, sizeof span);
    bool color = mull_term_color(stderr);
    const char *state = mull_text(job, "state"), *why = mull_text(job, "message");
    mull_text_clean(why, -1, message, sizeof message);
    fprintf(stderr, "job %s %s%s%s%s%s%s%s\n", mull_text(job, "id"), mull_state_color(state, color), state,
            mull_color_reset(color), *span ? " in " : "", span, *message ? ": " : "", message);
}

int mull_wait_job(mull_client *c, const char *id, bool quiet, double timeout_s, json_t **job) {
    char path[64];
    double until = timeout_s > 0 ? mull_now() + timeout_s : INFINITY, pause = 0.05;
    bool reached = false, away = false;
    mull_bar bar;
    struct sigaction old, sa = {.sa_handler = on_interrupt};
    int rc = -1;
    *job = NULL;
    mull_bar_init(&bar);
    snprintf(path, sizeof path, "/v1/jobs/%.32s", id);
    sigaction(SIGINT, &sa, &old);
    while (rc < 0) {
        mull_err err;
        mull_reply r;
        int lost = mull_client_call(c, "GET", path, NULL, &r, &err);
        if (!lost && r.status == 200 && r.json) {
            json_decref(*job);
            *job = r.json;
            reached = true;
            away = false;
            if (!quiet) mull_bar_show(&bar, *job);
            if (mull_job_state_terminal(mull_text(*job, "state"))) rc = MULL_EXIT_OK;
        } else if (!lost && r.status < 500) {
            mull_bar_clear(&bar);
            rc = mull_client_refused(&r, NULL, NULL);
            json_decref(r.json);
        } else if (!reached) {
            if (lost)
                mull_err_print(stderr, &err);
            else
                mull_client_refused(&r, NULL, NULL);
            json_decref(r.json);
            rc = MULL_EXIT_FAILED;
        } else {
            json_decref(r.json);
            if (!away && !quiet) {
                mull_bar_clear(&bar);
                fprintf(stderr, "the queue does not answer; waiting for it\n");
            }
            away = true;
        }
        if (rc >= 0) break;
        if (interrupted) {
            mull_bar_clear(&bar);
            fprintf(stderr, "job %s goes on; mull wait %s waits again, mull cancel %s stops it\n", id, id, id);
            rc = MULL_WAIT_INTERRUPTED;
        } else if (mull_now() >= until) {
            mull_bar_clear(&bar);
            mull_complain("gave up waiting", id, "the job goes on; wait again", "%.0f s have passed", timeout_s);
            rc = MULL_WAIT_TIMEOUT;
        } else {
            mull_pause(pause);
            if (pause < 0.4) pause *= 1.3;
        }
    }
    sigaction(SIGINT, &old, NULL);
    mull_bar_clear(&bar);
    return rc;
}

char *mull_train_folder(const char *id, const char *what) {
    char path[64], *out = NULL;
    json_t *j;
    snprintf(path, sizeof path, "/v1/jobs/%.20s", id);
    if (mull_ask("GET", path, NULL, &j)) return NULL;
    const char *folder = mull_text(json_object_get(j, "spec"), "out");
    if (strcmp(mull_text(j, "kind"), "train") != 0 || !*folder)
        mull_complain(what, id, "give a training job whose recipe is GRPO", "job %s does not train", id);
    else
        out = strdup(folder);
    json_decref(j);
    return out;
}

static void progress_text(const json_t *job, char *out, size_t cap) {
    const json_t *p = json_object_get(job, "progress");
    json_int_t done = json_integer_value(json_object_get(p, "done")),
               total = json_integer_value(json_object_get(p, "total"));
    out[0] = 0;
    if (json_is_object(p)) snprintf(out, cap, total > 0 ? "%lld/%lld" : "%lld", (long long)done, (long long)total);
}

/* 17, 17_[0-99%10] for an array, 17_3 for a task of it. */
static void task_id(const json_t *job, char *out, size_t cap) {
    const json_t *array = json_object_get(job, "array"), *index = json_object_get(job, "array_index");
    if (json_is_object(array))
        snprintf(out, cap, "%s_[%.40s]", mull_text(job, "id"), mull_text(array, "range"));
    else if (json_is_integer(index))
        snprintf(out, cap, "%s_%lld", mull_text(job, "array_job"), (long long)json_integer_value(index));
    else
        snprintf(out, cap, "%s", mull_text(job, "id"));
}

void mull_jobs_write(const json_t *jobs, bool wide, FILE *f, int width, bool color) {
    static const mull_column narrow[] = {{"ID", .right = true},    {"NAME", .shrink = 6},   {"KIND"},
                                         {"STATE", .state = true}, {"REASON", .shrink = 4}, {"PROGRESS", .right = true},
                                         {"TIME", .right = true},  {"EXIT", .right = true}, {"NODE", .shrink = 4}};
    static const mull_column all[] = {{"ID", .right = true},
                                      {"NAME", .shrink = 6},
                                      {"KIND"},
                                      {"STATE", .state = true},
                                      {"REASON", .shrink = 4},
                                      {"PROGRESS", .right = true},
                                      {"TIME", .right = true},
                                      {"EXIT", .right = true},
                                      {"NODE", .shrink = 4},
                                      {"USER", .shrink = 4},
                                      {"TEAM", .shrink = 4},
                                      {"PRI", .right = true},
                                      {"TRY", .right = true},
                                      {"SUBMITTED"}};
    mull_table t;
    mull_table_init(&t, wide ? all : narrow, wide ? 14 : 9);
    size_t i;
    const json_t *j;
    double now = mull_now();
    json_array_foreach(jobs, i, j) {
        char id[80], progress[48], span[40] = "", status[16] = "", priority[16], attempt[16];
        double begun = mull_when(json_object_get(j, "started_at")), ended = mull_when(json_object_get(j, "ended_at"));
        const char *state = mull_text(j, "state");
        bool over = mull_job_state_terminal(state);
        progress_text(j, progress, sizeof progress);
        if (isfinite(begun) && (over ? isfinite(ended) : !strcmp(state, "RUNNING")))
            mull_span((over ? ended : now) - begun, span, sizeof span);
        if (json_is_integer(json_object_get(j, "exit")))
            snprintf(status, sizeof status, "%lld", (long long)json_integer_value(json_object_get(j, "exit")));
        snprintf(priority, sizeof priority, "%lld", (long long)json_integer_value(json_object_get(j, "priority")));
        snprintf(attempt, sizeof attempt, "%lld", (long long)json_integer_value(json_object_get(j, "attempt")));
        task_id(j, id, sizeof id);
        const char *cells[] = {id,
                               mull_text(j, "name"),
                               mull_text(j, "kind"),
                               state,
                               mull_text(j, "reason"),
                               progress,
                               span,
                               status,
                               mull_text(j, "node"),
                               mull_text(j, "user"),
                               mull_text(j, "team"),
                               priority,
                               attempt,
                               mull_text(j, "submitted_at")};
        mull_table_row(&t, cells);
    }
    mull_table_print(&t, f, width, color);
    mull_table_fini(&t);
}

void mull_jobs_table(const json_t *jobs, bool wide) {
    mull_jobs_write(jobs, wide, stdout, mull_term_width(stdout), mull_term_color(stdout));
}

void mull_list_show(json_t *r, const char *key, const mull_column *columns, const char *const *keys, size_t n,
                    bool json) {
    mull_table t;
    json_t *v;
    size_t i;
    mull_table_init(&t, columns, n);
    json_array_foreach(json_object_get(r, key), i, v) {
        char numbers[8][24];
        const char *cells[8];
        for (size_t k = 0; k < n; k++) {
            const json_t *x = json_object_get(v, keys[k]);
            snprintf(numbers[k], sizeof numbers[k], "%lld", (long long)json_integer_value(x));
            cells[k] = json_is_integer(x) ? numbers[k] : mull_text(v, keys[k]);
        }
        mull_table_row(&t, cells);
        if (json) mull_emit(json_incref(v));
    }
    if (!json && t.nrows)
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    else if (!json)
        fprintf(stderr, "there are no %s\n", key);
    mull_table_fini(&t);
}
