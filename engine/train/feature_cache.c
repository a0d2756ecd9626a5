/* The features' cache on disk; see feature_cache.h. There is no index: a file's name is its key, its time of change is
 * its last use, and the folder's size is counted when it is opened and again before anything is removed, so that what
 * other processes did is seen. */
#include "engine/train/feature_cache.h"

#include "engine/core/buf.h"
#include "engine/core/digest.h"
#include "engine/model/safetensors.h"
#include "engine/model/vision.h"
#include "engine/model/weights.h"
#include "engine/ops/kernels.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

static const char MAGIC[] = "MULLFEA1";
static const char *const WHAT = "cannot use the feature cache";
enum { HEAD = 24, LEVEL = 1 };

struct mull_feature_cache {
    char *dir;
    int64_t limit, hidden, patch_floats;
    int units; /* patches of a feature */
    mull_pack_source tower;
    mull__sha *sha;
    uint8_t model[32]; /* digest of the tower and how it computes */
    void (*note)(void *ctx, const char *level, const char *text);
    void *ctx;
    ZSTD_CCtx *zc;
    ZSTD_DCtx *zd;
    char *raw, *packed; /* an entry as it is and as it lies on disk */
    size_t raw_cap, packed_cap;
    bool complained; /* about writing */
    mull_feature_figures n;
};

static void say(const mull_feature_cache *f, const char *level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void say(const mull_feature_cache *f, const char *level, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (f->note) f->note(f->ctx, level, text);
}

/* ---- opening */
static int digest_tower(mull_feature_cache *f, const mull_feature_cache_opts *o, mull_error *err) {
    mull_safetensors *file = NULL;
    int rc = mull_safetensors_open(o->model, &file, err);
    if (rc) return rc;
    const char *isa = mull_kernels_get()->name;
    int type = (int)o->weights;
    mull__sha_add(f->sha, isa, strlen(isa) + 1);
    mull__sha_add(f->sha, &type, sizeof type);
    for (size_t i = 0; i < mull_safetensors_count(file); i++) {
        const mull_tensor_info *t = mull_safetensors_at(file, i);
        char buf[160];
        const char *name = mull_weights_published_name(t->name, buf, sizeof buf), *dtype = mull_dtype_name(t->dtype);
        if (strncmp(name, "visual.", 7)) continue;
        mull__sha_add(f->sha, name, strlen(name) + 1);
        mull__sha_add(f->sha, dtype, strlen(dtype) + 1);
        mull__sha_add(f->sha, t->data, (size_t)t->count * mull_dtype_size(t->dtype));
        mull_safetensors_drop(file, t);
    }
    mull__sha_done(f->sha, f->model);
    mull_safetensors_close(file);
    return MULL_OK;
}

typedef struct entry {
    char name[72]; /* xx/KEY.zst below the folder */
    int64_t bytes;
    struct timespec used;
} entry;

/* Every entry below the folder; leftovers of writers that died more than an hour ago are removed on the way. NULL and
 * *n 0 when there are none; the total comes back. */
static int64_t list(const mull_feature_cache *f, entry **out, size_t *n) {
    int64_t total = 0;
    size_t cap = 0;
    entry *all = NULL;
    if (out) *n = 0;
    for (int part = 0; part < 256; part++) {
        char sub[3];
        snprintf(sub, sizeof sub, "%02x", part);
        char *path = mull_path_join(f->dir, sub);
        DIR *d = path ? opendir(path) : NULL;
        free(path);
        for (struct dirent *e; d && (e = readdir(d));) {
            struct stat st;
            size_t len = strlen(e->d_name);
            if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
                continue;
            if (len != 68 || strcmp(e->d_name + 64, ".zst")) {
                if (strstr(e->d_name, ".tmp") && time(NULL) - st.st_mtime > 3600) unlinkat(dirfd(d), e->d_name, 0);
                continue;
            }
            total += st.st_size;
            if (!out) continue;
            if (*n == cap) {
                size_t more = cap ? 2 * cap : 256;
                entry *p = realloc(all, more * sizeof *p);
                if (!p) break; /* fewer to choose from, no more */
                all = p;
                cap = more;
            }
            entry *x = &all[(*n)++];
            snprintf(x->name, sizeof x->name, "%s/%.68s", sub, e->d_name);
            x->bytes = st.st_size;
            x->used = st.st_mtim;
        }
        if (d) closedir(d);
    }
    if (out) *out = all;
    return total;
}

int mull_feature_cache_open(const mull_feature_cache_opts *o, const mull_config *c, mull_pack_source tower,
                            mull_feature_cache **out, mull_error *err) {
    *out = NULL;
    mull_feature_cache *f = calloc(1, sizeof *f);
    if (!f) return mull_fail(err, MULL_ENOMEM, WHAT, o->dir, NULL, "out of memory");
    *f = (mull_feature_cache){.limit = o->limit,
                              .hidden = c->hidden,
                              .patch_floats = mull_vision_patch_floats(&c->vision),
                              .units = c->vision.merge * c->vision.merge,
                              .tower = tower,
                              .note = o->note,
                              .ctx = o->ctx};
    f->dir = strdup(o->dir);
    f->sha = mull__sha_create();
    f->zc = ZSTD_createCCtx();
    f->zd = ZSTD_createDCtx();
    int rc =
        f->dir && f->sha && f->zc && f->zd ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, o->dir, NULL, "out of memory");
    if (!rc && mkdir(o->dir, 0777) && errno != EEXIST)
        rc = mull_fail_errno(err, errno, WHAT, o->dir, "name a folder that can be made, or leave feature_cache out");
    if (!rc) {
        ZSTD_CCtx_setParameter(f->zc, ZSTD_c_compressionLevel, LEVEL);
        ZSTD_CCtx_setParameter(f->zc, ZSTD_c_checksumFlag, 1);
        rc = digest_tower(f, o, err);
    }
    if (rc) {
        mull_feature_cache_close(f);
        return rc;
    }
    f->n.bytes = list(f, NULL, NULL);
    *out = f;
    return MULL_OK;
}

void mull_feature_cache_close(mull_feature_cache *f) {
    if (!f) return;
    ZSTD_freeCCtx(f->zc);
    ZSTD_freeDCtx(f->zd);
    mull__sha_destroy(f->sha);
    free(f->raw);
    free(f->packed);
    free(f->dir);
    free(f);
}

/* ---- entries */
static int grow(char **at, size_t *cap, size_t need) {
    if (need <= *cap) return MULL_OK;
    char *p = realloc(*at, need);
    if (!p) return MULL_ENOMEM;
    *at = p;
    *cap = need;
    return MULL_OK;
}

static void put64(char *p, uint64_t v) {
    for (int i = 0; i < 8; i++) p[i] = (char)(v >> 8 * i);
}

/* DIR/xx/KEY.zst, malloc'ed. */
static char *path_of(mull_feature_cache *f, const mull_grid *g, const float *patches) {
    uint8_t md[32];
    char hex[65], *path = NULL;
    int64_t grid[3] = {g->t, g->h, g->w};
    mull__sha_add(f->sha, f->model, sizeof f->model);
    mull__sha_add(f->sha, grid, sizeof grid);
    mull__sha_add(f->sha, patches, (size_t)(g->t * g->h * g->w * f->patch_floats) * sizeof *patches);
    mull__sha_done(f->sha, md);
    mull__hex(md, 32, hex);
    if (asprintf(&path, "%s/%.2s/%s.zst", f->dir, hex, hex) < 0) return NULL;
    return path;
}

/* Takes the features out of an entry's file of len bytes; else says why not. */
static const char *unpack(mull_feature_cache *f, size_t len, int64_t rows, float *out) {
    size_t want = HEAD + (size_t)(rows * f->hidden) * sizeof *out;
    char head[HEAD];
    memcpy(head, MAGIC, 8);
    put64(head + 8, (uint64_t)rows);
    put64(head + 16, (uint64_t)f->hidden);
    if (grow(&f->raw, &f->raw_cap, want)) return "there is no memory to read it";
    size_t n = ZSTD_decompressDCtx(f->zd, f->raw, want, f->packed, len);
    if (ZSTD_isError(n)) return ZSTD_getErrorName(n);
    if (n != want || memcmp(f->raw, head, HEAD)) return "it is of another size than its name says";
    memcpy(out, f->raw + HEAD, want - HEAD);
    return NULL;
}

static bool get(mull_feature_cache *f, const char *path, int64_t rows, float *out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    const char *why = NULL;
    size_t at = 0, bound = ZSTD_compressBound(HEAD + (size_t)(rows * f->hidden) * sizeof *out);
    if (fd < 0 && errno == ENOENT) return false;
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode))
        why = "it cannot be read";
    else if (st.st_size <= 0 || (uint64_t)st.st_size > bound)
        why = "it is of another size than its name says";
    else if (grow(&f->packed, &f->packed_cap, bound))
        why = "there is no memory to read it";
    while (!why && at < (size_t)st.st_size) {
        ssize_t k = read(fd, f->packed + at, (size_t)st.st_size - at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            why = "it is cut short";
        else
            at += (size_t)k;
    }
    if (!why) why = unpack(f, at, rows, out);
    if (!why) futimens(fd, NULL); /* its last use; a folder that cannot be written is used all the same */
    if (fd >= 0) close(fd);
    if (!why) return true;
    f->n.damaged++;
    say(f, "warning", "feature cache: %s is damaged (%s): computed again", path, why);
    unlink(path);
    return false;
}

static int oldest_first(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec) return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    if (x->used.tv_nsec != y->used.tv_nsec) return x->used.tv_nsec < y->used.tv_nsec ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void make_room(mull_feature_cache *f) {
    entry *all = NULL;
    size_t n = 0;
    f->n.bytes = list(f, &all, &n);
    if (f->n.bytes > f->limit) {
        qsort(all, n, sizeof *all, oldest_first);
        for (size_t i = 0; i < n && f->n.bytes > f->limit - f->limit / 10; i++) {
            char *path = mull_path_join(f->dir, all[i].name);
            if (path && unlink(path) == 0) f->n.removed++;
            f->n.bytes -= all[i].bytes;
            free(path);
        }
    }
    free(all);
}

static int write_file(const char *path, const void *data, size_t len) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), rc = 0;
    if (fd < 0) return -1;
    for (size_t at = 0; at < len && !rc;) {
        ssize_t k = write(fd, (const char *)data + at, len - at);
        if (k < 0 && errno != EINTR) rc = -1;
        if (k > 0) at += (size_t)k;
    }
    int kept = errno;
    if (close(fd) && !rc) rc = -1;
    if (rc && kept) errno = kept;
    return rc;
}

/* Not synced: a file that a crash of the machine left damaged fails its checksum. */
static void put(mull_feature_cache *f, const char *path, int64_t rows, const float *values) {
    size_t bytes = (size_t)(rows * f->hidden) * sizeof *values, bound = ZSTD_compressBound(HEAD + bytes);
    char *tmp = NULL, *dir = strdup(path);
    if (grow(&f->raw, &f->raw_cap, HEAD + bytes) || grow(&f->packed, &f->packed_cap, bound) || !dir ||
        asprintf(&tmp, "%s.%d.tmp", path, (int)getpid()) < 0) {
        free(dir);
        return;
    }
    memcpy(f->raw, MAGIC, 8);
    put64(f->raw + 8, (uint64_t)rows);
    put64(f->raw + 16, (uint64_t)f->hidden);
    memcpy(f->raw + HEAD, values, bytes);
    size_t n = ZSTD_compress2(f->zc, f->packed, bound, f->raw, HEAD + bytes);
    *strrchr(dir, '/') = 0;
    bool ok = !ZSTD_isError(n) && (mkdir(dir, 0777) == 0 || errno == EEXIST) && write_file(tmp, f->packed, n) == 0 &&
              rename(tmp, path) == 0;
    if (ok) {
        f->n.bytes += (int64_t)n;
        if (f->limit > 0 && f->n.bytes > f->limit) make_room(f);
    } else {
        if (!f->complained)
            say(f, "warning", "feature cache: cannot write to %s (%s): features that are not there are computed",
                f->dir, strerror(errno));
        f->complained = true;
        unlink(tmp);
    }
    free(tmp);
    free(dir);
}

static int encode(void *ctx, const mull_grid *g, const float *patches, float *out, mull_error *err) {
    mull_feature_cache *f = ctx;
    int64_t rows = g->t * g->h * g->w / f->units;
    char *path = path_of(f, g, patches);
    if (!path) return mull_fail(err, MULL_ENOMEM, WHAT, f->dir, NULL, "out of memory");
    int rc = MULL_OK;
    if (get(f, path, rows, out)) {
        f->n.found++;
    } else {
        rc = f->tower.encode(f->tower.ctx, g, patches, out, err);
        if (!rc) f->n.computed++;
        if (!rc) put(f, path, rows, out);
    }
    free(path);
    return rc;
}

mull_pack_source mull_feature_cache_source(mull_feature_cache *f) {
    return (mull_pack_source){encode, f};
}

mull_feature_figures mull_feature_cache_figures(const mull_feature_cache *f) {
    return f->n;
}
