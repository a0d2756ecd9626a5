/* Writing checkpoints; see checkpoint.h. */
#include "engine/train/checkpoint.h"

#include "engine/core/buf.h"
#include "engine/model/safetensors_write.h"
#include "engine/model/weights.h"
#include "engine/train/checkpoint_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const WHAT = "cannot save the checkpoint";
enum { PIECE = 1 << 18 }; /* values converted at a time */
static const int64_t SHARD_BYTES = INT64_C(4) << 30;

static int fail(mull_error *err, const char *where) {
    return mull_fail_errno(err, errno, WHAT, where,
                           "free space or choose another folder; earlier checkpoints are whole");
}

static int sync_dir(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

int mull__checkpoint_put(const char *dir, const char *name, const void *data, size_t len, mull_error *err) {
    char *path = mull_path_join(dir, name);
    if (!path) return mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), rc = MULL_OK;
    const char *p = data;
    while (fd >= 0 && len && !rc) {
        ssize_t k = write(fd, p, len);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            rc = fail(err, path);
            break;
        }
        p += k;
        len -= (size_t)k;
    }
    if (fd < 0 || (!rc && fsync(fd))) rc = fail(err, path);
    if (fd >= 0) close(fd);
    free(path);
    return rc;
}

int mull__checkpoint_json(const char *dir, const char *name, json_t *v, mull_error *err) {
    char *text = v ? json_dumps(v, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL;
    int rc = text ? mull__checkpoint_put(dir, name, text, strlen(text), err)
                  : mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
    free(text);
    json_decref(v);
    return rc;
}

static bool ends(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* Configuration, tokenizer and whatever else lies beside the weights; not what belongs to one checkpoint. */
bool mull__checkpoint_copied(const char *name) {
    static const char *const ENDS[] = {".safetensors", ".zst", ".index.json", ".tmp", ".bin", ".pt", ".pth", ".lock"};
    for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++)
        if (ends(name, ENDS[i])) return false;
    return name[0] != '.' && strcmp(name, "trainer_state.json") && strcmp(name, "adapter_config.json") &&
           strcmp(name, MULL__SUMS);
}

/* The configuration names the type that its tensors have. */
static int put_config(const char *dir, const mull_buf *text, bool half, mull_error *err) {
    json_t *c = json_loadb(text->data, text->len, 0, NULL);
    if (!json_is_object(c)) {
        json_decref(c);
        return mull_fail(err, MULL_EFORMAT, WHAT, "config.json", NULL, "it is no JSON object");
    }
    const char *type = half ? "bfloat16" : "float32";
    if (json_object_get(c, "dtype")) json_object_set_new(c, "dtype", json_string(type));
    json_t *inner = json_object_get(c, "text_config");
    if (json_object_get(inner, "torch_dtype")) json_object_set_new(inner, "torch_dtype", json_string(type));
    if (json_object_get(inner, "dtype")) json_object_set_new(inner, "dtype", json_string(type));
    json_object_set_new(c, "torch_dtype", json_string(type));
    return mull__checkpoint_json(dir, "config.json", c, err);
}

static int copy_files(const char *base, const char *dir, bool half, mull_error *err) {
    DIR *d = opendir(base);
    if (!d) return mull_fail_errno(err, errno, WHAT, base, "check the model's folder");
    int rc = MULL_OK;
    for (struct dirent *e; !rc && (e = readdir(d));) {
        struct stat st;
        char *path = mull_path_join(base, e->d_name);
        mull_buf text = {0};
        if (path && mull__checkpoint_copied(e->d_name) && stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size < 256 << 20) {
            rc = mull_read_file(path, 256 << 20, "file of the model", &text, err);
            if (!rc)
                rc = strcmp(e->d_name, "config.json")
                         ? mull__checkpoint_put(dir, e->d_name, text.data ? text.data : "", text.len, err)
                         : put_config(dir, &text, half, err);
        }
        mull_buf_fini(&text);
        free(path);
    }
    closedir(d);
    return rc;
}

/* ---- weights */
typedef struct source {
    mull_tensor_info t;
    const mull_param *q;          /* a trained or frozen tensor of ours */
    const mull_tensor_info *base; /* or one of the folder that training began with: the frozen tower */
} source;

/* Tensors go to every rank (where they are in parts) one after the other, and rank 0 writes. One that cannot write goes
 * on asking: the others would wait. */
typedef struct asker {
    mull_ranks *ranks;
    const source *s;
    size_t n, next;
} asker;

static int ask(asker *a, mull_error *err) {
    const mull_param *q = a->s[a->next++].q;
    return q ? mull_ranks_fetch(a->ranks, q, false, err) : MULL_OK;
}
static void had(asker *a) {
    const mull_param *q = a->s[a->next - 1].q;
    if (q) mull_ranks_release(a->ranks, q);
}
static int ask_all(asker *a, mull_error *err) {
    int rc = MULL_OK;
    while (a->next < a->n) {
        int failed = ask(a, rc ? NULL : err);
        if (!rc) rc = failed;
        had(a);
    }
    return rc;
}

static int put_tensor(mull_safetensors_writer *w, const source *s, mull_dtype type, void *piece, mull_error *err) {
    float wide[1024];
    int rc = MULL_OK;
    for (int64_t at = 0; at < s->t.count && !rc; at += PIECE) {
        int64_t n = s->t.count - at < PIECE ? s->t.count - at : PIECE;
        if (s->q && type == MULL_F32) {
            rc = mull_safetensors_writer_add(w, s->q->w + at, (size_t)n * 4, err);
            continue;
        }
        if (s->q && s->q->half) { /* the rounded copy is what there is of all values on every rank */
            rc = mull_safetensors_writer_add(w, s->q->half + at, (size_t)n * 2, err);
            continue;
        }
        for (int64_t i = 0; i < n; i += 1024) {
            int64_t k = n - i < 1024 ? n - i : 1024;
            const float *from = wide;
            if (s->q)
                from = s->q->w + at + i;
            else
                mull_to_f32((const char *)s->base->data + (size_t)(at + i) * mull_dtype_size(s->base->dtype),
                            s->base->dtype, (size_t)k, wide);
            for (int64_t j = 0; j < k; j++) {
                if (type == MULL_F32)
                    ((float *)piece)[i + j] = from[j];
                else
                    ((uint16_t *)piece)[i + j] = mull_f32_to_bf16(from[j]);
            }
        }
        rc = mull_safetensors_writer_add(w, piece, (size_t)n * mull_dtype_size(type), err);
    }
    return rc;
}

static int put_shard(const char *dir, const char *name, const source *s, size_t n, mull_dtype type, asker *a,
                     mull_error *err) {
    char *path = mull_path_join(dir, name);
    mull_tensor_info *t = calloc(n + 1, sizeof *t);
    void *piece = malloc(PIECE * sizeof(float));
    mull_safetensors_writer *w = NULL;
    int rc = path && t && piece ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
    for (size_t i = 0; t && i < n; i++) t[i] = s[i].t;
    if (!rc) rc = mull_safetensors_writer_open(path, t, n, &w, err);
    for (size_t i = 0; i < n && !rc; i++) {
        if (a) rc = ask(a, err);
        if (!rc) rc = put_tensor(w, &s[i], type, piece, err);
        if (a) had(a);
    }
    if (!rc)
        rc = mull_safetensors_writer_commit(w, err);
    else
        mull_safetensors_writer_abort(w);
    free(piece);
    free(t);
    free(path);
    return rc;
}

static int put_shards(const char *dir, const source *s, size_t n, mull_dtype type, asker *a, mull_error *err) {
    size_t size = mull_dtype_size(type), shards = 1, from = 0;
    int64_t in = 0, total = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t bytes = s[i].t.count * (int64_t)size;
        total += bytes;
        if (in && in + bytes > SHARD_BYTES) shards++, in = 0;
        in += bytes;
    }
    if (shards == 1) return put_shard(dir, "model.safetensors", s, n, type, a, err);
    json_t *map = json_object();
    int rc = MULL_OK;
    for (size_t k = 1; k <= shards && !rc; k++) {
        char name[64];
        size_t e = from;
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", k, shards);
        for (in = 0; e < n && (!in || in + s[e].t.count * (int64_t)size <= SHARD_BYTES); e++) {
            in += s[e].t.count * (int64_t)size;
            json_object_set_new(map, s[e].t.name, json_string(name));
        }
        rc = put_shard(dir, name, s + from, e - from, type, a, err);
        from = e;
    }
    if (rc) {
        json_decref(map);
        return rc;
    }
    return mull__checkpoint_json(
        dir, "model.safetensors.index.json",
        json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map), err);
}

/* All ranks; the first one writes. */
static int put_model(const char *dir, const char *base, const mull_config *c, const mull_params *p, mull_ranks *ranks,
                     mull_error *err) {
    mull_weight_spec *specs = NULL;
    mull_safetensors *file = NULL;
    size_t n = 0;
    mull_dtype type = p->half ? MULL_BF16 : MULL_F32;
    int rc = mull_weights_list(c, &specs, &n, err);
    if (!rc) rc = mull_safetensors_open(base, &file, err);
    source *s = rc ? NULL : calloc(n, sizeof *s);
    if (!rc && !s) rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    for (size_t i = 0; i < n && !rc; i++) {
        const mull_param *q = mull_params_find(p, specs[i].name);
        s[i].t = (mull_tensor_info){.name = specs[i].name, .dtype = type, .ndim = specs[i].ndim, .count = 1};
        for (int d = 0; d < specs[i].ndim; d++) s[i].t.count *= s[i].t.shape[d] = specs[i].shape[d];
        s[i].q = q;
        for (size_t k = 0; !q && k < mull_safetensors_count(file); k++) {
            const mull_tensor_info *t = mull_safetensors_at(file, k);
            char buf[160];
            if (!strcmp(mull_weights_published_name(t->name, buf, sizeof buf), specs[i].name)) s[i].base = t;
        }
        if (!s[i].q && (!s[i].base || s[i].base->count != s[i].t.count))
            rc = mull_fail(err, MULL_EMISSING, WHAT, base, "keep the model's folder while training",
                           "it no longer has %s", specs[i].name);
    }
    if (!rc) {
        asker a = {ranks, s, n, 0};
        if (mull_comm_rank(p->comm) == 0) rc = put_shards(dir, s, n, type, &a, err);
        int failed = ask_all(&a, rc ? NULL : err);
        if (!rc) rc = failed;
    }
    free(s);
    free(specs);
    mull_safetensors_close(file);
    return rc;
}

/* PEFT's layout: the tensors' names carry no adapter name, the configuration names base, rank and targets. */
static int put_adapter(const char *dir, const mull_params *p, const mull_checkpoint_opts *o, mull_error *err) {
    source *s = calloc(p->n + 1, sizeof *s);
    size_t n = 0;
    if (!s) return mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        if (!q->adapter) continue;
        s[n].t = (mull_tensor_info){.name = q->name, .dtype = MULL_F32, .ndim = q->ndim, .count = q->count};
        memcpy(s[n].t.shape, q->shape, sizeof q->shape);
        s[n++].q = q;
    }
    int rc = MULL_OK;
    for (size_t i = 0; i < n && !rc; i++) rc = mull_ranks_fetch(o->ranks, s[i].q, true, err);
    bool first = mull_comm_rank(p->comm) == 0;
    if (!rc && first) rc = put_shard(dir, "adapter_model.safetensors", s, n, MULL_F32, NULL, err);
    for (size_t i = 0; i < n; i++) mull_ranks_release(o->ranks, s[i].q);
    free(s);
    if (rc || !first) return rc;
    json_t *targets = json_array();
    static const char *const ALL[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
    for (size_t i = 0; i < 7; i++) {
        char find[32];
        snprintf(find, sizeof find, ".%s.lora_A", ALL[i]);
        for (size_t k = 0; k < p->n; k++)
            if (p->list[k].adapter && strstr(p->list[k].name, find)) {
                json_array_append_new(targets, json_string(ALL[i]));
                break;
            }
    }
    return mull__checkpoint_json(
        dir, "adapter_config.json",
        json_pack("{s:s,s:s,s:s,s:I,s:f,s:f,s:s,s:b,s:b,s:s,s:o,s:n,s:b}", "peft_type", "LORA", "task_type",
                  "CAUSAL_LM", "base_model_name_or_path", o->base, "r", (json_int_t)o->lora_rank, "lora_alpha",
                  o->lora_alpha, "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", 0, "inference_mode", 1,
                  "init_lora_weights", "True", "target_modules", targets, "modules_to_save", "use_rslora", 0),
        err);
}

/* ---- the folder */
int mull__checkpoint_remove(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return errno == ENOENT ? 0 : -1;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
    return rmdir(dir);
}

static json_t *state_json(const mull_train_state *s) {
    return json_pack("{s:i,s:I,s:I,s:I,s:f,s:f,s:{s:I,s:I,s:I,s:I}}", "version", 1, "global_step", (json_int_t)s->step,
                     "applied", (json_int_t)s->applied, "skipped", (json_int_t)s->skipped, "loss_mean", s->loss_mean,
                     "loss_var", s->loss_var, "position", "step", (json_int_t)s->position.step, "drawn",
                     (json_int_t)s->position.drawn, "bad", (json_int_t)s->position.bad, "skipped",
                     (json_int_t)s->position.skipped);
}

/* All ranks fail when one does. */
static int together(const mull_checkpoint_opts *o, int rc, mull_error *err) {
    int most, lost = mull_ranks_agree(o->ranks, rc != 0, &most, rc ? NULL : err);
    if (rc) return rc;
    if (lost) return lost;
    return most ? mull_fail(err, MULL_EIO, WHAT, "another rank", "see what that rank says",
                            "it could not write its part")
                : MULL_OK;
}

int mull_checkpoint_save(const char *out, const mull_config *c, const mull_params *p, const mull_train_state *s,
                         const mull_checkpoint_opts *o, char *path, size_t cap, mull_error *err) {
    char name[64];
    bool first = mull_comm_rank(p->comm) == 0;
    snprintf(name, sizeof name, ".checkpoint-%lld.tmp", (long long)s->step);
    char *tmp = mull_path_join(out, name);
    if (!tmp) return mull_fail(err, MULL_ENOMEM, WHAT, out, NULL, "out of memory");
    snprintf(path, cap, "%s/checkpoint-%lld", out, (long long)s->step);
    int rc = MULL_OK;
    if (first) mull__checkpoint_remove(tmp);
    if (first && mkdir(tmp, 0777)) rc = fail(err, tmp);
    rc = together(o, rc, err);
    if (!rc && o->lora_rank > 0) {
        rc = put_adapter(tmp, p, o, err);
    } else if (!rc) {
        if (first) rc = copy_files(o->base, tmp, p->half != NULL, err);
        rc = together(o, rc, err);
        if (!rc) rc = put_model(tmp, o->base, c, p, o->ranks, err);
    }
    if (!rc && (first || p->zero)) rc = mull__optimizer_save(tmp, p, err);
    if (!rc && first) rc = mull__checkpoint_json(tmp, "trainer_state.json", state_json(s), err);
    rc = together(o, rc, err);
    if (!rc && first) rc = mull__checkpoint_sums(tmp, err);
    if (!rc && first && sync_dir(tmp)) rc = fail(err, tmp);
    if (!rc && first && mull__checkpoint_remove(path)) /* of an earlier attempt */
        rc = errno == ENOENT ? MULL_OK : fail(err, path);
    if (!rc && first && rename(tmp, path)) rc = fail(err, path);
    if (!rc && first) sync_dir(out);
    rc = together(o, rc, err);
    if (rc && first) mull__checkpoint_remove(tmp);
    free(tmp);
    return rc;
}

int mull__checkpoint_export(const char *base, const mull_config *c, const mull_params *p, const char *out,
                            mull_error *err) {
    size_t len = strlen(out);
    while (len > 1 && out[len - 1] == '/') len--;
    char *tmp = malloc(len + 8);
    if (!tmp) return mull_fail(err, MULL_ENOMEM, WHAT, out, NULL, "out of memory");
    snprintf(tmp, len + 8, "%.*s.tmp", (int)len, out);
    mull__checkpoint_remove(tmp);
    int rc = mkdir(tmp, 0777) ? fail(err, tmp) : MULL_OK;
    if (!rc) rc = copy_files(base, tmp, p->half != NULL, err);
    if (!rc) rc = put_model(tmp, base, c, p, NULL, err);
    if (!rc && sync_dir(tmp)) rc = fail(err, tmp);
    if (!rc && rename(tmp, out))
        rc =
            mull_fail_errno(err, errno, "cannot write the model", out, "name a folder that does not exist or is empty");
    if (rc) mull__checkpoint_remove(tmp);
    free(tmp);
    return rc;
}
