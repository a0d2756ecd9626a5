/* A first-in first-out file of records for what memory has no room for.
 *
 * It belongs to one start of the worker and is emptied by the next: what a former start did not deliver, the leader
 * ends by itself when it hears of the new one. So it need not survive a crash of the machine and is not fsynced; it
 * must survive a full disk: a record is either in whole or not at all. */
#ifndef MULL_WORKER_SPOOL_H
#define MULL_WORKER_SPOOL_H

#include "schema/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct mull_spool {
    int fd;
    char path[4096];
    uint64_t begin, end; /* bytes of the file that hold records */
    uint64_t limit;      /* most bytes between them */
    uint64_t count;      /* records */
} mull_spool;

int mull_spool_open(mull_spool *s, const char *path, uint64_t limit, mull_err *err);
/* Closes and removes the file. */
void mull_spool_close(mull_spool *s);
/* Appends. MULL_ERR_NOSPACE when the disk or the limit is full: nothing has changed then. */
int mull_spool_put(mull_spool *s, const char *data, size_t n, mull_err *err);
/* The oldest record, as a malloced text with a NUL behind it. MULL_ERR_MISSING when there is none. MULL_ERR_FORMAT when
 * the file is damaged: then all records left are gone (lost says how many) and the spool is empty and usable. */
int mull_spool_get(mull_spool *s, char **data, size_t *n, uint64_t *lost, mull_err *err);

#endif
