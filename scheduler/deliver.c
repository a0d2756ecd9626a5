/* See deliver.h. */
#include "scheduler/deliver.h"

#include "scheduler/http_out.h"
#include "schema/log.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* A lease outlasts the longest request (http_out.c) and the statement behind it. */
enum { LOOK_MS = 1000, LEASE_S = 20, UNDER_WAY_MAX = 64, BUSY = 4 };

typedef struct sending {
    mull_deliver *owner;
    char id[24], webhook[24], attempt[12];
} sending;

struct mull_deliver {
    mull_pg *pg;
    mull_http_out *out;
    uv_timer_t timer;
    sending *under_way[UNDER_WAY_MAX];
    int count;
    bool claiming, closing;
};

/* ---- secrets and signatures ---- */

static const char PREFIX[] = "whsec_";

void mull_webhook_secret(char out[MULL_WEBHOOK_SECRET_CAP]) {
    unsigned char random[MULL_WEBHOOK_SECRET_BYTES];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) abort(); /* never for so few bytes */
    memcpy(out, PREFIX, sizeof PREFIX - 1);
    EVP_EncodeBlock((unsigned char *)out + sizeof PREFIX - 1, random, sizeof random);
    OPENSSL_cleanse(random, sizeof random);
}

int mull_webhook_sign(const char *secret, const char *id, long long timestamp, const char *body, size_t len,
                      char out[MULL_WEBHOOK_SIGNATURE_CAP]) {
    unsigned char key[MULL_WEBHOOK_SECRET_CAP], digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    size_t n = strlen(secret), skip = sizeof PREFIX - 1;
    if (strncmp(secret, PREFIX, skip) != 0 || n <= skip || (n - skip) % 4 || n >= MULL_WEBHOOK_SECRET_CAP) return -1;
    int key_len = EVP_DecodeBlock(key, (const unsigned char *)secret + skip, (int)(n - skip));
    if (key_len < 0) return -1;
    for (size_t i = n; i-- > skip && secret[i] == '=';) key_len--; /* the block's padding is no part of it */
    char head[80];
    int head_len = snprintf(head, sizeof head, "%.40s.%lld.", id, timestamp);
    char *text = malloc((size_t)head_len + len);
    if (text) {
        memcpy(text, head, (size_t)head_len);
        memcpy(text + head_len, body, len);
        if (!HMAC(EVP_sha256(), key, key_len, (unsigned char *)text, (size_t)head_len + len, digest, &digest_len))
            digest_len = 0;
        free(text);
    }
    OPENSSL_cleanse(key, sizeof key);
    if (digest_len == 0) return -1;
    memcpy(out, "v1,", 3);
    EVP_EncodeBlock((unsigned char *)out + 3, digest, (int)digest_len);
    return 0;
}

/* ---- one delivery ---- */

static void look(mull_deliver *d);

static void ignore(const mull_pg_reply *r, void *arg) {
    (void)arg;
    if (r->status == MULL_PG_ERROR)
        mull_log(MULL_LOG_ERROR, "a delivery could not be written down: %s (%s)", r->message, r->sqlstate);
}

static void record(mull_deliver *d, const sending *s, int status, const char *error) {
    char text[12];
    snprintf(text, sizeof text, "%d", status);
    const char *params[] = {s->id, s->attempt, text, error};
    /* When this is lost the lease ends by itself, and the delivery goes out once more. */
    mull_pg_query(d->pg, "SELECT mull_webhook_done($1::bigint, $2::int, $3::int, $4)", 4, params, ignore, NULL);
}

static void on_sent(int status, const char *error, void *arg) {
    sending *s = arg;
    mull_deliver *d = s->owner;
    char why[320];
    if (status >= 200 && status < 300)
        why[0] = 0;
    else
        snprintf(why, sizeof why, status ? "the receiver answered with another status than 2xx" : "%s", error);
    record(d, s, status, why);
    for (int i = 0; i < d->count; i++)
        if (d->under_way[i] == s) d->under_way[i] = d->under_way[--d->count];
    free(s);
}

static void send_one(mull_deliver *d, const PGresult *r, int row) {
    const char *url = PQgetvalue(r, row, 2), *secret = PQgetvalue(r, row, 3), *body = PQgetvalue(r, row, 4);
    size_t len = (size_t)PQgetlength(r, row, 4);
    sending *s = calloc(1, sizeof *s);
    if (!s) return;
    *s = (sending){.owner = d};
    snprintf(s->id, sizeof s->id, "%s", PQgetvalue(r, row, 0));
    snprintf(s->webhook, sizeof s->webhook, "%s", PQgetvalue(r, row, 1));
    snprintf(s->attempt, sizeof s->attempt, "%s", PQgetvalue(r, row, 5));
    char id[40], id_header[64], time_header[64], signature[MULL_WEBHOOK_SIGNATURE_CAP], signature_header[100];
    long long now = (long long)time(NULL);
    snprintf(id, sizeof id, "msg_%s", s->id);
    snprintf(id_header, sizeof id_header, "webhook-id: %s", id);
    snprintf(time_header, sizeof time_header, "webhook-timestamp: %lld", now);
    if (mull_webhook_sign(secret, id, now, body, len, signature)) {
        record(d, s, 0, "it could not be signed");
        free(s);
        return;
    }
    snprintf(signature_header, sizeof signature_header, "webhook-signature: %s", signature);
    const char *headers[] = {
        "Content-Type: application/json", "Expect:", id_header, time_header, signature_header, NULL};
    if (mull_http_out_post(d->out, url, headers, body, len, on_sent, s)) {
        record(d, s, 0, "it could not be sent: out of memory");
        free(s);
        return;
    }
    d->under_way[d->count++] = s;
}

/* ---- claims ---- */

static void on_claimed(const mull_pg_reply *r, void *arg) {
    mull_deliver *d = arg;
    d->claiming = false;
    if (d->closing || r->status != MULL_PG_OK) return;
    int n = PQntuples(r->res);
    for (int i = 0; i < n && d->count < UNDER_WAY_MAX; i++) send_one(d, r->res, i);
    if (n > 0) look(d); /* there may be more */
}

/* Webhooks that have as many requests under way as one may: '{3,17}'. A receiver that hangs holds up itself alone. */
static void busy_ones(const mull_deliver *d, char *out, size_t cap) {
    size_t n = (size_t)snprintf(out, cap, "{");
    for (int i = 0; i < d->count; i++) {
        int same = 0, first = 1;
        for (int k = 0; k < d->count; k++) {
            same += !strcmp(d->under_way[k]->webhook, d->under_way[i]->webhook);
            if (k < i && !strcmp(d->under_way[k]->webhook, d->under_way[i]->webhook)) first = 0;
        }
        if (first && same >= BUSY)
            n += (size_t)snprintf(out + n, cap - n, "%s%s", n > 1 ? "," : "", d->under_way[i]->webhook);
    }
    snprintf(out + n, cap - n, "}");
}

static void look(mull_deliver *d) {
    char room[12], lease[12], busy[UNDER_WAY_MAX * 24];
    if (d->claiming || d->closing || d->count >= UNDER_WAY_MAX) return;
    snprintf(room, sizeof room, "%d", UNDER_WAY_MAX - d->count);
    snprintf(lease, sizeof lease, "%d", LEASE_S);
    busy_ones(d, busy, sizeof busy);
    const char *params[] = {room, lease, busy};
    d->claiming = true;
    mull_pg_query(d->pg, "SELECT * FROM mull_webhook_claim($1::int, $2::int, $3)", 3, params, on_claimed, d);
}

static void on_timer(uv_timer_t *t) {
    look(t->data);
}

mull_deliver *mull_deliver_create(uv_loop_t *loop, mull_pg *pg, const mull_net_guard *guard) {
    mull_deliver *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    *d = (mull_deliver){.pg = pg, .out = mull_http_out_create(loop, guard)};
    if (!d->out) {
        free(d);
        return NULL;
    }
    uv_timer_init(loop, &d->timer);
    d->timer.data = d;
    uv_timer_start(&d->timer, on_timer, LOOK_MS, LOOK_MS);
    return d;
}

void mull_deliver_close(mull_deliver *d) {
    if (!d || d->closing) return;
    d->closing = true;
    mull_http_out_close(d->out);
    for (int i = 0; i < d->count; i++) free(d->under_way[i]); /* their leases end by themselves */
    d->count = 0;
    uv_close((uv_handle_t *)&d->timer, NULL);
}

void mull_deliver_destroy(mull_deliver *d) {
    if (!d) return;
    mull_http_out_destroy(d->out);
    free(d);
}
