/* See rollout_shard.h. Reading treats a file as foreign: nothing is believed before its lengths add up. */
#include "engine/train/rollout_shard.h"

#include "engine/train/rollout_exchange.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

static const char MAGIC[] = "MULLROL1";
static const char *const WRITE = "cannot write the shard of rollouts", *const READ = "cannot use the shard of rollouts",
                         *const REDO = "remove it: a rollout job makes it again";
enum { START = 16, COMPLETIONS_MAX = 1 << 20 };

static int64_t count_of(const mull_rollout_key *k) {
    return k->groups * k->generations;
}

/* ---- writing */
static json_t *header(const mull_rollout_shard *s) {
    const mull_rollout_key *k = &s->key;
    json_t *list = json_array();
    for (int64_t i = 0; i < count_of(k); i++) {
        const mull_rollout *c = &s->c[i];
        json_array_append_new(list, json_pack("[i,b,I,f,f,f]", c->n, (int)c->truncated, (json_int_t)c->text_len,
                                              c->accuracy, c->format, c->external));
    }
    return json_pack("{s:i,s:{s:I,s:s},s:{s:I,s:I,s:I},s:I,s:I,s:s,s:{s:f,s:f,s:I},s:o}", "version", 1, "policy",
                     "version", (json_int_t)k->version, "sha256", k->policy, "key", "seed", (json_int_t)k->seed, "step",
                     (json_int_t)k->step, "first", (json_int_t)k->first, "groups", (json_int_t)k->groups, "generations",
                     (json_int_t)k->generations, "prompts", k->prompts, "sampling", "temperature", k->temperature,
                     "top_p", k->top_p, "max_completion_length", (json_int_t)k->max_completion_length, "completions",
                     list);
}

/* What the frame holds. */
static int content(const mull_rollout_shard *s, mull_buf *b) {
    json_t *h = header(s);
    char *text = h ? json_dumps(h, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(h);
    if (!text) return MULL_ENOMEM;
    size_t len = strlen(text), padded = (len + 7) & ~(size_t)7;
    unsigned char size[8];
    for (int i = 0; i < 8; i++) size[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    int rc = mull_buf_add(b, MAGIC, 8);
    if (!rc) rc = mull_buf_add(b, size, 8);
    if (!rc) rc = mull_buf_add(b, text, len);
    if (!rc) rc = mull_buf_add(b, "       ", padded - len);
    int64_t n = count_of(&s->key);
    for (int64_t i = 0; i < n && !rc; i++) rc = mull_buf_add(b, s->c[i].ids, (size_t)s->c[i].n * sizeof *s->c[i].ids);
    for (int64_t i = 0; i < n && !rc; i++) rc = mull_buf_add(b, s->c[i].logp, (size_t)s->c[i].n * sizeof *s->c[i].logp);
    for (int64_t i = 0; i < n && !rc; i++) rc = mull_buf_add(b, s->c[i].text, s->c[i].text_len);
    free(text);
    return rc;
}

int mull_rollout_encode(const mull_rollout_shard *s, mull_buf *out, mull_error *err) {
    mull_buf b = {0};
    ZSTD_CCtx *z = ZSTD_createCCtx();
    int rc = z ? content(s, &b) : MULL_ENOMEM;
    if (!rc && b.len > MULL_ROLLOUT_BYTES_MAX) {
        rc = mull_fail(err, MULL_ELIMIT, WRITE, "", "lower rollout_groups", "it has %zu bytes, more than %d", b.len,
                       MULL_ROLLOUT_BYTES_MAX);
        goto out;
    }
    size_t cap = rc ? 0 : ZSTD_compressBound(b.len), n = 0;
    if (!rc) rc = mull_buf_reserve(out, cap + 1);
    if (!rc) {
        ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, 3);
        ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
        n = ZSTD_compress2(z, out->data + out->len, cap, b.data, b.len);
        if (ZSTD_isError(n)) rc = MULL_ENOMEM; /* with room enough, memory is all that can be missing */
    }
    if (rc) {
        mull_fail(err, rc, WRITE, "", "lower rollout_groups", "out of memory");
        goto out;
    }
    out->len += n;
    out->data[out->len] = 0;
out:
    ZSTD_freeCCtx(z);
    mull_buf_fini(&b);
    return rc;
}

/* ---- reading */
static int broken(mull_error *err, const char *name, const char *why) {
    return mull_fail(err, MULL_EFORMAT, READ, name, REDO, "%s", why);
}

static bool real(const json_t *v, double *out) {
    *out = json_number_value(v);
    return json_is_number(v) && isfinite(*out);
}

static bool digest(const json_t *o, const char *key, char out[65]) {
    const char *s = json_string_value(json_object_get(o, key));
    if (!s || strlen(s) != 64 || strspn(s, "0123456789abcdef") != 64) return false;
    memcpy(out, s, 65);
    return true;
}

static bool read_key(const json_t *h, mull_rollout_key *k) {
    const json_t *policy = json_object_get(h, "policy"), *key = json_object_get(h, "key"),
                 *sampling = json_object_get(h, "sampling");
    int64_t version, most = INT64_MAX / 2;
    return mull__json_whole(h, "version", 1, 1, &version) &&
           mull__json_whole(policy, "version", 0, most, &k->version) && digest(policy, "sha256", k->policy) &&
           mull__json_whole(key, "seed", 0, most, &k->seed) && mull__json_whole(key, "step", 0, most, &k->step) &&
           mull__json_whole(key, "first", 0, most, &k->first) &&
           mull__json_whole(h, "groups", 1, COMPLETIONS_MAX, &k->groups) &&
           mull__json_whole(h, "generations", 1, COMPLETIONS_MAX, &k->generations) &&
           digest(h, "prompts", k->prompts) && real(json_object_get(sampling, "temperature"), &k->temperature) &&
           real(json_object_get(sampling, "top_p"), &k->top_p) &&
           mull__json_whole(sampling, "max_completion_length", 1, INT32_MAX, &k->max_completion_length);
}

static bool read_completion(const json_t *e, int64_t limit, mull_rollout *c) {
    const json_t *n = json_array_get(e, 0), *cut = json_array_get(e, 1), *bytes = json_array_get(e, 2);
    if (json_array_size(e) != 6 || !json_is_integer(n) || !json_is_boolean(cut) || !json_is_integer(bytes))
        return false;
    if (json_integer_value(n) < 1 || json_integer_value(n) > limit || json_integer_value(bytes) < 0 ||
        json_integer_value(bytes) > MULL_ROLLOUT_BYTES_MAX)
        return false;
    c->n = (int32_t)json_integer_value(n);
    c->truncated = json_is_true(cut);
    c->text_len = (size_t)json_integer_value(bytes);
    return real(json_array_get(e, 3), &c->accuracy) && real(json_array_get(e, 4), &c->format) &&
           real(json_array_get(e, 5), &c->external);
}

/* The arrays behind the header; false when they are not exactly as long as it says. */
static bool place(mull_rollout_shard *s, const char *body, size_t len) {
    int64_t n = count_of(&s->key);
    size_t tokens = 0, bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        tokens += (size_t)s->c[i].n;
        bytes += s->c[i].text_len;
        if (tokens > len || bytes > len) return false;
    }
    if (len != tokens * (sizeof(int32_t) + sizeof(float)) + bytes) return false;
    const int32_t *ids = (const int32_t *)(const void *)body;
    const float *logp = (const float *)(const void *)(body + tokens * sizeof *ids);
    const char *text = body + tokens * (sizeof *ids + sizeof *logp);
    for (int64_t i = 0; i < n; i++) {
        mull_rollout *c = &s->c[i];
        c->ids = ids;
        c->logp = logp;
        c->text = text;
        ids += c->n;
        logp += c->n;
        text += c->text_len;
    }
    return true;
}

static int parse(const char *p, size_t len, const char *name, mull_rollout_shard *s, mull_error *err) {
    uint64_t size = 0;
    if (len < START || memcmp(p, MAGIC, 8)) return broken(err, name, "it is no shard of rollouts");
    for (int i = 0; i < 8; i++) size |= (uint64_t)(unsigned char)p[8 + i] << 8 * i;
    if (size > len - START || size % 8) return broken(err, name, "its header has another length than it says");
    json_t *h = json_loadb(p + START, (size_t)size, 0, NULL);
    const json_t *list = json_object_get(h, "completions");
    int rc = MULL_OK;
    if (!h)
        rc = broken(err, name, "its header is no JSON");
    else if (!read_key(h, &s->key))
        rc = broken(err, name, "its header lacks what version 1 has");
    else if (count_of(&s->key) > COMPLETIONS_MAX || json_array_size(list) != (size_t)count_of(&s->key))
        rc = broken(err, name, "it has another number of completions than it says");
    if (!rc && !(s->c = calloc(json_array_size(list), sizeof *s->c)))
        rc = mull_fail(err, MULL_ENOMEM, READ, name, NULL, "out of memory");
    for (size_t i = 0; i < json_array_size(list) && !rc; i++)
        if (!read_completion(json_array_get(list, i), s->key.max_completion_length, &s->c[i]))
            rc = broken(err, name, "a completion's entry in its header is wrong");
    if (!rc && !place(s, p + START + size, len - START - (size_t)size))
        rc = broken(err, name, "its arrays have other lengths than its header says");
    json_decref(h);
    return rc;
}

int mull_rollout_decode(const void *data, size_t len, const char *name, mull_rollout_shard *out, mull_error *err) {
    *out = (mull_rollout_shard){0};
    unsigned long long size = ZSTD_getFrameContentSize(data, len);
    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size > MULL_ROLLOUT_BYTES_MAX)
        return broken(err, name, "it is no shard of rollouts");
    if (ZSTD_findFrameCompressedSize(data, len) != len) return broken(err, name, "it is cut short, or has more behind");
    /* The room is asked for before the frame is read, but never touched before it is: a lie costs nothing. */
    if (!(out->memory = malloc((size_t)size + 1)))
        return mull_fail(err, MULL_ENOMEM, READ, name, NULL, "out of memory");
    size_t n = ZSTD_decompress(out->memory, (size_t)size, data, len);
    int rc = ZSTD_isError(n) ? broken(err, name, ZSTD_getErrorName(n))
             : n != size     ? broken(err, name, "it is shorter than it says")
                             : parse(out->memory, n, name, out, err);
    if (rc) mull_rollout_shard_fini(out);
    return rc;
}

void mull_rollout_shard_fini(mull_rollout_shard *s) {
    free(s->c);
    free(s->memory);
    *s = (mull_rollout_shard){0};
}

int mull_rollout_check(const mull_rollout_shard *s, const mull_rollout_key *key, int64_t vocab, const char *name,
                       mull_error *err) {
    const mull_rollout_key *k = &s->key;
    if (k->step != key->step || k->first != key->first || k->groups != key->groups ||
        k->generations != key->generations)
        return broken(err, name, "it answers other prompts than its name says");
    if (k->version != key->version || strcmp(k->policy, key->policy))
        return broken(err, name, "another policy answered than was asked for");
    if (strcmp(k->prompts, key->prompts))
        return broken(err, name, "its prompts are not the trainer's: its job read other data or another tokenizer");
    if (k->seed != key->seed || k->temperature != key->temperature || k->top_p != key->top_p ||
        k->max_completion_length != key->max_completion_length)
        return broken(err, name, "it was sampled with other settings than the recipe's");
    for (int64_t i = 0; i < count_of(k); i++)
        for (int32_t t = 0; t < s->c[i].n; t++) {
            if (s->c[i].ids[t] < 0 || s->c[i].ids[t] >= vocab)
                return broken(err, name, "it has a token id that the model does not have");
            if (!(s->c[i].logp[t] <= 1e-3f) || !isfinite(s->c[i].logp[t]))
                return broken(err, name, "it has a log-prob that is none");
        }
    return MULL_OK;
}
