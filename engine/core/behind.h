/* Large files that end in an fsync: asks the kernel to write what has come so far while the rest is still being made.
 * Left to itself it waits for a tenth of the memory to be dirty, and the fsync then waits for the disk alone. */
#ifndef MULL_ENGINE_CORE_BEHIND_H
#define MULL_ENGINE_CORE_BEHIND_H

#include <fcntl.h>
#include <stddef.h>

enum { MULL_BEHIND_BYTES = 16 << 20 };

typedef struct mull_behind {
    off_t written, begun;
} mull_behind;

/* n more bytes were written to the end of fd. Only speed depends on it, so what it returns is not looked at. */
static inline void mull_behind_wrote(mull_behind *b, int fd, size_t n) {
    b->written += (off_t)n;
    if (b->written - b->begun < MULL_BEHIND_BYTES) return;
    sync_file_range(fd, b->begun, b->written - b->begun, SYNC_FILE_RANGE_WRITE);
    b->begun = b->written;
}

#endif
