/* Completions on disk: OUT/rollouts/step-N.jsonl.zst, N the loader step, a line a completion. A file appears whole or
 * not at all, and a round that is drawn again writes the same bytes. */
#include "engine/train/grpo_internal.h"

#include "engine/core/buf.h"
#include "engine/job/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

static const char *const WHAT = "cannot keep the completions";

static json_t *numbers(const mull__completion *c, bool logp) {
    json_t *a = json_array();
    for (int32_t i = 0; i < c->n; i++)
        json_array_append_new(a, logp ? json_real((double)c->logp[i]) : json_integer(c->ids[i]));
    return a;
}

static int line(const mull__group *x, int64_t k, mull_buf *to) {
    const mull_sample *s = x->sample;
    const mull__completion *c = &x->c[k];
    char seed[24];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)c->seed); /* 64 bits are no JSON integer everywhere */
    json_t *j =
        json_pack("{s:I,s:i,s:I,s:s,s:I,s:s,s:o,s:o,s:o,s:f,s:f,s:f,s:f,s:f,s:f,s:b,s:s,s:I,s:o,s:o}", "step",
                  (json_int_t)x->step, "prompt", x->place, "sample", (json_int_t)k, "dataset", mull_set_name(s->set),
                  "index", (json_int_t)s->index, "problem_type", s->problem_type, "question",
                  mull_json_text(s->text, strlen(s->text)), "solution",
                  mull_json_text(s->solution, strlen(s->solution)), "completion", mull_json_text(c->text, c->text_len),
                  "reward", (double)c->reward, "accuracy", c->accuracy, "format", c->format, "external", c->external,
                  "penalty", c->penalty, "advantage", (double)c->advantage, "truncated", (int)c->truncated, "seed",
                  seed, "version", (json_int_t)x->version, "ids", numbers(c, false), "logprobs", numbers(c, true));
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    int rc = text && !mull_buf_puts(to, text) ? mull_buf_puts(to, "\n") : MULL_ENOMEM;
    free(text);
    json_decref(j);
    return rc;
}

static int put_file(const char *path, const void *data, size_t len, mull_error *err) {
    char temp[4200];
    snprintf(temp, sizeof temp, "%s.tmp", path);
    FILE *f = fopen(temp, "w");
    bool bad = !f || fwrite(data, 1, len, f) != len;
    if (f && fclose(f)) bad = true;
    if (!bad && !rename(temp, path)) return MULL_OK;
    int e = errno;
    unlink(temp);
    return mull_fail_errno(err, e, WHAT, path, "free space, or set save_rollouts: False");
}

/* The completions of this rank, packed: zstd frames behind each other are one file. */
static int pack(const struct mull__grpo *g, void **out, size_t *n, mull_error *err) {
    const mull__round *o = &g->round;
    mull_buf text = {0};
    int rc = MULL_OK;
    for (size_t i = 0; i < o->ngroups && !rc; i++)
        for (int64_t k = 0; k < g->t->r->num_generations && !rc; k++) rc = line(&o->groups[i], k, &text);
    size_t cap = ZSTD_compressBound(text.len);
    *out = rc ? NULL : malloc(cap);
    *n = *out ? ZSTD_compress(*out, cap, text.data ? text.data : "", text.len, 3) : 0;
    if (!*out || ZSTD_isError(*n)) rc = mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    mull_buf_fini(&text);
    return rc;
}

int mull__grpo_store(struct mull__grpo *g, mull_error *err) {
    const mull__round *o = &g->round;
    if (!g->t->out || !g->t->r->save_rollouts) return MULL_OK;
    char path[4100];
    void *mine = NULL, *all = NULL;
    size_t n = 0, at[MULL_WORLD_MAX + 1];
    int world = mull_comm_world(g->t->params.comm), rc = pack(g, &mine, &n, err);
    rc = mull__grpo_agree(g, rc, false, NULL, err);
    if (!rc) rc = mull_ranks_collect(g->t->ranks, mine, n, &all, at, err);
    snprintf(path, sizeof path, "%s/rollouts", g->t->out);
    if (!rc && mull_comm_rank(g->t->params.comm) == 0) {
        if (mkdir(path, 0777) && errno != EEXIST) rc = mull_fail_errno(err, errno, WHAT, path, NULL);
        /* The round's last loader step names it: with dynamic sampling it has drawn more than one. */
        snprintf(path, sizeof path, "%s/rollouts/step-%09lld.jsonl.zst", g->t->out,
                 (long long)o->batches[o->nbatches - 1].step);
        if (!rc) rc = put_file(path, all, at[world], err);
    }
    free(mine);
    free(all);
    return mull__grpo_agree(g, rc, false, NULL, err);
}
