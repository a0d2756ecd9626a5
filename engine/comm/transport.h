/* What a library for ranks has to do for comm.c: bytes from every rank to every other. Gloo's is gloo.cc; a build
 * without it has transport_none.c. */
#ifndef MULL_ENGINE_COMM_TRANSPORT_H
#define MULL_ENGINE_COMM_TRANSPORT_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/comm/meet.h"
#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct mull_transport mull_transport;

bool mull__transport_available(void);
/* Ranks on one host meet in dir, which exists, and talk over the loopback interface. Over several hosts they meet
 * through meet, and each listens at its own address. */
typedef struct mull_transport_place {
    int rank, world, timeout_s;
    const char *dir;
    mull_meet *meet;     /* NULL: dir */
    const char *address; /* with meet: a name or number of this host that the others reach */
} mull_transport_place;
/* Returns when all ranks are connected. */
int mull__transport_open(const mull_transport_place *at, mull_transport **out, mull_error *err);
void mull__transport_close(mull_transport *t);
/* The same connections for another thread: messages of the two do not mix. One for each transport; closed before it. */
int mull__transport_channel(const mull_transport *t, mull_transport **out, mull_error *err);

/* Sends bytes [send_at[r], + send_len[r]) of send to each other rank r, and receives recv_len[r] bytes from it at
 * recv_at[r] of recv. The entries of this rank are not looked at. Lengths agree between the ends; 0 is no message. */
typedef struct mull_exchange {
    void *send, *recv;
    size_t send_bytes, recv_bytes; /* of the whole buffers */
    const size_t *send_at, *send_len, *recv_at, *recv_len;
} mull_exchange;
int mull__transport_exchange(mull_transport *t, const mull_exchange *x, mull_error *err);

#ifdef __cplusplus
}
#endif
#endif
