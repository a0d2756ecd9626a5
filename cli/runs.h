/* Runs as the commands handle them: one run read whole, the points of one of its metrics, which way a metric is better.
 */
#ifndef MULL_CLI_RUNS_H
#define MULL_CLI_RUNS_H

#include "cli/client.h"
#include "cli/plot.h"

/* GET /v1/runs/ID; an exit status. */
int mull_run_read(mull_client *c, const char *id, json_t **run);
/* Every point of a metric, page by page, as an array of {"key","step","value","at"}; an exit status. */
int mull_run_points(mull_client *c, const char *id, const char *key, json_t **points);
/* Whether a larger value of this metric is the better one: accuracies, rewards, speeds; not losses and errors. */
bool mull_metric_rises(const char *key);
/* The best value in a metric's summary ("metrics" of a run) and the step it was at; NAN when it has none. */
double mull_metric_best(const json_t *summary, bool rises, long long *step);

/* Checkpoints as a table. */
void mull_checkpoint_table(const json_t *list);

/* A series of points for plots; name and points are borrowed, mull_series_fini frees the rest. 0 or -1 without memory.
 */
int mull_series_of(const char *name, const json_t *points, mull_series *out);
void mull_series_fini(mull_series *s);

#endif
