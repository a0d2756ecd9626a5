/* Templates over the columns of a row; source.h has what they mean. Pure functions. */
#ifndef MULL_ENGINE_ANNOTATE_TEMPLATE_H
#define MULL_ENGINE_ANNOTATE_TEMPLATE_H

#include "engine/job/spec.h"

typedef struct mull__templates mull__templates;

enum { MULL__TEMPLATE_COLUMNS = 256 };

/* *out NULL: the job has no templates. Strings are borrowed from the job. */
int mull__templates_create(const mull_job *job, mull__templates **out, mull_error *err);
void mull__templates_destroy(mull__templates *t);
size_t mull__templates_count(const mull__templates *t);
/* Every column that may be looked at; how many. */
size_t mull__templates_columns(const mull__templates *t, const char *names[MULL__TEMPLATE_COLUMNS]);
/* 1: *text is the request, the caller's. 0: problem says what the row lacks, *text is a line with its custom_id. */
int mull__templates_render(const mull__templates *t, size_t which, const json_t *columns, char **text, char *problem,
                           size_t cap, mull_error *err);
/* Bytes as a data: URL. */
json_t *mull__data_url(const void *data, size_t n);

#endif
