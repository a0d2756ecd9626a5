/* Curves of characters: one or a few series over their steps in one frame. */
#ifndef MULL_CLI_PLOT_H
#define MULL_CLI_PLOT_H

#include <stddef.h>
#include <stdio.h>

typedef struct mull_series {
    const char *name;
    const double *steps, *values; /* [n], finite */
    size_t n;
} mull_series;

enum { MULL_SERIES_MAX = 6 };

/* Draws them over the same axes, each with its own mark (a legend says which when there are several). Later series lie
 * above earlier ones. width: columns, 0: 80. Nothing for series without points. */
void mull_plot(const char *title, const mull_series *s, size_t n, int width, FILE *f);

#endif
