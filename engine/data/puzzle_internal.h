/* Between puzzle_write.c (files of JSON) and puzzle_tables.c (parquet). */
#ifndef MULL_ENGINE_DATA_PUZZLE_INTERNAL_H
#define MULL_ENGINE_DATA_PUZZLE_INTERNAL_H

#include "engine/data/puzzle.h"

typedef struct mull__puzzles {
    const char *dir;
    uint64_t seed;
    int64_t first, count;
    unsigned kinds;
} mull__puzzles;

int mull__puzzles_folder(const char *path, mull_error *err);
int mull__puzzles_sat(const mull__puzzles *w, mull_error *err);
int mull__puzzles_zebra(const mull__puzzles *w, mull_error *err);

#endif
