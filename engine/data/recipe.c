/* From YAML and --set to a checked recipe. The document is walked once; nothing stops at the first problem, so that one
 * run shows all of them; then the keys are checked against each other and defaults that depend on the kind are filled.
 */
#include "engine/data/recipe_internal.h"

#include "engine/core/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

static const char what[] = "cannot use the recipe";
enum { RECIPE_BYTES_MAX = 1 << 20 };
static const char SECTION[] = "train_dataset_args";

typedef struct reading {
    mull_recipe *r;
    mull_recipe_report *report;
    yaml_document_t *doc;
    bool *given;     /* [mull__nkeys] */
    int *line;       /* [mull__nkeys] where it was given */
    bool mix_by_set; /* --set has begun a mix of its own */
} reading;

static int line_of(const yaml_node_t *n) {
    return (int)n->start_mark.line + 1;
}

static void unknown(reading *rd, int line, const char *section, const char *name) {
    bool dataset = *section != 0;
    int other = mull__key_find(name, !dataset);
    if (other >= 0) {
        mull__note(rd->report, true, line, section, name, NULL,
                   dataset ? "belongs at the top level, not in %s" : "belongs inside %s", SECTION);
        return;
    }
    const mull__key *near = mull__key_nearest(name);
    if (near)
        mull__note(rd->report, true, line, section, name, near->name, "is not a key%s",
                   near->dataset && !dataset ? " (the nearest one stands in train_dataset_args)" : "");
    else
        mull__note(rd->report, true, line, section, name, NULL, "is not a key, and no key is near it");
}

/* ---- the mix */
static void mix_one(reading *rd, const char *name, const mull__value *v) {
    double w = 0;
    int set = mull__set_find(name);
    if (set < 0)
        mull__note(rd->report, true, v->line, "train_dataset_args.mix_datas", name, NULL,
                   "is not a dataset: SAT, VideoR1, ZebraCOT, SIMS, Messages");
    else if (v->quoted || mull__parse_real(v->text, &w) || !(w >= 0) || w > 1e9)
        mull__note(rd->report, true, v->line, "train_dataset_args.mix_datas", name, NULL,
                   "takes a weight of 0 or more, not '%.60s'", v->text);
    else
        rd->r->weight[set] = w;
}

static void read_mix(reading *rd, const yaml_node_t *node) {
    if (node->type != YAML_MAPPING_NODE) {
        mull__note(rd->report, true, line_of(node), SECTION, "mix_datas", NULL,
                   "takes a mapping of dataset names to weights");
        return;
    }
    bool seen[MULL_SET_COUNT] = {false};
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        yaml_node_t *k = yaml_document_get_node(rd->doc, p->key), *v = yaml_document_get_node(rd->doc, p->value);
        if (!k || !v || k->type != YAML_SCALAR_NODE || v->type != YAML_SCALAR_NODE) {
            mull__note(rd->report, true, k ? line_of(k) : 0, SECTION, "mix_datas", NULL,
                       "takes lines like  'SAT': 0.6");
            continue;
        }
        const char *name = (const char *)k->data.scalar.value;
        int set = mull__set_find(name);
        if (set >= 0 && seen[set])
            mull__note(rd->report, true, line_of(k), "train_dataset_args.mix_datas", name, NULL, "is given twice");
        if (set >= 0) seen[set] = true;
        mull__value value = {(const char *)v->data.scalar.value, v->data.scalar.style != YAML_PLAIN_SCALAR_STYLE,
                             line_of(v)};
        mix_one(rd, name, &value);
    }
}

/* ---- sections */
static void read_section(reading *rd, const yaml_node_t *map, const char *section);

static void read_pair(reading *rd, const yaml_node_t *k, const yaml_node_t *v, const char *section) {
    if (k->type != YAML_SCALAR_NODE) {
        mull__note(rd->report, true, line_of(k), section, "", NULL, "a key must be a word");
        return;
    }
    const char *name = (const char *)k->data.scalar.value;
    int line = line_of(k);
    if (!*section && !strcmp(name, SECTION)) {
        if (v->type == YAML_MAPPING_NODE)
            read_section(rd, v, SECTION);
        else
            mull__note(rd->report, true, line, "", SECTION, NULL, "takes a mapping of keys");
        return;
    }
    int i = mull__key_find(name, *section != 0);
    if (i < 0) {
        unknown(rd, line, section, name);
        return;
    }
    if (rd->line[i]) {
        mull__note(rd->report, true, line, section, name, NULL, "is given twice, first in line %d", rd->line[i]);
        return;
    }
    rd->line[i] = line;
    if (mull__keys[i].type == MULL_KEY_MIX) {
        rd->given[i] = true;
        read_mix(rd, v);
        return;
    }
    if (v->type != YAML_SCALAR_NODE && mull__keys[i].type != MULL_KEY_IGNORED) {
        mull__note(rd->report, true, line, section, name, NULL, "takes one value, not a list or mapping");
        return;
    }
    mull__value value = {"", true, line};
    if (v->type == YAML_SCALAR_NODE)
        value =
            (mull__value){(const char *)v->data.scalar.value, v->data.scalar.style != YAML_PLAIN_SCALAR_STYLE, line};
    if (strlen(value.text) != (v->type == YAML_SCALAR_NODE ? v->data.scalar.length : 0)) {
        mull__note(rd->report, true, line, section, name, NULL, "holds a NUL character");
        return;
    }
    mull__key_store(rd->r, &mull__keys[i], &value, &rd->given[i], rd->report);
}

static void read_section(reading *rd, const yaml_node_t *map, const char *section) {
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
        yaml_node_t *k = yaml_document_get_node(rd->doc, p->key), *v = yaml_document_get_node(rd->doc, p->value);
        if (k && v) read_pair(rd, k, v, section);
    }
}

/* ---- --set */
static void read_set(reading *rd, const char *text) {
    const char *eq = strchr(text, '=');
    char name[128];
    if (!eq || eq == text || (size_t)(eq - text) >= sizeof name) {
        mull__note(rd->report, true, 0, "", "", NULL, "--set takes key=value, not '%.80s'", text);
        return;
    }
    snprintf(name, sizeof name, "%.*s", (int)(eq - text), text);
    mull__value v = {eq + 1, false, 0};
    size_t prefix = sizeof SECTION - 1;
    bool inside = !strncmp(name, SECTION, prefix) && name[prefix] == '.';
    const char *key = inside ? name + prefix + 1 : name;
    if (!strncmp(key, "mix_datas.", 10)) {
        /* The first one replaces the file's mix. */
        if (!rd->mix_by_set) memset(rd->r->weight, 0, sizeof rd->r->weight);
        rd->mix_by_set = true;
        rd->given[mull__key_find("mix_datas", true)] = true;
        mix_one(rd, key + 10, &v);
        return;
    }
    int i = inside ? -1 : mull__key_find(key, false);
    if (i < 0) i = mull__key_find(key, true);
    if (i < 0)
        unknown(rd, 0, inside ? SECTION : "", key);
    else
        mull__key_store(rd->r, &mull__keys[i], &v, &rd->given[i], rd->report);
}

/* ---- the whole */
static bool given(const reading *rd, const char *name) {
    int i = mull__key_find(name, false);
    return rd->given[i < 0 ? mull__key_find(name, true) : i];
}
static int line_at(const reading *rd, const char *name) {
    int i = mull__key_find(name, false);
    return rd->line[i < 0 ? mull__key_find(name, true) : i];
}

static void check_mix(reading *rd) {
    mull_recipe *r = rd->r;
    double sum = 0;
    for (int s = 0; s < MULL_SET_COUNT; s++) sum += r->weight[s];
    if (!given(rd, "mix_datas") || !(sum > 0)) {
        mull__note(rd->report, true, line_at(rd, "mix_datas"), SECTION, "mix_datas", NULL, "%s",
                   given(rd, "mix_datas") ? "is empty: give a dataset a weight above 0"
                                          : "is missing: name the datasets and their weights");
        return;
    }
    if (fabs(sum - 1) > 1e-6)
        mull__note(rd->report, false, line_at(rd, "mix_datas"), SECTION, "mix_datas", NULL,
                   "the weights sum to %.6g and were normalised", sum);
    static const char *const keys[] = {
#define X(symbol, name, location) #location,
        MULL_SET_LIST(X)
#undef X
    };
    for (int s = 0; s < MULL_SET_COUNT; s++) {
        r->weight[s] /= sum;
        if (r->weight[s] > 0 && !*mull_recipe_location(r, (mull_set)s))
            mull__note(rd->report, true, line_at(rd, "mix_datas"), SECTION, keys[s], NULL,
                       "is missing: %s is in the mix", mull_set_name((mull_set)s));
    }
}

static void check_modes(reading *rd) {
    mull_recipe *r = rd->r;
    bool latent = r->mmlatent_mode_stage1 || r->mmlatent_mode_stage2;
#define BAD(key, ...) mull__note(rd->report, true, line_at(rd, key), SECTION, key, NULL, __VA_ARGS__)
#define IDLE(key, ...) mull__note(rd->report, false, line_at(rd, key), SECTION, key, NULL, __VA_ARGS__)
    if (strcmp(r->mode, "train")) BAD("mode", "takes train, not '%.60s'", r->mode);
    if (r->mmlatent_mode_stage1 && r->mmlatent_mode_stage2)
        BAD("mmlatent_mode_stage2", "excludes mmlatent_mode_stage1: set one of them");
    if (r->mmlatent_rl_mode && !r->mmlatent_mode_stage2) BAD("mmlatent_rl_mode", "needs mmlatent_mode_stage2: True");
    if (r->r1_mode && latent) IDLE("r1_mode", "has no effect beside a latent mode");
    if (r->r1_rl_mode && (!r->r1_mode || latent)) IDLE("r1_rl_mode", "has no effect without r1_mode");
    if (r->use_text_reasoning && !r->mmlatent_mode_stage2)
        IDLE("use_text_reasoning", "has no effect without mmlatent_mode_stage2");
    if (r->use_multimodal_textonly && !r->mmlatent_mode_stage2)
        IDLE("use_multimodal_textonly", "has no effect without mmlatent_mode_stage2");
    if (r->weight[MULL_SET_ZEBRA] > 0 && !latent && !r->no_reason_mode && !r->no_zebracot_reason_mode)
        BAD("mix_datas", "ZebraCOT needs a latent mode, no_reason_mode or no_zebracot_reason_mode");
#undef BAD
#undef IDLE
    int64_t stage = r->mmlatent_mode_stage1 ? 1 : r->mmlatent_mode_stage2 ? 2 : 0;
    if (given(rd, "stage") && r->stage != stage) {
        if (stage && r->stage)
            mull__note(rd->report, true, line_at(rd, "stage"), "", "stage", NULL, "contradicts mmlatent_mode_stage%d",
                       (int)stage);
        else
            mull__note(rd->report, false, line_at(rd, "stage"), "", "stage", NULL,
                       "follows the mmlatent_mode_* keys: it is %s",
                       stage == 1 ? "stage1"
                       : stage    ? "stage2"
                                  : "none");
    }
    r->stage = stage;
    r->kind = (r->mmlatent_mode_stage2 && r->mmlatent_rl_mode) || (r->r1_mode && r->r1_rl_mode && !latent) ? MULL_GRPO
              : stage == 1                                                                                 ? MULL_STAGE1
              : stage == 2                                                                                 ? MULL_STAGE2
                                                                                                           : MULL_SFT;
}

/* What the release's launch scripts say for each kind. */
static void fill(reading *rd) {
    mull_recipe *r = rd->r;
    bool grpo = r->kind == MULL_GRPO;
    if (!given(rd, "num_train_epochs")) r->num_train_epochs = r->kind == MULL_STAGE1 ? 3 : 1;
    if (!given(rd, "weight_decay")) r->weight_decay = grpo ? 0.01 : 0;
    if (!given(rd, "gradient_accumulation_steps")) r->gradient_accumulation_steps = grpo ? 32 : 1;
    if (!given(rd, "save_steps")) r->save_steps = grpo ? 50 : 4000;
    if (!given(rd, "lr_scheduler_type")) r->lr_scheduler_type = grpo ? MULL_LR_COSINE : MULL_LR_LINEAR;
    if (!given(rd, "max_completion_length")) r->max_completion_length = r->mmlatent_mode_stage2 ? 64 : 768;
    if (!given(rd, "zero_stage")) r->zero_stage = grpo ? 3 : 2;
    if (!given(rd, "recompute")) r->recompute = r->gradient_checkpointing ? MULL_RECOMPUTE_LAYER : MULL_RECOMPUTE_NONE;
    if (given(rd, "max_pixels"))
        mull__note(rd->report, false, line_at(rd, "max_pixels"), "", "max_pixels", NULL,
                   "has no effect in training, as in the release: image_max_pixels (%lld) is the budget of an image",
                   (long long)r->image_max_pixels);
}

/* Rollout jobs answer with older weights, whose log-probs they give for what they sampled and for nothing else. */
static void check_rollouts(reading *rd) {
    static const char *const IDLE[] = {"max_staleness", "importance_cap", "rollout_groups", "rollout_wait"};
    const mull_recipe *r = rd->r;
    bool stale = r->rollout_mode && r->max_staleness > 0;
#define BAD(key, ...) mull__note(rd->report, true, line_at(rd, key), "", key, NULL, __VA_ARGS__)
    if (r->rollout_mode && r->kind != MULL_GRPO)
        BAD("rollout_mode", "needs a GRPO recipe (mmlatent_rl_mode or r1_rl_mode)");
    if (!r->rollout_mode && r->max_staleness > 0) BAD("max_staleness", "needs rollout_mode: disaggregated");
    if (stale && r->grpo_tokens)
        BAD("grpo_tokens", "takes completion with max_staleness above 0: rollouts have no log-probs of the prompt");
    if (stale && r->basic_reinforce_mode)
        BAD("basic_reinforce_mode",
            "has no weights that could correct what older weights sampled: set max_staleness: 0");
#undef BAD
    for (size_t i = 0; !r->rollout_mode && r->max_staleness == 0 && i < sizeof IDLE / sizeof *IDLE; i++)
        if (given(rd, IDLE[i]))
            mull__note(rd->report, false, line_at(rd, IDLE[i]), "", IDLE[i], NULL,
                       "has no effect without rollout_mode: disaggregated");
}

static int summary(const mull_recipe_report *report, const char *name, mull_error *err) {
    mull_buf b = {0};
    int shown = 0;
    for (size_t i = 0; i < report->n && b.len < 5000; i++) {
        const mull_recipe_note *n = &report->notes[i];
        if (!n->error) continue;
        if (shown++) mull_buf_puts(&b, " | ");
        if (n->line) mull_buf_printf(&b, "line %d: ", n->line);
        mull_buf_printf(&b, "%s%s%s", n->key, *n->key ? " " : "", n->message);
        if (*n->did_you_mean) mull_buf_printf(&b, ", did you mean %s?", n->did_you_mean);
    }
    if (report->errors > (size_t)shown) mull_buf_printf(&b, " | and %zu more", report->errors - (size_t)shown);
    int rc = mull_fail(err, MULL_EARG, what, name, "correct these keys", "%s", b.data ? b.data : "errors");
    mull_buf_fini(&b);
    return rc;
}

static bool whole(const mull_recipe *r) {
    for (size_t i = 0; i < mull__nkeys; i++)
        if ((mull__keys[i].type == MULL_KEY_TEXT || mull__keys[i].type == MULL_KEY_RESUME) &&
            !*(char *const *)((const char *)r + mull__keys[i].at))
            return false;
    return true;
}

static void syntax(reading *rd, const yaml_parser_t *p) {
    mull__note(rd->report, true, (int)p->problem_mark.line + 1, "", "", NULL, "this is not YAML: %s%s%s",
               p->problem ? p->problem : "it cannot be read", p->context ? ", " : "", p->context ? p->context : "");
}

static void read_document(reading *rd, const char *yaml, size_t len) {
    yaml_parser_t parser;
    yaml_document_t doc, more;
    if (!yaml_parser_initialize(&parser)) {
        mull__note(rd->report, true, 0, "", "", NULL, "out of memory");
        return;
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, len);
    if (!yaml_parser_load(&parser, &doc)) {
        syntax(rd, &parser);
        yaml_parser_delete(&parser);
        return;
    }
    yaml_node_t *root = yaml_document_get_root_node(&doc);
    rd->doc = &doc;
    if (root && root->type == YAML_MAPPING_NODE)
        read_section(rd, root, "");
    else
        mull__note(rd->report, true, 1, "", "", NULL, "%s", root ? "it must be a mapping of keys" : "it is empty");
    if (!yaml_parser_load(&parser, &more)) {
        syntax(rd, &parser);
    } else {
        if (yaml_document_get_root_node(&more))
            mull__note(rd->report, true, (int)parser.mark.line + 1, "", "", NULL, "one document is expected");
        yaml_document_delete(&more);
    }
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
    rd->doc = NULL;
}

int mull_recipe_parse(const char *yaml, size_t len, const char *name, const char *const *sets, size_t nsets,
                      mull_recipe *out, mull_recipe_report *report, mull_error *err) {
    mull_recipe_report own = {0};
    reading rd = {.r = out, .report = report ? report : &own};
    memset(out, 0, sizeof *out);
    if (report) memset(report, 0, sizeof *report);
    rd.given = calloc(mull__nkeys, sizeof *rd.given);
    rd.line = calloc(mull__nkeys, sizeof *rd.line);
    int rc = MULL_OK;
    if (!rd.given || !rd.line) {
        rc = mull_fail(err, MULL_ENOMEM, what, name, NULL, "out of memory");
        goto done;
    }
    mull__key_defaults(out);
    read_document(&rd, yaml, len);
    for (size_t i = 0; i < nsets; i++) read_set(&rd, sets[i]);
    if (!whole(out)) {
        rc = mull_fail(err, MULL_ENOMEM, what, name, NULL, "out of memory");
        goto done;
    }
    check_mix(&rd);
    check_modes(&rd);
    fill(&rd);
    check_rollouts(&rd);
    if (rd.report->errors) rc = summary(rd.report, name, err);
done:
    free(rd.given);
    free(rd.line);
    if (rc) mull_recipe_fini(out);
    if (!report) mull_recipe_report_fini(&own);
    return rc;
}

int mull_recipe_load(const char *path, const char *const *sets, size_t nsets, mull_recipe *out,
                     mull_recipe_report *report, mull_error *err) {
    mull_buf b;
    memset(out, 0, sizeof *out);
    if (report) memset(report, 0, sizeof *report);
    int rc = mull_read_file(path, RECIPE_BYTES_MAX, "the recipe", &b, err);
    if (!rc) rc = mull_recipe_parse(b.data ? b.data : "", b.len, path, sets, nsets, out, report, err);
    mull_buf_fini(&b);
    return rc;
}
