/* Reading safetensors: one file or a folder of shards, mapped, never copied. Everything in the header is foreign:
 * each tensor's type, shape and offsets are checked against the file's length before a pointer is made, offsets must
 * tile the data without holes or overlaps as the format says, names must be unique over all shards. */
#include "engine/model/safetensors.h"

#include "engine/core/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_HEADER = 100 << 20, MAX_INDEX = 64 << 20, MAX_TENSORS = 1 << 20 };

static const char *const WHAT = "cannot read safetensors";
static const char *const TODO = "copy or download the file again";

typedef struct shard {
    char *name; /* for errors */
    const char *map;
    size_t len;
    bool owned;     /* munmap it */
    json_t *header; /* tensor names live here */
} shard;

struct mull_safetensors {
    shard *shards;
    size_t nshards;
    mull_tensor_info *t;
    size_t n, cap;
    uint32_t *slots; /* hash of names to index + 1, for find */
    size_t nslots;
};

static uint64_t hash_name(const char *s) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h ^ h >> 29;
}

static int bad(const shard *s, const char *tensor, mull_error *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static int bad(const shard *s, const char *tensor, mull_error *err, const char *fmt, ...) {
    char why[400], where[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    snprintf(where, sizeof where, "%s%s%.200s", s->name, tensor ? ", tensor " : "", tensor ? tensor : "");
    return mull_fail(err, MULL_EFORMAT, WHAT, where, TODO, "%s", why);
}

/* One entry of the header into *t. data: first byte after the header, size bytes long. */
static int read_entry(const shard *s, const char *name, const json_t *e, const char *data, size_t size,
                      mull_tensor_info *t, size_t *begin, size_t *end, mull_error *err) {
    const char *dtype = json_string_value(json_object_get(e, "dtype"));
    const json_t *shape = json_object_get(e, "shape"), *off = json_object_get(e, "data_offsets");
    if (!dtype || !json_is_array(shape) || !json_is_array(off) || json_array_size(off) != 2)
        return bad(s, name, err, "the header entry lacks dtype, shape or data_offsets");
    *t = (mull_tensor_info){.name = name, .file = s->name, .count = 1};
    if (mull_dtype_parse(dtype, &t->dtype)) return bad(s, name, err, "type %.20s is not known", dtype);
    if (json_array_size(shape) > MULL_ST_MAX_DIMS)
        return bad(s, name, err, "%zu dimensions; at most %d", json_array_size(shape), MULL_ST_MAX_DIMS);
    t->ndim = (int)json_array_size(shape);
    for (int i = 0; i < t->ndim; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return bad(s, name, err, "a dimension is no whole number");
        t->shape[i] = json_integer_value(d);
        if (__builtin_mul_overflow(t->count, t->shape[i], &t->count) || t->count > INT64_MAX / 8)
            return bad(s, name, err, "the shape is too large");
    }
    const json_t *b = json_array_get(off, 0), *f = json_array_get(off, 1);
    if (!json_is_integer(b) || !json_is_integer(f) || json_integer_value(b) < 0 ||
        json_integer_value(f) < json_integer_value(b))
        return bad(s, name, err, "data_offsets are no rising pair");
    *begin = (size_t)json_integer_value(b);
    *end = (size_t)json_integer_value(f);
    size_t bytes = (size_t)t->count * mull_dtype_size(t->dtype);
    if (*end - *begin != bytes)
        return bad(s, name, err, "data_offsets hold %zu bytes, the shape needs %zu", *end - *begin, bytes);
    if (*end > size)
        return bad(s, name, err, "the file is cut short: it holds %zu bytes of data and this tensor ends at %zu", size,
                   *end);
    t->data = data + *begin;
    if ((uintptr_t)t->data % mull_dtype_size(t->dtype)) return bad(s, name, err, "the data is not aligned to its type");
    return MULL_OK;
}

typedef struct span {
    size_t begin, end, index;
} span;

static int by_begin(const void *a, const void *b) {
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int reserve(mull_safetensors *st, size_t extra, mull_error *err) {
    if (st->n + extra > MAX_TENSORS)
        return mull_fail(err, MULL_ELIMIT, WHAT, NULL, TODO, "more than %d tensors", MAX_TENSORS);
    if (st->n + extra <= st->cap) return MULL_OK;
    mull_tensor_info *p = realloc(st->t, (st->n + extra) * sizeof *p);
    if (!p) return mull_fail(err, MULL_ENOMEM, WHAT, NULL, NULL, "out of memory");
    st->t = p;
    st->cap = st->n + extra;
    return MULL_OK;
}

/* Parses a mapped shard and appends its tensors in the order of their data. */
static int read_shard(mull_safetensors *st, shard *s, mull_error *err) {
    uint64_t hlen = 0;
    if (s->len < 8) return bad(s, NULL, err, "the file is %s (%zu bytes)", s->len ? "cut short" : "empty", s->len);
    for (int i = 7; i >= 0; i--) hlen = hlen << 8 | (unsigned char)s->map[i];
    if (hlen > MAX_HEADER || hlen > s->len - 8)
        return bad(s, NULL, err, "its header says %llu bytes and the file has %zu: cut short, or no safetensors file",
                   (unsigned long long)hlen, s->len);
    json_error_t je;
    s->header = json_loadb(s->map + 8, (size_t)hlen, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(s->header))
        return bad(s, NULL, err, "the header is no JSON object: %s", s->header ? "" : je.text);
    const char *data = s->map + 8 + hlen;
    size_t size = s->len - 8 - (size_t)hlen, count = json_object_size(s->header), n = 0, at = 0;
    int rc = reserve(st, count, err);
    if (rc) return rc;
    span *order = malloc((count + 1) * sizeof *order);
    mull_tensor_info *found = malloc((count + 1) * sizeof *found);
    if (!order || !found) rc = mull_fail(err, MULL_ENOMEM, WHAT, s->name, NULL, "out of memory");
    const char *name;
    json_t *e;
    if (!rc) {
        json_object_foreach(s->header, name, e) {
            if (!strcmp(name, "__metadata__")) continue;
            order[n].index = n;
            rc = read_entry(s, name, e, data, size, &found[n], &order[n].begin, &order[n].end, err);
            if (rc) break;
            n++;
        }
    }
    if (!rc && n) qsort(order, n, sizeof *order, by_begin);
    for (size_t i = 0; !rc && i < n; i++) {
        if (order[i].begin != at)
            rc = bad(s, found[order[i].index].name, err, "its data begins at %zu where %zu is next: overlap or hole",
                     order[i].begin, at);
        at = order[i].end;
        st->t[st->n++] = found[order[i].index];
    }
    if (!rc && at != size) rc = bad(s, NULL, err, "%zu bytes follow the last tensor", size - at);
    free(order);
    free(found);
    return rc;
}

static int map_file(const char *path, shard *s, mull_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat sb;
    if (fd < 0) return mull_fail_errno(err, errno, WHAT, path, "check the path");
    if (fstat(fd, &sb) || !S_ISREG(sb.st_mode)) {
        close(fd);
        return mull_fail(err, MULL_EFORMAT, WHAT, path, "check the path", "it is no regular file");
    }
    s->len = (size_t)sb.st_size;
    s->name = strdup(path);
    if (s->len) {
        void *p = mmap(NULL, s->len, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            int e = errno;
            close(fd);
            return mull_fail_errno(err, e, WHAT, path, NULL);
        }
        s->map = p;
        s->owned = true;
    }
    close(fd);
    return s->name ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, path, NULL, "out of memory");
}

static int build_index(mull_safetensors *st, mull_error *err) {
    st->nslots = 16;
    while (st->nslots < st->n * 2) st->nslots *= 2;
    st->slots = calloc(st->nslots, sizeof *st->slots);
    if (!st->slots) return mull_fail(err, MULL_ENOMEM, WHAT, NULL, NULL, "out of memory");
    for (size_t i = 0; i < st->n; i++) {
        size_t h = hash_name(st->t[i].name) & (st->nslots - 1);
        for (; st->slots[h]; h = (h + 1) & (st->nslots - 1))
            if (!strcmp(st->t[st->slots[h] - 1].name, st->t[i].name))
                return mull_fail(err, MULL_EFORMAT, WHAT, st->t[i].file, "remove the stale shard",
                                 "tensor %.200s is also in %s", st->t[i].name, st->t[st->slots[h] - 1].file);
        st->slots[h] = (uint32_t)i + 1;
    }
    return MULL_OK;
}

static shard *new_shard(mull_safetensors *st) {
    shard *p = realloc(st->shards, (st->nshards + 1) * sizeof *p);
    if (!p) return NULL;
    st->shards = p;
    p[st->nshards] = (shard){0};
    return &p[st->nshards++];
}

static int open_one(mull_safetensors *st, const char *path, mull_error *err) {
    shard *s = new_shard(st);
    if (!s) return mull_fail(err, MULL_ENOMEM, WHAT, path, NULL, "out of memory");
    int rc = map_file(path, s, err);
    return rc ? rc : read_shard(st, s, err);
}

/* A download that broke off lacks several shards: name them all, so that one more download is enough. */
static int check_shards(const json_t *files, const char *dir, const char *index, mull_error *err) {
    mull_buf missing = {0};
    size_t n = 0;
    int rc = MULL_OK;
    const char *file;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)files, file, v) {
        char *path = mull_path_join(dir, file);
        if (!path) rc = MULL_ENOMEM;
        if (path && access(path, F_OK)) {
            rc = mull_buf_printf(&missing, "%s%s", n ? ", " : "", file);
            n++;
        }
        free(path);
        if (rc) break;
    }
    if (rc)
        rc = mull_fail(err, rc, WHAT, index, NULL, "out of memory");
    else if (n)
        rc = mull_fail(err, MULL_EMISSING, WHAT, index, "download what is missing into the same folder",
                       "%zu of %zu shards are not there: %s", n, json_object_size(files), missing.data);
    mull_buf_fini(&missing);
    return rc;
}

/* Opens every shard that the index names, then checks that each tensor is where the index says. */
static int open_index(mull_safetensors *st, const char *dir, const char *index, mull_error *err) {
    mull_buf text = {0};
    int rc = mull_read_file(index, MAX_INDEX, "safetensors index", &text, err);
    if (rc) return rc;
    json_error_t je;
    json_t *root = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, &je), *seen = json_object();
    mull_buf_fini(&text);
    json_t *map = json_object_get(root, "weight_map"), *v;
    const char *name;
    if (!seen)
        rc = mull_fail(err, MULL_ENOMEM, WHAT, index, NULL, "out of memory");
    else if (!root)
        rc = mull_fail(err, MULL_EFORMAT, WHAT, index, TODO, "line %d: %s", je.line, je.text);
    else if (!json_is_object(map))
        rc = mull_fail(err, MULL_EFORMAT, WHAT, index, TODO, "it has no weight_map");
    if (!rc) {
        json_object_foreach(map, name, v) {
            const char *file = json_string_value(v);
            if (!file || strchr(file, '/') || !*file) {
                rc =
                    mull_fail(err, MULL_EFORMAT, WHAT, index, TODO, "tensor %.200s names no file of this folder", name);
                break;
            }
            if (!json_object_get(seen, file) && json_object_set_new(seen, file, json_true())) {
                rc = mull_fail(err, MULL_ENOMEM, WHAT, index, NULL, "out of memory");
                break;
            }
        }
    }
    if (!rc) rc = check_shards(seen, dir, index, err);
    if (!rc) {
        json_object_foreach(seen, name, v) {
            char *path = mull_path_join(dir, name);
            rc = path ? open_one(st, path, err) : mull_fail(err, MULL_ENOMEM, WHAT, index, NULL, "out of memory");
            free(path);
            if (rc) break;
        }
    }
    if (!rc) rc = build_index(st, err);
    if (!rc) {
        json_object_foreach(map, name, v) {
            const mull_tensor_info *t = mull_safetensors_find(st, name);
            const char *slash = t ? strrchr(t->file, '/') : NULL;
            if (t && !strcmp(slash ? slash + 1 : t->file, json_string_value(v))) continue;
            rc = mull_fail(err, MULL_EFORMAT, WHAT, index, TODO, "tensor %.200s should be in %s and is %s", name,
                           json_string_value(v), t ? "elsewhere" : "not there");
            break;
        }
    }
    json_decref(root);
    json_decref(seen);
    return rc;
}

int mull_safetensors_open(const char *path, mull_safetensors **out, mull_error *err) {
    struct stat sb;
    if (stat(path, &sb)) return mull_fail_errno(err, errno, WHAT, path, "check the path");
    mull_safetensors *st = calloc(1, sizeof *st);
    if (!st) return mull_fail(err, MULL_ENOMEM, WHAT, path, NULL, "out of memory");
    int rc;
    if (!S_ISDIR(sb.st_mode)) {
        rc = open_one(st, path, err);
        if (!rc) rc = build_index(st, err);
    } else {
        char *one = mull_path_join(path, "model.safetensors"),
             *index = mull_path_join(path, "model.safetensors.index.json");
        if (!one || !index)
            rc = mull_fail(err, MULL_ENOMEM, WHAT, path, NULL, "out of memory");
        else if (access(one, F_OK) == 0) {
            rc = open_one(st, one, err);
            if (!rc) rc = build_index(st, err);
        } else if (access(index, F_OK) == 0)
            rc = open_index(st, path, index, err);
        else
            rc = mull_fail(err, MULL_EMISSING, WHAT, path, "name a Hugging Face checkpoint folder",
                           "it holds neither model.safetensors nor model.safetensors.index.json");
        free(one);
        free(index);
    }
    if (rc)
        mull_safetensors_close(st);
    else
        *out = st;
    return rc;
}

int mull_safetensors_parse(const void *data, size_t len, const char *name, mull_safetensors **out, mull_error *err) {
    mull_safetensors *st = calloc(1, sizeof *st);
    shard *s = st ? new_shard(st) : NULL;
    int rc = MULL_OK;
    if (s) {
        s->map = data;
        s->len = len;
        s->name = strdup(name);
    }
    if (!s || !s->name) rc = mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
    if (!rc) rc = read_shard(st, s, err);
    if (!rc) rc = build_index(st, err);
    if (rc)
        mull_safetensors_close(st);
    else
        *out = st;
    return rc;
}

void mull_safetensors_close(mull_safetensors *s) {
    if (!s) return;
    for (size_t i = 0; i < s->nshards; i++) {
        if (s->shards[i].owned) munmap((void *)(uintptr_t)s->shards[i].map, s->shards[i].len);
        json_decref(s->shards[i].header);
        free(s->shards[i].name);
    }
    free(s->shards);
    free(s->t);
    free(s->slots);
    free(s);
}

size_t mull_safetensors_count(const mull_safetensors *s) {
    return s->n;
}
const mull_tensor_info *mull_safetensors_at(const mull_safetensors *s, size_t i) {
    return &s->t[i];
}

const mull_tensor_info *mull_safetensors_find(const mull_safetensors *s, const char *name) {
    for (size_t h = hash_name(name) & (s->nslots - 1); s->slots[h]; h = (h + 1) & (s->nslots - 1))
        if (!strcmp(s->t[s->slots[h] - 1].name, name)) return &s->t[s->slots[h] - 1];
    return NULL;
}

void mull_safetensors_drop_bytes(const void *data, size_t len) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), a = ((uintptr_t)data + page - 1) & ~(page - 1),
              b = ((uintptr_t)data + len) & ~(page - 1);
    if (b > a) madvise((void *)a, b - a, MADV_DONTNEED); /* a shared file map: the pages come back when read again */
}

void mull_safetensors_drop(const mull_safetensors *s, const mull_tensor_info *t) {
    (void)s;
    mull_safetensors_drop_bytes(t->data, (size_t)t->count * mull_dtype_size(t->dtype));
}
