/* Cells of rows, apart from where they come from; see parquet.h. */
#include "engine/data/parquet.h"

#include <stdlib.h>
#include <string.h>

const mull_cell *mull_cell_find(const mull_cell *c, const char *name) {
    if (!c || c->kind != MULL_CELL_STRUCT) return NULL;
    for (size_t i = 0; i < c->n; i++)
        if (c->items[i].name && !strcmp(c->items[i].name, name)) return &c->items[i];
    return NULL;
}

/* A row's memory is a chain of blocks, the next one's address in front of each. */
void mull_row_free(mull_row *r) {
    for (void *block = r->memory; block;) {
        void *next;
        memcpy(&next, block, sizeof next);
        free(block);
        block = next;
    }
    memset(r, 0, sizeof *r);
}
