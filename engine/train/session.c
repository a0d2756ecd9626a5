/* A training run from a recipe; see session.h. */
#include "engine/train/session.h"

#include "engine/core/buf.h"
#include "engine/train/lineage.h"
#include "engine/train/tensorboard.h"
#include "engine/train/tokens.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const WHAT = "cannot train";

typedef struct session {
    const mull_train_session_opts *o;
    const mull_train_session_hooks *h;
    mull_recipe recipe, unpacked; /* unpacked: the same, borrowed, but without pack_tokens */
    bool has_recipe;
    mull_tokenizer *tokenizer;
    mull_builder builder;
    mull_mix *mix;
    mull_loader *loader;
    mull_trainer *trainer;
    mull_comm *comm;
    char *resume;
    int64_t steps;
    mull_tb *tb; /* NULL: none wanted, or it could not be made */
    mull_error *err;
} session;

static void note(const session *s, const char *level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void note(const session *s, const char *level, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (s->h->note) s->h->note(s->h->run.ctx, level, text);
}

static void forward_note(void *ctx, const char *level, const char *text) {
    note(ctx, level, "%s", text);
}

static int load_recipe(session *s) {
    mull_recipe_report report = {0};
    int rc = mull_recipe_load(s->o->config, s->o->sets, s->o->nsets, &s->recipe, &report, s->err);
    s->has_recipe = !rc;
    for (size_t i = 0; i < report.n; i++) {
        const mull_recipe_note *n = &report.notes[i];
        if (!n->error && mull_comm_rank(s->comm) == 0)
            note(s, "note", "%s%s%s", n->key, *n->key ? ": " : "", n->message);
    }
    mull_recipe_report_fini(&report);
    return rc;
}

/* "": no; "true": the newest of the output folder; else a folder. */
static int find_resume(session *s) {
    const char *r = s->recipe.resume_from_checkpoint;
    if (s->o->resume && (s->resume = mull_checkpoint_newest(s->o->out))) return MULL_OK;
    if (!*r || !strcmp(r, "false") || !strcmp(r, "False")) return MULL_OK;
    if (!strcmp(r, "true") || !strcmp(r, "True")) {
        s->resume = mull_checkpoint_newest(s->o->out);
        if (!s->resume) note(s, "note", "there is no checkpoint in %s yet: training starts from model_path", s->o->out);
        return MULL_OK;
    }
    s->resume = strdup(r);
    return s->resume ? MULL_OK : mull_fail(s->err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
}

/* All ranks go on from the same place: one that does not see the folder of the others would train something else. */
static int agree(session *s) {
    enum { MOST = 64 };
    char mine[MOST] = "", all[MULL_WORLD_MAX][MOST];
    const char *name = s->resume ? strrchr(s->resume, '/') : NULL;
    snprintf(mine, sizeof mine, "%s", name ? name + 1 : s->resume ? s->resume : "no checkpoint");
    int rc = mull_comm_collect(s->comm, mine, sizeof mine, all, s->err), rank = mull_comm_rank(s->comm);
    for (int r = 0; r < mull_comm_world(s->comm) && !rc; r++)
        if (strcmp(all[r], mine) != 0)
            rc = mull_fail(s->err, MULL_EARG, WHAT, s->o->out, "give it a folder that all hosts of the job share",
                           "rank %d finds %s there, and rank %d finds %.60s", rank, mine, r, all[r]);
    return rc;
}

static void left_out(void *ctx, const mull_draw *d, bool bad, const mull_error *why) {
    const session *s = ctx;
    char line[2048];
    mull_error_line(why, line, sizeof line);
    note(s, bad ? "warning" : "note", "%s %lld is left out: %s", mull_set_name(d->set), (long long)d->index, line);
}

static int64_t rows_of(const mull_recipe *r) {
    return r->pack_tokens ? r->pack_tokens : r->max_length ? r->max_length : 4096;
}

static int64_t memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (int64_t)pages * size : 0;
}

static int plan(session *s) {
    const mull_recipe *r = &s->recipe;
    mull_train_plan p;
    mull_config c = {0};
    int world = mull_comm_world(s->comm) > s->o->ranks ? mull_comm_world(s->comm) : s->o->ranks > 1 ? s->o->ranks : 1;
    int rc = mull_config_load(r->model_path, &c, s->err);
    if (!rc) rc = mull_trainer_plan(r, &c, rows_of(r), world, &p, s->err);
    mull_config_fini(&c);
    if (rc) return rc;
    json_t *j = json_pack(
        "{s:o,s:I,s:I,s:I,s:{s:I,s:I,s:I,s:I,s:I,s:I,s:I},s:I,s:i}", "recipe", mull_recipe_json(r), "parameters",
        (json_int_t)p.parameters, "trainable", (json_int_t)p.trained, "steps", (json_int_t)s->steps, "memory",
        "weights", (json_int_t)p.weights, "gradients", (json_int_t)p.gradients, "moments", (json_int_t)p.moments,
        "activations", (json_int_t)p.activations, "vision_tower", (json_int_t)p.tower, "rollouts",
        (json_int_t)p.rollouts, "total", (json_int_t)p.total, "batch_tokens", (json_int_t)rows_of(r), "ranks", world);
    if (j && s->h->start && mull_comm_rank(s->comm) == 0) s->h->start(s->h->run.ctx, j);
    json_decref(j);
    int64_t have = memory_bytes();
    double need = (double)p.total * world; /* all ranks are on one machine */
    if (have > 0 && need > (double)have)
        return mull_fail(s->err, MULL_ENOMEM, WHAT, "memory",
                         "lower pack_tokens or max_length, set recompute: layer, freeze more, or set lora_rank",
                         "it needs %.1f GB%s and the machine has %.1f GB", need / 1e9,
                         world > 1 ? " for all ranks" : "", (double)have / 1e9);
    return MULL_OK;
}

static int next(void *ctx, mull_batch *b, mull_error *err) {
    return mull_loader_next(((session *)ctx)->loader, b, err);
}
static void release(void *ctx, mull_batch *b) {
    (void)ctx;
    mull_batch_fini(b);
}
static mull_position position(void *ctx) {
    return mull_loader_position(((session *)ctx)->loader);
}

/* A base without Mull tokens gets them before it is trained with latents: OUT/base is the model from then on. */
static int add_tokens(session *s) {
    mull_recipe *r = &s->recipe;
    int missing = mull_tokens_missing(s->tokenizer), rc = MULL_OK;
    if (!missing || r->kind == MULL_SFT || s->o->dry_run || !s->o->out) return MULL_OK;
    char *base = mull_path_join(s->o->out, "base"), *config = base ? mull_path_join(base, "config.json") : NULL;
    if (!config) rc = mull_fail(s->err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    if (!rc && mull_comm_rank(s->comm) == 0 && access(config, F_OK)) {
        note(s, "note", "%s has no Mull tokens: %s is a copy with %d added", r->model_path, base, missing);
        if (mkdir(s->o->out, 0777) && errno != EEXIST)
            rc = mull_fail_errno(s->err, errno, WHAT, s->o->out, "check the folder above it");
        if (!rc) rc = mull_tokens_add(r->model_path, base, s->err);
    }
    /* Every rank comes here, also after a failure, which the others find as a missing folder. */
    int met = mull_comm_barrier(s->comm, rc ? NULL : s->err);
    if (!rc) rc = met;
    if (!rc) {
        mull_tokenizer_destroy(s->tokenizer);
        s->tokenizer = NULL;
        rc = mull_tokenizer_load(base, &s->tokenizer, s->err);
    }
    if (!rc) {
        free(r->model_path);
        r->model_path = base;
        base = NULL;
    }
    free(base);
    free(config);
    return rc;
}

static int open_all(session *s) {
    const mull_recipe *r = &s->recipe;
    mull_error *err = s->err;
    int rc = mull_tokenizer_load(r->model_path, &s->tokenizer, err);
    if (!rc) rc = add_tokens(s);
    if (!rc) rc = mull_builder_init(&s->builder, r, s->tokenizer, err);
    if (!rc) rc = mull_mix_open(r, &s->mix, err);
    if (!rc && !s->o->dry_run)
        rc = mull_trainer_create(&(mull_trainer_opts){.recipe = r,
                                                      .out = s->o->out,
                                                      .resume = s->resume,
                                                      .threads = s->o->threads,
                                                      .steps = 1,
                                                      .comm = s->comm,
                                                      .tokenizer = s->tokenizer,
                                                      .note = forward_note,
                                                      .ctx = s,
                                                      .backend = s->o->backend},
                                 &s->trainer, err);
    mull_loader_opts lo = {
        .note = left_out, .ctx = s, .rank = mull_comm_rank(s->comm), .world = mull_comm_world(s->comm)};
    if (s->o->dry_run && s->o->ranks > 1) lo.world = s->o->ranks;
    if (!rc && s->trainer) lo.start = mull_trainer_state(s->trainer)->position;
    /* The counts of a checkpoint are of all ranks: the first one carries them on. */
    if (lo.rank) lo.start.drawn = lo.start.bad = lo.start.skipped = 0;
    /* GRPO packs prompts with their completions itself; then the order of the prompts does not depend on packing. */
    s->unpacked = *r;
    s->unpacked.pack_tokens = 0;
    if (!rc) rc = mull_loader_open(r->kind == MULL_GRPO ? &s->unpacked : r, s->mix, &s->builder, &lo, &s->loader, err);
    if (rc) return rc;
    s->steps = s->o->max_steps > 0 ? s->o->max_steps
               : r->max_steps > 0  ? r->max_steps
                                   : (int64_t)ceil(r->num_train_epochs * (double)mull_loader_steps(s->loader)) *
                                        (r->kind == MULL_GRPO ? r->num_iterations : 1);
    if (s->steps < 1) s->steps = 1;
    if (s->trainer) mull_trainer_set_steps(s->trainer, s->steps);
    return MULL_OK;
}

/* ---- event files, beside whoever else wants the steps */
static void tb_failed(session *s, const mull_error *err) {
    char line[2048];
    note(s, "warning", "%s; the run goes on without it", mull_error_line(err, line, sizeof line));
}

static void open_tb(session *s) {
    if (!s->recipe.tensorboard || !s->o->out || mull_comm_rank(s->comm)) return;
    mull_error err = {0};
    char *dir = mull_path_join(s->o->out, "tensorboard");
    if (dir && mull_tb_open(dir, mull_trainer_state(s->trainer)->step + 1, &s->tb, &err)) tb_failed(s, &err);
    free(dir);
}

static void on_step(void *ctx, const mull_step *st) {
    session *s = ctx;
    if (s->h->run.step) s->h->run.step(s->h->run.ctx, st);
    json_t *v = s->tb ? mull_step_values(st) : NULL;
    mull_error err = {0};
    if (v && mull_tb_scalars(s->tb, st->step, v, &err)) tb_failed(s, &err);
    json_decref(v);
}
static void on_checkpoint(void *ctx, int64_t step, const char *path) {
    const session *s = ctx;
    if (s->h->run.checkpoint) s->h->run.checkpoint(s->h->run.ctx, step, path);
}
static void on_removed(void *ctx, int64_t step, const char *path) {
    const session *s = ctx;
    if (s->h->run.removed) s->h->run.removed(s->h->run.ctx, step, path);
}
static bool on_stop(void *ctx) {
    const session *s = ctx;
    return s->h->run.stop && s->h->run.stop(s->h->run.ctx);
}

static int record(session *s) {
    json_t *run;
    int rc = mull_lineage(&s->recipe, s->resume, &run, s->err);
    if (!rc) s->h->lineage(s->h->run.ctx, run);
    json_decref(run);
    return rc;
}

int mull_train_session(const mull_train_session_opts *o, const mull_train_session_hooks *h, mull_error *err) {
    session s = {.o = o, .h = h, .err = err};
    mull_comm_opts co = {.world = 1};
    int rc = o->dry_run ? MULL_OK : mull_comm_from_env(&co, err);
    if (!rc && co.world > 1) rc = mull_comm_create(&co, &s.comm, err);
    if (!rc) rc = load_recipe(&s);
    if (!rc && !*s.recipe.model_path)
        rc = mull_fail(err, MULL_EARG, WHAT, "model_path", "name a checkpoint folder", "no model was given");
    if (!rc) rc = find_resume(&s);
    if (!rc) rc = agree(&s);
    if (!rc) rc = open_all(&s);
    if (!rc) rc = plan(&s);
    if (!rc && s.resume && mull_comm_rank(s.comm) == 0)
        note(&s, "note", "going on from %s at step %lld of %lld", s.resume,
             s.trainer ? (long long)mull_trainer_state(s.trainer)->step : 0, (long long)s.steps);
    if (!rc && s.trainer && h->lineage && mull_comm_rank(s.comm) == 0) rc = record(&s);
    if (!rc && s.trainer) {
        mull_train_source src = {next, release, position, &s};
        mull_train_hooks hooks = {on_step, on_checkpoint, on_stop, &s, on_removed};
        open_tb(&s);
        rc = mull_trainer_run(s.trainer, s.steps, &src, &hooks, err);
        mull_tb_close(s.tb);
        mull_feature_figures n;
        if (mull_trainer_features(s.trainer, &n))
            note(&s, "note", "feature cache: %lld media were there, %lld were computed, %.2f GB in %s",
                 (long long)n.found, (long long)n.computed, (double)n.bytes / 1e9, s.recipe.feature_cache);
    }
    mull_loader_close(s.loader);
    mull_trainer_destroy(s.trainer);
    mull_mix_close(s.mix);
    mull_tokenizer_destroy(s.tokenizer);
    mull_comm_destroy(s.comm);
    if (s.has_recipe) mull_recipe_fini(&s.recipe);
    free(s.resume);
    return rc;
}
