/* Where the ranks of a run over several hosts meet before they are connected to each other: a small table of words in
 * rank 0, which the others reach over TCP. (PyTorch's TCPStore does the same for its launchers; on one host a folder is
 * enough, and no port is needed.)
 *
 * Who wants in proves that it knows the run's secret, and so does rank 0: an HMAC each over two fresh nonces, and the
 * secret itself never travels. What is said then is neither secret nor signed: the network between the hosts of a gang
 * is trusted to carry it unchanged. One connection a rank, all calls from one thread. */
#ifndef MULL_ENGINE_COMM_MEET_H
#define MULL_ENGINE_COMM_MEET_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/core/error.h"

#include <stddef.h>
#include <stdint.h>

enum { MULL_MEET_KEY = 64, MULL_MEET_WORD = 64 << 10, MULL_MEET_MAC = 32 };

typedef struct mull_meet mull_meet;

/* host, port: where rank 0 listens. Waits up to timeout_s for rank 0 to be there. */
int mull__meet_open(int rank, int world, const char *host, const char *port, const char *secret, int timeout_s,
                    mull_meet **out, mull_error *err);
/* Says a word of n bytes (at most MULL_MEET_WORD) under a key of fewer than MULL_MEET_KEY; again replaces it. */
int mull__meet_put(mull_meet *m, const char *key, const void *word, size_t n, mull_error *err);
/* Waits up to timeout_ms for a word, malloc'ed. MULL_EIO when it does not come. */
int mull__meet_get(mull_meet *m, const char *key, int timeout_ms, void **word, size_t *n, mull_error *err);
/* Rank 0 waits a few seconds for the others to leave first. */
void mull__meet_close(mull_meet *m);

/* HMAC-SHA256 of the secret over the text what and two numbers, to prove to a peer that one knows the secret. */
void mull__meet_proof(const char *secret, const char *what, int from, int to, uint8_t mac[MULL_MEET_MAC]);

#ifdef __cplusplus
}
#endif
#endif
