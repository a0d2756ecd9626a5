/* What the parts of an annotation share; annotate.h has the layout of the folder. */
#ifndef MULL_ENGINE_ANNOTATE_STATE_H
#define MULL_ENGINE_ANNOTATE_STATE_H

#include "engine/annotate/annotate.h"
#include "engine/annotate/fileio.h"
#include "engine/annotate/roots.h"
#include "engine/annotate/shard.h"

typedef struct mull__annotation {
    const mull_job *job;
    mull_events *ev;
    int out, work, lock; /* OUT, OUT/.mull, its lock; -1 */
    char *rows_path;     /* the JSONL that is read: the input, or the folder's rows */
    char *model_name;    /* last part of the checkpoint's path */
    mull__roots roots;
    struct mull__media_cache *media;
    char input_hex[65], spec_hex[65], model_hex[65];
    char ids_hex[65];  /* of the spec but for paths */
    char work_hex[65]; /* of that and the model: what ids are made from */
    int64_t rows, shard_rows, shards;
    int64_t context;     /* tokens of cache, 0: not decided yet */
    double model_cpu_ms; /* CPU time of this thread inside the engine: with one thread, all that the model took */
    int64_t resumed;     /* rows that were done before this start */
    mull__counts counts;
} mull__annotation;

static inline int64_t mull__shard_first(const mull__annotation *a, int64_t shard) {
    return shard * a->shard_rows;
}
static inline int64_t mull__shard_size(const mull__annotation *a, int64_t shard) {
    int64_t left = a->rows - shard * a->shard_rows;
    return left < a->shard_rows ? left : a->shard_rows;
}

static inline void mull__counts_add(mull__counts *to, const mull__counts *c) {
    to->rows += c->rows;
    to->ok += c->ok;
    to->errors += c->errors;
    to->prompt_tokens += c->prompt_tokens;
    to->output_tokens += c->output_tokens;
}

/* annotate.c: lets other processes prepare, once what they go by is written. */
void mull__unlock(mull__annotation *a);
int mull__cancelled(mull_error *err); /* fills err, returns MULL_ECANCELLED */

/* digest.c: by content. The weights by their size, their first MiB and samples all through them. */
int mull__digest_spec(mull__annotation *a, mull_error *err);
int mull__digest_model(mull__annotation *a, mull_error *err);
int mull__digest_file(const mull__annotation *a, const char *path, char hex[65], mull_error *err);

/* validate.c: reads the whole input once; writes plan and twice; sets rows, shards and, unless the input is a folder,
 * input_hex. */
int mull__validate(mull__annotation *a, mull_error *err);

/* manifest.c. Reading: 1 when there is one and it is of this work, 0 none; another work is an error. */
int mull__manifest_read(mull__annotation *a, mull_error *err);
int mull__manifest_write(const mull__annotation *a, mull_error *err);
/* Whether the outputs are written, by whomever. */
bool mull__complete_there(const mull__annotation *a);
/* 1: complete before, *result filled; 0: not. */
int mull__complete_read(mull__annotation *a, json_t **result, mull_error *err);

/* work.c: answers all rows that no shard has, or waits for other processes that do. */
int mull__work(mull__annotation *a, mull_session *s, mull_error *err);

/* manifest.c: writes the outputs and complete.json, removes the shards. MULL_EFORMAT: a shard has to be redone. */
int mull__merge(mull__annotation *a, json_t **result, mull_error *err);

#endif
