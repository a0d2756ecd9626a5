/* See jobspec.h. One table holds every key: its type, bounds, default and the kinds of job it belongs to; checking,
 * suggestions and defaults all walk it. */
#include "schema/jobspec.h"

#include "schema/array_range.h"
#include "schema/spec_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef enum field_type {
    T_TEXT,
    T_PATH,
    T_INT,
    T_NUMBER,
    T_BOOL,
    T_WORD,
    T_WORDS,
    T_PATHS,
    T_TEXTS,
    T_MESSAGES,
    T_MAP,
    T_DURATION,
    T_BEGIN,
    T_AFTER,
    T_ARRAY
} field_type;

enum { GENERATE = 1, ANNOTATE = 2, TRAIN = 4, EVAL = 8, SERVE = 16, ROLLOUT = 32 };
enum { ANSWERS = GENERATE | ANNOTATE | SERVE, ASKS = ANSWERS | EVAL, ALL = ASKS | TRAIN | ROLLOUT };

/* Names of evaluation tasks, the engine's own (engine/eval/task.c) and their other names. */
#define TASKS                                                                                                          \
    "blink_iqtest|blink_sprel|blink_mv|blink_reldepth|blink_jigsaw|sat_real|vsibench|erqa|mmsi_bench|stare|sitebench|" \
    "vstar_bench|mmmu_val|mmmu|mmvu|mmvu_val|mme_realworld|mmerealworld|mme_realworld_lite|mmerealworld_lite|vqav2|"   \
    "vqav2_val|puzzles"

typedef struct field {
    const char *name;
    field_type type;
    int kinds;
    double lo, hi;        /* T_INT, T_NUMBER; T_TEXT: bytes */
    const char *words;    /* T_WORD, T_WORDS: "a|b" */
    const char *fallback; /* JSON, NULL: none */
    int open;             /* kinds that have no fallback: what they do without the key is the engine's */
} field;

#define BIG 9007199254740992.0
static const field sampling_fields[] = {
    {"max_new_tokens", T_INT, ASKS, 1, 1 << 20, NULL, "512", EVAL}, /* eval: each task's own */
    /* Without a value the checkpoint's generation_config.json decides, as it does by hand. */
    {"temperature", T_NUMBER, ASKS, 0, 100, NULL, NULL},
    {"top_p", T_NUMBER, ANSWERS, 1e-9, 1, NULL, NULL},
    {"top_k", T_INT, ANSWERS, 0, 1 << 24, NULL, NULL},
    {"repetition_penalty", T_NUMBER, ASKS, 1e-3, 100, NULL, NULL},
    {"seed", T_INT, ASKS, 0, BIG, NULL, "0"},
    {"stop", T_TEXTS, ANSWERS, 0, 64, NULL, NULL},
    {"regex", T_TEXT, ANSWERS, 1, 65536, NULL, NULL},
    {"choices", T_TEXTS, ANSWERS, 0, 10000, NULL, NULL},
    {"ignore_eos", T_BOOL, ANSWERS, 0, 0, NULL, "false"},
    {NULL},
};

static const field fields[] = {
    {"kind", T_WORD, ALL, 0, 0, "generate|annotate|train|eval|serve|rollout", NULL},
    {"name", T_TEXT, ALL, 1, 100, NULL, NULL},
    {"team", T_TEXT, ALL, 1, 63, NULL, "\"default\""},
    {"priority", T_INT, ALL, -100, 100, NULL, "0"},
    {"time_limit", T_DURATION, ALL, 0, 0, NULL, NULL},
    {"gpus", T_INT, ALL, 0, 4096, NULL, "0"},
    {"slots", T_INT, ALL, 1, 4096, NULL, NULL},
    {"labels", T_TEXTS, ALL, 0, 16, NULL, NULL},
    {"key", T_TEXT, ALL, 1, 200, NULL, NULL},
    {"after", T_AFTER, ALL, 0, 0, NULL, NULL},
    {"begin", T_BEGIN, ALL, 0, 0, NULL, NULL},
    {"hold", T_BOOL, ALL, 0, 0, NULL, "false"},
    {"retries", T_INT, ALL, 0, 100, NULL, "3"},
    {"preemptible", T_BOOL, ALL, 0, 0, NULL, NULL}, /* generate, serve: false, others: true; see mull_submit */
    {"min_run", T_INT, ALL, 0, 604800, NULL, NULL},
    {"array", T_ARRAY, ALL, 0, 0, NULL, NULL},
    {"model", T_PATH, ASKS | TRAIN, 0, 0, NULL, NULL},
    {"out", T_PATH, ALL, 0, 0, NULL, NULL},
    {"output", T_PATH, ALL, 0, 0, NULL, NULL},
    {"dtype", T_WORD, ASKS, 0, 0, "auto|f32|bf16|int8", "\"auto\""},
    {"latents", T_INT, ASKS, 0, 4096, NULL, "20"},
    {"mode", T_WORD, ASKS, 0, 0, "mmlatent2|new_wtxt|new_sepprompt|none", NULL},
    {"prompt_format", T_WORD, ASKS, 0, 0, "mull|chatml|old", NULL},
    {"min_pixels", T_INT, ASKS, 1, BIG, NULL, NULL},
    {"max_pixels", T_INT, ASKS, 1, BIG, NULL, NULL},
    {"fps", T_NUMBER, ASKS, 1e-6, 1e6, NULL, NULL},
    {"nframes", T_INT, ASKS, 2, 1 << 20, NULL, NULL},
    {"media_roots", T_PATHS, ANSWERS, 0, 256, NULL, NULL},
    {"sampling", T_MAP, ASKS, 0, 0, NULL, "{}"},
    {"prompt", T_TEXT, GENERATE | ANNOTATE, 0, 1 << 20, NULL, NULL},
    {"messages", T_MESSAGES, GENERATE, 0, 0, NULL, NULL},
    {"images", T_PATHS, GENERATE, 0, 4096, NULL, NULL},
    {"videos", T_PATHS, GENERATE, 0, 4096, NULL, NULL},
    {"input", T_PATH, ANNOTATE, 0, 0, NULL, NULL},
    {"output_format", T_WORD, ANNOTATE, 0, 0, "jsonl|zstd|parquet", "\"jsonl\""},
    {"prompts", T_TEXTS, ANNOTATE, 0, 64, NULL, NULL},
    {"image_columns", T_TEXTS, ANNOTATE, 0, 64, NULL, NULL},
    {"video_columns", T_TEXTS, ANNOTATE, 0, 64, NULL, NULL},
    {"id_column", T_TEXT, ANNOTATE, 1, 200, NULL, NULL},
    {"shard_rows", T_INT, ANNOTATE, 1, 10000000, NULL, "1000"},
    {"listen", T_TEXT, SERVE, 1, 200, NULL, "\"127.0.0.1:8000\""},
    {"served_name", T_TEXT, SERVE, 1, 200, NULL, NULL},
    {"key_file", T_PATH, SERVE, 0, 0, NULL, NULL},
    {"max_batch", T_INT, SERVE, 1, 1024, NULL, "32"},
    {"max_queue", T_INT, SERVE, 0, 100000, NULL, "256"},
    {"config", T_PATH, TRAIN, 0, 0, NULL, NULL},
    {"set", T_TEXTS, TRAIN, 0, 256, NULL, NULL},
    {"max_steps", T_INT, TRAIN, 1, BIG, NULL, NULL},
    {"ranks", T_INT, TRAIN, 1, 256, NULL, NULL},
    {"tasks", T_WORDS, EVAL, 1, 64, TASKS, NULL},
    {"data", T_PATH, EVAL, 0, 0, NULL, NULL},
    {"limit", T_INT, EVAL, 1, BIG, NULL, NULL},
    {"prompt_style", T_WORD, EVAL, 0, 0, "latents|videor1|sft|base|base_reason|default|cot", NULL},
    {"replies", T_TEXT, EVAL, 1, 100, NULL, NULL},
    {"compat", T_WORD, EVAL, 0, 0, "ours|release", "\"ours\""},
    {"vsibench_options", T_BOOL, EVAL, 0, 0, NULL, "true"},
    {"circular", T_BOOL, EVAL, 0, 0, NULL, "true"},
    {"shuffle", T_BOOL, EVAL, 0, 0, NULL, "true"},
    {"bootstrap", T_INT, EVAL, 0, 1000000, NULL, "1000"},
    {"step", T_INT, EVAL, 0, BIG, NULL, NULL},
    {"shards", T_INT, EVAL | ANNOTATE | ROLLOUT, 1, 1000, NULL, NULL},
    {"idle_timeout", T_INT, ROLLOUT, 0, BIG, NULL, "3600"},
    {NULL},
};

typedef struct checker {
    json_t *out;
    const json_t *lines; /* may be NULL */
    mull_diags *diags;
    int kind; /* 0 while unknown */
} checker;

static int line_of(const checker *c, const char *path) {
    return (int)json_integer_value(json_object_get(c->lines, path));
}
#define COMPLAIN(c, path, hint, ...) mull__diag((c)->diags, path, line_of(c, path), hint, __VA_ARGS__)

static const field *find(const field *table, const char *name) {
    for (; table->name; table++)
        if (!strcmp(table->name, name)) return table;
    return NULL;
}

static const char *near_key(const field *table, const char *key, int kind) {
    const char *names[128]; /* more than a table has */
    size_t n = 0;
    for (; table->name; table++)
        if (!kind || (table->kinds & kind)) names[n++] = table->name;
    return mull_nearest(key, names, n);
}

static void check_word(checker *c, const field *f, const char *path, const json_t *v) {
    char words[512];
    const char *list[32], *s = json_string_value(v);
    size_t n = 0;
    snprintf(words, sizeof words, "%s", f->words);
    for (char *save, *w = strtok_r(words, "|", &save); w && n < 32; w = strtok_r(NULL, "|", &save)) list[n++] = w;
    for (size_t i = 0; s && i < n; i++)
        if (!strcmp(s, list[i])) return;
    COMPLAIN(c, path, s ? mull_nearest(s, list, n) : NULL, "must be one of %s", f->words);
}

static void check_words(checker *c, const field *f, const char *path, const json_t *v) {
    if (!json_is_array(v) || json_array_size(v) < (size_t)f->lo || json_array_size(v) > (size_t)f->hi) {
        COMPLAIN(c, path, NULL, "must be a list of %.0f to %.0f names", f->lo, f->hi);
        return;
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        char at[200];
        snprintf(at, sizeof at, "%.150s[%zu]", path, i);
        check_word(c, f, at, json_array_get(v, i));
    }
}

static void check_number(checker *c, const field *f, const char *path, const json_t *v) {
    double x = json_number_value(v);
    if (f->type == T_INT && !json_is_integer(v))
        COMPLAIN(c, path, NULL, "must be a whole number from %.0f to %.0f", f->lo, f->hi);
    else if (!json_is_number(v) || !isfinite(x))
        COMPLAIN(c, path, NULL, "must be a number from %g to %g", f->lo, f->hi);
    else if (x < f->lo || x > f->hi)
        COMPLAIN(c, path, NULL, f->type == T_INT ? "must be from %.0f to %.0f" : "must be from %g to %g", f->lo, f->hi);
}

static void check_list(checker *c, const field *f, const char *path, const json_t *v) {
    if (!json_is_array(v) || json_array_size(v) > (size_t)f->hi) {
        COMPLAIN(c, path, NULL, "must be a list of at most %.0f texts", f->hi);
        return;
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        char at[200];
        snprintf(at, sizeof at, "%.150s[%zu]", path, i);
        const json_t *e = json_array_get(v, i);
        if (!json_is_string(e) || !json_string_length(e))
            COMPLAIN(c, at, NULL, "must be a text that is not empty");
        else if (f->type == T_PATHS && json_string_value(e)[0] != '/')
            COMPLAIN(c, at, NULL, "must be an absolute path");
    }
}

/* checkpoint:ID:every or checkpoint:ID:N. */
static bool follows(const char *s) {
    if (!s || strncmp(s, "checkpoint:", 11) != 0) return false;
    size_t id = strspn(s + 11, "0123456789"), n;
    const char *every = s + 11 + id;
    if (!id || id > 17 || *every++ != ':') return false;
    n = strspn(every, "0123456789");
    return !strcmp(every, "every") || (n && n < 16 && !every[n] && strspn(every, "0") < n);
}

static void check_after(checker *c, const char *path, const json_t *v) {
    const char *s = json_string_value(v), *colon = s ? strchr(s, ':') : NULL;
    static const char *const words[] = {"afterok", "afterany", "afterfail", "aftercorr", "checkpoint"};
    if (c->kind == EVAL && follows(s)) return;
    bool ok = colon != NULL;
    if (ok) {
        size_t n = (size_t)(colon - s);
        ok = (n == 7 && !strncmp(s, "afterok", n)) || (n == 8 && !strncmp(s, "afterany", n)) ||
             (n == 9 && !strncmp(s, "afterfail", n)) ||
             (n == 9 && !strncmp(s, "aftercorr", n) && !strchr(colon + 1, ':'));
    }
    for (const char *p = colon; ok && p && *p;) {
        size_t n = strspn(p + 1, "0123456789");
        ok = n > 0 && n < 18 && (p[1 + n] == 0 || p[1 + n] == ':');
        p += 1 + n;
    }
    char head[32] = "";
    if (s) snprintf(head, sizeof head, "%.*s", colon ? (int)(colon - s) : 31, s);
    if (!ok)
        COMPLAIN(c, path, s && *head ? mull_nearest(head, words, c->kind == EVAL ? 5 : 4) : NULL,
                 "must be afterok:ID, afterany:ID or afterfail:ID, more ids after further colons, or aftercorr:ID%s",
                 c->kind == EVAL ? "; or checkpoint:ID:every, checkpoint:ID:STEPS" : "");
}

/* A number is an array of that one index. */
static void check_array(checker *c, const char *path, const json_t *v) {
    char why[160] = "it is no text", number[32];
    const char *s = json_string_value(v);
    if (json_is_integer(v)) {
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
        json_object_set_new(c->out, path, json_string(s = number));
    }
    json_t *parsed = s ? mull_array_parse(s, why, sizeof why) : NULL;
    if (!parsed)
        COMPLAIN(c, path, NULL,
                 "must be indexes such as 0-99, 0-99:5 or 1,4,10-20, with %%8 behind them for at "
                 "most eight tasks at once: %s",
                 why);
    json_decref(parsed);
}

bool mull_label_ok(const char *word) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/ ";
    size_t n = strspn(word, plain);
    if (n == 0 || word[0] == ' ' || strlen(word) > 100) return false;
    return !word[n] || (word[n] == '=' && word[n + 1] && !word[n + 1 + strspn(word + n + 1, plain)]);
}

static int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void check_time(checker *c, const field *f, const char *path, const json_t *v) {
    char number[32];
    const char *s = json_string_value(v);
    int64_t t;
    if (json_is_integer(v)) {
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
        s = number;
    }
    if (f->type == T_DURATION) {
        if (!s || mull_duration_parse(s, &t))
            COMPLAIN(c, path, NULL, "must be a time such as 1-12:00:00, 02:30:00, 45:00 or seconds");
        else
            json_object_set_new(c->out, "time_limit_s", json_integer(t));
    } else {
        if (!s || mull_time_parse(s, now_ms(), &t))
            COMPLAIN(c, path, NULL, "must be a time such as 2026-01-31T08:00:00Z or now+10m");
        else
            json_object_set_new(c->out, "begin_ms", json_integer(t));
    }
}

static void check_object(checker *c, const field *table, const json_t *o, const char *prefix);

static void check_value(checker *c, const field *f, const char *path, const json_t *v) {
    switch (f->type) {
    case T_TEXT:
        if (!json_is_string(v) || json_string_length(v) > (size_t)f->hi)
            COMPLAIN(c, path, NULL, "must be a text of at most %.0f bytes", f->hi);
        else if (json_string_length(v) < (size_t)f->lo)
            COMPLAIN(c, path, NULL, "must not be empty");
        break;
    case T_PATH:
        if (!json_is_string(v) || json_string_value(v)[0] != '/' || json_string_length(v) > 4000)
            COMPLAIN(c, path, NULL, "must be an absolute path");
        break;
    case T_INT:
    case T_NUMBER:
        check_number(c, f, path, v);
        break;
    case T_BOOL:
        if (!json_is_boolean(v)) COMPLAIN(c, path, NULL, "must be true or false");
        break;
    case T_WORD:
        check_word(c, f, path, v);
        break;
    case T_WORDS:
        check_words(c, f, path, v);
        break;
    case T_PATHS:
    case T_TEXTS:
        check_list(c, f, path, v);
        break;
    case T_MESSAGES:
        if (!json_is_array(v) || !json_array_size(v)) COMPLAIN(c, path, NULL, "must be a list of messages");
        break;
    case T_MAP:
        if (!json_is_object(v))
            COMPLAIN(c, path, NULL, "must be a mapping");
        else
            check_object(c, sampling_fields, v, "sampling.");
        break;
    case T_DURATION:
    case T_BEGIN:
        check_time(c, f, path, v);
        break;
    case T_AFTER:
        check_after(c, path, v);
        break;
    case T_ARRAY:
        check_array(c, path, v);
        break;
    }
}

static void check_object(checker *c, const field *table, const json_t *o, const char *prefix) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        char path[160];
        snprintf(path, sizeof path, "%s%.120s", prefix, key);
        const field *f = find(table, key);
        if (!f) {
            /* A key of the right name at the wrong depth is the commonest slip: its place is named. */
            char inside[64];
            const char *near = near_key(table, key, c->kind);
            if (table == fields && find(sampling_fields, key)) {
                snprintf(inside, sizeof inside, "sampling.%s", key);
                near = inside;
            }
            COMPLAIN(c, path, near, "unknown key%s%s%s", near ? "; did you mean " : "", near ? near : "",
                     near ? "?" : "");
        } else if (json_is_null(v)) {
            continue; /* as if it were not there */
        } else if (c->kind && !(f->kinds & c->kind)) {
            COMPLAIN(c, path, NULL, "is no key of kind %s",
                     c->kind == GENERATE   ? "generate"
                     : c->kind == ANNOTATE ? "annotate"
                     : c->kind == EVAL     ? "eval"
                     : c->kind == SERVE    ? "serve"
                     : c->kind == ROLLOUT  ? "rollout"
                                           : "train");
        } else {
            check_value(c, f, path, v);
        }
    }
}

static void fill(json_t *o, const field *table, int kind) {
    for (; table->name; table++) {
        if (!json_object_get(o, table->name) && table->fallback && (table->kinds & kind & ~table->open))
            json_object_set_new(o, table->name, json_loads(table->fallback, JSON_DECODE_ANY, NULL));
    }
}

static void need(checker *c, const char *key) {
    if (!json_object_get(c->out, key)) mull__diag(c->diags, key, 0, NULL, "is missing");
}

/* A key that is null is as if it were not there: for what is missing and for what excludes each other too. */
static void drop_nulls(json_t *o) {
    const char *key;
    void *next;
    json_t *v;
    json_object_foreach_safe(o, next, key, v) {
        if (json_is_null(v)) json_object_del(o, key);
    }
    if (json_is_object(json_object_get(o, "sampling"))) drop_nulls(json_object_get(o, "sampling"));
}

static json_t *check(const json_t *spec, const json_t *lines, mull_diags *diags) {
    if (!json_is_object(spec)) {
        mull__diag(diags, "", 1, NULL, "a job spec is a mapping of keys");
        return NULL;
    }
    checker c = {.out = json_deep_copy(spec), .lines = lines, .diags = diags};
    if (!c.out) {
        mull__diag(diags, "", 0, NULL, "out of memory");
        return NULL;
    }
    drop_nulls(c.out);
    const char *kind = json_string_value(json_object_get(spec, "kind"));
    if (kind && !strcmp(kind, "generate"))
        c.kind = GENERATE;
    else if (kind && !strcmp(kind, "annotate"))
        c.kind = ANNOTATE;
    else if (kind && !strcmp(kind, "train"))
        c.kind = TRAIN;
    else if (kind && !strcmp(kind, "eval"))
        c.kind = EVAL;
    else if (kind && !strcmp(kind, "serve"))
        c.kind = SERVE;
    else if (kind && !strcmp(kind, "rollout"))
        c.kind = ROLLOUT;
    check_object(&c, fields, spec, "");
    if (!json_object_get(c.out, "out") && json_object_get(c.out, "output"))
        json_object_set(c.out, "out", json_object_get(c.out, "output"));
    json_object_del(c.out, "output");
    need(&c, "kind");
    bool follower = c.kind == EVAL && follows(json_string_value(json_object_get(c.out, "after")));
    bool given = c.kind == EVAL && json_object_get(c.out, "replies");
    if ((c.kind & ASKS) && !follower && !given) need(&c, "model"); /* a recipe names its own */
    if (given && (follower || json_object_get(c.out, "model")))
        COMPLAIN(&c, "replies", NULL, "are there already: no model is asked; leave %s out",
                 follower ? "after" : "model");
    if (follower && json_object_get(c.out, "model"))
        COMPLAIN(&c, "model", NULL, "is each checkpoint that it comes after; leave it out");
    if (follower && json_object_get(c.out, "step"))
        COMPLAIN(&c, "step", NULL, "is each checkpoint's that it comes after; leave it out");
    if (c.kind == EVAL) {
        need(&c, "tasks");
        need(&c, "data");
        need(&c, "out");
    }
    if (c.kind == TRAIN) {
        need(&c, "config");
        need(&c, "out");
    }
    if (c.kind == ROLLOUT) need(&c, "out"); /* its training run's */
    if (c.kind == ANNOTATE) {
        need(&c, "input");
        need(&c, "out");
    }
    if (c.kind == GENERATE && !json_object_get(c.out, "prompt") && !json_object_get(c.out, "messages"))
        mull__diag(diags, "prompt", 0, NULL, "is missing: give prompt or messages");
    if (c.kind == GENERATE && json_object_get(c.out, "prompt") && json_object_get(c.out, "messages"))
        COMPLAIN(&c, "messages", NULL, "give prompt or messages, not both");
    if (c.kind == ANNOTATE && json_object_get(c.out, "prompt") && json_object_get(c.out, "prompts"))
        COMPLAIN(&c, "prompts", NULL, "give prompt or prompts, not both");
    if (json_object_get(c.out, "fps") && json_object_get(c.out, "nframes"))
        COMPLAIN(&c, "nframes", NULL, "give fps or nframes, not both");
    if (json_integer_value(json_object_get(c.out, "slots")) > 1 &&
        json_integer_value(json_object_get(c.out, "gpus")) > 0)
        COMPLAIN(&c, "slots", NULL, "is of jobs without GPUs; those have a rank a GPU");
    for (size_t i = 0; i < json_array_size(json_object_get(c.out, "labels")); i++) {
        const char *word = json_string_value(json_array_get(json_object_get(c.out, "labels"), i));
        if (word && !mull_label_ok(word))
            COMPLAIN(&c, "labels", NULL,
                     "'%.60s': a label is WORD or KEY=VALUE of at most 100 letters, digits, blanks, '.', "
                     "'-', '_', '/'",
                     word);
    }
    /* Tasks that write into one folder would overwrite each other; but those of one evaluation share its rows. */
    const char *out = json_string_value(json_object_get(c.out, "out"));
    const json_t *shards = json_object_get(c.out, "shards");
    if (shards && json_object_get(c.out, "array"))
        COMPLAIN(&c, "shards", NULL, "makes an array of its own; leave array out");
    else if (json_integer_value(shards) > 1) {
        char range[32];
        snprintf(range, sizeof range, "0-%lld", (long long)json_integer_value(shards) - 1);
        json_object_set_new(c.out, "array", json_string(range));
    } else if (json_object_get(c.out, "array") && out && !strstr(out, MULL_ARRAY_WORD))
        COMPLAIN(&c, "out", NULL, "names one folder for every task of the array: put " MULL_ARRAY_WORD " into it");
    if (diags->n) {
        json_decref(c.out);
        return NULL;
    }
    /* Whom it serves would not understand that it goes away for another job. */
    if (c.kind == SERVE && !json_object_get(c.out, "preemptible"))
        json_object_set_new(c.out, "preemptible", json_false());
    fill(c.out, fields, c.kind);
    if (c.kind & ASKS) fill(json_object_get(c.out, "sampling"), sampling_fields, c.kind);
    return c.out;
}

json_t *mull_jobspec_check(const json_t *spec, mull_diags *diags) {
    memset(diags, 0, sizeof *diags);
    return check(spec, NULL, diags);
}

json_t *mull_jobspec_parse_lines(const char *text, size_t len, mull_spec_format format, mull_diags *diags,
                                 json_t **lines_out) {
    memset(diags, 0, sizeof *diags);
    json_t *lines = *lines_out = json_object();
    if (len > MULL_SPEC_BYTES_MAX) {
        mull__diag(diags, "", 0, NULL, "the spec has %zu bytes; at most %d", len, MULL_SPEC_BYTES_MAX);
        return NULL;
    }
    json_t *spec =
        format == MULL_SPEC_YAML ? mull__yaml_read(text, len, lines, diags) : mull__json_read(text, len, lines, diags);
    json_t *out = spec ? check(spec, lines, diags) : NULL;
    if (!out && !diags->n) mull__diag(diags, "", 0, NULL, "the spec cannot be read");
    if (out && diags->n) {
        json_decref(out);
        out = NULL;
    }
    json_decref(spec);
    return out;
}

json_t *mull_jobspec_parse(const char *text, size_t len, mull_spec_format format, mull_diags *diags) {
    json_t *lines;
    json_t *spec = mull_jobspec_parse_lines(text, len, format, diags, &lines);
    json_decref(lines);
    return spec;
}

json_t *mull_diags_json(const mull_diags *d) {
    json_t *a = json_array();
    for (int i = 0; i < d->n; i++) {
        const mull_diag *x = &d->at[i];
        json_array_append_new(a, json_pack("{s:s,s:o,s:s,s:o}", "path", x->path, "line",
                                           x->line ? json_integer(x->line) : json_null(), "message", x->message,
                                           "did_you_mean",
                                           x->did_you_mean[0] ? json_string(x->did_you_mean) : json_null()));
    }
    if (d->more)
        json_array_append_new(a, json_pack("{s:s,s:n,s:o,s:n}", "path", "", "line", "message",
                                           json_sprintf("%d more errors", d->more), "did_you_mean"));
    return a;
}
