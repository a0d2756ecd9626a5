/* Collectives from one primitive, an exchange of bytes between all ranks; see comm.h. Every rank is connected to every
 * other, so a reduce-scatter is: each part goes straight to its owner, who adds the ranks' parts in their order. It
 * moves as many bytes as a ring does and has the order that a ring has not. */
#include "engine/comm/comm.h"

#include "engine/comm/transport.h"
#include "engine/ops/kernels.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *const WHAT = "cannot run several ranks";
enum { PIECE = 1 << 20, TIMEOUT_S = 1800 }; /* elements of a part that are in flight at a time */

struct mull_comm {
    int rank, world;
    mull_transport *t;
    char *dir;       /* where ranks met, */
    mull_meet *meet; /* or over several hosts */
    bool channel;    /* of another's connections */
    int failed;
    float *parts; /* [world][PIECE] of a reduction */
    float *wide;  /* [2][PIECE]: sum and summand of bf16 */
};

typedef struct lists {
    size_t send_at[MULL_WORLD_MAX], send_len[MULL_WORLD_MAX], recv_at[MULL_WORLD_MAX], recv_len[MULL_WORLD_MAX];
} lists;

bool mull_comm_available(void) {
    return mull__transport_available();
}
int mull_comm_rank(const mull_comm *c) {
    return c ? c->rank : 0;
}
int mull_comm_world(const mull_comm *c) {
    return c ? c->world : 1;
}

static int read_int(const char *name, int lo, int hi, int none, int *out, mull_error *err) {
    const char *s = getenv(name);
    *out = none;
    if (!s || !*s) return MULL_OK;
    char *end;
    errno = 0;
    long v = strtol(s, &end, 10);
    if (*end || errno || v < lo || v > hi)
        return mull_fail(err, MULL_EARG, WHAT, name, "leave it to what starts the ranks", "it is '%.60s', not %d .. %d",
                         s, lo, hi);
    *out = (int)v;
    return MULL_OK;
}

static const char *text_of(const char *name) {
    const char *s = getenv(name);
    return s && *s ? s : NULL;
}

int mull_comm_from_env(mull_comm_opts *o, mull_error *err) {
    *o = (mull_comm_opts){.world = 1};
    int rc = read_int("MULL_WORLD_SIZE", 1, MULL_WORLD_MAX, 1, &o->world, err);
    if (!rc) rc = read_int("MULL_RANK", 0, o->world - 1, 0, &o->rank, err);
    if (!rc) rc = read_int("MULL_COMM_TIMEOUT_S", 1, 7 * 86400, 0, &o->timeout_s, err);
    o->rendezvous = text_of("MULL_RENDEZVOUS");
    o->master = text_of("MULL_MASTER_ADDR");
    o->port = text_of("MULL_MASTER_PORT");
    o->secret = text_of("MULL_GANG_SECRET");
    o->address = text_of("MULL_NODE_ADDR");
    if (!rc && o->world > 1 && !o->rendezvous && !(o->master && o->port && o->secret && o->address))
        rc = mull_fail(err, MULL_EARG, WHAT, "MULL_RENDEZVOUS", "leave it to what starts the ranks",
                       "%d ranks need a folder where they meet, or MULL_MASTER_ADDR, MULL_MASTER_PORT, "
                       "MULL_GANG_SECRET and MULL_NODE_ADDR",
                       o->world);
    return rc;
}

static int exchange(mull_comm *c, void *send, size_t send_bytes, void *recv, size_t recv_bytes, const lists *l,
                    mull_error *err);

/* Whoever reached a rank's port first might not be the rank that was meant: each pair proves that both know the secret.
 */
static int prove(mull_comm *c, const char *secret, mull_error *err) {
    uint8_t mine[MULL_WORLD_MAX][MULL_MEET_MAC], theirs[MULL_WORLD_MAX][MULL_MEET_MAC], want[MULL_MEET_MAC];
    lists l;
    for (int r = 0; r < c->world; r++) {
        mull__meet_proof(secret, "pair", c->rank, r, mine[r]);
        l.send_at[r] = l.recv_at[r] = (size_t)r * MULL_MEET_MAC;
        l.send_len[r] = l.recv_len[r] = MULL_MEET_MAC;
    }
    int rc = exchange(c, mine, sizeof mine, theirs, sizeof theirs, &l, err);
    for (int r = 0; r < c->world && !rc; r++) {
        mull__meet_proof(secret, "pair", r, c->rank, want);
        if (r != c->rank && CRYPTO_memcmp(want, theirs[r], sizeof want) != 0)
            rc = c->failed = mull_fail(err, MULL_EIO, WHAT, "connection", "look at who else is on the hosts' network",
                                       "what says that it is rank %d does not know the secret of this run", r);
    }
    return rc;
}

static int connect_ranks(mull_comm *c, const mull_comm_opts *o, mull_error *err) {
    int timeout_s = o->timeout_s > 0 ? o->timeout_s : TIMEOUT_S, rc = MULL_OK;
    if (!mull_comm_available()) {
    } else if (o->rendezvous) {
        if (mkdir(o->rendezvous, 0700) && errno != EEXIST)
            return mull_fail_errno(err, errno, WHAT, o->rendezvous, "check the folder above it");
        if (!(c->dir = strdup(o->rendezvous))) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    } else {
        rc = mull__meet_open(o->rank, o->world, o->master, o->port, o->secret, timeout_s, &c->meet, err);
    }
    mull_transport_place at = {o->rank, o->world, timeout_s, o->rendezvous, c->meet, o->address};
    if (!rc) rc = mull__transport_open(&at, &c->t, err);
    if (!rc && c->meet) rc = prove(c, o->secret, err);
    return rc;
}

int mull_comm_create(const mull_comm_opts *o, mull_comm **out, mull_error *err) {
    *out = NULL;
    if (o->world < 1 || o->world > MULL_WORLD_MAX || o->rank < 0 || o->rank >= o->world)
        return mull_fail(err, MULL_EARG, WHAT, "world", "use 1 .. 256 ranks", "rank %d of %d is no rank", o->rank,
                         o->world);
    mull_comm *c = calloc(1, sizeof *c);
    if (!c) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    c->rank = o->rank;
    c->world = o->world;
    int rc = MULL_OK;
    if (o->world > 1) {
        c->parts = malloc((size_t)o->world * PIECE * sizeof *c->parts);
        c->wide = malloc(2 * PIECE * sizeof *c->wide);
        if (!c->parts || !c->wide) rc = mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
        if (!rc) rc = connect_ranks(c, o, err);
    }
    if (rc)
        mull_comm_destroy(c);
    else
        *out = c;
    return rc;
}

int mull_comm_channel(const mull_comm *c, mull_comm **out, mull_error *err) {
    *out = NULL;
    if (!c || c->world == 1) return MULL_OK;
    mull_comm *d = calloc(1, sizeof *d);
    if (!d) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    d->rank = c->rank;
    d->world = c->world;
    d->channel = true;
    d->parts = malloc((size_t)c->world * PIECE * sizeof *d->parts);
    d->wide = malloc(2 * PIECE * sizeof *d->wide);
    int rc = d->parts && d->wide ? mull__transport_channel(c->t, &d->t, err)
                                 : mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    if (rc)
        mull_comm_destroy(d);
    else
        *out = d;
    return rc;
}

/* A rank that closes its connections while another still reads the last answer from them can make the system throw that
 * answer away. So each leaves a mark, and nobody closes before all have; a rank that was killed is waited for a while.
 */
static void leave_marks(const mull_comm *c) {
    enum { TRIES = 2500 }; /* of 2 ms */
    char path[4200];
    int r = 0;
    snprintf(path, sizeof path, "%s/done.%d", c->dir, c->rank);
    FILE *f = fopen(path, "we");
    if (!f || fclose(f)) return;
    for (int i = 0; i < TRIES && r < c->world && !c->failed; i++) {
        snprintf(path, sizeof path, "%s/done.%d", c->dir, r);
        if (access(path, F_OK) == 0)
            r++;
        else
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

static void say_goodbye(const mull_comm *c) {
    enum { WAIT_MS = 5000 };
    char key[32];
    mull_error err;
    if (!c->meet) {
        leave_marks(c);
        return;
    }
    snprintf(key, sizeof key, "done.%d", c->rank);
    int rc = mull__meet_put(c->meet, key, "", 0, &err);
    for (int r = 0; r < c->world && !c->failed && !rc; r++) {
        void *word;
        size_t n;
        snprintf(key, sizeof key, "done.%d", r);
        rc = mull__meet_get(c->meet, key, WAIT_MS, &word, &n, &err);
        free(word);
    }
}

void mull_comm_destroy(mull_comm *c) {
    if (!c) return;
    if (c->t) {
        if (!c->channel) say_goodbye(c);
        mull__transport_close(c->t);
    }
    mull__meet_close(c->meet);
    free(c->dir);
    free(c->parts);
    free(c->wide);
    free(c);
}

/* ---- exchanges */

static int exchange(mull_comm *c, void *send, size_t send_bytes, void *recv, size_t recv_bytes, const lists *l,
                    mull_error *err) {
    if (c->failed)
        return mull_fail(err, MULL_EIO, "lost another rank", "", "run it again, it goes on from the last checkpoint",
                         "an earlier call has failed");
    mull_exchange x = {send, recv, send_bytes, recv_bytes, l->send_at, l->send_len, l->recv_at, l->recv_len};
    return c->failed = mull__transport_exchange(c->t, &x, err);
}

int mull_comm_collect(mull_comm *c, const void *mine, size_t bytes, void *all, mull_error *err) {
    int rank = mull_comm_rank(c), world = mull_comm_world(c);
    char *to = all;
    if (bytes) memmove(to + (size_t)rank * bytes, mine, bytes);
    if (world == 1 || !bytes) return MULL_OK;
    lists l;
    for (int r = 0; r < world; r++) {
        l.send_at[r] = (size_t)rank * bytes;
        l.recv_at[r] = (size_t)r * bytes;
        l.send_len[r] = l.recv_len[r] = bytes;
    }
    return exchange(c, all, (size_t)world * bytes, all, (size_t)world * bytes, &l, err);
}

int mull_comm_barrier(mull_comm *c, mull_error *err) {
    char one = 1, all[MULL_WORLD_MAX];
    return mull_comm_collect(c, &one, 1, all, err);
}

int mull_comm_broadcast(mull_comm *c, void *data, size_t bytes, int root, mull_error *err) {
    if (mull_comm_world(c) == 1 || !bytes) return MULL_OK;
    lists l = {{0}, {0}, {0}, {0}};
    for (int r = 0; r < c->world; r++) {
        if (c->rank == root && r != root) l.send_len[r] = bytes;
        if (c->rank != root && r == root) l.recv_len[r] = bytes;
    }
    return exchange(c, data, bytes, data, bytes, &l, err);
}

int mull_comm_all_gather(mull_comm *c, void *data, mull_dtype type, const int64_t *cuts, mull_error *err) {
    int world = mull_comm_world(c), rank = mull_comm_rank(c);
    if (world == 1 || cuts[world] == cuts[0]) return MULL_OK;
    size_t size = mull_dtype_size(type), bytes = (size_t)cuts[world] * size;
    lists l;
    for (int r = 0; r < world; r++) {
        l.send_at[r] = (size_t)cuts[rank] * size;
        l.send_len[r] = (size_t)(cuts[rank + 1] - cuts[rank]) * size;
        l.recv_at[r] = (size_t)cuts[r] * size;
        l.recv_len[r] = (size_t)(cuts[r + 1] - cuts[r]) * size;
    }
    return exchange(c, data, bytes, data, bytes, &l, err);
}

static void sum_f32(mull_comm *c, float *mine, int64_t n) {
    const mull_kernels *k = mull_kernels_get();
    memcpy(c->parts + (int64_t)c->rank * PIECE, mine, (size_t)n * sizeof *mine);
    memcpy(mine, c->parts, (size_t)n * sizeof *mine);
    for (int r = 1; r < c->world; r++) k->axpy(mine, c->parts + (int64_t)r * PIECE, 1, n);
}

static void sum_bf16(mull_comm *c, uint16_t *mine, int64_t n) {
    const mull_kernels *k = mull_kernels_get();
    float *sum = c->wide, *one = c->wide + PIECE;
    for (int r = 0; r < c->world; r++) {
        const uint16_t *part = r == c->rank ? mine : (const uint16_t *)(const void *)(c->parts + (int64_t)r * PIECE);
        mull_to_f32(part, MULL_BF16, (size_t)n, r ? one : sum);
        if (r) k->axpy(sum, one, 1, n);
    }
    for (int64_t i = 0; i < n; i++) mine[i] = mull_f32_to_bf16(sum[i]);
}

int mull_comm_reduce_scatter(mull_comm *c, void *data, mull_dtype type, const int64_t *cuts, mull_error *err) {
    int world = mull_comm_world(c);
    if (world == 1) return MULL_OK;
    if (type != MULL_F32 && type != MULL_BF16)
        return mull_fail(err, MULL_EINTERNAL, WHAT, mull_dtype_name(type), NULL, "sums are of float32 or bfloat16");
    size_t size = mull_dtype_size(type), row = PIECE * sizeof(float);
    int64_t longest = 0, mine = cuts[c->rank + 1] - cuts[c->rank];
    for (int r = 0; r < world; r++)
        if (cuts[r + 1] - cuts[r] > longest) longest = cuts[r + 1] - cuts[r];
    for (int64_t at = 0; at < longest; at += PIECE) {
        int64_t n = mine - at < PIECE ? mine - at : PIECE;
        lists l;
        if (n < 0) n = 0;
        for (int r = 0; r < world; r++) {
            int64_t k = cuts[r + 1] - cuts[r] - at;
            k = k < 0 ? 0 : k < PIECE ? k : PIECE;
            l.send_at[r] = (size_t)(cuts[r] + at) * size;
            l.send_len[r] = (size_t)k * size;
            l.recv_at[r] = (size_t)r * row;
            l.recv_len[r] = (size_t)n * size;
        }
        int rc = exchange(c, data, (size_t)cuts[world] * size, c->parts, (size_t)world * row, &l, err);
        if (rc) return rc;
        char *to = (char *)data + (size_t)(cuts[c->rank] + at) * size;
        if (n && type == MULL_F32) sum_f32(c, (float *)(void *)to, n);
        if (n && type == MULL_BF16) sum_bf16(c, (uint16_t *)(void *)to, n);
    }
    return MULL_OK;
}

int mull_comm_all_reduce(mull_comm *c, void *data, mull_dtype type, int64_t n, mull_error *err) {
    int world = mull_comm_world(c);
    int64_t cuts[MULL_WORLD_MAX + 1];
    for (int r = 0; r <= world; r++) cuts[r] = n * r / world;
    int rc = mull_comm_reduce_scatter(c, data, type, cuts, err);
    return rc ? rc : mull_comm_all_gather(c, data, type, cuts, err);
}
