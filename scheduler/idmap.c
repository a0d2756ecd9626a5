/* Open addressing with backward-shift deletion; see idmap.h. */
#include "scheduler/idmap.h"

#include <stdlib.h>
#include <string.h>

static size_t home(const mull_idmap *m, int64_t id) {
    uint64_t x = (uint64_t)id * 0x9E3779B97F4A7C15u; /* Fibonacci hashing: ids are dense, their top bits are not */
    return (size_t)(x >> 32) & m->mask;
}

static int grow(mull_idmap *m) {
    mull_idmap bigger = {.mask = m->slots ? m->mask * 2 + 1 : 63};
    bigger.slots = calloc(bigger.mask + 1, sizeof *bigger.slots);
    if (!bigger.slots) return -1;
    for (size_t i = 0; m->slots && i <= m->mask; i++)
        if (m->slots[i].id) mull_idmap_put(&bigger, m->slots[i].id, m->slots[i].value);
    free(m->slots);
    *m = bigger;
    return 0;
}

int mull_idmap_put(mull_idmap *m, int64_t id, uint32_t value) {
    if ((!m->slots || m->count * 2 > m->mask) && grow(m) != 0) return -1;
    size_t i = home(m, id);
    while (m->slots[i].id && m->slots[i].id != id) i = (i + 1) & m->mask;
    m->count += m->slots[i].id == 0;
    m->slots[i].id = id;
    m->slots[i].value = value;
    return 0;
}

static bool find(const mull_idmap *m, int64_t id, size_t *at) {
    if (!m->slots || id == 0) return false;
    for (size_t i = home(m, id); m->slots[i].id; i = (i + 1) & m->mask)
        if (m->slots[i].id == id) {
            *at = i;
            return true;
        }
    return false;
}

bool mull_idmap_get(const mull_idmap *m, int64_t id, uint32_t *value) {
    size_t at;
    if (!find(m, id, &at)) return false;
    *value = m->slots[at].value;
    return true;
}

void mull_idmap_del(mull_idmap *m, int64_t id) {
    size_t hole;
    if (!find(m, id, &hole)) return;
    m->count--;
    for (size_t i = (hole + 1) & m->mask; m->slots[i].id; i = (i + 1) & m->mask) {
        /* An entry may fill the hole when its home is not between the hole and itself. */
        size_t h = home(m, m->slots[i].id);
        if (((i - h) & m->mask) >= ((i - hole) & m->mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    memset(&m->slots[hole], 0, sizeof m->slots[hole]);
}

void mull_idmap_fini(mull_idmap *m) {
    free(m->slots);
    *m = (mull_idmap){0};
}
