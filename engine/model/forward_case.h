/* A case file: token ids of one or more packed sequences with their media, as one safetensors file
 * (tests/data/model/README.md lists the tensors). The same file feeds `forward` and `generate --case`. */
#ifndef MULL_ENGINE_MODEL_FORWARD_CASE_H
#define MULL_ENGINE_MODEL_FORWARD_CASE_H

#include "engine/model/config.h"
#include "engine/model/positions.h"
#include "engine/model/safetensors.h"

typedef struct mull_case {
    mull_safetensors *file;
    int32_t *ids; /* [rows] */
    int64_t rows;
    int32_t *cu; /* [nseq + 1] borders of the sequences in ids */
    int nseq;
    mull_grid *media;      /* [nmedia] in order of appearance */
    const float **patches; /* [nmedia], each [t*h*w, patch floats], into the file */
    size_t nmedia;
    size_t *media_cu; /* [nseq + 1] borders of the sequences in media */
} mull_case;

/* Reads and checks everything: shapes, types, ids below the vocabulary, one medium for each run of placeholders. */
int mull_case_open(const char *path, const mull_config *c, mull_case *out, mull_error *err);
void mull_case_fini(mull_case *k);

#endif
