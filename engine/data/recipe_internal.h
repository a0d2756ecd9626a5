/* Between recipe.c (YAML in, checks) and recipe_keys.c (the list of keys, values, report). */
#ifndef MULL_ENGINE_DATA_RECIPE_INTERNAL_H
#define MULL_ENGINE_DATA_RECIPE_INTERNAL_H

#include "engine/data/recipe.h"

typedef enum mull__key_type {
    MULL_KEY_BOOL,
    MULL_KEY_INT,
    MULL_KEY_REAL,
    MULL_KEY_TEXT,
    MULL_KEY_WORD,   /* one of words, stored as its place */
    MULL_KEY_RESUME, /* a boolean or a folder */
    MULL_KEY_MIX,    /* a mapping of weights */
    MULL_KEY_IGNORED /* anything; notes why it has no effect */
} mull__key_type;

typedef struct mull__key {
    bool dataset; /* inside train_dataset_args */
    const char *name;
    mull__key_type type;
    size_t at;        /* offset in mull_recipe */
    double value;     /* default of numbers, booleans and words; NAN: follows the kind of recipe */
    double lo, hi;    /* of numbers */
    const char *text; /* default of TEXT; why of IGNORED; words of WORD, '|' between them */
} mull__key;

extern const mull__key mull__keys[];
extern const size_t mull__nkeys;

/* dataset: which section is meant. -1: no such key. */
int mull__key_find(const char *name, bool dataset);
/* The known key nearest to name, NULL when none is near. */
const mull__key *mull__key_nearest(const char *name);
/* The mix's spelling of a set, or -1: letters and digits count, case does not. */
int mull__set_find(const char *name);

/* A scalar as it was written. */
typedef struct mull__value {
    const char *text;
    bool quoted;
    int line; /* 0: --set */
} mull__value;

/* Stores v under key, or reports what is wrong. given is set when a value was stored. */
void mull__key_store(mull_recipe *r, const mull__key *key, const mull__value *v, bool *given,
                     mull_recipe_report *report);
void mull__key_defaults(mull_recipe *r);
bool mull__is_null(const mull__value *v);
int mull__parse_real(const char *text, double *out);

void mull__note(mull_recipe_report *report, bool error, int line, const char *section, const char *key,
                const char *did_you_mean, const char *fmt, ...) __attribute__((format(printf, 7, 8)));

#endif
