/* See plot.h. */
#include "cli/plot.h"

#include "cli/term.h"

#include <math.h>
#include <string.h>

enum { ROWS = 12, COLUMNS_MAX = 200, LABEL = 11 };
static const char MARKS[MULL_SERIES_MAX + 1] = "*o+x#@";

void mull_plot(const char *title, const mull_series *s, size_t n, int width, FILE *f) {
    double lo = INFINITY, hi = -INFINITY, first = INFINITY, last = -INFINITY;
    size_t points = 0;
    if (n > MULL_SERIES_MAX) n = MULL_SERIES_MAX;
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < s[k].n; i++, points++) {
            lo = fmin(lo, s[k].values[i]), hi = fmax(hi, s[k].values[i]);
            first = fmin(first, s[k].steps[i]), last = fmax(last, s[k].steps[i]);
        }
    if (!points) return;
    int columns = (width > 0 ? width : 80) - LABEL - 2;
    columns = columns < 10 ? 10 : columns > COLUMNS_MAX ? COLUMNS_MAX : columns;
    char grid[ROWS][COLUMNS_MAX + 1];
    for (int r = 0; r < ROWS; r++) {
        memset(grid[r], ' ', (size_t)columns);
        grid[r][columns] = 0;
    }
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < s[k].n; i++) {
            int x = last > first ? (int)((s[k].steps[i] - first) / (last - first) * (columns - 1) + 0.5) : 0;
            int y = hi > lo ? (int)((s[k].values[i] - lo) / (hi - lo) * (ROWS - 1) + 0.5) : ROWS / 2;
            grid[ROWS - 1 - y][x] = MARKS[k];
        }
    char clean[160];
    mull_text_clean(title, 100, clean, sizeof clean);
    fprintf(f, "%s (%zu points)\n", clean, points);
    for (int r = 0; r < ROWS; r++) {
        char label[24] = "";
        if (r == 0 || r == ROWS - 1) snprintf(label, sizeof label, "%.4g", r ? lo : hi);
        fprintf(f, "%*s |%s\n", LABEL, label, grid[r]);
    }
    fprintf(f, "%*s  step %.0f to %.0f", LABEL, "", first, last);
    for (size_t k = 0; n > 1 && k < n; k++) {
        mull_text_clean(s[k].name, 40, clean, sizeof clean);
        fprintf(f, "%s%c %s", k ? "  " : "   ", MARKS[k], clean);
    }
    fputc('\n', f);
}
