/* Streamed writing of a safetensors file whose tensors need not be in memory together. */
#ifndef MULL_ENGINE_MODEL_SAFETENSORS_WRITE_H
#define MULL_ENGINE_MODEL_SAFETENSORS_WRITE_H

#include "engine/model/safetensors.h"

typedef struct mull_safetensors_writer mull_safetensors_writer;

/* Opens PATH.tmp and writes the header for tensors (data is ignored); exactly their bytes follow in order through add, in
 * pieces of any size. Aligned when no tensor comes before one of larger elements. */
int mull_safetensors_writer_open(const char *path, const mull_tensor_info *tensors, size_t n,
                                 mull_safetensors_writer **out, mull_error *err);
int mull_safetensors_writer_add(mull_safetensors_writer *w, const void *data, size_t len, mull_error *err);
/* Makes the file appear under its name, durably. Frees w in any case. */
int mull_safetensors_writer_commit(mull_safetensors_writer *w, mull_error *err);
/* Removes what was written and frees w (NULL is fine). */
void mull_safetensors_writer_abort(mull_safetensors_writer *w);

#endif
