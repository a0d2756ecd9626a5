/* The optimiser's file and the state of a run; the format is in checkpoint.h. Reading treats the file as foreign:
 * names, places and lengths are checked against the parameters before a value is taken. */
#include "engine/core/behind.h"
#include "engine/core/buf.h"
#include "engine/model/safetensors.h"
#include "engine/train/checkpoint_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

static const char MAGIC[] = "MULLOPT1";
static const char *const SAVE = "cannot save the checkpoint", *const LOAD = "cannot resume";
enum { HEADER_MAX = 64 << 20, SKIP = 1 << 16 };

/* The file of one of world ranges. */
static char *path_of(const char *dir, int rank, int world) {
    char name[64];
    snprintf(name, sizeof name, "optimizer-%05d-of-%05d.zst", rank, world);
    return mull_path_join(dir, name);
}

/* Of a tensor, what lies in [lo, hi) of the trained values: false when nothing does. */
static bool overlap(const mull_param *q, int64_t lo, int64_t hi, int64_t *from, int64_t *n) {
    if (q->at < 0) return false;
    int64_t a = q->at > lo ? q->at : lo, e = q->at + q->count < hi ? q->at + q->count : hi;
    *from = a - q->at;
    *n = e - a;
    return *n > 0;
}

/* ---- writing */
typedef struct writer {
    FILE *f;
    mull_behind behind;
    ZSTD_CCtx *z;
    char *buf;
    size_t cap;
    const char *path;
    mull_error *err;
} writer;

static int put(writer *w, const void *data, size_t len, ZSTD_EndDirective mode) {
    ZSTD_inBuffer in = {data, len, 0};
    for (;;) {
        ZSTD_outBuffer out = {w->buf, w->cap, 0};
        size_t left = ZSTD_compressStream2(w->z, &out, &in, mode);
        if (ZSTD_isError(left))
            return mull_fail(w->err, MULL_EINTERNAL, SAVE, w->path, NULL, "zstd: %s", ZSTD_getErrorName(left));
        if (out.pos && fwrite(w->buf, 1, out.pos, w->f) != out.pos)
            return mull_fail_errno(w->err, errno, SAVE, w->path, "free space; earlier checkpoints are whole");
        mull_behind_wrote(&w->behind, fileno(w->f), out.pos); /* what stdio still holds comes with the next */
        if (mode == ZSTD_e_end ? left == 0 : in.pos == in.size) return MULL_OK;
    }
}

static json_t *header(const mull_params *p) {
    json_t *params = json_array();
    for (size_t i = 0; i < p->n; i++)
        if (p->list[i].at >= 0)
            json_array_append_new(params, json_pack("{s:s,s:I,s:I}", "name", p->list[i].name, "at",
                                                    (json_int_t)p->list[i].at, "count", (json_int_t)p->list[i].count));
    json_t *arrays = json_pack("[s,s]", "exp_avg", "exp_avg_sq");
    if (p->half) json_array_append_new(arrays, json_string("master"));
    bool split = p->zero > 0;
    return json_pack("{s:i,s:i,s:i,s:I,s:I,s:I,s:o,s:o}", "version", 1, "rank", split ? mull_comm_rank(p->comm) : 0,
                     "world", split ? mull_comm_world(p->comm) : 1, "trained", (json_int_t)p->trained, "lo",
                     (json_int_t)p->lo, "hi", (json_int_t)p->hi, "arrays", arrays, "params", params);
}

int mull__optimizer_save(const char *dir, const mull_params *p, mull_error *err) {
    char *path = path_of(dir, p->zero ? mull_comm_rank(p->comm) : 0, p->zero ? mull_comm_world(p->comm) : 1);
    json_t *h = header(p);
    char *text = h ? json_dumps(h, JSON_COMPACT) : NULL;
    writer w = {.cap = ZSTD_CStreamOutSize(), .path = path, .err = err};
    w.buf = malloc(w.cap);
    w.z = ZSTD_createCCtx();
    int rc = MULL_OK;
    if (!path || !text || !w.buf || !w.z) {
        rc = mull_fail(err, MULL_ENOMEM, SAVE, dir, NULL, "out of memory");
        goto out;
    }
    ZSTD_CCtx_setParameter(w.z, ZSTD_c_compressionLevel, 1);
    ZSTD_CCtx_setParameter(w.z, ZSTD_c_checksumFlag, 1);
    if (!(w.f = fopen(path, "wbe"))) {
        rc = mull_fail_errno(err, errno, SAVE, path, "check the folder");
        goto out;
    }
    uint64_t len = strlen(text);
    unsigned char size[8];
    for (int i = 0; i < 8; i++) size[i] = (unsigned char)(len >> 8 * i);
    size_t bytes = (size_t)(p->hi - p->lo) * sizeof(float);
    int64_t from, n;
    rc = put(&w, MAGIC, 8, ZSTD_e_continue);
    if (!rc) rc = put(&w, size, 8, ZSTD_e_continue);
    if (!rc) rc = put(&w, text, len, ZSTD_e_continue);
    if (!rc) rc = put(&w, p->m, bytes, ZSTD_e_continue);
    if (!rc) rc = put(&w, p->v, bytes, ZSTD_e_continue);
    for (size_t i = 0; p->half && i < p->n && !rc; i++)
        if (overlap(&p->list[i], p->lo, p->hi, &from, &n))
            rc = put(&w, p->list[i].w + from, (size_t)n * sizeof(float), ZSTD_e_continue);
    if (!rc) rc = put(&w, NULL, 0, ZSTD_e_end);
    if (!rc && (fflush(w.f) || fsync(fileno(w.f)))) rc = mull_fail_errno(err, errno, SAVE, path, "free space");
out:
    if (w.f) fclose(w.f);
    ZSTD_freeCCtx(w.z);
    free(w.buf);
    free(text);
    json_decref(h);
    free(path);
    return rc;
}

/* ---- reading */
typedef struct reader {
    FILE *f;
    ZSTD_DCtx *z;
    char *buf, *skip;
    size_t cap;
    ZSTD_inBuffer in;
    bool done;      /* the frame has ended */
    int64_t lo, hi; /* of the header */
    bool master;
    const char *path;
    mull_error *err;
} reader;

static int broken(reader *r, const char *why) {
    return mull_fail(r->err, MULL_EFORMAT, LOAD, r->path, "resume from an earlier checkpoint", "%s", why);
}

/* Some of the output, reading more input only when what zstd holds back is not enough. */
static int pull(reader *r, ZSTD_outBuffer *out) {
    size_t before = out->pos, rc = ZSTD_decompressStream(r->z, out, &r->in);
    if (ZSTD_isError(rc)) return broken(r, ZSTD_getErrorName(rc));
    r->done = rc == 0;
    if (r->done || out->pos > before || r->in.pos < r->in.size) return MULL_OK;
    r->in = (ZSTD_inBuffer){r->buf, fread(r->buf, 1, r->cap, r->f), 0};
    return r->in.size ? MULL_OK : broken(r, "the file is cut short");
}

static int take(reader *r, void *data, size_t len) {
    ZSTD_outBuffer out = {data, len, 0};
    while (out.pos < len) {
        if (r->done) return broken(r, "the file is shorter than its header says");
        int rc = pull(r, &out);
        if (rc) return rc;
    }
    return MULL_OK;
}

/* The frame must end here: its checksum is only then known to be right. */
static int finish(reader *r) {
    char one;
    while (!r->done) {
        ZSTD_outBuffer out = {&one, 1, 0};
        int rc = pull(r, &out);
        if (rc) return rc;
        if (out.pos) return broken(r, "the file is longer than its header says");
    }
    return MULL_OK;
}

static int pass(reader *r, int64_t floats) {
    for (int rc; floats > 0; floats -= SKIP) {
        size_t n = floats < SKIP ? (size_t)floats : SKIP;
        if ((rc = take(r, r->skip, n * sizeof(float)))) return rc;
    }
    return MULL_OK;
}

/* What this rank owns of an array over [r->lo, r->hi), to dst [p->hi - p->lo]. */
static int take_own(reader *r, const mull_params *p, float *dst) {
    int64_t a = r->lo > p->lo ? r->lo : p->lo, e = r->hi < p->hi ? r->hi : p->hi;
    int rc = pass(r, a - r->lo);
    if (!rc) rc = take(r, dst + (a - p->lo), (size_t)(e - a) * sizeof *dst);
    return rc ? rc : pass(r, r->hi - e);
}

static int take_masters(reader *r, const mull_params *p) {
    int rc = MULL_OK;
    for (size_t i = 0; i < p->n && !rc; i++) {
        const mull_param *q = &p->list[i];
        int64_t from, n, own, k;
        if (!overlap(q, r->lo, r->hi, &from, &n)) continue;
        if (!overlap(q, r->lo > p->lo ? r->lo : p->lo, r->hi < p->hi ? r->hi : p->hi, &own, &k)) {
            rc = pass(r, n);
            continue;
        }
        rc = pass(r, own - from);
        if (!rc) rc = take(r, q->w + own, (size_t)k * sizeof(float));
        if (!rc) rc = pass(r, from + n - own - k);
    }
    return rc;
}

/* lo: where the ranges of the files before this one end. */
static int check_header(reader *r, const json_t *h, const mull_params *p, int64_t lo) {
    static const char OTHER[] = "it was made with other trained tensors (freeze, lora_rank or lora_targets differ)";
    const json_t *params = json_object_get(h, "params");
    size_t n = 0;
    if (json_integer_value(json_object_get(h, "version")) != 1) return broken(r, "it has another version than 1");
    if (json_integer_value(json_object_get(h, "trained")) != p->trained) return broken(r, OTHER);
    for (size_t i = 0; i < p->n; i++) {
        if (p->list[i].at < 0) continue;
        const json_t *q = json_array_get(params, n++);
        const char *name = json_string_value(json_object_get(q, "name"));
        if (!name || strcmp(name, p->list[i].name) || json_integer_value(json_object_get(q, "at")) != p->list[i].at)
            return broken(r, OTHER);
    }
    r->lo = json_integer_value(json_object_get(h, "lo"));
    r->hi = json_integer_value(json_object_get(h, "hi"));
    if (r->lo != lo || r->hi < lo || r->hi > p->trained) return broken(r, "its range does not follow the one before");
    size_t arrays = json_array_size(json_object_get(h, "arrays"));
    r->master = arrays == 3;
    return arrays == 2 || arrays == 3 ? MULL_OK : broken(r, "it has other arrays than version 1 has");
}

/* One rank's file; *lo goes from where its range has to begin to where it ends. */
static int load_one(char *path, mull_params *p, int64_t *lo, bool *master, mull_error *err) {
    char *text = NULL;
    reader r = {.cap = ZSTD_DStreamInSize(), .path = path, .err = err};
    json_t *h = NULL;
    r.buf = malloc(r.cap);
    r.skip = malloc(SKIP * sizeof(float));
    r.z = ZSTD_createDCtx();
    int rc = path && r.buf && r.skip && r.z ? MULL_OK : mull_fail(err, MULL_ENOMEM, LOAD, path, NULL, "out of memory");
    if (!rc && !(r.f = fopen(path, "rbe")))
        rc = mull_fail_errno(err, errno, LOAD, path, "resume from a folder that mull-engine train wrote");
    unsigned char start[16];
    if (!rc) rc = take(&r, start, sizeof start);
    uint64_t len = 0;
    for (int i = 0; !rc && i < 8; i++) len |= (uint64_t)start[8 + i] << 8 * i;
    if (!rc && (memcmp(start, MAGIC, 8) || len > HEADER_MAX)) rc = broken(&r, "it is no optimiser state of mull");
    if (!rc && !(text = malloc((size_t)len + 1))) rc = mull_fail(err, MULL_ENOMEM, LOAD, path, NULL, "out of memory");
    if (!rc) rc = take(&r, text, (size_t)len);
    if (!rc && !(h = json_loadb(text, (size_t)len, 0, NULL))) rc = broken(&r, "its header is no JSON");
    if (!rc) rc = check_header(&r, h, p, *lo);
    if (!rc && r.hi > p->lo && r.lo < p->hi) { /* else it is the other ranks' */
        rc = take_own(&r, p, p->m);
        if (!rc) rc = take_own(&r, p, p->v);
        if (!rc && r.master) rc = take_masters(&r, p);
        if (!rc) rc = finish(&r);
    }
    if (!rc) *lo = r.hi;
    *master = r.master;
    if (r.f) fclose(r.f);
    ZSTD_freeDCtx(r.z);
    json_decref(h);
    free(text);
    free(r.skip);
    free(r.buf);
    return rc;
}

/* The world size that the folder's files are of: the one whose first file is there. */
static int find_world(const char *dir) {
    DIR *d = opendir(dir);
    int world = 1, w, end;
    for (struct dirent *e; d && (e = readdir(d));) {
        end = 0;
        if (sscanf(e->d_name, "optimizer-00000-of-%5d.zst%n", &w, &end) == 1 && end && !e->d_name[end] && w > world)
            world = w;
    }
    if (d) closedir(d);
    return world;
}

int mull__optimizer_load(const char *dir, mull_params *p, mull_error *err) {
    int world = find_world(dir), rc = MULL_OK;
    int64_t lo = 0;
    bool master = false;
    for (int i = 0; i < world && !rc; i++) {
        char *path = path_of(dir, i, world);
        rc =
            path ? load_one(path, p, &lo, &master, err) : mull_fail(err, MULL_ENOMEM, LOAD, dir, NULL, "out of memory");
        free(path);
    }
    if (!rc && lo != p->trained)
        rc = mull_fail(err, MULL_EFORMAT, LOAD, dir, "resume from an earlier checkpoint",
                       "its optimiser files end at value %lld of %lld", (long long)lo, (long long)p->trained);
    if (!rc && master) mull_params_round(NULL, p);
    return rc;
}

int mull__adapter_load(const char *dir, mull_params *p, mull_error *err) {
    bool any = false;
    for (size_t i = 0; i < p->n; i++) any |= p->list[i].adapter;
    if (!any) return MULL_OK;
    char *path = mull_path_join(dir, "adapter_model.safetensors");
    mull_safetensors *f = NULL;
    int rc =
        path ? mull_safetensors_open(path, &f, err) : mull_fail(err, MULL_ENOMEM, LOAD, dir, NULL, "out of memory");
    for (size_t i = 0; i < p->n && !rc; i++) {
        mull_param *q = &p->list[i];
        const mull_tensor_info *t = q->adapter ? mull_safetensors_find(f, q->name) : NULL;
        if (!q->adapter) continue;
        if (!t || t->count != q->count || t->dtype != MULL_F32)
            rc = mull_fail(err, MULL_EFORMAT, LOAD, path, "use the lora_rank and lora_targets of the run",
                           "it has no fitting %s", q->name);
        else
            memcpy(q->w, t->data, (size_t)t->count * sizeof(float));
    }
    if (!rc) mull_params_round(NULL, p);
    mull_safetensors_close(f);
    free(path);
    return rc;
}

int mull_checkpoint_load(const char *dir, mull_params *p, mull_train_state *s, mull_error *err) {
    char *path = mull_path_join(dir, "trainer_state.json");
    json_error_t je;
    json_t *j = path ? json_load_file(path, 0, &je) : NULL, *at = json_object_get(j, "position");
    int rc = MULL_OK;
    if (!j || json_integer_value(json_object_get(j, "version")) != 1)
        rc = mull_fail(err, MULL_EFORMAT, LOAD, path ? path : dir, "resume from a folder that mull-engine train wrote",
                       "%s", j ? "it has another version than 1" : je.text);
    if (!rc)
        *s = (mull_train_state){.step = json_integer_value(json_object_get(j, "global_step")),
                                .applied = json_integer_value(json_object_get(j, "applied")),
                                .skipped = json_integer_value(json_object_get(j, "skipped")),
                                .loss_mean = json_number_value(json_object_get(j, "loss_mean")),
                                .loss_var = json_number_value(json_object_get(j, "loss_var")),
                                .position = {.step = json_integer_value(json_object_get(at, "step")),
                                             .drawn = json_integer_value(json_object_get(at, "drawn")),
                                             .bad = json_integer_value(json_object_get(at, "bad")),
                                             .skipped = json_integer_value(json_object_get(at, "skipped"))}};
    if (!rc) rc = mull__adapter_load(dir, p, err);
    if (!rc) rc = mull__optimizer_load(dir, p, err);
    json_decref(j);
    free(path);
    return rc;
}
