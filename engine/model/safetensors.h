/* safetensors files: reading by mmap (one file or shards with an index), writing atomically. */
#ifndef MULL_ENGINE_MODEL_SAFETENSORS_H
#define MULL_ENGINE_MODEL_SAFETENSORS_H

#include "engine/core/dtype.h"
#include "engine/core/error.h"

#include <stddef.h>
#include <stdint.h>

enum { MULL_ST_MAX_DIMS = 8 };

typedef struct mull_tensor_info {
    const char *name;
    mull_dtype dtype;
    int ndim;
    int64_t shape[MULL_ST_MAX_DIMS];
    int64_t count;    /* product of shape, 1 for a scalar */
    const void *data; /* into the map; may be unaligned only by the file's own fault, which is refused */
    const char *file; /* shard it came from */
} mull_tensor_info;

typedef struct mull_safetensors mull_safetensors;

/* path: a .safetensors file, or a checkpoint folder (model.safetensors, else model.safetensors.index.json). */
int mull_safetensors_open(const char *path, mull_safetensors **out, mull_error *err);
/* From memory that outlives the handle (fuzzer, tests). */
int mull_safetensors_parse(const void *data, size_t len, const char *name, mull_safetensors **out, mull_error *err);
void mull_safetensors_close(mull_safetensors *s);
size_t mull_safetensors_count(const mull_safetensors *s);
const mull_tensor_info *mull_safetensors_at(const mull_safetensors *s, size_t i); /* file order */
const mull_tensor_info *mull_safetensors_find(const mull_safetensors *s, const char *name); /* NULL if absent */
/* Tells the kernel that this tensor's pages are no longer needed. */
void mull_safetensors_drop(const mull_safetensors *s, const mull_tensor_info *t);
/* The same for a part of a tensor: whole pages inside [data, data + len). */
void mull_safetensors_drop_bytes(const void *data, size_t len);

/* Writes tensors (data borrowed) to path.tmp, fsyncs, renames. Those with larger elements come first in the file, so that
 * all are aligned; among equals the given order stays. */
int mull_safetensors_write(const char *path, const mull_tensor_info *tensors, size_t n, mull_error *err);

#endif
