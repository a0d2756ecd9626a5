/* The job spec as the engine gets it: JSON, checked and with defaults filled in by the front door, or made from flags
 * by hand. Checked here again, since the engine trusts nobody. Keys that only the queue needs are skipped; keys that
 * nobody knows are listed, so that a newer writer does not stop an older engine. */
#ifndef MULL_ENGINE_JOB_SPEC_H
#define MULL_ENGINE_JOB_SPEC_H

#include "engine/infer/infer.h"
#include "engine/text/chat.h"

typedef enum mull_job_kind {
    MULL_JOB_GENERATE,
    MULL_JOB_ANNOTATE,
    MULL_JOB_TRAIN,
    MULL_JOB_EVAL,
    MULL_JOB_SERVE,
    MULL_JOB_ROLLOUT
} mull_job_kind;

/* Strings and lists belong to json. Defaults are those of the front door (greedy, 512 tokens, 20 latents), so that a
 * job by hand and one through the queue give the same bytes. Other numbers that were not given are negative, floats
 * NAN (then the checkpoint decides), strings NULL. */
typedef struct mull_job {
    json_t *json;
    mull_job_kind kind;
    const char *id; /* the queue's, "" by hand */
    const char *model, *out, *input, *prompt;
    const char *dtype, *mode, *prompt_format;
    const json_t *messages, *images, *videos, *media_roots;
    const char *config; /* train: the recipe, "key=value" over it */
    const json_t *set;
    int64_t max_steps, gpus; /* gpus > 0: the model runs on the first visible one */
    /* eval; temperature negative and max_new_tokens 0: the task's */
    const json_t *tasks; /* names */
    const char *data, *prompt_style, *compat, *replies;
    int64_t limit, bootstrap, step;
    bool vsibench_options, circular, shuffle;
    const json_t *prompts, *image_columns, *video_columns; /* annotate: templates; see annotate/source.h */
    const char *id_column, *output_format;                 /* jsonl, zstd, parquet */
    const char *listen, *served_name, *key_file;           /* serve */
    int64_t max_batch, max_queue;
    int64_t idle_timeout; /* rollout: s, 0: never */
    int64_t latents, min_pixels, max_pixels, nframes, shard_rows;
    double fps;
    /* sampling */
    int64_t max_new_tokens, top_k, seed;
    double temperature, top_p, repetition_penalty;
    bool ignore_eos;
    const char *regex;     /* answers have to match it; or be one of choices */
    const json_t *choices; /* not both */
    const char *stop[64];
    int nstop;
    /* by hand only */
    int threads;
    char unknown[256]; /* keys that were skipped, comma separated */
} mull_job;

enum { MULL_JOB_SPEC_MAX = 16 << 20 };

/* Takes the reference of json. On failure job is zeroed. */
int mull_job_read(json_t *json, mull_job *job, mull_error *err);
int mull_job_parse(const char *text, size_t len, mull_job *job, mull_error *err);
void mull_job_fini(mull_job *job);

const char *mull_job_kind_name(mull_job_kind kind);

/* A loaded model with everything that a job's spec says about how to ask it. */
typedef struct mull_session {
    mull_model *model;
    mull_tokenizer *tok;
    mull_render_opts render;
    mull_sampling sampling;
    char *regex; /* of the choices, or NULL */
    mull_media_limits limits;
    double load_ms;
} mull_session;

typedef struct mull_train_backend mull_train_backend; /* train/backend.h */
/* Where a job computes: gpus > 0 is the first visible GPU, NULL the CPU; an error in a build without CUDA. */
int mull_job_backend(const mull_job *job, const mull_train_backend **train, const mull_backend **model,
                     mull_error *err);
int mull_session_open(const mull_job *job, mull_session *s, mull_error *err);
void mull_session_fini(mull_session *s);
/* The limits of job over those of the checkpoint. */
int mull_job_limits(const mull_job *job, mull_media_limits *l, mull_error *err);

#endif
