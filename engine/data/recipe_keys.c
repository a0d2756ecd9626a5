/* The keys of a recipe: names, types, defaults, bounds; how a written value becomes a stored one; the report. A new key
 * is one line here and one member in recipe.h. */
#include "engine/data/recipe_internal.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define AT(field) offsetof(mull_recipe, field)
#define BOOL(section, name, value)                                                                                     \
    { section, #name, MULL_KEY_BOOL, AT(name), value, 0, 1, NULL }
#define INT(section, name, value, lo, hi)                                                                              \
    { section, #name, MULL_KEY_INT, AT(name), value, lo, hi, NULL }
#define REAL(section, name, value, lo, hi)                                                                             \
    { section, #name, MULL_KEY_REAL, AT(name), value, lo, hi, NULL }
#define TEXT(section, name, text)                                                                                      \
    { section, #name, MULL_KEY_TEXT, AT(name), 0, 0, 0, text }
#define WORD(section, name, value, words)                                                                              \
    { section, #name, MULL_KEY_WORD, AT(name), value, 0, 0, words }
#define IGNORED(section, name, why)                                                                                    \
    { section, name, MULL_KEY_IGNORED, 0, 0, 0, 0, why }
#define BIG 9007199254740992.0 /* 2^53: whole numbers that a double holds */

const mull__key mull__keys[] = {
    TEXT(true, split, "train"),
    TEXT(true, mode, "train"),
    {true, "mix_datas", MULL_KEY_MIX, 0, 0, 0, 0, NULL},
    TEXT(true, sat_location, ""),
    TEXT(true, video_r1_location, ""),
    TEXT(true, zebracot_location, ""),
    TEXT(true, sims_location, ""),
    TEXT(true, messages_location, ""),
    BOOL(true, mmlatent_mode_stage1, 0),
    BOOL(true, mmlatent_mode_stage2, 0),
    BOOL(true, mmlatent_rl_mode, 0),
    BOOL(true, no_reason_mode, 0),
    BOOL(true, no_zebracot_reason_mode, 0),
    BOOL(true, use_text_reasoning, 0),
    BOOL(true, use_multimodal_textonly, 0),
    BOOL(true, r1_mode, 0),
    BOOL(true, r1_rl_mode, 0),
    BOOL(true, wtxt_rl_mode, 0),
    BOOL(true, use_200k, 0),
    BOOL(true, use_3q_40k, 0),
    INT(true, num_latent_tokens, 20, 0, 4096),

    TEXT(false, run_name, ""),
    TEXT(false, model_name, ""),
    TEXT(false, model_path, ""),
    {false, "resume_from_checkpoint", MULL_KEY_RESUME, AT(resume_from_checkpoint), 0, 0, 0, NULL},
    WORD(false, stage, (double)NAN, "none|stage1|stage2"),
    BOOL(false, freeze_vision, 1),
    BOOL(false, no_ref_model, 0),
    BOOL(false, text_only_logprobs, 0),
    BOOL(false, basic_reinforce_mode, 0),
    IGNORED(false, "latent_size", "the release ignores it; num_latent_tokens is the number of latents"),
    IGNORED(false, "latent_sample_temperature", "latents are not sampled"),
    IGNORED(false, "pause_token", "the latent token is <|latent_pad|>"),

    REAL(false, learning_rate, 1e-6, 0, 1),
    REAL(false, num_train_epochs, (double)NAN, 0, 1e6),
    REAL(false, max_grad_norm, 5, 0, 1e9),
    REAL(false, weight_decay, (double)NAN, 0, 1),
    REAL(false, warmup_ratio, 0, 0, 1),
    REAL(false, beta, 0.04, 0, 1e3),
    REAL(false, adam_beta1, 0.9, 0, 0.999999),
    REAL(false, adam_beta2, 0.999, 0, 0.9999999),
    REAL(false, adam_epsilon, 1e-8, 0, 1),
    INT(false, gradient_accumulation_steps, (double)NAN, 1, 1e6),
    INT(false, per_device_train_batch_size, 1, 1, 65536),
    INT(false, save_steps, (double)NAN, 0, BIG),
    INT(false, max_steps, 0, -1, BIG),
    INT(false, warmup_steps, 0, 0, BIG),
    INT(false, logging_steps, 1, 1, BIG),
    INT(false, max_prompt_length, 16384, 1, BIG),
    INT(false, max_completion_length, (double)NAN, 1, BIG),
    INT(false, num_generations, 2, 2, 4096),
    INT(false, save_total_limit, 0, 0, BIG),
    WORD(false, metric_for_best_model, 0, "none|loss"),
    INT(false, save_best_limit, 1, 1, BIG),
    BOOL(false, tensorboard, 1),
    BOOL(false, async_save, 1),
    INT(false, seed, 42, 0, BIG),
    INT(false, max_pixels, 0, 0, BIG),
    WORD(false, lr_scheduler_type, (double)NAN, "linear|cosine|constant"),
    BOOL(false, gradient_checkpointing, 0),
    BOOL(false, bf16, 1),
    BOOL(false, len_control, 0),
    REAL(false, temperature, 1, 0, 100),
    REAL(false, top_p, 0.95, 0, 1),
    REAL(false, epsilon, 0.2, 0, 1e3),
    REAL(false, epsilon_high, 0, 0, 1e3),
    INT(false, num_iterations, 1, 1, 1024),
    INT(false, steps_per_generation, 1, 1, 1024),
    WORD(false, scale_rewards, 0, "group|batch|none"),
    INT(false, dynamic_sampling, 0, 0, 1024),
    BOOL(false, mask_truncated_completions, 0),
    INT(false, overlong_buffer, 0, 0, BIG),
    REAL(false, overlong_penalty, 0, 0, 1e3),
    WORD(false, reward_compat, 0, "mull|release"),
    TEXT(false, reward_command, ""),
    REAL(false, reward_weight, 1, -1e6, 1e6),
    REAL(false, reward_timeout, 60, 0.01, 86400),
    BOOL(false, reward_builtin, 1),
    INT(false, rollout_batch, 64, 1, 4096),
    BOOL(false, save_rollouts, 1),
    WORD(false, rollout_mode, 0, "colocate|disaggregated"),
    INT(false, max_staleness, 0, 0, 1e6),
    REAL(false, importance_cap, 2, 0, 1e6),
    INT(false, rollout_groups, 8, 1, 4096),
    REAL(false, rollout_wait, 3600, 0, 1e8),

    WORD(false, loss_on, 0, "all|assistant"),
    WORD(false, loss_norm, 0, "sample|token"),
    WORD(false, label_mask, 0, "mull|release"),
    WORD(false, stage1_spaces, 0, "drop|keep"),
    WORD(false, video_fps_compat, 0, "true|release"),
    WORD(false, prompt_format, 0, "stage|chatml"),
    WORD(false, grpo_tokens, 0, "completion|all"),
    WORD(false, loss_type, 0, "grpo|dr_grpo|bnpo|dapo"),
    WORD(false, recompute, (double)NAN, "none|attention|layer"),
    INT(false, zero_stage, (double)NAN, 0, 3),
    INT(false, max_length, 0, 0, BIG),
    INT(false, pack_tokens, 0, 0, BIG),
    INT(false, prefetch_tokens, 65536, 0, BIG),
    INT(false, loader_threads, 0, 0, 1024),
    REAL(false, max_bad_share, 0.05, 0, 1),
    INT(false, video_max_frames, 16, 4, 768),
    INT(false, image_max_pixels, 200704, 3136, 12845056),
    TEXT(false, feature_cache, ""),
    INT(false, feature_cache_bytes, 16.0 * 1073741824, 0, BIG),
    TEXT(false, freeze, ""),
    INT(false, lora_rank, 0, 0, 65536),
    REAL(false, lora_alpha, 16, 0, 1e6),
    REAL(false, lora_dropout, 0, 0, 0.999),
    TEXT(false, lora_targets, "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"),
};
const size_t mull__nkeys = sizeof mull__keys / sizeof *mull__keys;

/* ---- names */
int mull__key_find(const char *name, bool dataset) {
    for (size_t i = 0; i < mull__nkeys; i++)
        if (mull__keys[i].dataset == dataset && !strcmp(mull__keys[i].name, name)) return (int)i;
    return -1;
}

/* Edits (insert, delete, replace, swap of neighbours) from a to b, ignoring case; at most limit + 1. */
static int edits(const char *a, const char *b, int limit) {
    enum { MAX = 48 };
    int n = (int)strnlen(a, MAX + 1), m = (int)strnlen(b, MAX + 1), row[3][MAX + 1];
    if (n > MAX || m > MAX || abs(n - m) > limit) return limit + 1;
    for (int j = 0; j <= m; j++) row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            int best = up[j - 1] + (ca != cb);
            if (up[j] + 1 < best) best = up[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) && cb == tolower((unsigned char)a[i - 2]) &&
                up2[j - 2] + 1 < best)
                best = up2[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n % 3][m];
}

const mull__key *mull__key_nearest(const char *name) {
    enum { FAR = 24 };
    const mull__key *found = NULL;
    int best = FAR + 1;
    size_t n = strnlen(name, 64);
    for (size_t i = 0; i < mull__nkeys; i++) {
        /* A key cut short is nearer than any slip of the pen but one. */
        bool begins = n >= 4 && !strncasecmp(name, mull__keys[i].name, n);
        int d = begins ? 1 : edits(name, mull__keys[i].name, FAR);
        if (d < best) {
            best = d;
            found = &mull__keys[i];
        }
    }
    return found;
}

int mull__set_find(const char *name) {
    static const char *const other[][2] = {{"videor1", "VideoR1"}, {"zebracot", "ZebraCOT"}, {"simsv1", "SIMS"}};
    char plain[32];
    size_t n = 0;
    for (; *name && n + 1 < sizeof plain; name++)
        if (isalnum((unsigned char)*name)) plain[n++] = (char)tolower((unsigned char)*name);
    plain[n] = 0;
    if (*name) return -1;
    const char *full = plain;
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (!strcmp(plain, other[i][0])) full = other[i][1];
    for (int s = 0; s < MULL_SET_COUNT; s++)
        if (!strcasecmp(full, mull_set_name((mull_set)s))) return s;
    return -1;
}

/* ---- values */
bool mull__is_null(const mull__value *v) {
    return !v->quoted && (!*v->text || !strcmp(v->text, "~") || !strcasecmp(v->text, "null"));
}

static int parse_bool(const mull__value *v, bool *out) {
    static const char *const words[][2] = {{"true", "false"}, {"yes", "no"}, {"on", "off"}};
    for (size_t i = 0; i < 3 && !v->quoted; i++)
        for (int k = 0; k < 2; k++)
            if (!strcasecmp(v->text, words[i][k])) {
                *out = !k;
                return 0;
            }
    return -1;
}

int mull__parse_real(const char *text, double *out) {
    char *end;
    if (!isdigit((unsigned char)*text) && !strchr("+-.", *text)) return -1; /* no "nan", "inf", blanks */
    if (strpbrk(text, "xXnN")) return -1;
    double x = strtod(text, &end);
    if (end == text || *end || !isfinite(x)) return -1;
    *out = x;
    return 0;
}

static int find_word(const char *words, const char *text) {
    size_t n = strlen(text);
    for (int i = 0;; i++) {
        size_t len = strcspn(words, "|");
        if (len == n && !strncasecmp(words, text, n)) return i;
        if (!words[len]) return -1;
        words += len + 1;
    }
}

static void set_text(char **at, const char *text) {
    char *copy = strdup(text);
    if (!copy) return; /* the old value stays; mull_recipe_parse checks for NULL members */
    free(*at);
    *at = copy;
}

void mull__key_store(mull_recipe *r, const mull__key *k, const mull__value *v, bool *given,
                     mull_recipe_report *report) {
    const char *section = k->dataset ? "train_dataset_args" : "";
    void *at = (char *)r + k->at;
    double x = 0;
    bool b = false;
    if (k->type == MULL_KEY_IGNORED) {
        mull__note(report, false, v->line, section, k->name, NULL, "has no effect: %s", k->text);
        return;
    }
    if (mull__is_null(v)) return; /* as if it were not there */
#define WRONG(...)                                                                                                     \
    do {                                                                                                               \
        mull__note(report, true, v->line, section, k->name, NULL, __VA_ARGS__);                                        \
        return;                                                                                                        \
    } while (0)
    switch (k->type) {
    case MULL_KEY_BOOL:
        if (parse_bool(v, (bool *)at)) WRONG("takes True or False, not '%.60s'", v->text);
        break;
    case MULL_KEY_INT:
    case MULL_KEY_REAL:
        if (v->quoted || mull__parse_real(v->text, &x)) WRONG("takes a number, not '%.60s'", v->text);
        if (k->type == MULL_KEY_INT && x != floor(x)) WRONG("takes a whole number, not %.60s", v->text);
        if (!(x >= k->lo && x <= k->hi)) WRONG("takes %.15g to %.15g, not %.60s", k->lo, k->hi, v->text);
        if (k->type == MULL_KEY_INT)
            *(int64_t *)at = (int64_t)x;
        else
            *(double *)at = x;
        break;
    case MULL_KEY_WORD: {
        int word = find_word(k->text, v->text);
        if (word < 0) WRONG("takes %s, not '%.60s'", k->text, v->text);
        *(int64_t *)at = word;
        break;
    }
    case MULL_KEY_RESUME:
        set_text(at, !parse_bool(v, &b) ? b ? "true" : "" : v->text);
        break;
    case MULL_KEY_TEXT:
        set_text(at, v->text);
        break;
    case MULL_KEY_MIX:
        WRONG("takes a mapping of dataset names to weights");
    case MULL_KEY_IGNORED:
        return;
    }
#undef WRONG
    *given = true;
}

void mull__key_defaults(mull_recipe *r) {
    for (size_t i = 0; i < mull__nkeys; i++) {
        const mull__key *k = &mull__keys[i];
        void *at = (char *)r + k->at;
        double x = isnan(k->value) ? 0 : k->value;
        switch (k->type) {
        case MULL_KEY_BOOL:
            *(bool *)at = x != 0;
            break;
        case MULL_KEY_INT:
        case MULL_KEY_WORD:
            *(int64_t *)at = (int64_t)x;
            break;
        case MULL_KEY_REAL:
            *(double *)at = x;
            break;
        case MULL_KEY_TEXT:
            set_text(at, k->text);
            break;
        case MULL_KEY_RESUME:
            set_text(at, "");
            break;
        case MULL_KEY_MIX:
        case MULL_KEY_IGNORED:
            break;
        }
    }
}

/* ---- the report */
void mull__note(mull_recipe_report *report, bool error, int line, const char *section, const char *key,
                const char *did_you_mean, const char *fmt, ...) {
    enum { NOTES_MAX = 1000 };
    if (error) report->errors++;
    if (report->n == report->cap && report->n < NOTES_MAX) {
        size_t cap = report->cap ? report->cap * 2 : 16;
        mull_recipe_note *p = realloc(report->notes, cap * sizeof *p);
        if (p) {
            report->notes = p;
            report->cap = cap;
        }
    }
    if (report->n == report->cap) return;
    mull_recipe_note *n = &report->notes[report->n++];
    memset(n, 0, sizeof *n);
    n->error = error;
    n->line = line;
    snprintf(n->key, sizeof n->key, "%s%s%s", section, *section && *key ? "." : "", key);
    snprintf(n->did_you_mean, sizeof n->did_you_mean, "%s", did_you_mean ? did_you_mean : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(n->message, sizeof n->message, fmt, ap);
    va_end(ap);
}

void mull_recipe_report_fini(mull_recipe_report *r) {
    free(r->notes);
    memset(r, 0, sizeof *r);
}

void mull_recipe_fini(mull_recipe *r) {
    for (size_t i = 0; i < mull__nkeys; i++)
        if (mull__keys[i].type == MULL_KEY_TEXT || mull__keys[i].type == MULL_KEY_RESUME)
            free(*(char **)((char *)r + mull__keys[i].at));
    memset(r, 0, sizeof *r);
}

static json_t *word_json(const char *words, int64_t i) {
    for (; i > 0; i--) words += strcspn(words, "|") + 1;
    return json_stringn(words, strcspn(words, "|"));
}

json_t *mull_recipe_json(const mull_recipe *r) {
    json_t *top = json_object(), *data = json_object(), *mix = json_object();
    for (size_t i = 0; i < mull__nkeys; i++) {
        const mull__key *k = &mull__keys[i];
        const void *at = (const char *)r + k->at;
        json_t *v = NULL;
        switch (k->type) {
        case MULL_KEY_BOOL:
            v = json_boolean(*(const bool *)at);
            break;
        case MULL_KEY_INT:
            v = json_integer(*(const int64_t *)at);
            break;
        case MULL_KEY_REAL:
            v = json_real(*(const double *)at);
            break;
        case MULL_KEY_WORD:
            v = word_json(k->text, *(const int64_t *)at);
            break;
        case MULL_KEY_TEXT:
        case MULL_KEY_RESUME:
            v = json_string(*(char *const *)at);
            break;
        case MULL_KEY_MIX:
        case MULL_KEY_IGNORED:
            continue;
        }
        json_object_set_new(k->dataset ? data : top, k->name, v);
    }
    for (int s = 0; s < MULL_SET_COUNT; s++)
        if (r->weight[s] > 0) json_object_set_new(mix, mull_set_name((mull_set)s), json_real(r->weight[s]));
    json_object_set_new(data, "mix_datas", mix);
    json_object_set_new(top, "train_dataset_args", data);
    json_object_set_new(top, "kind", json_string(mull_recipe_kind_name(r->kind)));
    return top;
}

const char *mull_recipe_kind_name(mull_recipe_kind k) {
    static const char *const names[] = {"sft", "stage1", "stage2", "grpo"};
    return names[k];
}

const char *mull_set_name(mull_set s) {
    static const char *const names[] = {
#define X(symbol, name, location) name,
        MULL_SET_LIST(X)
#undef X
    };
    return names[s];
}

const char *mull_recipe_location(const mull_recipe *r, mull_set s) {
    const char *const locations[] = {
#define X(symbol, name, location) r->location,
        MULL_SET_LIST(X)
#undef X
    };
    return locations[s];
}
