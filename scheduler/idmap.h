/* A map from positive 64-bit ids (jobs, fences) to array indexes: open addressing, linear probing, deletion by
 * shifting back, so that it stays fast over days of inserting and deleting. */
#ifndef MULL_SCHEDULER_IDMAP_H
#define MULL_SCHEDULER_IDMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mull_idmap {
    struct {
        int64_t id; /* 0 = empty */
        uint32_t value;
    } * slots;
    size_t mask, count; /* mask + 1 slots, none when slots is NULL */
} mull_idmap;

/* Sets or replaces. 0, or -1 without memory (then nothing changed). id must not be 0. */
int mull_idmap_put(mull_idmap *m, int64_t id, uint32_t value);
bool mull_idmap_get(const mull_idmap *m, int64_t id, uint32_t *value);
void mull_idmap_del(mull_idmap *m, int64_t id);
void mull_idmap_fini(mull_idmap *m);

#endif
