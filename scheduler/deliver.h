/* Webhooks out of their outbox: what is due is claimed from PostgreSQL, signed, sent, and its end written down. Any
 * scheduler does it, leading or not; a claim is a lease, so what one loses with its life another sends, at least once.
 *
 * Signed as standardwebhooks.com has it, for which receivers have libraries: webhook-id, webhook-timestamp (unix s) and
 * webhook-signature: v1,BASE64(HMAC-SHA256(secret, "ID.TIMESTAMP.BODY")), the secret as whsec_BASE64. The id of a
 * delivery is the same at each attempt: receivers know it again. */
#ifndef MULL_SCHEDULER_DELIVER_H
#define MULL_SCHEDULER_DELIVER_H

#include "scheduler/net_guard.h"
#include "schema/store_pg.h"

enum { MULL_WEBHOOK_SECRET_BYTES = 32, MULL_WEBHOOK_SECRET_CAP = 64, MULL_WEBHOOK_SIGNATURE_CAP = 64 };

typedef struct mull_deliver mull_deliver;

/* guard is borrowed. NULL without memory. */
mull_deliver *mull_deliver_create(uv_loop_t *loop, mull_pg *pg, const mull_net_guard *guard);
/* Run the loop until its handles are closed, then destroy. */
void mull_deliver_close(mull_deliver *d);
void mull_deliver_destroy(mull_deliver *d);

/* A new secret, whsec_… */
void mull_webhook_secret(char out[MULL_WEBHOOK_SECRET_CAP]);
/* The value of webhook-signature. 0, or -1: secret is none. */
int mull_webhook_sign(const char *secret, const char *id, long long timestamp, const char *body, size_t len,
                      char out[MULL_WEBHOOK_SIGNATURE_CAP]);

#endif
