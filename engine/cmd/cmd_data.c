/* mull-engine data: the samples that a recipe makes, as the model will see them. */
#include "engine/cmd/cmd.h"
#include "engine/data/mix.h"
#include "engine/data/sample.h"

#include <stdlib.h>
#include <string.h>

static const char *const HELP =
    "usage: mull-engine data CONFIG.yaml [--set key=value]... [--limit N] [--sequential] [--model DIR]\n\n"
    "One JSON line a sample: {\"dataset\",\"index\",\"text\",\"ids\",\"labels\",\"media\",\"skipped\"}, in the order "
    "of the\n"
    "run (one rank). A row that is left out has a line of its own whose \"skipped\" says why; the next row replaces "
    "it.\n\n"
    "  --set key=value   any key of the recipe, over the file's\n"
    "  --limit N         draws, default one epoch\n"
    "  --from N          the first draw, default 0\n"
    "  --sequential      every row of every dataset in order instead of the mix; nothing is replaced\n"
    "  --model DIR       checkpoint folder whose tokenizer is used, default model_path\n";

typedef struct data_job {
    mull_recipe recipe;
    mull_mix *mix;
    mull_builder builder;
    int64_t bad;
} data_job;

static json_t *ids_json(const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static json_t *media_json(const mull_media *m, const int size[2]) {
    json_t *o = json_pack("{s:s,s:i,s:i,s:[i,i],s:[I,I,I],s:I}", "kind",
                          m->kind == MULL_MEDIA_VIDEO ? "video" : "image", "width", m->resized_w, "height",
                          m->resized_h, "source", size[0], size[1], "grid_thw", (json_int_t)m->grid[0],
                          (json_int_t)m->grid[1], (json_int_t)m->grid[2], "tokens", (json_int_t)m->tokens);
    if (m->kind == MULL_MEDIA_VIDEO) {
        json_object_set_new(o, "frames", json_integer(m->nframes));
        json_object_set_new(o, "second_per_grid", json_real(m->second_per_grid));
    }
    return o;
}

static void emit_left_out(const mull_draw *d, const mull_error *err) {
    char why[1024];
    snprintf(why, sizeof why, "%.300s%s%.600s", err->where, *err->where ? ": " : "", err->why);
    mull_cmd_emit(json_pack("{s:s,s:I,s:n,s:n,s:n,s:[],s:s}", "dataset", mull_set_name(d->set), "index",
                            (json_int_t)d->index, "text", "ids", "labels", "media", "skipped", why));
}

static void emit_sample(const mull_sample *s) {
    json_t *media = json_array(), *reasoning = json_array(), *order = json_array();
    for (size_t i = 0; i < s->nmedia; i++) json_array_append_new(media, media_json(&s->media[i], s->size[i]));
    for (size_t i = 0; i < s->nreasoning; i++)
        json_array_append_new(reasoning, media_json(&s->reasoning[i], s->size[s->nmedia + i]));
    for (int i = 0; i < s->norder; i++) json_array_append_new(order, json_integer(s->order[i]));
    json_t *o = json_pack("{s:s,s:I,s:s,s:o,s:o,s:o,s:n,s:s,s:s}", "dataset", mull_set_name(s->set), "index",
                          (json_int_t)s->index, "text", s->text, "ids", ids_json(s->ids, s->n), "labels",
                          ids_json(s->labels, s->n), "media", media, "skipped", "problem_type", s->problem_type,
                          "solution", s->solution);
    if (o && s->subset) {
        json_object_set_new(o, "subset", json_string(s->subset));
        json_object_set_new(o, "row", json_integer(s->row));
    }
    if (o && s->nreasoning) json_object_set(o, "reasoning", reasoning);
    if (o && s->norder) json_object_set(o, "order", order);
    json_decref(reasoning);
    json_decref(order);
    mull_cmd_emit(o);
}

/* One row: 0, MULL_SKIP when it was left out (and said so), or what ends the command. */
static int show(data_job *j, const mull_draw *d, mull_error *err) {
    mull_example e;
    mull_sample s;
    int rc = mull_dataset_get(mull_mix_set(j->mix, d->set), d->index, d->key, &e, err);
    if (!rc) {
        rc = mull_sample_build(&j->builder, &e, &s, err);
        mull_example_fini(&e);
    }
    if (!rc) {
        emit_sample(&s);
        mull_sample_fini(&s);
        return MULL_OK;
    }
    if (rc == MULL_ENOMEM || rc == MULL_EUNSUPPORTED || rc == MULL_EINTERNAL) return rc;
    j->bad += rc != MULL_SKIP;
    emit_left_out(d, err);
    return MULL_SKIP;
}

static int show_draw(data_job *j, int64_t place, mull_error *err) {
    mull_draw d = mull_mix_draw(j->mix, place);
    int64_t rows = mull_dataset_rows(mull_mix_set(j->mix, d.set));
    for (int64_t t = 0; t < rows; t++) {
        int rc = show(j, &d, err);
        if (rc != MULL_SKIP) return rc;
        d.index = (d.index + 1) % rows;
    }
    return mull_fail(err, MULL_EFORMAT, "no sample can be used", mull_set_name(d.set), "see the lines above",
                     "every row is left out");
}

static int show_rows(data_job *j, int64_t from, int64_t limit, mull_error *err) {
    int rc = MULL_OK;
    int64_t at = 0;
    for (int s = 0; s < MULL_SET_COUNT; s++) {
        mull_dataset *set = mull_mix_set(j->mix, (mull_set)s);
        for (int64_t i = 0; set && i < mull_dataset_rows(set); i++, at++) {
            if (at < from || (limit >= 0 && at >= from + limit)) continue;
            mull_draw d = {(mull_set)s, i, (uint64_t)j->recipe.seed << 32 ^ (uint64_t)i};
            rc = show(j, &d, err);
            if (rc < 0) return rc;
        }
    }
    return MULL_OK;
}

static void print_notes(const mull_recipe_report *report, const char *path) {
    for (size_t i = 0; i < report->n; i++) {
        const mull_recipe_note *n = &report->notes[i];
        char where[256], hint[96] = "";
        if (n->line)
            snprintf(where, sizeof where, "%.150s line %d", path, n->line);
        else
            snprintf(where, sizeof where, "%.150s", path);
        if (*n->did_you_mean) snprintf(hint, sizeof hint, "; did you mean %s?", n->did_you_mean);
        fprintf(stderr, "%s: %s%s (%s): %s%s\n", n->error ? "error" : "note", n->error ? "wrong recipe " : "", n->key,
                where, n->message, hint);
    }
}

int mull_cmd_data(int argc, char **argv) {
    const char *config = NULL, *model = NULL;
    const char **sets = calloc((size_t)argc + 1, sizeof *sets);
    size_t nsets = 0;
    long long limit = -1, from = 0;
    bool sequential = false;
    int bad = sets ? 0 : MULL_EXIT_FAILED;
    for (int i = 1; i < argc && !bad; i++) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool taken = true;
        if (!strcmp(flag, "--help")) {
            fputs(HELP, stdout);
            free(sets);
            return MULL_EXIT_OK;
        }
        if (!strcmp(flag, "--sequential")) {
            sequential = true;
            taken = false;
        } else if (*flag != '-') {
            if (config) bad = mull_cmd_usage("data", "one CONFIG.yaml is expected, '%s' is a second", flag);
            config = flag;
            taken = false;
        } else if (!value)
            bad = mull_cmd_usage("data", "unknown argument or missing value: '%s'", flag);
        else if (!strcmp(flag, "--set"))
            sets[nsets++] = value;
        else if (!strcmp(flag, "--model"))
            model = value;
        else if (!strcmp(flag, "--limit"))
            bad = mull_cmd_int("data", flag, value, 0, INT64_MAX / 2, &limit);
        else if (!strcmp(flag, "--from"))
            bad = mull_cmd_int("data", flag, value, 0, INT64_MAX / 2, &from);
        else
            bad = mull_cmd_usage("data", "unknown argument '%s'", flag);
        i += taken;
    }
    if (!bad && !config) bad = mull_cmd_usage("data", "CONFIG.yaml is needed");
    if (bad) {
        free(sets);
        return MULL_EXIT_USAGE;
    }
    data_job j = {0};
    mull_tokenizer *t = NULL;
    mull_recipe_report report = {0};
    mull_error err = {0};
    int rc = mull_recipe_load(config, sets, nsets, &j.recipe, &report, &err);
    print_notes(&report, config);
    free(sets);
    bool listed = report.errors > 0;
    mull_recipe_report_fini(&report);
    if (rc) return listed ? MULL_EXIT_USAGE : mull_cmd_fail(&err);
    if (!model && *j.recipe.model_path) model = j.recipe.model_path;
    if (!model)
        rc = mull_fail(&err, MULL_EARG, "cannot build samples", config, "set model_path or pass --model DIR",
                       "no checkpoint is named whose tokenizer could be used");
    if (!rc) rc = mull_tokenizer_load(model, &t, &err);
    if (!rc) rc = mull_builder_init(&j.builder, &j.recipe, t, &err);
    if (!rc) rc = mull_mix_open(&j.recipe, &j.mix, &err);
    if (!rc && sequential) rc = show_rows(&j, from, limit, &err);
    if (!rc && !sequential) {
        int64_t n = limit < 0 ? mull_mix_rows(j.mix) : limit;
        for (int64_t i = 0; !rc && i < n; i++) rc = show_draw(&j, from + i, &err);
    }
    if (!rc && j.bad) fprintf(stderr, "note: %lld bad rows were left out\n", (long long)j.bad);
    mull_mix_close(j.mix);
    mull_tokenizer_destroy(t);
    mull_recipe_fini(&j.recipe);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
