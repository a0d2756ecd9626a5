/* Spatial puzzles drawn from numbers: small pictures with a question whose answer is in the picture alone. For a demo
 * that can be seen to learn, and for tests, with nothing to download. A puzzle is a pure function of (seed, index). */
#ifndef MULL_ENGINE_DATA_PUZZLE_H
#define MULL_ENGINE_DATA_PUZZLE_H

#include "engine/core/error.h"

#include <stdint.h>

enum { MULL_PUZZLE_WIDTH = 112, MULL_PUZZLE_OPTIONS = 4 };

/* X(symbol, name, question) */
#define MULL_PUZZLES(X)                                                                                                \
    X(SIDE, "side", "Is the red circle to the left or to the right of the blue square?")                               \
    X(BIGGER, "bigger", "Which circle is bigger, the left one or the right one?")                                      \
    X(COUNT, "count", "How many circles are in the picture?")                                                          \
    X(MAZE, "maze", "From the green square, which exit can be reached: top, right, bottom or left?")

typedef enum mull_puzzle_kind {
#define X(symbol, name, question) MULL_PUZZLE_##symbol,
    MULL_PUZZLES(X)
#undef X
        MULL_PUZZLE_KINDS
} mull_puzzle_kind;

typedef struct mull_puzzle {
    mull_puzzle_kind kind;
    const char *question;                     /* static */
    const char *options[MULL_PUZZLE_OPTIONS]; /* static; NULL behind the last */
    int noptions, answer;
    char thought[200]; /* how one gets there, in words */
    uint8_t rgb[MULL_PUZZLE_WIDTH * MULL_PUZZLE_WIDTH * 3];
    uint8_t hint[MULL_PUZZLE_WIDTH * MULL_PUZZLE_WIDTH * 3]; /* the same as a picture: only what matters */
} mull_puzzle;

const char *mull_puzzle_name(mull_puzzle_kind k);
/* kinds: a set of bits, 1 << kind; index picks among them in turn. */
void mull_puzzle_draw(uint64_t seed, int64_t index, unsigned kinds, mull_puzzle *out);

/* Writes count puzzles from index first on below dir (made if need be), in one of the layouts that training reads, or
 * in that of the evaluation task "puzzles":
 *   videor1   Video-R1-COT-165k.json with pictures beside it
 *   sat       SAT_train.parquet, pictures inside
 *   zebra     a folder of parquet for each subset of Zebra-CoT that the kinds belong to; hints are reasoning images
 *   messages  rows.jsonl with {"messages": [user with picture and text, assistant], "kind"}
 *   puzzles   puzzles_test.jsonl with pictures beside it
 * Pictures are PNG files; paths in the files are relative. MULL_EUNSUPPORTED where the build cannot write parquet. */
int mull_puzzles_write(const char *dir, const char *layout, uint64_t seed, int64_t first, int64_t count, unsigned kinds,
                       mull_error *err);

#endif
