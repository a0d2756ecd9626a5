/* What people look at: tables that fit the terminal, colours where they are wanted, a progress bar, spans of time.
 *
 * Names and log lines come from others: no control character of theirs reaches a terminal. */
#ifndef MULL_CLI_TERM_H
#define MULL_CLI_TERM_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Columns of the terminal at f, $COLUMNS first; 0 when it is none (a pipe: nothing is cut). */
int mull_term_width(FILE *f);
/* From now on nothing is cut: the width is 0 everywhere (-o wide). */
void mull_term_uncut(void);
/* Colours wanted: a terminal, no NO_COLOR, TERM not dumb. */
bool mull_term_color(FILE *f);
/* The escape for a job state's colour and back, "" without colours. */
const char *mull_state_color(const char *state, bool color);
const char *mull_color_reset(bool color);

/* Display columns of UTF-8 text; invalid bytes count as one each. */
int mull_text_columns(const char *s);
/* Copies s into out with control characters (C0, DEL, C1) replaced by '?' and at most columns wide, "…" where it was
 * cut; columns < 0: not cut. Never cuts inside a character. */
void mull_text_clean(const char *s, int columns, char *out, size_t cap);

typedef struct mull_column {
    const char *title;
    bool right; /* numbers */
    int shrink; /* least columns when the table is too wide; 0: never shrunk */
    bool state; /* coloured as a job state */
} mull_column;

typedef struct mull_table {
    const mull_column *columns;
    int ncolumns, nrows;
    char **cells; /* [nrows * ncolumns] */
    int cap;
} mull_table;

enum { MULL_COLUMNS_MAX = 24 };
void mull_table_init(mull_table *t, const mull_column *columns, int n);
/* Copies n = ncolumns texts; NULL is "". Out of memory drops the row. */
void mull_table_row(mull_table *t, const char *const *texts);
/* width 0: as wide as needed. Shrinks the widest shrinkable column first. */
void mull_table_print(const mull_table *t, FILE *f, int width, bool color);
void mull_table_fini(mull_table *t);

/* 0:07, 12:34, 3:04:05, 2-03:04:05 */
void mull_span(double seconds, char *out, size_t cap);
/* Unix seconds of an RFC 3339 text, NAN when it is none. */
double mull_when(const json_t *text);
double mull_now(void);
/* 12.3 MiB */
void mull_bytes(double n, char *out, size_t cap);

/* A job's progress while one waits: a bar redrawn in place on a terminal, else a line at each change of state and at
 * most one every 5 s. Writes to stderr. */
typedef struct mull_bar {
    bool terminal;
    bool drawn;
    double last_line;
    char last_state[24];
    long long last_done;
} mull_bar;
void mull_bar_init(mull_bar *b);
void mull_bar_show(mull_bar *b, const json_t *job);
/* Takes the bar off the terminal, so that other words can be written. */
void mull_bar_clear(mull_bar *b);

#endif
