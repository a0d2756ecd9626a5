/* The training loop; see trainer.h. */
#include "engine/model/weights.h"
#include "engine/train/trainer_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static const char *const WHAT = "cannot train";
enum { SKIPPED_MAX = 100 }; /* steps without a finite gradient, one after the other, that end a run */

double mull__train_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const char *text(const char *s) {
    return s ? s : "";
}

/* With adapters the base is frozen, the tower too. */
bool mull__trains_tower(const mull_recipe *r) {
    return !r->freeze_vision && !r->lora_rank;
}

/* What only the CPU does. */
static int unsupported_on(const mull_train_backend *b, const mull_recipe *r, mull_error *err) {
    if (!b) return MULL_OK;
    if (r->kind == MULL_GRPO && r->rollout_mode)
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT, "rollout_mode", "leave it out, or use --device cpu",
                         "a trainer on a GPU answers itself: rollout jobs are for trainers on the CPU only");
    return MULL_OK;
}

static int unsupported(const mull_recipe *r, mull_error *err) {
    if (r->lora_dropout > 0)
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT, "lora_dropout", "set lora_dropout: 0", "there is no dropout");
    return MULL_OK;
}

static mull_params_opts params_opts(const mull_recipe *r) {
    return (mull_params_opts){.freeze = r->freeze,
                              .moments = true,
                              .half = r->bf16,
                              .vision = mull__trains_tower(r),
                              .lora_rank = r->lora_rank,
                              .lora_targets = r->lora_targets,
                              .seed = (uint64_t)r->seed};
}

void mull_trainer_set_steps(mull_trainer *t, int64_t steps) {
    const mull_recipe *r = t->r;
    t->steps = steps;
    t->optim = (mull_optim_opts){.schedule = (mull_schedule)r->lr_scheduler_type,
                                 .lr = r->learning_rate,
                                 .beta1 = r->adam_beta1,
                                 .beta2 = r->adam_beta2,
                                 .eps = r->adam_epsilon,
                                 .weight_decay = r->weight_decay,
                                 .max_grad_norm = r->max_grad_norm,
                                 .warmup = r->warmup_steps,
                                 .total = steps};
    if (!t->optim.warmup) t->optim.warmup = (int64_t)ceil(r->warmup_ratio * (double)steps);
}

static int open_source(mull_trainer *t, const mull_trainer_opts *o, mull_weight_type weights, mull_error *err) {
    t->source = mull_pack_tower(t->tower);
    if (mull__trains_tower(t->r)) {
        int rc = mull_tower_create(t->net, &t->trained_tower, err);
        if (rc) return rc;
        t->source = mull_tower_source(t->trained_tower);
        t->pack.vision_gradient = true;
        if (*text(t->r->feature_cache) && o->note)
            o->note(o->ctx, "note", "feature_cache has no use: the vision tower is trained, its features change");
        return MULL_OK;
    }
    if (!*text(t->r->feature_cache)) return MULL_OK;
    mull_feature_cache_opts fo = {t->r->feature_cache, t->r->feature_cache_bytes, t->model, weights, o->note, o->ctx};
    int rc = mull_feature_cache_open(&fo, mull_trainer_config(t), t->source, &t->cache, err);
    if (!rc) t->source = mull_feature_cache_source(t->cache);
    return rc;
}

int mull_trainer_create(const mull_trainer_opts *o, mull_trainer **out, mull_error *err) {
    const mull_recipe *r = o->recipe;
    *out = NULL;
    int rc = unsupported(r, err);
    if (!rc) rc = unsupported_on(o->backend, r, err);
    if (!rc && !*text(r->model_path))
        rc = mull_fail(err, MULL_EARG, WHAT, "model_path", "name a checkpoint folder", "no model was given");
    if (rc) return rc;
    mull_trainer *t = calloc(1, sizeof *t);
    if (!t) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    t->r = r;
    t->out = o->out;
    /* The tower is frozen and adapters leave the base alone: what is not trained comes from the model's own folder,
     * also when a checkpoint, which retention may remove, gives the rest. */
    t->model = r->model_path;
    const char *weights = o->resume && !r->lora_rank ? o->resume : t->model;
    mull_trainer_set_steps(t, o->steps);
    mull_model_opts load = {
        .weights = r->bf16 ? MULL_WEIGHT_BF16 : MULL_WEIGHT_F32, .threads = o->threads, .vision_only = true};
    if (o->backend) load.backend = o->backend->model();
    mull_params_opts po = params_opts(r);
    po.comm = o->comm;
    po.zero = (int)r->zero_stage;
    mull_net_opts no = {.recompute = (mull_recompute)r->recompute, .backend = o->backend};
    if (r->lora_rank) no.lora_scale = (float)(r->lora_alpha / (double)r->lora_rank);
    rc = mull_model_load(t->model, &load, &t->tower, err);
    if (!rc) rc = mull_params_load(weights, mull_model_config(t->tower), &po, &t->params, err);
    if (!rc && o->resume) rc = mull_checkpoint_load(o->resume, &t->params, &t->state, err);
    if (!rc) rc = mull_ranks_create(mull_model_config(t->tower), &t->params, mull_model_pool(t->tower), &t->ranks, err);
    if (!rc) rc = mull_ranks_publish(t->ranks, err);
    if (!rc) no.parts = mull_ranks_parts(t->ranks);
    if (!rc)
        rc = mull_net_create(mull_model_config(t->tower), &t->params, mull_model_pool(t->tower), &no, &t->net, err);
    if (!rc) rc = open_source(t, o, load.weights, err);
    if (!rc && r->kind == MULL_GRPO) rc = mull__grpo_create(t, o, err);
    if (!rc && o->out && mkdir(o->out, 0777) && errno != EEXIST)
        rc = mull_fail_errno(err, errno, WHAT, o->out, "check the folder above it");
    if (rc)
        mull_trainer_destroy(t);
    else
        *out = t;
    return rc;
}

void mull_trainer_destroy(mull_trainer *t) {
    if (!t) return;
    mull__grpo_destroy(t->grpo);
    mull_tower_destroy(t->trained_tower);
    mull_net_destroy(t->net);
    mull_feature_cache_close(t->cache);
    mull__saver_destroy(t->saver);
    mull_ranks_destroy(t->ranks);
    mull_params_fini(&t->params);
    mull_pack_fini(&t->pack);
    mull_loss_work_fini(&t->work);
    mull_model_destroy(t->tower);
    free(t);
}

const mull_config *mull_trainer_config(const mull_trainer *t) {
    return mull_model_config(t->tower);
}
const mull_train_state *mull_trainer_state(const mull_trainer *t) {
    return &t->state;
}
const mull_params *mull_trainer_params(const mull_trainer *t) {
    return &t->params;
}
bool mull_trainer_features(const mull_trainer *t, mull_feature_figures *out) {
    if (t->cache) *out = mull_feature_cache_figures(t->cache);
    return t->cache != NULL;
}

/* ---- a step */
/* Multiply-adds of the language model for a token, without attention's own: two products back for each one forward. */
double mull__train_flops(const mull_trainer *t, int64_t rows, int64_t loss_rows, double pairs) {
    const mull_config *c = mull_trainer_config(t);
    double h = c->hidden, q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim,
           per = c->layers * (h * (q + 2 * kv) + q * h + 3.0 * h * c->intermediate);
    return 6 * (per * (double)rows + h * c->vocab * (double)loss_rows + c->layers * pairs * q * 2);
}

static double causal_pairs(int nseq, const int32_t *cu) {
    double pairs = 0;
    for (int s = 0; s < nseq; s++) pairs += (double)(cu[s + 1] - cu[s]) * (cu[s + 1] - cu[s]) / 2;
    return pairs;
}

static int one_batch(mull_trainer *t, const mull_batch *b, mull_loss_sum *sum, mull_step *st, double *work,
                     mull_error *err) {
    mull_ce_opts ce = {.norm = (mull_loss_norm)t->r->loss_norm, .stage1 = t->r->kind == MULL_STAGE1, .backward = true};
    if (t->trained_tower) mull_tower_enter(t->trained_tower);
    int rc = mull_pack_build(&t->pack, mull_trainer_config(t), b, &t->source, err);
    int64_t loss_rows = rc ? 0 : mull_loss_rows(&t->pack);
    if (!rc) rc = mull_net_reserve(t->net, b->rows, loss_rows, err);
    if (rc) return rc;
    mull_net_forward(t->net, &t->pack.net);
    rc = mull_loss_ce(t->net, &t->pack, &ce, &t->work, sum, NULL, NULL, err);
    if (!rc) mull_net_backward(t->net, &t->pack.net);
    if (!rc) rc = mull_net_status(t->net, err);
    if (!rc && t->trained_tower) {
        rc = mull_tower_backward(t->trained_tower, &t->pack, b, err);
        mull_tower_leave(t->trained_tower, true);
    }
    st->tokens += b->rows;
    *work += mull__train_flops(t, b->rows, loss_rows, causal_pairs(b->nseq, b->cu));
    return rc;
}

/* No batch while other ranks have one. */
static void idle(mull_trainer *t) {
    if (t->trained_tower) mull_tower_enter(t->trained_tower);
    mull_net_idle(t->net, true);
    if (t->trained_tower) mull_tower_leave(t->trained_tower, true);
}

/* A spike: more than six deviations, and half again, above the running mean of some thirty steps. */
static bool spike(mull_train_state *s, double loss) {
    if (!isfinite(loss)) return true;
    bool warm = s->step >= 20;
    bool is = warm && loss > s->loss_mean + 6 * sqrt(s->loss_var) && loss > 1.5 * s->loss_mean;
    double d = loss - s->loss_mean, a = s->step == 0 ? 1 : 1.0 / 30;
    if (s->step == 0)
        s->loss_mean = loss;
    else if (!is) {
        s->loss_mean += a * d;
        s->loss_var = (1 - a) * (s->loss_var + a * d * d);
    }
    return is;
}

/* What a rank has to say before each batch; the largest of all counts. */
enum { DONE, BATCH, STOP, FAILED };

int mull__train_other_failed(mull_error *err) {
    /* The rank that knows why should be heard first. */
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    return mull_fail(err, MULL_EIO, WHAT, "another rank", "see what that rank says", "it cannot go on");
}

/* The batches of one step. Ranks may have packed their samples into different numbers of batches: one that has no more
 * takes part in what the others' need of it. */
static int batches(mull_trainer *t, const mull_train_source *src, const mull_train_hooks *hooks, mull_loss_sum *sum,
                   mull_step *st, double *work, mull_error *err) {
    for (bool done = false;;) {
        mull_batch b = {0};
        int rc = MULL_OK, mine = DONE, all;
        if (hooks->stop && hooks->stop(hooks->ctx)) {
            mine = STOP;
        } else if (!done) {
            rc = src->next(src->ctx, &b, err);
            mine = rc ? FAILED : BATCH;
        }
        int lost = mull_ranks_agree(t->ranks, mine, &all, rc ? NULL : err);
        if (!rc && !lost && all == BATCH) {
            done |= b.last;
            if (mine == BATCH)
                rc = one_batch(t, &b, sum, st, work, err);
            else
                idle(t);
        }
        if (mine == BATCH) src->release(src->ctx, &b);
        if (rc || lost) return rc ? rc : lost;
        if (all == STOP) return MULL_ECANCELLED;
        if (all == FAILED) return mull__train_other_failed(err);
        if (all == DONE) return MULL_OK;
    }
}

int mull__train_position(mull_trainer *t, mull_position *at, mull_error *err) {
    double v[] = {(double)at->drawn, (double)at->bad, (double)at->skipped};
    int rc = mull_ranks_add(t->ranks, v, 3, err);
    at->drawn = (int64_t)v[0];
    at->bad = (int64_t)v[1];
    at->skipped = (int64_t)v[2];
    return rc;
}

/* Sums of all ranks, in their order. */
static int add_ranks(mull_trainer *t, mull_loss_sum *sum, mull_step *st, double *work, mull_position *at,
                     mull_error *err) {
    double v[] = {sum->loss,
                  sum->weight,
                  sum->ce,
                  sum->ce_weight,
                  sum->cos,
                  (double)sum->cosines,
                  (double)sum->tokens,
                  (double)sum->samples,
                  (double)st->tokens,
                  *work};
    int rc = mull_ranks_add(t->ranks, v, sizeof v / sizeof *v, err);
    *sum = (mull_loss_sum){v[0], v[1], v[2], v[3], v[4], (int64_t)v[5], (int64_t)v[6], (int64_t)v[7]};
    st->tokens = (int64_t)v[8];
    *work = v[9];
    return rc ? rc : mull__train_position(t, at, err);
}

int mull__train_apply(mull_trainer *t, double scale, const mull_position *at, double start, mull_step *st,
                      mull_error *err) {
    mull_optim_result o;
    int rc = mull_net_update(t->net, &t->optim, t->state.step, scale, &t->state.applied, &o, err);
    if (!rc) rc = mull_ranks_publish(t->ranks, err);
    if (rc) return rc;
    st->grad_norm = o.grad_norm;
    st->lr = o.lr;
    st->clip = o.clip;
    st->skipped = o.skipped;
    st->step = ++t->state.step;
    t->state.position = *at;
    t->state.skipped += o.skipped;
    t->skipped_row = o.skipped ? t->skipped_row + 1 : 0;
    st->skipped_so_far = t->state.skipped;
    st->seconds = mull__train_now() - start;
    if (!t->roof) t->roof = mull_net_roof(t->net);
    double most = t->roof * mull_comm_world(t->params.comm);
    st->mfu = t->roof > 0 && st->seconds > 0 ? st->flops / st->seconds / most : 0;
    return MULL_OK;
}

int mull__train_check_skipped(const mull_trainer *t, mull_error *err) {
    if (t->skipped_row < SKIPPED_MAX) return MULL_OK;
    return mull_fail(err, MULL_EFORMAT, WHAT, "gradients", "lower learning_rate, or look at the data",
                     "%d steps in a row had no finite gradient and were skipped", SKIPPED_MAX);
}

static int one_step(mull_trainer *t, const mull_train_source *src, const mull_train_hooks *hooks, mull_step *st,
                    mull_error *err) {
    mull_loss_sum sum = {0};
    double start = mull__train_now(), work = 0;
    *st = (mull_step){.cos = NAN};
    mull_net_zero_grad(t->net);
    int rc = batches(t, src, hooks, &sum, st, &work, err);
    if (!rc) rc = mull_ranks_reduce(t->ranks, err);
    if (rc) return rc;
    mull_position at = src->position(src->ctx);
    if ((rc = add_ranks(t, &sum, st, &work, &at, err))) return rc;
    double weight = sum.weight > 0 ? sum.weight : 1;
    st->loss = sum.loss / weight;
    st->ce = sum.ce_weight > 0 ? sum.ce / sum.ce_weight : 0;
    if (sum.cosines) st->cos = sum.cos / (double)sum.cosines;
    st->spike = spike(&t->state, st->loss);
    st->loss_mean = t->state.loss_mean;
    st->samples = sum.samples;
    st->counted = sum.tokens;
    st->flops = work;
    return mull__train_apply(t, 1 / weight, &at, start, st, err);
}

int mull_trainer_run(mull_trainer *t, int64_t until, const mull_train_source *src, const mull_train_hooks *hooks,
                     mull_error *err) {
    int64_t saved = t->state.step;
    int rc = MULL_OK;
    if (until > t->steps) until = t->steps;
    if (t->grpo) rc = mull__grpo_run(t, until, src, hooks, &saved, err);
    while (!rc && !t->grpo && t->state.step < until) {
        mull_step st;
        rc = one_step(t, src, hooks, &st, err);
        if (rc) break;
        if (hooks->step && mull_comm_rank(t->params.comm) == 0) hooks->step(hooks->ctx, &st);
        rc = mull__train_check_skipped(t, err);
        if (!rc) rc = mull__train_saved(t, hooks, false, err);
        if (!rc && t->out && t->r->save_steps > 0 && t->state.step % t->r->save_steps == 0) {
            rc = mull__train_save(t, hooks, t->state.step == until, err);
            saved = t->state.step;
        }
    }
    bool good = rc == MULL_OK || rc == MULL_ECANCELLED;
    int failed = mull__train_saved(t, hooks, true, good ? err : NULL);
    if (!failed && good && t->out && t->state.step > saved) failed = mull__train_save(t, hooks, true, err);
    if (failed && good) return failed;
    if (!rc && t->grpo && t->state.step >= t->steps) rc = mull__grpo_finish(t, err);
    if (rc == MULL_ECANCELLED)
        mull_fail(err, rc, "training was stopped", t->out ? t->out : "",
                  "run it again with resume_from_checkpoint: true", "a checkpoint of step %lld was saved",
                  (long long)t->state.step);
    return rc;
}

int mull_trainer_plan(const mull_recipe *r, const mull_config *c, int64_t rows, int world, mull_train_plan *out,
                      mull_error *err) {
    mull_weight_spec *s = NULL;
    size_t n = 0;
    *out = (mull_train_plan){0};
    int rc = mull_weights_list(c, &s, &n, err);
    if (rc) return rc;
    int64_t language = 0, part = 0; /* the largest part of the model */
    for (size_t i = 0; i < n; i++) {
        int64_t count = 1;
        for (int d = 0; d < s[i].ndim; d++) count *= s[i].shape[d];
        out->parameters += count;
        if (!strncmp(s[i].name, "visual.", 7)) {
            out->tower += (size_t)count * (r->bf16 ? 2 : 4);
            if (!mull__trains_tower(r)) continue;
        }
        language += count;
        if (count > part) part = count;
        if (!r->lora_rank && !mull_params_match(r->freeze, s[i].name)) out->trained += count;
        if (r->lora_rank && s[i].ndim == 2 && strstr(s[i].name, "_proj")) {
            const char *dot = strstr(s[i].name, ".weight");
            char module[96], *last;
            snprintf(module, sizeof module, "%.*s", (int)(dot - s[i].name), s[i].name);
            last = strrchr(module, '.') + 1;
            if (!*text(r->lora_targets) || mull_params_match(r->lora_targets, last))
                out->trained += r->lora_rank * (s[i].shape[0] + s[i].shape[1]);
        }
    }
    free(s);
    /* Of what a stage splits, a rank has its share; of what it gathers or makes for a while, one part of the model. */
    int zero = world > 1 ? (int)r->zero_stage : 0;
    size_t trained = (size_t)out->trained, own = zero ? trained / (size_t)world + 1 : trained,
           frozen = language > out->trained ? (size_t)(language - out->trained) : 0, one = (size_t)part;
    if (one > trained) one = trained;
    if (r->bf16)
        out->weights = frozen * 6 + (zero > 2 ? (own + one) * 2 : trained * 2) + own * 4;
    else
        out->weights = frozen * 4 + (zero > 2 ? own + one : trained) * 4;
    out->gradients = (zero > 1 ? own + one : trained) * 4;
    out->moments = own * 8;
    out->activations = mull_net_plan(c, (mull_recompute)r->recompute, rows, rows);
    if (r->kind == MULL_GRPO) {
        bool kl = !r->no_ref_model && r->beta != 0 && !r->basic_reinforce_mode;
        if (!r->rollout_mode) out->rollouts = (size_t)language * (r->bf16 ? 2 : 4);
        if (kl && !r->lora_rank) out->rollouts += trained * (r->bf16 ? 6 : 4);
    }
    out->total = out->weights + out->gradients + out->moments + out->activations + out->tower + out->rollouts;
    return MULL_OK;
}
