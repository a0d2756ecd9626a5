/* See rollout.h. */
#include "engine/job/rollout.h"

#include "engine/train/rollout_work.h"

static const double IDLE_S = 3600; /* as the front door's default */

static bool stopped(void *ctx) {
    mull_events_beat(ctx);
    return mull_events_stopped(ctx);
}

static void note(void *ctx, const char *level, const char *text) {
    mull_events_log(ctx, level, "%s", text);
}

static void ready(void *ctx) {
    mull_events_loading(ctx, false);
}

static double share(double part, double whole) {
    return whole > 0 ? part / whole : 0;
}

static void shard(void *ctx, const mull_rollout_figures *f) {
    json_t *v =
        json_pack("{s:f,s:f,s:f,s:I,s:I,s:f}", "rollout_tok_s", share((double)f->shard_tokens, f->seconds), "reward",
                  f->reward, "length", f->length, "policy_version", (json_int_t)f->version, "tokens",
                  (json_int_t)f->shard_tokens, "wait_share", share(f->waited, f->waited + f->busy + f->loading));
    mull_events_beat(ctx);
    mull_events_metrics(ctx, f->number + 1, v);
    mull_events_progress(ctx, f->shards, 0, "shards", f->tokens, -1, false);
    json_decref(v);
}

int mull_rollout_job(const mull_job *job, mull_events *ev, json_t **result, mull_error *err) {
    mull_rollout_opts o = {
        .out = job->out, .threads = job->threads, .idle_s = job->idle_timeout < 0 ? IDLE_S : (double)job->idle_timeout};
    mull_rollout_hooks h = {.stop = stopped, .note = note, .ready = ready, .shard = shard, .ctx = ev};
    mull_rollout_figures f;
    mull_events_loading(ev, true);
    int rc = mull_rollout_work(&o, &h, &f, err);
    mull_events_loading(ev, false);
    if (!rc)
        *result = json_pack("{s:I,s:I,s:I,s:I,s:f,s:f,s:f}", "shards", (json_int_t)f.shards, "completions",
                            (json_int_t)f.completions, "tokens", (json_int_t)f.tokens, "policies",
                            (json_int_t)f.policies, "busy_s", f.busy, "wait_s", f.waited, "load_s", f.loading);
    return rc;
}
