/* The datasets of the release as rows of one shape: a question, its media, how to think about it, the answer. What the
 * modes of a recipe do to the texts is done here; the chat frame, ids and pixels come later (sample.h). */
#ifndef MULL_ENGINE_DATA_DATASET_H
#define MULL_ENGINE_DATA_DATASET_H

#include "engine/core/buf.h"
#include "engine/data/recipe.h"
#include "engine/media/media.h"

enum { MULL_OPTIONS_MAX = 26 };

/* A medium before it is decoded: a path, or bytes. */
typedef struct mull_source {
    mull_media_kind kind; /* IMAGE or VIDEO */
    char *path;           /* owned; NULL: bytes */
    char *data;           /* owned */
    size_t len;
    int side; /* resize to side x side (Lanczos) before anything else; 0: as it is */
} mull_source;

/* Text in which some stretches are special tokens (latents); the rest is never parsed for special tokens, whatever it
 * spells. */
typedef struct mull_span {
    size_t at, len;
} mull_span;
typedef struct mull_text {
    mull_buf s;
    mull_span *special; /* rising */
    size_t nspecial, cap;
} mull_text;

/* One sample as text. Everything is owned but subset. */
typedef struct mull_example {
    mull_set set;
    int64_t index;            /* in the dataset */
    const char *subset;       /* Zebra-CoT: its name, borrowed from the dataset; else NULL */
    int64_t row;              /* in the subset */
    const char *problem_type; /* static: "multiple choice", "numerical", "OCR", "free-form", "regression" */
    char *solution;
    mull_text question;             /* the user's text, template included */
    mull_text answer;               /* the assistant's text as the mode wants it */
    mull_source *media, *reasoning; /* reasoning: stage 1 only, one for each <|latent_image|> */
    size_t nmedia, nreasoning;
    int order[MULL_OPTIONS_MAX]; /* SAT: option k is answers[order[k]] */
    int norder;
    json_t *messages; /* Messages: as given, media in order of appearance; question and answer are then empty */
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
