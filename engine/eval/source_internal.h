/* Shared by the files of the dataset reader. */
#ifndef MULL_ENGINE_EVAL_SOURCE_INTERNAL_H
#define MULL_ENGINE_EVAL_SOURCE_INTERNAL_H

#include "engine/eval/source.h"
#include "engine/eval/task_internal.h"

#include <stdio.h>

typedef struct mull__part {
    char *path;
    int64_t rows;
    /* JSON lines: where each row begins; JSON array: the rows */
    FILE *f;
    int64_t *at;
    json_t *array;
    void *parquet;
} mull__part;

struct mull_source {
    const mull_task *task;
    char *data, *folder;
    mull__part *parts;
    size_t nparts;
    int64_t rows, count;
    int64_t *order; /* [count]: row * 2 + (answers reversed) */
};

/* Parquet: rows and one row as JSON. In a build without Arrow opening says so. */
int mull__parquet_open(mull__part *p, mull_error *err);
int mull__parquet_get(mull__part *p, int64_t row, json_t **out, mull_error *err);
void mull__parquet_close(mull__part *p);

#endif
