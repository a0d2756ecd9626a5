/* Buffers where a model computes; see model.h. */
#include "engine/model/model_internal.h"

#include <stdlib.h>
#include <string.h>

int mull_model_buffer(const mull_model *m, size_t bytes, const char *what_for, void **out, mull_error *err) {
    if (m->backend) return m->backend->alloc(m->state, bytes, what_for, out, err);
    *out = malloc(bytes ? bytes : 1);
    if (*out) return MULL_OK;
    char what[160];
    snprintf(what, sizeof what, "cannot take memory for %s", what_for);
    return mull_fail(err, MULL_ENOMEM, what, "", "lower max_pixels or the batch", "no memory for %zu bytes", bytes);
}

void mull_model_buffer_free(const mull_model *m, void *p) {
    if (m->backend)
        m->backend->release(m->state, p);
    else
        free(p);
}

int mull_model_buffer_read(const mull_model *m, void *dst, const void *buffer, size_t bytes, mull_error *err) {
    if (m->backend) return m->backend->read(m->state, dst, buffer, bytes, err);
    memcpy(dst, buffer, bytes);
    return MULL_OK;
}

bool mull_model_on_host(const mull_model *m) {
    return !m->backend;
}

size_t mull_model_kv_element(const mull_model *m) {
    return m->backend ? m->backend->kv_element(m->state) : sizeof(float);
}

size_t mull_model_free_bytes(const mull_model *m) {
    return m->backend ? m->backend->free_bytes(m->state) : 0;
}

int mull_model_status(const mull_model *m, mull_error *err) {
    return m->backend ? m->backend->status(m->state, err) : MULL_OK;
}
