/* Text to ids and back. The order is the reference's: added tokens are found in the raw text first (only when asked
 * for: what a user wrote never becomes one), the rest is brought to NFC, split by the expression, and each piece goes
 * through BPE. Everything after loading is read-only, so one tokenizer serves any number of threads. */
#include "engine/text/tokenizer_internal.h"
#include "engine/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const char *const WHAT = "cannot tokenize";

int mull_tokenizer_size(const mull_tokenizer *t) {
    return t->size;
}

int32_t mull_tokenizer_special(const mull_tokenizer *t, const char *text) {
    size_t n = strlen(text);
    for (int i = 0; i < t->nadded; i++)
        if (t->added[i].len == n && !memcmp(t->added[i].text, text, n)) return t->added[i].id;
    return -1;
}

/* ---- added tokens in text */
static int32_t char_before(const char *s, size_t at) {
    utf8proc_int32_t cp = -1;
    size_t from = at;
    while (from > 0 && at - from < 4 && ((unsigned char)s[--from] & 0xc0) == 0x80) continue;
    return at && utf8proc_iterate((const utf8proc_uint8_t *)s + from, (utf8proc_ssize_t)(at - from), &cp) > 0 ? cp : -1;
}
static int32_t char_after(const char *s, size_t at, size_t n) {
    utf8proc_int32_t cp = -1;
    return at < n && utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &cp) > 0 ? cp : -1;
}
static bool is_word(int32_t cp) {
    if (cp < 0) return false;
    utf8proc_category_t c = utf8proc_category(cp);
    return cp == '_' || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
           (c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME) || c == UTF8PROC_CATEGORY_ND ||
           c == UTF8PROC_CATEGORY_PC;
}
static bool is_space(int32_t cp) {
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

typedef struct hit {
    size_t from, to; /* with the white space that lstrip and rstrip take */
    int32_t id;
} hit;

/* The leftmost, then longest, added token of the wanted kind in s[at..n). Without special only the added tokens that
 * are not special count: <tool_call> and the like are ordinary words that got an id of their own. */
static bool next_added(const mull_tokenizer *t, const char *s, size_t at, size_t n, bool special, bool normalized,
                       hit *h) {
    size_t start = at;
    for (; at < n; at++) {
        if (!t->first[(unsigned char)s[at]]) continue;
        for (int i = 0; i < t->nadded; i++) {
            const mull_added *a = &t->added[i];
            if (a->normalized != normalized || (!special && t->tokens[a->id].special) || a->len > n - at ||
                memcmp(s + at, a->text, a->len))
                continue;
            size_t from = at, to = at + a->len;
            if (a->single_word && (is_word(char_before(s, from)) || is_word(char_after(s, to, n)))) continue;
            while (a->lstrip && from > start && is_space(char_before(s, from))) {
                do from--;
                while (from > start && ((unsigned char)s[from] & 0xc0) == 0x80);
            }
            while (a->rstrip && to < n && is_space(char_after(s, to, n))) {
                do to++;
                while (to < n && ((unsigned char)s[to] & 0xc0) == 0x80);
            }
            *h = (hit){from, to, a->id};
            return true;
        }
    }
    return false;
}

static bool any_normalized(const mull_tokenizer *t) {
    for (int i = 0; i < t->nadded; i++)
        if (t->added[i].normalized) return true;
    return false;
}

static int nomem(mull_error *err) {
    return mull_fail(err, MULL_ENOMEM, WHAT, NULL, NULL, "out of memory");
}

/* Text without added tokens (of the not normalised kind): NFC, then the normalised kind, then pieces. */
static int encode_plain(const mull_tokenizer *t, const char *s, size_t n, bool special, mull_ids *out,
                        mull_error *err) {
    if (n == 0) return MULL_OK;
    utf8proc_uint8_t *nfc = NULL;
    bool ascii = true;
    for (size_t i = 0; i < n && ascii; i++) ascii = (unsigned char)s[i] < 0x80;
    if (t->nfc && !ascii) {
        utf8proc_ssize_t k =
            utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &nfc, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (k < 0) {
            free(nfc);
            return mull_fail(err, k == UTF8PROC_ERROR_NOMEM ? MULL_ENOMEM : MULL_EFORMAT, WHAT, NULL, NULL, "%s",
                             utf8proc_errmsg(k));
        }
        s = (const char *)nfc;
        n = (size_t)k;
    }
    int rc = MULL_OK;
    size_t at = 0;
    hit h;
    while (!rc && any_normalized(t) && next_added(t, s, at, n, special, true, &h)) {
        rc = mull__split_encode(t, s + at, h.from - at, out, err);
        if (!rc && mull_ids_add(out, h.id)) rc = nomem(err);
        at = h.to;
    }
    if (!rc) rc = mull__split_encode(t, s + at, n - at, out, err);
    free(nfc);
    return rc;
}

int mull_tokenizer_encode(const mull_tokenizer *t, const char *text, size_t len, bool special, mull_ids *out,
                          mull_error *err) {
    mull_buf fixed = {0};
    if (!mull_utf8_valid(text, len)) {
        if (mull_utf8_lossy(text, len, true, NULL, &fixed)) {
            mull_buf_fini(&fixed);
            return nomem(err);
        }
        text = fixed.data;
        len = fixed.len;
    }
    int rc = MULL_OK;
    size_t at = 0;
    hit h;
    while (!rc && next_added(t, text, at, len, special, false, &h)) {
        rc = encode_plain(t, text + at, h.from - at, special, out, err);
        if (!rc && mull_ids_add(out, h.id)) rc = nomem(err);
        at = h.to;
    }
    if (!rc) rc = encode_plain(t, text + at, len - at, special, out, err);
    mull_buf_fini(&fixed);
    return rc;
}

/* ---- ids to text */
static const mull_token *token(const mull_tokenizer *t, int32_t id, mull_error *err) {
    if (id >= 0 && id < t->size && t->tokens[id].text) return &t->tokens[id];
    mull_fail(err, MULL_EARG, "cannot turn ids into text", NULL, "use ids of this tokenizer", "id %d is unknown", id);
    return NULL;
}

bool mull_tokenizer_text(const mull_tokenizer *t, int32_t id, const char **text, uint32_t *len) {
    if (id < 0 || id >= t->size || !t->tokens[id].text || t->tokens[id].special) return false;
    *text = t->tokens[id].text;
    *len = t->tokens[id].len;
    return true;
}

int mull_tokenizer_decode(const mull_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, mull_buf *out,
                          mull_error *err) {
    mull_buf raw = {0};
    int rc = MULL_OK;
    for (size_t i = 0; i < n && !rc; i++) {
        const mull_token *k = token(t, ids[i], err);
        if (!k)
            rc = MULL_EARG;
        else if (!(skip_special && k->special) && mull_buf_add(&raw, k->text, k->len))
            rc = nomem(err);
    }
    if (!rc && mull_utf8_lossy(raw.data, raw.len, true, NULL, out)) rc = nomem(err);
    mull_buf_fini(&raw);
    return rc;
}

void mull_detok_init(mull_detok *d, const mull_tokenizer *t, bool skip_special) {
    *d = (mull_detok){.tok = t, .skip_special = skip_special};
}

int mull_detok_push(mull_detok *d, int32_t id, mull_buf *out, mull_error *err) {
    const mull_token *k = token(d->tok, id, err);
    if (!k) return MULL_EARG;
    if (d->skip_special && k->special) return MULL_OK;
    mull_buf raw = {0};
    size_t used = 0;
    int rc = MULL_OK;
    if (mull_buf_add(&raw, d->held, (size_t)d->nheld) || mull_buf_add(&raw, k->text, k->len) ||
        mull_utf8_lossy(raw.data, raw.len, false, &used, out))
        rc = nomem(err);
    else {
        d->nheld = (int)(raw.len - used); /* at most 3 bytes: the beginning of one character */
        memcpy(d->held, raw.data + used, (size_t)d->nheld);
    }
    mull_buf_fini(&raw);
    return rc;
}

int mull_detok_flush(mull_detok *d, mull_buf *out) {
    int rc = d->nheld ? mull_utf8_lossy(d->held, (size_t)d->nheld, true, NULL, out) : MULL_OK;
    d->nheld = 0;
    return rc;
}
