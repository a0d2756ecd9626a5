/* Files of jobs to and from the front door (scheduler/transfer.c says what may travel): whole trees, in pieces, resumed
 * where they broke off, every file checked by SHA-256 before it takes its name. The worker's engines and `mull pull`
 * use it. Calls block. */
#ifndef MULL_SCHEMA_TRANSFER_H
#define MULL_SCHEMA_TRANSFER_H

#include "schema/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct mull_transfer mull_transfer;

typedef struct mull_transfer_opts {
    const char *server;  /* http://, https:// or unix:PATH */
    const char *bearer;  /* a token or a node's secret; NULL: none */
    const char *ca;      /* PEM text of the certificate to trust; */
    const char *ca_file; /* or a file with it; both NULL: the system's */
    const char *job;     /* decimal */
    int64_t fence;       /* of the attempt, for nodes; 0 */
    /* Told of each file that was moved; may be NULL. */
    void (*moved)(void *arg, const char *name, int64_t bytes);
    /* Called often while bytes move, files are read for their sums, or the server does that; not while a server is
     * away. May be NULL. */
    void (*alive)(void *arg);
    void *arg;
    int quiet_s; /* a connection on which nothing moves for so long is given up and made anew; 0: two minutes */
} mull_transfer_opts;

mull_transfer *mull_transfer_open(const mull_transfer_opts *o, mull_err *err);
void mull_transfer_close(mull_transfer *t);

typedef struct mull_transfer_counts {
    int64_t files, bytes, kept; /* moved; files that were there already */
} mull_transfer_counts;

/* The file or folder `path` of the server (NULL: the job's out) becomes `local`: what is there with the same SHA-256
 * stays, and with exact what the server does not have is removed. MULL_ERR_MISSING: there is none there. */
int mull_transfer_pull(mull_transfer *t, const char *path, const char *local, bool exact, mull_transfer_counts *n,
                       mull_err *err);
/* The other way: new and changed files below `local` go to `path`. Links and what is no file stay behind. */
int mull_transfer_push(mull_transfer *t, const char *local, const char *path, mull_transfer_counts *n, mull_err *err);
/* Removes a file or folder of the server. */
int mull_transfer_remove(mull_transfer *t, const char *path, mull_err *err);
/* SHA-256 of a file as 64 hexadecimal digits. */
int mull_transfer_sum(const char *path, char sum[65], mull_err *err);

#endif
