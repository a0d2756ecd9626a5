/* The rows of an input as requests, one JSON line each, whatever the input is: JSON lines (plain or zstd) or Parquet,
 * requests as they are or columns that templates make requests of.
 *
 * Templates (a job's prompt or prompts): {name} stands for the text of a column, {{ and }} for braces. A row gives one
 * request for each template; their custom_ids are the row's and "#" and the template's number when there are several. A
 * column of media (image_columns, video_columns; by default image, images, video, videos) may be named in a template,
 * where its media go; those that are not named come first. A medium is a path or URL, a list of them, or what Parquet
 * files of datasets have: bytes, or {"bytes","path"}. What a row lacks is that row's error. */
#ifndef MULL_ENGINE_ANNOTATE_SOURCE_H
#define MULL_ENGINE_ANNOTATE_SOURCE_H

#include "engine/annotate/reader.h"
#include "engine/job/spec.h"

typedef struct mull__source mull__source;

/* sha gets every byte of a JSONL file that is read; of a Parquet file nothing (mull__source_hashes). */
int mull__source_open(const char *path, const mull_job *job, mull__sha *sha, mull__source **out, mull_error *err);
void mull__source_close(mull__source *s);
bool mull__source_hashes(const mull__source *s);
/* As mull__reader_next. line->problem: why the row cannot become a request, in words; then data is what there is. */
int mull__source_next(mull__source *s, mull__line *line, mull_error *err);
/* Goes on at request `row` (from 0), whose line's offset and number were seen before. Forward only when compressed. */
int mull__source_seek(mull__source *s, int64_t row, int64_t offset, int64_t number, mull_error *err);
bool mull__source_unchanged(const mull__source *s);

#endif
