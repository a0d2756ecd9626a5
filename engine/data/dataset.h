/* The datasets of the release as rows of one shape: a question, its media, how to think about it, the answer. What the
 * modes of a recipe do to the texts is done here; the chat frame, ids and pixels come later (sample.h). */
#ifndef MULL_ENGINE_DATA_DATASET_H
#define MULL_ENGINE_DATA_DATASET_H

#include "engine/core/error.h"
#include "engine/data/recipe.h"
#include "engine/media/media.h"

/* A medium before it is decoded: a path, or bytes. */
typedef struct mull_source {
    mull_media_kind kind; /* IMAGE or VIDEO */
    char *path;           /* owned; NULL: bytes */
    char *data;           /* owned */
    size_t len;
    int side; /* resize to side x side (Lanczos) before anything else; 0: as it is */
} mull_source;

/* One sample as text. Strings are owned. */
typedef struct mull_example {
    mull_set set;
    int64_t index;      /* in the dataset */
    const char *subset; /* Zebra-CoT: its name, borrowed from the dataset; else NULL */
    int64_t row;        /* in the subset */
    char *problem_type, *question, *process, *solution;
    char *answer;                   /* the assistant's text as the mode wants it */
    mull_source *media, *reasoning; /* reasoning: stage 1 only, one for each <|latent_image|> */
    size_t nmedia, nreasoning;
    int order[32]; /* SAT: option k is answers[order[k]] */
    int norder;
    json_t *messages; /* Messages: as given; the rest is then empty */
} mull_example;

typedef struct mull_dataset mull_dataset;

enum { MULL_SKIP = 1 }; /* not an error: the dataset's rules leave this row out */

/* r is borrowed until the dataset is closed. */
int mull_dataset_open(const mull_recipe *r, mull_set set, mull_dataset **out, mull_error *err);
void mull_dataset_close(mull_dataset *d);
int64_t mull_dataset_rows(const mull_dataset *d);
/* Row i. key seeds what the row draws (the order of SAT's options). MULL_SKIP: err->why says which rule; a negative
 * code: the row is bad. On both out is empty. Thread-safe. */
int mull_dataset_get(mull_dataset *d, int64_t i, uint64_t key, mull_example *out, mull_error *err);
void mull_example_fini(mull_example *e);

#endif
