/* Tables that fit; see term.h. */
#include "cli/term.h"

#include <stdlib.h>
#include <string.h>

enum { GAP = 2 };

void mull_table_init(mull_table *t, const mull_column *columns, int n) {
    *t = (mull_table){.columns = columns, .ncolumns = n < MULL_COLUMNS_MAX ? n : MULL_COLUMNS_MAX};
}

void mull_table_row(mull_table *t, const char *const *texts) {
    if (t->nrows == t->cap) {
        int cap = t->cap ? 2 * t->cap : 32;
        char **grown = realloc(t->cells, (size_t)cap * (size_t)t->ncolumns * sizeof *grown);
        if (!grown) return;
        t->cells = grown;
        t->cap = cap;
    }
    char **row = t->cells + (size_t)t->nrows * (size_t)t->ncolumns;
    for (int c = 0; c < t->ncolumns; c++) {
        row[c] = strdup(texts[c] ? texts[c] : "");
        if (!row[c]) {
            while (c-- > 0) free(row[c]);
            return;
        }
    }
    t->nrows++;
}

static void widths_of(const mull_table *t, int width, int *w) {
    int sum = 0;
    for (int c = 0; c < t->ncolumns; c++) {
        w[c] = mull_text_columns(t->columns[c].title);
        for (int r = 0; r < t->nrows; r++) {
            int k = mull_text_columns(t->cells[r * t->ncolumns + c]);
            if (k > w[c]) w[c] = k;
        }
        sum += w[c] + (c ? GAP : 0);
    }
    while (width > 0 && sum > width) {
        int widest = -1;
        for (int c = 0; c < t->ncolumns; c++)
            if (t->columns[c].shrink && w[c] > t->columns[c].shrink && (widest < 0 || w[c] > w[widest])) widest = c;
        if (widest < 0) break; /* what cannot shrink is cut at the edge, line by line */
        w[widest]--;
        sum--;
    }
}

/* Blanks are owed until the next text, so that no line ends in them. */
static void print_row(const mull_table *t, FILE *f, const int *w, char *const *cells, int width, bool color) {
    int left = width > 0 ? width : 1 << 30, owed = 0;
    for (int c = 0; c < t->ncolumns && left > 0; c++) {
        const char *text = cells ? cells[c] : t->columns[c].title;
        char clean[2048];
        int room = w[c] < left ? w[c] : left;
        mull_text_clean(text, room, clean, sizeof clean);
        int pad = room - mull_text_columns(clean); /* a cut column is as wide as what is left */
        const char *on = cells && t->columns[c].state ? mull_state_color(text, color)
                         : !cells && color            ? "\033[1m"
                                                      : "";
        if (t->columns[c].right) owed += pad;
        if (*clean) {
            fprintf(f, "%*s%s%s%s", owed, "", on, clean, *on ? mull_color_reset(color) : "");
            owed = 0;
        }
        owed += (t->columns[c].right ? 0 : pad) + GAP;
        left -= w[c] + GAP;
    }
    fputc('\n', f);
}

void mull_table_print(const mull_table *t, FILE *f, int width, bool color) {
    int w[MULL_COLUMNS_MAX];
    widths_of(t, width, w);
    print_row(t, f, w, NULL, width, color);
    for (int r = 0; r < t->nrows; r++) print_row(t, f, w, t->cells + r * t->ncolumns, width, color);
}

void mull_table_fini(mull_table *t) {
    for (int i = 0; i < t->nrows * t->ncolumns; i++) free(t->cells[i]);
    free(t->cells);
    *t = (mull_table){0};
}
