/* Adding Mull tokens; see tokens.h. The folder's files are copied one by one; those that name tokens are changed as
 * JSON, weights stream through. */
#include "engine/train/tokens.h"

#include "engine/core/buf.h"
#include "engine/model/init_tokenizer.h"
#include "engine/model/safetensors_write.h"
#include "engine/model/weights.h"
#include "engine/train/checkpoint_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const WHAT = "cannot add the Mull tokens";
enum { FILE_MAX = 256 << 20, NEW = 4, FIRST = MULL_SPECIALS - NEW };
static const int64_t SHARD_BYTES = INT64_C(4) << 30;

typedef struct adding {
    const char *base;
    char *tmp; /* the folder as it grows */
    int size;  /* of the base's tokenizer */
    int id[NEW], added;
    mull_error *err;
} adding;

int mull_tokens_missing(const mull_tokenizer *t) {
    int n = 0;
    for (int i = 0; i < NEW; i++) n += mull_tokenizer_special(t, mull_special_texts[FIRST + i]) < 0;
    return n;
}

static bool is_new(const adding *a, int i) {
    return a->id[i] >= a->size;
}

static json_t *flags(int i) {
    return json_pack("{s:s,s:b,s:b,s:b,s:b,s:b}", "content", mull_special_texts[FIRST + i], "single_word", 0, "lstrip",
                     0, "rstrip", 0, "normalized", 0, "special", 1);
}

/* ---- files that name tokens */
static void edit_tokenizer(const adding *a, json_t *root) {
    json_t *list = json_object_get(root, "added_tokens");
    for (int i = 0; i < NEW; i++) {
        if (!is_new(a, i)) continue;
        json_t *entry = json_pack("{s:i}", "id", a->id[i]), *more = flags(i);
        json_object_update(entry, more);
        json_decref(more);
        json_array_append_new(list, entry);
    }
}

static void edit_tokenizer_config(const adding *a, json_t *root) {
    json_t *map = json_object_get(root, "added_tokens_decoder");
    for (int i = 0; map && i < NEW; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", a->id[i]);
        if (is_new(a, i)) json_object_set_new(map, key, flags(i));
    }
}

static void edit_added(const adding *a, json_t *root) {
    for (int i = 0; i < NEW; i++)
        if (is_new(a, i)) json_object_set_new(root, mull_special_texts[FIRST + i], json_integer(a->id[i]));
}

static void edit_config(const adding *a, json_t *root) {
    static const char *const keys[NEW] = {"latent_token_id", "latent_start_id", "latent_end_id",
                                          "imagelatent_token_id"};
    json_t *inner = json_object_get(root, "text_config");
    if (json_object_get(root, "vocab_size") || !inner)
        json_object_set_new(root, "vocab_size", json_integer(a->size + a->added));
    if (json_object_get(inner, "vocab_size"))
        json_object_set_new(inner, "vocab_size", json_integer(a->size + a->added));
    for (int i = 0; i < NEW; i++) json_object_set_new(root, keys[i], json_integer(a->id[i]));
}

static int copy_file(const adding *a, const char *name, const char *path) {
    static const struct {
        const char *name;
        void (*edit)(const adding *, json_t *);
    } EDITS[] = {{"tokenizer.json", edit_tokenizer},
                 {"tokenizer_config.json", edit_tokenizer_config},
                 {"added_tokens.json", edit_added},
                 {"config.json", edit_config}};
    mull_buf text = {0};
    int rc = mull_read_file(path, FILE_MAX, "file of the model", &text, a->err);
    for (size_t i = 0; !rc && i < sizeof EDITS / sizeof *EDITS; i++) {
        json_error_t je = {0};
        if (strcmp(name, EDITS[i].name)) continue;
        json_t *root = json_loadb(text.data ? text.data : "", text.len, 0, &je);
        mull_buf_fini(&text);
        if (!json_is_object(root)) {
            json_decref(root);
            return mull_fail(a->err, MULL_EFORMAT, WHAT, path, "download the checkpoint again", "line %d: %s", je.line,
                             *je.text ? je.text : "it is no object");
        }
        EDITS[i].edit(a, root);
        return mull__checkpoint_json(a->tmp, name, root, a->err);
    }
    if (!rc) rc = mull__checkpoint_put(a->tmp, name, text.data ? text.data : "", text.len, a->err);
    mull_buf_fini(&text);
    return rc;
}

static int copy_files(const adding *a) {
    DIR *d = opendir(a->base);
    if (!d) return mull_fail_errno(a->err, errno, WHAT, a->base, "check the model's folder");
    int rc = MULL_OK;
    for (struct dirent *e; !rc && (e = readdir(d));) {
        struct stat st;
        char *path = mull_path_join(a->base, e->d_name);
        if (path && mull__checkpoint_copied(e->d_name) && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
            st.st_size < FILE_MAX)
            rc = copy_file(a, e->d_name, path);
        free(path);
    }
    closedir(d);
    return rc;
}

/* ---- weights */
static bool has_rows(const char *name) {
    char buf[160];
    const char *plain = mull_weights_published_name(name, buf, sizeof buf);
    return !strcmp(plain, "model.embed_tokens.weight") || !strcmp(plain, "lm_head.weight");
}

/* The mean of the first rows of t [.., width] in its own type: summed in double, so in any order the same. */
static int mean_row(const mull_tensor_info *t, int64_t rows, void *out, mull_error *err) {
    int64_t width = t->shape[1];
    size_t size = mull_dtype_size(t->dtype);
    float *row = malloc((size_t)width * sizeof *row);
    double *sum = calloc((size_t)width, sizeof *sum);
    int rc = row && sum ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, t->name, NULL, "out of memory");
    for (int64_t r = 0; r < rows && !rc; r++) {
        mull_to_f32((const char *)t->data + (size_t)(r * width) * size, t->dtype, (size_t)width, row);
        for (int64_t k = 0; k < width; k++) sum[k] += (double)row[k];
    }
    for (int64_t k = 0; k < width && !rc; k++) {
        float x = (float)(sum[k] / (double)rows);
        if (t->dtype == MULL_F32)
            ((float *)out)[k] = x;
        else
            ((uint16_t *)out)[k] = t->dtype == MULL_F16 ? mull_f32_to_f16(x) : mull_f32_to_bf16(x);
    }
    free(row);
    free(sum);
    return rc;
}

static int put_rows(const adding *a, mull_safetensors_writer *w, const mull_tensor_info *t) {
    size_t row = (size_t)t->shape[1] * mull_dtype_size(t->dtype);
    void *mean = malloc(row);
    int rc = mean ? mean_row(t, a->size, mean, a->err)
                  : mull_fail(a->err, MULL_ENOMEM, WHAT, t->name, NULL, "out of memory");
    if (!rc) rc = mull_safetensors_writer_add(w, t->data, (size_t)a->size * row, a->err);
    for (int i = 0; i < a->added && !rc; i++) rc = mull_safetensors_writer_add(w, mean, row, a->err);
    free(mean);
    return rc;
}

/* How t will be in the new folder. */
static int reshape(const adding *a, const mull_tensor_info *t, mull_tensor_info *out) {
    *out = *t;
    if (!has_rows(t->name)) return MULL_OK;
    bool known = t->dtype == MULL_F32 || t->dtype == MULL_BF16 || t->dtype == MULL_F16;
    if (t->ndim != 2 || t->shape[0] < a->size || !known)
        return mull_fail(a->err, MULL_EFORMAT, WHAT, t->name, "use a Qwen2.5-VL checkpoint with its own tokenizer",
                         "it has %lld rows and the tokenizer %d entries", (long long)t->shape[0], a->size);
    out->shape[0] = a->size + a->added;
    out->count = out->shape[0] * out->shape[1];
    return MULL_OK;
}

static int put_shard(const adding *a, const char *name, const mull_safetensors *file, const mull_tensor_info *t,
                     size_t from, size_t n) {
    char *path = mull_path_join(a->tmp, name);
    mull_safetensors_writer *w = NULL;
    int rc = path ? mull_safetensors_writer_open(path, t + from, n, &w, a->err)
                  : mull_fail(a->err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
    for (size_t i = from; i < from + n && !rc; i++) {
        const mull_tensor_info *old = mull_safetensors_at(file, i);
        rc = has_rows(old->name)
                 ? put_rows(a, w, old)
                 : mull_safetensors_writer_add(w, old->data, (size_t)old->count * mull_dtype_size(old->dtype), a->err);
        mull_safetensors_drop(file, old);
    }
    if (!rc)
        rc = mull_safetensors_writer_commit(w, a->err);
    else
        mull_safetensors_writer_abort(w);
    free(path);
    return rc;
}

static int put_weights(const adding *a, const mull_safetensors *file) {
    size_t n = mull_safetensors_count(file), shards = 1;
    mull_tensor_info *t = calloc(n + 1, sizeof *t);
    size_t *end = calloc(n + 1, sizeof *end); /* of each shard */
    int rc = t && end ? MULL_OK : mull_fail(a->err, MULL_ENOMEM, WHAT, a->base, NULL, "out of memory");
    int64_t in = 0, total = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        rc = reshape(a, mull_safetensors_at(file, i), &t[i]);
        int64_t bytes = t[i].count * (int64_t)mull_dtype_size(t[i].dtype);
        if (in && in + bytes > SHARD_BYTES) shards++, in = 0;
        in += bytes;
        total += bytes;
        end[shards - 1] = i + 1;
    }
    json_t *map = json_object();
    for (size_t k = 0, from = 0; k < shards && !rc; from = end[k++]) {
        char name[64] = "model.safetensors";
        if (shards > 1) snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", k + 1, shards);
        rc = put_shard(a, name, file, t, from, end[k] - from);
        for (size_t i = from; i < end[k]; i++) json_object_set_new(map, t[i].name, json_string(name));
    }
    if (!rc && shards > 1)
        rc = mull__checkpoint_json(
            a->tmp, "model.safetensors.index.json",
            json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map), a->err);
    json_decref(map);
    free(t);
    free(end);
    return rc;
}

int mull_tokens_add(const char *base, const char *out, mull_error *err) {
    adding a = {.base = base, .err = err};
    mull_tokenizer *t = NULL;
    mull_safetensors *file = NULL;
    int rc = mull_tokenizer_load(base, &t, err);
    if (!rc) rc = mull_safetensors_open(base, &file, err);
    if (!rc && asprintf(&a.tmp, "%s.tmp", out) < 0) {
        a.tmp = NULL;
        rc = mull_fail(err, MULL_ENOMEM, WHAT, out, NULL, "out of memory");
    }
    if (!rc) {
        a.size = mull_tokenizer_size(t);
        for (int i = 0; i < NEW; i++) {
            a.id[i] = mull_tokenizer_special(t, mull_special_texts[FIRST + i]);
            if (a.id[i] < 0) a.id[i] = a.size + a.added++;
        }
        mull__checkpoint_remove(a.tmp);
        if (mkdir(a.tmp, 0777)) rc = mull_fail_errno(err, errno, WHAT, a.tmp, "check the folder above it");
    }
    if (!rc) rc = copy_files(&a);
    if (!rc) rc = put_weights(&a, file);
    if (!rc && rename(a.tmp, out)) rc = mull_fail_errno(err, errno, WHAT, out, "name a folder that is not there yet");
    if (rc && a.tmp) mull__checkpoint_remove(a.tmp);
    mull_safetensors_close(file);
    mull_tokenizer_destroy(t);
    free(a.tmp);
    return rc;
}
