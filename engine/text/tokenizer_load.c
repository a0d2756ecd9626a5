/* Reading tokenizer.json into the tables of tokenizer_internal.h. All of it is foreign: ids are bounded, every merge
 * must name known tokens, and what this program does not implement is refused by name rather than ignored. */
#include "engine/text/tokenizer_internal.h"
#include "engine/text/utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 256 << 20, MAX_IDS = 1 << 22 };
static const char *const WHAT = "cannot read tokenizer";
static const char *const TODO = "use the tokenizer.json of a Qwen2.5-VL checkpoint";

typedef struct loader {
    mull_tokenizer *t;
    const char *name;
    mull_error *err;
    int32_t unbyte[512]; /* code point of GPT-2's byte alphabet -> byte, -1 */
    size_t used;         /* of the arena */
} loader;

static int bad(loader *l, const char *where, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int bad(loader *l, const char *where, const char *fmt, ...) {
    char why[300], at[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    snprintf(at, sizeof at, "%.200s%s%.80s", l->name, *where ? ", " : "", where);
    return mull_fail(l->err, MULL_EFORMAT, WHAT, at, TODO, "%s", why);
}
static int nomem(loader *l) {
    return mull_fail(l->err, MULL_ENOMEM, WHAT, l->name, NULL, "out of memory");
}

static void fill_alphabet(loader *l) {
    for (int i = 0; i < 512; i++) l->unbyte[i] = -1;
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        l->unbyte[plain ? b : next++] = b;
    }
}

/* Bytes that a vocabulary entry stands for, written to out (never longer than the entry). -1: not in the alphabet. */
static int64_t unbyte(const loader *l, const char *s, size_t n, char *out) {
    int64_t k = 0;
    for (size_t i = 0; i < n;) {
        unsigned c = (unsigned char)s[i++], cp = c;
        if (c >= 0xc0 && c < 0xe0 && i < n) cp = (c & 0x1f) << 6 | ((unsigned char)s[i++] & 0x3f);
        if (cp >= 512 || l->unbyte[cp] < 0) return -1;
        out[k++] = (char)l->unbyte[cp];
    }
    return k;
}

static int add_token(loader *l, int id, const char *text, size_t len) {
    mull_token *k = &l->t->tokens[id];
    if (k->text) return MULL_OK;
    memcpy(l->t->arena + l->used, text, len);
    k->text = l->t->arena + l->used;
    k->len = (uint32_t)len;
    l->used += len;
    return MULL_OK;
}

static int get_id(loader *l, const json_t *v, const char *where, int *id) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= MAX_IDS)
        return bad(l, where, "an id must be a whole number below %d", MAX_IDS);
    *id = (int)json_integer_value(v);
    return MULL_OK;
}

/* Room for all texts and ids. */
static int size_tables(loader *l, const json_t *vocab, const json_t *added) {
    size_t bytes = 16;
    int top = -1, id = 0, rc = MULL_OK;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        if ((rc = get_id(l, v, "model.vocab", &id))) return rc;
        bytes += strlen(key);
        if (id > top) top = id;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i);
        if ((rc = get_id(l, json_object_get(a, "id"), "added_tokens", &id))) return rc;
        if (!json_is_string(json_object_get(a, "content")) || !json_string_length(json_object_get(a, "content")))
            return bad(l, "added_tokens", "entry %zu has no content", i);
        bytes += json_string_length(json_object_get(a, "content"));
        if (id > top) top = id;
    }
    if (top < 0) return bad(l, "model.vocab", "the vocabulary is empty");
    l->t->size = top + 1;
    l->t->tokens = calloc((size_t)top + 1, sizeof *l->t->tokens);
    l->t->arena = malloc(bytes);
    uint64_t slots = 64;
    while (slots < (uint64_t)json_object_size(vocab) * 2) slots *= 2;
    l->t->words = calloc(slots, sizeof *l->t->words);
    l->t->word_mask = slots - 1;
    l->t->added = calloc(json_array_size(added) + 1, sizeof *l->t->added);
    return l->t->tokens && l->t->arena && l->t->words && l->t->added ? MULL_OK : nomem(l);
}

static int read_vocab(loader *l, const json_t *vocab) {
    mull_tokenizer *t = l->t;
    for (int b = 0; b < 256; b++) t->byte_id[b] = -1;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        int id = (int)json_integer_value(v);
        size_t n = strlen(key);
        char *raw = t->arena + l->used;
        int64_t k = unbyte(l, key, n, raw);
        if (k < 0) { /* a token outside the alphabet can only be an added one; kept by its text */
            memcpy(raw, key, n);
            k = (int64_t)n;
        }
        if (t->tokens[id].text) return bad(l, "model.vocab", "id %d stands for two tokens", id);
        t->tokens[id] = (mull_token){.text = raw, .len = (uint32_t)k};
        l->used += (size_t)k;
        if (mull__vocab_find(t, raw, (size_t)k) >= 0)
            return bad(l, "model.vocab", "id %d repeats the text of another", id);
        uint64_t h = mull__hash_bytes(raw, (size_t)k) & t->word_mask;
        while (t->words[h]) h = (h + 1) & t->word_mask;
        t->words[h] = id + 1;
        if (k == 1) t->byte_id[(unsigned char)*raw] = id;
    }
    return MULL_OK;
}

/* One merge, "a b" or ["a","b"]: the two texts in the byte alphabet. */
static bool merge_texts(const json_t *m, const char **a, size_t *an, const char **b, size_t *bn) {
    if (json_is_array(m) && json_array_size(m) == 2 && json_is_string(json_array_get(m, 0)) &&
        json_is_string(json_array_get(m, 1))) {
        *a = json_string_value(json_array_get(m, 0));
        *b = json_string_value(json_array_get(m, 1));
        *an = json_string_length(json_array_get(m, 0));
        *bn = json_string_length(json_array_get(m, 1));
        return true;
    }
    const char *s = json_string_value(m), *space = s ? strchr(s, ' ') : NULL;
    if (!space || space == s || !space[1] || strchr(space + 1, ' ')) return false;
    *a = s;
    *an = (size_t)(space - s);
    *b = space + 1;
    *bn = json_string_length(m) - *an - 1;
    return true;
}

static int read_merges(loader *l, const json_t *merges) {
    mull_tokenizer *t = l->t;
    uint64_t slots = 64;
    size_t n = json_array_size(merges);
    while (slots < (uint64_t)n * 2) slots *= 2;
    t->merges = calloc(slots, sizeof *t->merges);
    t->merge_mask = slots - 1;
    if (!t->merges) return nomem(l);
    char buf[4096];
    for (size_t i = 0; i < n; i++) {
        const char *a, *b;
        size_t an, bn;
        if (!merge_texts(json_array_get(merges, i), &a, &an, &b, &bn) || an + bn > sizeof buf)
            return bad(l, "model.merges", "merge %zu is no pair of tokens", i);
        int64_t x = unbyte(l, a, an, buf), y = x < 0 ? -1 : unbyte(l, b, bn, buf + x);
        int32_t left = y < 0 ? -1 : mull__vocab_find(t, buf, (size_t)x),
                right = y < 0 ? -1 : mull__vocab_find(t, buf + x, (size_t)y),
                both = y < 0 ? -1 : mull__vocab_find(t, buf, (size_t)(x + y));
        if (left < 0 || right < 0 || both < 0)
            return bad(l, "model.merges", "merge %zu (%.60s %.60s) names no known token", i, a, b);
        uint64_t key = (uint64_t)(left + 1) << 32 | (uint32_t)right,
                 h = ((key * 0x9e3779b97f4a7c15u) >> 20) & t->merge_mask;
        while (t->merges[h].key && t->merges[h].key != key) h = (h + 1) & t->merge_mask;
        if (!t->merges[h].key) t->merges[h] = (mull_merge){key, (int32_t)i, both};
    }
    return MULL_OK;
}

static int longest_first(const void *a, const void *b) {
    const mull_added *x = a, *y = b;
    if (x->len != y->len) return x->len < y->len ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int read_added(loader *l, const json_t *added) {
    mull_tokenizer *t = l->t;
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i);
        int id = (int)json_integer_value(json_object_get(a, "id"));
        const char *text = json_string_value(json_object_get(a, "content"));
        size_t len = json_string_length(json_object_get(a, "content"));
        mull_token *k = &t->tokens[id];
        if (k->text && (k->len != len || memcmp(k->text, text, len)))
            return bad(l, "added_tokens", "id %d (%.60s) already stands for another token", id, text);
        add_token(l, id, text, len);
        k->added = true;
        k->special = json_is_true(json_object_get(a, "special"));
        t->added[t->nadded++] = (mull_added){k->text,
                                             (uint32_t)len,
                                             id,
                                             json_is_true(json_object_get(a, "lstrip")),
                                             json_is_true(json_object_get(a, "rstrip")),
                                             json_is_true(json_object_get(a, "normalized")),
                                             json_is_true(json_object_get(a, "single_word"))};
        t->first[(unsigned char)*text] = true;
    }
    qsort(t->added, (size_t)t->nadded, sizeof *t->added, longest_first);
    for (int i = 1; i < t->nadded; i++)
        if (t->added[i].len == t->added[i - 1].len && !memcmp(t->added[i].text, t->added[i - 1].text, t->added[i].len))
            return bad(l, "added_tokens", "%.60s stands there twice", t->added[i].text);
    return MULL_OK;
}

static bool is_type(const json_t *o, const char *type) {
    const char *s = json_string_value(json_object_get(o, "type"));
    return s && !strcmp(s, type);
}

static int read_normalizer(loader *l, const json_t *o) {
    if (!o || json_is_null(o)) return MULL_OK;
    if (is_type(o, "NFC")) {
        l->t->nfc = true;
        return MULL_OK;
    }
    const json_t *list = json_object_get(o, "normalizers");
    if (!is_type(o, "Sequence") || !json_is_array(list)) return bad(l, "normalizer", "only NFC is implemented");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!is_type(json_array_get(list, i), "NFC")) return bad(l, "normalizer", "only NFC is implemented");
        l->t->nfc = true;
    }
    return MULL_OK;
}

static int read_one_splitter(loader *l, const json_t *o) {
    if (is_type(o, "Split")) {
        const char *regex = json_string_value(json_object_get(json_object_get(o, "pattern"), "Regex"));
        const char *behaviour = json_string_value(json_object_get(o, "behavior"));
        if (!regex || !behaviour || strcmp(behaviour, "Isolated") || json_is_true(json_object_get(o, "invert")) ||
            l->t->split)
            return bad(l, "pre_tokenizer", "only one Split by an expression, isolated, is implemented");
        return mull__split_compile(regex, l->name, &l->t->split, l->err);
    }
    if (is_type(o, "ByteLevel")) {
        if (json_is_true(json_object_get(o, "add_prefix_space")))
            return bad(l, "pre_tokenizer", "add_prefix_space is not implemented");
        const json_t *own = json_object_get(o, "use_regex");
        if ((!own || json_is_true(own)) && !l->t->split)
            return bad(l, "pre_tokenizer", "ByteLevel's own expression is not implemented");
        return MULL_OK;
    }
    return bad(l, "pre_tokenizer", "only Split and ByteLevel are implemented");
}

static int read_splitter(loader *l, const json_t *o) {
    const json_t *list = json_object_get(o, "pretokenizers");
    if (!is_type(o, "Sequence")) return read_one_splitter(l, o);
    int rc = MULL_OK;
    for (size_t i = 0; !rc && i < json_array_size(list); i++) rc = read_one_splitter(l, json_array_get(list, i));
    return rc;
}

int mull_tokenizer_parse(const char *json, size_t len, const char *name, mull_tokenizer **out, mull_error *err) {
    loader l = {.t = calloc(1, sizeof *l.t), .name = name, .err = err};
    if (!l.t) return nomem(&l);
    fill_alphabet(&l);
    json_error_t je;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &je);
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab"),
                 *merges = json_object_get(model, "merges"), *added = json_object_get(root, "added_tokens");
    int rc;
    if (!root)
        rc = bad(&l, "", "line %d: %.200s", je.line, len ? je.text : "the file is empty");
    else if (!json_is_object(vocab) || !json_is_array(merges) || !is_type(model, "BPE"))
        rc = bad(&l, "model", "it is no BPE model with vocab and merges");
    else
        rc = size_tables(&l, vocab, added);
    if (!rc) rc = read_vocab(&l, vocab);
    if (!rc) rc = read_merges(&l, merges);
    if (!rc) rc = read_added(&l, added);
    if (!rc) rc = read_normalizer(&l, json_object_get(root, "normalizer"));
    if (!rc) rc = read_splitter(&l, json_object_get(root, "pre_tokenizer"));
    if (!rc) l.t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    json_decref(root);
    if (rc)
        mull_tokenizer_destroy(l.t);
    else
        *out = l.t;
    return rc;
}

int mull_tokenizer_load(const char *dir, mull_tokenizer **out, mull_error *err) {
    char *path = mull_path_join(dir, "tokenizer.json");
    mull_buf text = {0};
    int rc = path ? mull_read_file(path, MAX_FILE, "tokenizer", &text, err)
                  : mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    if (!rc) rc = mull_tokenizer_parse(text.data ? text.data : "", text.len, path, out, err);
    mull_buf_fini(&text);
    free(path);
    return rc;
}

void mull_tokenizer_destroy(mull_tokenizer *t) {
    if (!t) return;
    free(t->tokens);
    free(t->arena);
    free(t->merges);
    free(t->added);
    free(t->words);
    pcre2_code_free(t->split);
    free(t);
}
