/* The paged cache; see kv_cache.h. Free pages are a stack, so memory once touched is used again first. Pages held by
 * nobody form a list in order of release. Known contents are found through a chained hash table over page numbers. */
#include "engine/infer/kv_cache.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { NONE = -1 };

typedef struct page {
    mull_page_key key;
    int32_t refs;
    int32_t next_hash;    /* chain of the hash table; free list while free */
    int32_t newer, older; /* list of known pages that nobody holds */
    bool known;
} page;

struct mull_kv_cache {
    const mull_model *m; /* NULL: the host's memory */
    char *base;
    size_t bytes, element; /* of the reservation, of one number */
    int64_t page_floats;   /* layers * 2 * kv_heads * page_tokens * head_dim */
    int layers, kv_heads, hd;
    bool share;
    page *pages;
    int32_t *table, mask;
    int32_t npages, nfree, nidle; /* nidle: known pages held by nobody */
    int32_t free_top, oldest, newest;
    int32_t touched; /* pages [0, touched) have been handed out at least once */
};

static int64_t layer_floats(const mull_kv_cache *kv) {
    return (int64_t)kv->kv_heads * MULL_PAGE_TOKENS * kv->hd;
}

static int reserve(mull_kv_cache *kv, size_t page_bytes, mull_error *err) {
    if (__builtin_mul_overflow((size_t)kv->npages, page_bytes, &kv->bytes)) return MULL_ENOMEM;
    void *p = NULL;
    if (kv->m) {
        int rc = mull_model_buffer(kv->m, kv->bytes, "the cache of keys and values", &p, err);
        kv->base = p;
        return rc;
    }
    /* The first touch of a page takes its memory; the kernel need not promise all of it now. */
    p = mmap(NULL, kv->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return MULL_ENOMEM;
    kv->base = p;
    return MULL_OK;
}

static int create(const mull_config *c, const mull_model *m, int64_t tokens, bool share, mull_kv_cache **out,
                  mull_error *err) {
    *out = NULL;
    int64_t npages = (tokens + MULL_PAGE_TOKENS - 1) / MULL_PAGE_TOKENS;
    if (tokens < 1 || npages > INT32_MAX / 2)
        return mull_fail(err, MULL_EARG, "cannot create the cache", "", "", "%lld tokens are out of range",
                         (long long)tokens);
    mull_kv_cache *kv = calloc(1, sizeof *kv);
    if (!kv) return mull_fail(err, MULL_ENOMEM, "cannot create the cache", "", "", "out of memory");
    *kv = (mull_kv_cache){.m = m,
                          .element = m ? mull_model_kv_element(m) : sizeof(float),
                          .layers = c->layers,
                          .kv_heads = c->kv_heads,
                          .hd = c->head_dim,
                          .share = share,
                          .npages = (int32_t)npages,
                          .nfree = (int32_t)npages,
                          .oldest = NONE,
                          .newest = NONE};
    kv->page_floats = 2 * kv->layers * layer_floats(kv);
    kv->mask = 1;
    while (kv->mask < kv->npages) kv->mask *= 2;
    kv->table = malloc((size_t)kv->mask * sizeof *kv->table);
    kv->pages = calloc((size_t)npages, sizeof *kv->pages);
    size_t page_bytes = mull_kv_cache_page_bytes(kv);
    mull_error why = {0};
    if (!kv->table || !kv->pages || reserve(kv, page_bytes, &why)) {
        mull_kv_cache_destroy(kv);
        if (why.code) {
            if (err) *err = why;
            return why.code;
        }
        return mull_fail(err, MULL_ENOMEM, "cannot create the cache", "", "ask for fewer cache tokens",
                         "%lld tokens of %zu bytes each do not fit", (long long)tokens, page_bytes / MULL_PAGE_TOKENS);
    }
    memset(kv->table, 0xff, (size_t)kv->mask * sizeof *kv->table);
    kv->mask--;
    for (int32_t p = 0; p < kv->npages; p++) kv->pages[p].next_hash = p + 1 < kv->npages ? p + 1 : NONE;
    *out = kv;
    return MULL_OK;
}

int mull_kv_cache_create(const mull_config *c, int64_t tokens, bool share, mull_kv_cache **out, mull_error *err) {
    return create(c, NULL, tokens, share, out, err);
}

int mull_kv_cache_create_for(const mull_model *m, int64_t tokens, bool share, mull_kv_cache **out, mull_error *err) {
    return create(mull_model_config(m), mull_model_on_host(m) ? NULL : m, tokens, share, out, err);
}

void mull_kv_cache_destroy(mull_kv_cache *kv) {
    if (!kv) return;
    if (kv->m)
        mull_model_buffer_free(kv->m, kv->base);
    else if (kv->base)
        munmap(kv->base, kv->bytes);
    free(kv->table);
    free(kv->pages);
    free(kv);
}

mull_kv_view mull_kv_cache_layer(const mull_kv_cache *kv, int layer) {
    int64_t n = layer_floats(kv);
    char *k = kv->base + (size_t)(2 * layer * n) * kv->element;
    return (mull_kv_view){.k = (float *)(void *)k,
                          .v = (float *)(void *)(k + (size_t)n * kv->element),
                          .page_stride = kv->page_floats,
                          .page_tokens = MULL_PAGE_TOKENS,
                          .kv_heads = kv->kv_heads,
                          .hd = kv->hd};
}

int32_t mull_kv_cache_pages(const mull_kv_cache *kv) {
    return kv->npages;
}

int32_t mull_kv_cache_available(const mull_kv_cache *kv) {
    return kv->nfree + kv->nidle;
}

size_t mull_kv_cache_page_bytes(const mull_kv_cache *kv) {
    return (size_t)kv->page_floats * kv->element;
}

int32_t mull_kv_cache_peak_pages(const mull_kv_cache *kv) {
    return kv->touched;
}

/* The digest is uniform, so its first bytes serve as the hash. */
static int32_t *bucket(mull_kv_cache *kv, const mull_page_key *key) {
    uint32_t h;
    memcpy(&h, key->bytes, sizeof h);
    return &kv->table[h & (uint32_t)kv->mask];
}

static void idle_unlink(mull_kv_cache *kv, int32_t p) {
    page *g = &kv->pages[p];
    if (g->newer != NONE)
        kv->pages[g->newer].older = g->older;
    else
        kv->newest = g->older;
    if (g->older != NONE)
        kv->pages[g->older].newer = g->newer;
    else
        kv->oldest = g->newer;
    kv->nidle--;
}

static void idle_append(mull_kv_cache *kv, int32_t p) {
    page *g = &kv->pages[p];
    g->newer = NONE;
    g->older = kv->newest;
    if (kv->newest != NONE)
        kv->pages[kv->newest].newer = p;
    else
        kv->oldest = p;
    kv->newest = p;
    kv->nidle++;
}

static void forget(mull_kv_cache *kv, int32_t p) {
    int32_t *at = bucket(kv, &kv->pages[p].key);
    while (*at != p) at = &kv->pages[*at].next_hash;
    *at = kv->pages[p].next_hash;
    kv->pages[p].known = false;
}

int32_t mull_kv_cache_take(mull_kv_cache *kv) {
    int32_t p;
    if (kv->nfree > 0) {
        p = kv->free_top;
        kv->free_top = kv->pages[p].next_hash;
        kv->nfree--;
        if (p >= kv->touched) kv->touched = p + 1;
    } else if (kv->nidle > 0) {
        p = kv->oldest;
        idle_unlink(kv, p);
        forget(kv, p);
    } else {
        return NONE;
    }
    kv->pages[p].refs = 1;
    return p;
}

int32_t mull_kv_cache_find(mull_kv_cache *kv, const mull_page_key *key) {
    if (!kv->share) return NONE;
    for (int32_t p = *bucket(kv, key); p != NONE; p = kv->pages[p].next_hash) {
        if (memcmp(kv->pages[p].key.bytes, key->bytes, sizeof key->bytes) != 0) continue;
        if (kv->pages[p].refs++ == 0) idle_unlink(kv, p);
        return p;
    }
    return NONE;
}

void mull_kv_cache_publish(mull_kv_cache *kv, int32_t p, const mull_page_key *key) {
    page *g = &kv->pages[p];
    if (!kv->share || g->known) return;
    for (int32_t q = *bucket(kv, key); q != NONE; q = kv->pages[q].next_hash)
        if (!memcmp(kv->pages[q].key.bytes, key->bytes, sizeof key->bytes)) return;
    g->key = *key;
    g->known = true;
    int32_t *head = bucket(kv, key);
    g->next_hash = *head;
    *head = p;
}

void mull_kv_cache_release(mull_kv_cache *kv, int32_t p) {
    page *g = &kv->pages[p];
    if (--g->refs > 0) return;
    if (g->known) {
        idle_append(kv, p);
        return;
    }
    g->next_hash = kv->free_top;
    kv->free_top = p;
    kv->nfree++;
}

void mull_kv_cache_forget(mull_kv_cache *kv) {
    while (kv->nidle > 0) {
        int32_t p = kv->oldest;
        idle_unlink(kv, p);
        forget(kv, p);
        kv->pages[p].next_hash = kv->free_top;
        kv->free_top = p;
        kv->nfree++;
    }
}

bool mull_kv_cache_shares(const mull_kv_cache *kv) {
    return kv->share;
}

bool mull_page_key_next(mull_page_key *out, const mull_page_key *parent, const void *content, size_t len) {
    static const mull_page_key root = {{0}};
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(ctx, (parent ? parent : &root)->bytes, sizeof root.bytes) == 1 &&
              EVP_DigestUpdate(ctx, content, len) == 1 && EVP_DigestFinal_ex(ctx, out->bytes, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok;
}
