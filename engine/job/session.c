/* Loading what a job asks for; see spec.h. The checkpoint decides what the spec leaves open. */
#include "engine/infer/clock.h"
#include "engine/infer/regex.h"
#include "engine/job/spec.h"
#include "engine/train/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int weight_type(const char *name, mull_model_opts *o, mull_error *err) {
    static const struct {
        const char *name;
        mull_weight_type type;
    } TYPES[] = {{"f32", MULL_WEIGHT_F32},
                 {"bf16", MULL_WEIGHT_BF16},
                 {"int8", MULL_WEIGHT_INT8},
                 {"bf16-dot", MULL_WEIGHT_BF16_DOT}};
    o->weights_auto = !name || !strcmp(name, "auto");
    if (o->weights_auto) return MULL_OK;
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (!strcmp(name, TYPES[i].name)) {
            o->weights = TYPES[i].type;
            return MULL_OK;
        }
    return mull_fail(err, MULL_EARG, "cannot use the job spec", "dtype", "use auto, f32, bf16 or int8",
                     "'%.40s' is no type of weights", name);
}

int mull_job_limits(const mull_job *j, mull_media_limits *l, mull_error *err) {
    *l = (mull_media_limits){0};
    if (j->min_pixels > 0) l->min_pixels = j->min_pixels;
    if (j->max_pixels > 0) l->max_pixels = j->max_pixels;
    if (j->nframes > 0) l->nframes = (int)j->nframes;
    if (!isnan(j->fps)) l->fps = j->fps;
    return mull_media_limits_from_model(j->model, l, err);
}

static int render_opts(const mull_job *j, mull_session *s, mull_error *err) {
    bool latents = mull_tokenizer_special(s->tok, "<|latent_pad|>") >= 0;
    s->render = (mull_render_opts){.format = latents ? MULL_PROMPT_MULL : MULL_PROMPT_CHATML,
                                   .mode = latents ? MULL_MODE_MMLATENT2 : MULL_MODE_NONE,
                                   .latents = (int)j->latents};
    int rc = j->prompt_format ? mull_prompt_format_parse(j->prompt_format, &s->render.format, err) : MULL_OK;
    if (!rc && j->mode) rc = mull_prompt_mode_parse(j->mode, &s->render.mode, err);
    return rc;
}

static int sampling(const mull_job *j, mull_session *s, mull_error *err) {
    mull_sampling *how = &s->sampling;
    mull_sampling_defaults(s->model, how);
    how->max_new_tokens = (int)j->max_new_tokens;
    how->seed = (uint64_t)j->seed;
    how->ignore_eos = j->ignore_eos;
    how->temperature = j->temperature;
    how->top_p = j->top_p;
    how->top_k = (int)j->top_k;
    if (!isnan(j->repetition_penalty)) how->repetition_penalty = j->repetition_penalty;
    how->stop = j->stop;
    how->nstop = j->nstop;
    if (j->choices && !(s->regex = mull_choices_regex(j->choices)))
        return mull_fail(err, MULL_EARG, "cannot use the job spec", "choices", "", "it lists no texts");
    how->regex = s->regex ? s->regex : j->regex;
    mull_regex *r = NULL;
    int rc = how->regex ? mull_regex_create(how->regex, strlen(how->regex), &r, err) : MULL_OK;
    mull_regex_destroy(r);
    return rc;
}

/* A job that holds a GPU uses it, or says why it cannot: it would keep the device from those who can. */
int mull_job_backend(const mull_job *j, const mull_train_backend **train, const mull_backend **model, mull_error *err) {
    *train = NULL;
    *model = NULL;
    if (j->gpus <= 0) return MULL_OK;
#if MULL_HAVE_CUDA
    (void)err;
    *train = mull_cuda_train_backend();
    *model = mull_cuda_backend();
    return MULL_OK;
#else
    return mull_fail(err, MULL_EUNSUPPORTED, "cannot use the GPU", "gpus",
                     "submit without gpus, or build with -DMULL_CUDA=ON where nvcc is", "this build has no CUDA");
#endif
}

int mull_session_open(const mull_job *j, mull_session *s, mull_error *err) {
    *s = (mull_session){0};
    mull_model_opts opts = {.threads = j->threads};
    double start = mull_clock_ms();
    int rc = weight_type(j->dtype, &opts, err);
    const mull_train_backend *train;
    if (!rc) rc = mull_job_backend(j, &train, &opts.backend, err);
    if (!rc) rc = mull_job_limits(j, &s->limits, err);
    if (!rc) rc = mull_tokenizer_load(j->model, &s->tok, err);
    if (!rc) rc = render_opts(j, s, err);
    if (!rc) rc = mull_model_load(j->model, &opts, &s->model, err);
    if (!rc) rc = sampling(j, s, err);
    if (rc) {
        mull_session_fini(s);
        return rc;
    }
    s->load_ms = mull_clock_ms() - start;
    return MULL_OK;
}

void mull_session_fini(mull_session *s) {
    mull_model_destroy(s->model);
    mull_tokenizer_destroy(s->tok);
    free(s->regex);
    *s = (mull_session){0};
}
