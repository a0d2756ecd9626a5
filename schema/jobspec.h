/* Job specs: YAML or JSON in, one checked JSON object with all defaults out. All errors are reported at once, each with
 * its path, line and, for a word that is nearly right, the right one. README.md lists the keys. */
#ifndef MULL_SCHEMA_JOBSPEC_H
#define MULL_SCHEMA_JOBSPEC_H

#include "schema/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct mull_diag {
    char path[120]; /* "sampling.top_p", "" for the whole */
    int line;       /* 1.., 0 unknown */
    char message[400];
    char did_you_mean[64]; /* "" when nothing is near */
} mull_diag;

enum { MULL_DIAGS_MAX = 64, MULL_SPEC_BYTES_MAX = 4 << 20, MULL_SPEC_DEPTH_MAX = 64, MULL_SPEC_NODES_MAX = 200000 };

typedef struct mull_diags {
    mull_diag at[MULL_DIAGS_MAX];
    int n, more; /* more: found beyond the room */
} mull_diags;

typedef enum mull_spec_format { MULL_SPEC_YAML, MULL_SPEC_JSON } mull_spec_format;

/* From text. NULL when anything is wrong; then diags->n > 0. The result is the caller's reference: the keys given, the
 * defaults of those not given, and derived "time_limit_s" (seconds) and "begin_ms" (unix milliseconds) where asked. */
json_t *mull_jobspec_parse(const char *text, size_t len, mull_spec_format format, mull_diags *diags);
/* The same; *lines (a new reference also on failure) maps paths as in mull_diag to line numbers. */
json_t *mull_jobspec_parse_lines(const char *text, size_t len, mull_spec_format format, mull_diags *diags,
                                 json_t **lines);
/* The same from an object that has been read already (no lines). */
json_t *mull_jobspec_check(const json_t *spec, mull_diags *diags);
/* [{"path","line","message","did_you_mean"}] as in the HTTP errors; null where unknown. */
json_t *mull_diags_json(const mull_diags *diags);

/* Whether a text can be a node's label: WORD or KEY=VALUE, letters, digits, blanks, '.', '-', '_', '/'. */
bool mull_label_ok(const char *word);
/* D-HH:MM:SS, HH:MM:SS, MM:SS or seconds; 0 and *out > 0, else negative. */
int mull_duration_parse(const char *s, int64_t *out);
/* RFC 3339 ("2026-01-31T10:00:00Z", offset allowed) or now+10s|10m|2h|1d, as unix milliseconds. */
int mull_time_parse(const char *s, int64_t now_ms, int64_t *out_ms);
/* The nearest of n words by edit distance if it is near enough to be meant, else NULL. */
const char *mull_nearest(const char *word, const char *const *words, size_t n);

#endif
