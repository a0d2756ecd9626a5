/* The form of what an annotation writes: JSON lines, plain or packed with zstd, or Parquet. */
#ifndef MULL_ENGINE_ANNOTATE_OUTPUT_H
#define MULL_ENGINE_ANNOTATE_OUTPUT_H

#include "engine/annotate/state.h"

/* output.jsonl, output.jsonl.zst or output.parquet. */
const char *mull__output_name(const mull_job *job);
bool mull__output_is_packed(const mull_job *job);
bool mull__output_is_parquet(const mull_job *job);
/* Refuses a form that this build cannot write, before any work is done. */
int mull__output_check(const mull_job *job, mull_error *err);
/* Makes OUT/output.parquet of the records in the file `rows` of .mull, which it removes. */
int mull__output_parquet(const mull__annotation *a, const char *rows, int64_t *bytes, char hex[65], mull_error *err);

#endif
