/* The rows of an evaluation dataset as it was downloaded: a folder with JSON lines, a JSON array or parquet files, and
 * media inside the rows or beside them. */
#ifndef MULL_ENGINE_EVAL_SOURCE_H
#define MULL_ENGINE_EVAL_SOURCE_H

#include "engine/eval/task.h"

typedef struct mull_source mull_source;

/* Looks for the task's folder under data (its name, the dataset's names, or data itself). alone: files in data itself
 * need not carry the task's name. MULL_EMISSING says where was looked and what to download; a row without the columns
 * that the task needs is MULL_EFORMAT and names them. */
int mull_source_open(const mull_task *t, const char *data, bool alone, mull_source **out, mull_error *err);
void mull_source_close(mull_source *s);
/* Rows in the order in which the release walks them: SAT twice (answers reversed), VSI-Bench shuffled, SITE-Bench
 * without rows of more than four images. circular, shuffle: switches of the first two. */
int mull_source_arrange(mull_source *s, bool circular, bool shuffle, mull_error *err);
int64_t mull_source_count(const mull_source *s); /* after arranging */
int64_t mull_source_rows(const mull_source *s);  /* in the files */
const char *mull_source_folder(const mull_source *s);
/* Of the files with the rows, by content (core/digest.h); media beside them are not in it. */
int mull_source_digest(const mull_source *s, char hex[65], mull_error *err);
/* Row i in that order, a new reference. Bytes of images are data URLs in it. */
int mull_source_get(mull_source *s, int64_t i, json_t **doc, mull_error *err);
/* Parts {"type": "image"|"video", …: path or data URL} for the row's media, a new array. */
int mull_source_media(const mull_source *s, const json_t *doc, json_t **parts, mull_error *err);
/* The row without its media columns, a new reference. */
json_t *mull_source_bare(const mull_source *s, const json_t *doc);

#endif
