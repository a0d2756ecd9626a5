/* What a task file fills in; see task.h and README.md, "Adding a task". */
#ifndef MULL_ENGINE_EVAL_TASK_INTERNAL_H
#define MULL_ENGINE_EVAL_TASK_INTERNAL_H

#include "engine/eval/prompt_internal.h"
#include "engine/eval/task.h"
#include "engine/eval/text.h"

/* One call of a scorer. A scorer sets metrics (or raises), category and score. */
typedef struct mull__scoring {
    mull__arena *a;
    const json_t *doc;
    mull_compat compat;
    json_t *metrics;
    json_t *category; /* a new reference */
    double score;
    bool random;
    bool raised;
    mull_error *err;
} mull__scoring;

typedef enum mull__aggregate {
    MULL__MEAN,        /* over rows */
    MULL__MEAN_GROUPS, /* over categories */
    MULL__VSI,         /* eight groups, three of them averaged first */
    MULL__MMSI,        /* a metric for each category and "average" */
    MULL__VSTAR,       /* the same in percent, "vstar_CATEGORY_acc" */
    MULL__PERCENT,     /* over rows, in percent */
    MULL__PERCENT5,    /* rounded to 5 decimals */
    MULL__MEAN5
} mull__aggregate;

/* Where a row's media are: names of columns, in order. */
typedef struct mull__media_columns {
    const char *lists[4];   /* columns that hold a list of images (bytes, paths or {bytes, path}); the first there is */
    const char *singles[9]; /* columns that hold one each; all that are there */
    const char *video;      /* a path pattern: {column} is replaced */
    const char *video_url;  /* or a column with the video's address on the Hub, which becomes video_path */
} mull__media_columns;

struct mull_task {
    const char *name, *aliases[4];
    const char *metric; /* the headline's key in the results */
    mull__aggregate aggregate;
    int (*score)(mull__scoring *s, mull__text reply);
    int (*prompt)(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err);
    const char *system;      /* the system message, as training has it; NULL: the chat template's own */
    const char *hub, *split; /* where the data come from */
    const char *folders[4];  /* names of the dataset's folder under --data, beside the task's own name */
    const char *columns[6];  /* needed for prompt and score */
    mull__media_columns media;
    int max_new_tokens;
    double temperature, top_p;
};

/* Columns; a missing one or one of another kind is MULL_EARG, named. */
int mull__doc_text(mull__scoring *s, const char *key, mull__text *out);
const json_t *mull__doc_need(const json_t *doc, const char *key, mull_error *err);
/* metrics = {"error": NAME}: the release raises here. Only with MULL_COMPAT_RELEASE. */
int mull__raise(mull__scoring *s, const char *python_exception);
/* A copy of a doc's member for a record (null when it is missing). */
json_t *mull__doc_copy(const json_t *doc, const char *key);
/* The items of a list written as a Python literal ("['a', \"b\"]") or as a JSON list; NULL when it is neither. */
json_t *mull__python_list(const json_t *v);

#define X(name) int mull__score_##name(mull__scoring *s, mull__text reply);
X(blink) X(sat) X(erqa) X(stare) X(vsibench) X(mmsi) X(sitebench) X(vstar) X(mmmu) X(mmvu) X(mme) X(vqav2) X(puzzles)
#undef X

#endif
