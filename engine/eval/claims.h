/* Who answers which rows of a task when several processes evaluate into one folder: ranks of one job, jobs of an array,
 * or jobs that were submitted with the same words.
 *
 * Rows lie in shards of MULL__EVAL_SHARD. A process claims a shard by an advisory lock on a file of its own, which the
 * kernel gives back when the process dies, so nobody has to notice a death or agree on who is there: a shard without a
 * marker and without a lock is anybody's. Each answer follows from its row alone (its seed is made from the row's
 * number), so who answers and in which order changes no byte. Locks work between hosts where the file system passes
 * them on (NFSv4 and the parallel file systems do). */
#ifndef MULL_ENGINE_EVAL_CLAIMS_H
#define MULL_ENGINE_EVAL_CLAIMS_H

#include "engine/annotate/shard.h"

enum { MULL__EVAL_SHARD = 32 };

typedef struct mull__claim {
    mull__shard *shard;
    int lock;
    int64_t next; /* the first row that was not given out */
    struct mull__claim *after;
} mull__claim;

typedef struct mull__claims {
    int work; /* the task's folder, borrowed */
    int64_t rows, shards;
    int64_t done, complete; /* rows known to be answered; shards known to be complete */
    uint8_t *state;         /* [shards] */
    mull__claim *mine;
} mull__claims;

int mull__claims_init(mull__claims *c, int work, int64_t rows, mull_error *err);
/* Closes what is claimed; others may go on with it. */
void mull__claims_fini(mull__claims *c);
/* *row and its claim: the next row that nobody has answered, of a shard that is this process's now; *claim NULL: there
 * is none to be had, for all are answered, given out, or others'. */
int mull__claims_next(mull__claims *c, int64_t *row, mull__claim **claim, mull_error *err);
/* Behind a row's append: when it was the shard's last, writes the marker and gives the claim up (it is freed). */
int mull__claims_answered(mull__claims *c, mull__claim *claim, mull_error *err);
/* Looks again at what was others'. */
int mull__claims_look(mull__claims *c, mull_error *err);
static inline bool mull__claims_complete(const mull__claims *c) {
    return c->complete == c->shards;
}
/* fdatasync of all that is claimed. */
int mull__claims_sync(mull__claims *c, mull_error *err);
/* Every answer in row order; all shards must be complete. MULL_EFORMAT: a shard's marker was taken back, for its rows
 * have to be answered again; look shows it. */
int mull__claims_merge(mull__claims *c, mull__sink *ok, mull__sink *bad, mull_error *err);

#endif
