/* mull-engine puzzles: draws a small dataset of spatial puzzles. */
#include "engine/cmd/cmd.h"
#include "engine/data/puzzle.h"

#include <string.h>

static void help(FILE *f) {
    fprintf(f, "usage: mull-engine puzzles --out DIR [--layout videor1|sat|zebra|messages|puzzles] [--count N]\n"
               "                           [--first I] [--seed N] [--kinds side,bigger,count,maze]\n\n"
               "Draws pictures with questions (which is bigger, left or right, counting, mazes) as a dataset: in\n"
               "one of the layouts that training reads, or (puzzles) as the evaluation task of that name.\n"
               "A puzzle follows from (seed, index), so a range of indices not used in training is a test set.\n");
}

/* "side,count" to bits; 0 when a word is unknown. */
static unsigned parse_kinds(const char *text) {
    unsigned bits = 0;
    while (*text) {
        size_t n = strcspn(text, ",");
        unsigned found = 0;
        for (int k = 0; k < MULL_PUZZLE_KINDS; k++) {
            const char *name = mull_puzzle_name((mull_puzzle_kind)k);
            if (strlen(name) == n && !strncmp(name, text, n)) found = 1u << k;
        }
        if (!found) return 0;
        bits |= found;
        text += n + (text[n] == ',');
    }
    return bits;
}

int mull_cmd_puzzles(int argc, char **argv) {
    const char *out = NULL, *layout = "videor1";
    long long seed = 0, first = 0, count = 1000;
    unsigned kinds = (1u << MULL_PUZZLE_KINDS) - 1;
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i];
        if (!strcmp(flag, "--help")) {
            help(stdout);
            return MULL_EXIT_OK;
        }
        if (i + 1 == argc) return mull_cmd_usage("puzzles", "%s is unknown or needs a value", flag);
        const char *value = argv[++i];
        int rc = 0;
        if (!strcmp(flag, "--out"))
            out = value;
        else if (!strcmp(flag, "--layout"))
            layout = value;
        else if (!strcmp(flag, "--seed"))
            rc = mull_cmd_int("puzzles", flag, value, 0, INT64_MAX, &seed);
        else if (!strcmp(flag, "--first"))
            rc = mull_cmd_int("puzzles", flag, value, 0, 1ll << 50, &first);
        else if (!strcmp(flag, "--count"))
            rc = mull_cmd_int("puzzles", flag, value, 1, 10000000, &count);
        else if (!strcmp(flag, "--kinds"))
            rc =
                (kinds = parse_kinds(value)) ? 0 : mull_cmd_usage("puzzles", "--kinds knows side, bigger, count, maze");
        else
            rc = mull_cmd_usage("puzzles", "unknown argument '%s'", flag);
        if (rc) return rc;
    }
    if (!out) return mull_cmd_usage("puzzles", "--out is needed");
    mull_error err = {0};
    if (mull_puzzles_write(out, layout, (uint64_t)seed, first, count, kinds, &err)) return mull_cmd_fail(&err);
    mull_cmd_emit(json_pack("{s:s, s:s, s:I, s:I, s:I}", "out", out, "layout", layout, "first", (json_int_t)first,
                            "count", (json_int_t)count, "seed", (json_int_t)seed));
    return MULL_EXIT_OK;
}
