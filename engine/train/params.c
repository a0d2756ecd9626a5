/* The arenas of trained values; see params.h. */
#include "engine/train/params.h"

#include "engine/core/rng.h"
#include "engine/model/model.h"
#include "engine/model/weights.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const WHAT = "cannot prepare training";
/* Modules that LoRA can adapt, and the order in which one layer's adapters lie. */
static const char *const MODULES[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                      "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
enum { NMODULES = sizeof MODULES / sizeof *MODULES };

bool mull_params_decays(const char *name) {
    return !strstr(name, "bias") && !strstr(name, "layernorm");
}

bool mull_params_match(const char *patterns, const char *name) {
    char one[160];
    for (const char *p = patterns; p && *p;) {
        size_t n = strcspn(p, ",");
        const char *a = p, *e = p + n;
        while (a < e && *a == ' ') a++;
        while (e > a && e[-1] == ' ') e--;
        snprintf(one, sizeof one, "%.*s", (int)(e - a), a);
        if (*one && fnmatch(one, name, 0) == 0) return true;
        p += n + (p[n] == ',');
    }
    return false;
}

/* Where a tensor lies among those of its block: what is one matrix in a product comes together. */
static int rank_of(const char *name) {
    static const char *const ORDER[] = {"input_layernorm", "q_proj.weight",    "k_proj.weight",  "v_proj.weight",
                                        "q_proj.bias",     "k_proj.bias",      "v_proj.bias",    "o_proj",
                                        "post_attention",  "gate_proj.weight", "up_proj.weight", "gate_proj.bias",
                                        "up_proj.bias",    "down_proj"};
    for (int i = 0; i < (int)(sizeof ORDER / sizeof *ORDER); i++)
        if (strstr(name, ORDER[i])) return i;
    return -1; /* stays where it is */
}

/* Length of "model.layers.3." or "visual.blocks.3.", 0 without one. */
static size_t block_of(const char *name) {
    static const char *const HEADS[] = {"model.layers.", "visual.blocks."};
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(HEADS[i]);
        if (!strncmp(name, HEADS[i], n)) return n + strcspn(name + n, ".") + 1;
    }
    return 0;
}

/* Stable: insertion among the neighbours of the same block that have a rank. */
static void order(mull_weight_spec *s, size_t n) {
    for (size_t i = 1; i < n; i++) {
        size_t b = block_of(s[i].name), at = i;
        int rank = rank_of(s[i].name);
        if (!b || rank < 0) continue;
        mull_weight_spec mine = s[i];
        while (at > 0 && block_of(s[at - 1].name) == b && !strncmp(s[at - 1].name, mine.name, b) &&
               rank_of(s[at - 1].name) > rank) {
            s[at] = s[at - 1];
            at--;
        }
        s[at] = mine;
    }
}

static int add(mull_params *p, const char *name, int ndim, const int64_t *shape) {
    mull_param *list = realloc(p->list, (p->n + 1) * sizeof *list);
    if (!list) return MULL_ENOMEM;
    p->list = list;
    mull_param *q = &list[p->n++];
    *q = (mull_param){.ndim = ndim, .count = 1, .at = -1, .decay = mull_params_decays(name)};
    snprintf(q->name, sizeof q->name, "%s", name);
    for (int i = 0; i < ndim; i++) q->count *= q->shape[i] = shape[i];
    p->count += q->count;
    return MULL_OK;
}

/* Does a comma-separated list hold the module's last name? */
static bool targeted(const char *targets, const char *module) {
    if (!targets || !*targets) return true;
    const char *last = strchr(module, '.') + 1;
    return mull_params_match(targets, last) || mull_params_match(targets, module);
}

static int add_adapters(mull_params *p, const mull_config *c, const mull_params_opts *o, mull_error *err) {
    int64_t h = c->hidden, q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim,
            f = c->intermediate;
    int64_t in[NMODULES] = {h, h, h, q, h, h, f}, out[NMODULES] = {q, kv, kv, h, f, f, h};
    bool any = false;
    for (int i = 0; i < c->layers; i++)
        for (int k = 0; k < NMODULES; k++) {
            char name[112];
            if (!targeted(o->lora_targets, MODULES[k])) continue;
            any = true;
            snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_A.weight", i, MODULES[k]);
            int rc = add(p, name, 2, (int64_t[]){o->lora_rank, in[k]});
            snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_B.weight", i, MODULES[k]);
            if (!rc) rc = add(p, name, 2, (int64_t[]){out[k], o->lora_rank});
            if (rc) return mull_fail(err, rc, WHAT, "lora", NULL, "out of memory");
            p->list[p->n - 2].adapter = p->list[p->n - 1].adapter = true;
        }
    if (!any)
        return mull_fail(err, MULL_EARG, WHAT, "lora_targets",
                         "name some of q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
                         "'%s' names no module of the model", o->lora_targets);
    return MULL_OK;
}

/* Each pattern must name something: a typo would train what was to be frozen. */
static int check_patterns(const mull_params *p, const char *patterns, mull_error *err) {
    char one[160];
    for (const char *s = patterns; s && *s;) {
        size_t n = strcspn(s, ",");
        snprintf(one, sizeof one, "%.*s", (int)n, s);
        bool hit = one[strspn(one, " ")] == 0;
        for (size_t i = 0; i < p->n && !hit; i++) hit = mull_params_match(one, p->list[i].name);
        if (!hit)
            return mull_fail(err, MULL_EARG, WHAT, "freeze", "use a pattern like model.layers.0.* or *embed_tokens*",
                             "'%s' names no tensor of the model", one);
        s += n + (s[n] == ',');
    }
    return MULL_OK;
}

/* part: only some of it will be kept at a time, so it is address space and in small pages, which go one by one. */
static void *map(mull_params *p, size_t bytes, bool part) {
    if (!bytes) bytes = 64;
    void *m =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (part ? MAP_NORESERVE : 0), -1, 0);
    if (m == MAP_FAILED) return NULL;
    madvise(m, bytes, part ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    p->bytes += bytes;
    return m;
}

static void choose_range(mull_params *p, const mull_params_opts *o) {
    int world = mull_comm_world(o->comm), rank = mull_comm_rank(o->comm);
    p->comm = o->comm;
    p->zero = world > 1 ? o->zero : 0;
    p->lo = 0;
    p->hi = p->trained;
    if (p->zero) {
        p->lo = mull_params_border(p->trained, mull_params_piece(rank, world));
        p->hi = mull_params_border(p->trained, mull_params_piece(rank + 1, world));
    }
}

static int take_memory(mull_params *p, const mull_params_opts *o, mull_error *err) {
    size_t n = (size_t)p->count, t = (size_t)p->trained, own;
    choose_range(p, o);
    own = (size_t)(p->hi - p->lo);
    p->w = map(p, n * sizeof *p->w, p->zero > 2 || (p->zero && o->half));
    p->g = map(p, t * sizeof *p->g, p->zero > 1);
    if (p->zero > 1) p->sum = map(p, own * sizeof *p->sum, false);
    if (o->half) p->half = map(p, n * sizeof *p->half, p->zero > 2);
    if (o->moments) {
        p->m = map(p, own * sizeof *p->m, false);
        p->v = map(p, own * sizeof *p->v, false);
    }
    if (!p->w || !p->g || (p->zero > 1 && !p->sum) || (o->half && !p->half) || (o->moments && (!p->m || !p->v)))
        return mull_fail(err, MULL_ENOMEM, WHAT, "memory", "freeze more, use LoRA, or a machine with more memory",
                         "no memory for %zu trained of %zu values", t, n);
    int64_t at = 0;
    for (size_t i = 0; i < p->n; i++) {
        mull_param *q = &p->list[i];
        q->w = p->w + at;
        if (p->half) q->half = p->half + at;
        if (q->at >= 0) q->g = p->g + q->at;
        at += q->count;
    }
    return MULL_OK;
}

/* A tensor was filled: its rounded copy, and only what this rank keeps. */
static void settle(const mull_params *p, const mull_param *q) {
    for (int64_t i = 0; q->half && i < q->count; i++) q->half[i] = mull_f32_to_bf16(q->w[i]);
    mull_params_release(p, q);
}

/* A uniform in +-sqrt(1 / in) as torch's kaiming_uniform(a = sqrt 5), B zero: the adapted model starts as the base. */
static void start_adapters(mull_params *p, uint64_t seed) {
    for (size_t i = 0; i < p->n; i++) {
        mull_param *q = &p->list[i];
        if (!q->adapter || !strstr(q->name, "lora_A")) continue;
        double bound = sqrt(1.0 / (double)q->shape[1]);
        for (int64_t k = 0; k < q->count; k++)
            q->w[k] = (float)((2 * mull_uniform(seed, 0x6c6f7261u + (uint64_t)i, (uint64_t)k) - 1) * bound);
        settle(p, q);
    }
}

int mull_params_load(const char *dir, const mull_config *c, const mull_params_opts *o, mull_params *out,
                     mull_error *err) {
    *out = (mull_params){0};
    mull_weight_spec *specs = NULL;
    mull_safetensors *file = NULL;
    size_t n = 0;
    int rc = mull_model_check(dir, c, &file, err);
    if (!rc) rc = mull_weights_list(c, &specs, &n, err);
    if (rc) goto out;
    order(specs, n);
    for (size_t i = 0; i < n && !rc; i++)
        if (o->vision || strncmp(specs[i].name, "visual.", 7))
            rc = add(out, specs[i].name, specs[i].ndim, specs[i].shape);
    if (rc) {
        rc = mull_fail(err, rc, WHAT, dir, NULL, "out of memory");
        goto out;
    }
    if (o->lora_rank > 0) rc = add_adapters(out, c, o, err);
    if (!rc) rc = check_patterns(out, o->freeze, err);
    if (rc) goto out;
    for (size_t i = 0; i < out->n; i++) {
        mull_param *q = &out->list[i];
        if (mull_params_match(o->freeze, q->name) || (o->lora_rank > 0 && !q->adapter)) continue;
        q->at = out->trained;
        out->trained += q->count;
    }
    if (out->trained == 0)
        rc = mull_fail(err, MULL_EARG, WHAT, "freeze", "freeze less", "everything is frozen: nothing would be trained");
    if (!rc) rc = take_memory(out, o, err);
    for (size_t i = 0; i < mull_safetensors_count(file) && !rc; i++) {
        const mull_tensor_info *t = mull_safetensors_at(file, i);
        char buf[160];
        mull_param *q = mull_params_find(out, mull_weights_published_name(t->name, buf, sizeof buf));
        if (!q) continue; /* the frozen tower; what else a folder may hold was checked */
        mull_to_f32(t->data, t->dtype, (size_t)t->count, q->w);
        mull_safetensors_drop(file, t);
        settle(out, q);
    }
    if (!rc && o->lora_rank > 0) start_adapters(out, o->seed);
out:
    mull_safetensors_close(file);
    free(specs);
    if (rc) mull_params_fini(out);
    return rc;
}

static void unmap(void *p, size_t bytes) {
    if (p) munmap(p, bytes ? bytes : 64);
}

void mull_params_fini(mull_params *p) {
    size_t n = (size_t)p->count, t = (size_t)p->trained, own = (size_t)(p->hi - p->lo);
    unmap(p->w, n * sizeof *p->w);
    unmap(p->half, n * sizeof *p->half);
    unmap(p->g, t * sizeof *p->g);
    unmap(p->sum, own * sizeof *p->sum);
    unmap(p->m, own * sizeof *p->m);
    unmap(p->v, own * sizeof *p->v);
    free(p->list);
    *p = (mull_params){0};
}

mull_param *mull_params_find(const mull_params *p, const char *name) {
    for (size_t i = 0; i < p->n; i++)
        if (!strcmp(p->list[i].name, name)) return &p->list[i];
    return NULL;
}

static void zero_task(void *ctx, int part, int parts) {
    mull_params *p = ctx;
    int64_t n = p->sum ? p->hi - p->lo : p->trained, from = n * part / parts, to = n * (part + 1) / parts;
    /* With sums, g is zero between micro-batches. */
    memset((p->sum ? p->sum : p->g) + from, 0, (size_t)(to - from) * sizeof(float));
}

void mull_params_zero_grad(mull_pool *pool, mull_params *p) {
    mull_pool_run(pool, zero_task, p, MULL_PIECES);
}

/* ---- ranges */
int64_t mull_params_border(int64_t n, int k) {
    return n / MULL_PIECES * k + (k < n % MULL_PIECES ? k : n % MULL_PIECES);
}

int mull_params_piece(int rank, int world) {
    return MULL_PIECES * rank / world;
}

static void round_task(void *ctx, int part, int parts) {
    mull_params *p = ctx;
    for (int64_t i = p->count * part / parts; i < p->count * (part + 1) / parts; i++)
        p->half[i] = mull_f32_to_bf16(p->w[i]);
}

static void round_own_task(void *ctx, int part, int parts) {
    mull_params *p = ctx;
    int64_t a = p->lo + (p->hi - p->lo) * part / parts, e = p->lo + (p->hi - p->lo) * (part + 1) / parts;
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        if (q->at < 0) continue;
        int64_t from = q->at > a ? q->at : a, to = q->at + q->count < e ? q->at + q->count : e;
        for (int64_t k = from - q->at; k < to - q->at; k++) q->half[k] = mull_f32_to_bf16(q->w[k]);
    }
}

void mull_params_round(mull_pool *pool, mull_params *p) {
    /* Without owners frozen tensors too: merging adapters changes them. */
    if (p->half) mull_pool_run(pool, p->zero ? round_own_task : round_task, p, 4 * mull_pool_threads(pool));
}

/* Whole pages of [at, at + bytes). */
static void give_back(void *at, size_t bytes, bool zero) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), a = (uintptr_t)at, e = a + bytes;
    uintptr_t from = (a + page - 1) / page * page, to = e / page * page;
    if (from >= to) {
        if (zero) memset(at, 0, bytes);
        return;
    }
    if (zero) {
        memset(at, 0, from - a);
        memset((char *)at + (to - a), 0, e - to);
    }
    madvise((char *)at + (from - a), to - from, MADV_DONTNEED);
}

void mull_params_forget(float *at, int64_t n) {
    if (n > 0) give_back(at, (size_t)n * sizeof *at, true);
}

void mull_params_release(const mull_params *p, const mull_param *q) {
    bool w = p->zero > 2 || (p->zero && p->half), half = p->zero > 2 && q->half;
    if (q->at < 0 || q->ndim < 2 || !(w || half)) return;
    int64_t end = q->at + q->count, own[2] = {p->lo < q->at ? q->at : p->lo, p->hi > end ? end : p->hi};
    if (own[0] >= own[1]) own[0] = own[1] = end; /* nothing of it */
    int64_t piece[2][2] = {{q->at, own[0]}, {own[1], end}};
    for (int i = 0; i < 2; i++) {
        int64_t from = piece[i][0] - q->at, n = piece[i][1] - piece[i][0];
        if (n <= 0) continue;
        if (w) give_back(q->w + from, (size_t)n * sizeof *q->w, false);
        if (half) give_back(q->half + from, (size_t)n * sizeof *q->half, false);
    }
}
