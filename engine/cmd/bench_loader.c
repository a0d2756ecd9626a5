/* mull-engine bench loader: how fast a recipe's batches are made when nobody trains on them: rows read, media decoded,
 * resized and cut, text rendered and tokenized, samples packed. What bench train takes for as many tokens says whether
 * a run would wait for it. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/data/loader.h"

#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine bench loader CONFIG.yaml [--set key=value]... [--threads N] [--batches 100]\n"
    "  One JSON line: samples, media and tokens a second of batches after the first; threads are the recipe's unless\n"
    "  given. model_path needs a tokenizer only.\n";

typedef struct loader_bench {
    const char *config, **sets;
    size_t nsets;
    long long threads, batches;
} loader_bench;

static int run(const loader_bench *b, mull_error *err) {
    mull_recipe r = {0};
    mull_recipe_report report = {0};
    mull_tokenizer *t = NULL;
    mull_builder builder = {0};
    mull_mix *mix = NULL;
    mull_loader *l = NULL;
    int64_t tokens = 0, samples = 0, media = 0;
    double start = 0;
    int rc = mull_recipe_load(b->config, b->sets, b->nsets, &r, &report, err);
    mull_recipe_report_fini(&report);
    if (rc) return rc;
    rc = mull_tokenizer_load(r.model_path, &t, err);
    if (!rc) rc = mull_builder_init(&builder, &r, t, err);
    if (!rc) rc = mull_mix_open(&r, &mix, err);
    if (!rc) rc = mull_loader_open(&r, mix, &builder, &(mull_loader_opts){.threads = (int)b->threads}, &l, err);
    for (long long i = 0; i <= b->batches && !rc; i++) {
        mull_batch batch;
        if ((rc = mull_loader_next(l, &batch, err))) break;
        if (i == 0) { /* what was made ahead of it is counted with the others: they are many */
            start = mull_cmd_ms();
        } else {
            tokens += batch.rows;
            samples += batch.nseq;
            media += (int64_t)(batch.nmedia + batch.nlatent);
        }
        mull_batch_fini(&batch);
    }
    double s = (mull_cmd_ms() - start) / 1e3;
    if (!rc)
        mull_cmd_emit(json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "bench", "loader", "batches",
                                (json_int_t)b->batches, "samples", (json_int_t)samples, "media", (json_int_t)media,
                                "tokens", (json_int_t)tokens, "samples_s", (double)samples / s, "media_s",
                                (double)media / s, "tok_s", (double)tokens / s));
    mull_loader_close(l);
    mull_mix_close(mix);
    mull_tokenizer_destroy(t);
    mull_recipe_fini(&r);
    return rc;
}

int mull_bench_loader(int argc, char **argv) {
    loader_bench b = {.batches = 100};
    mull_error err = {0};
    int rc = 0;
    b.sets = calloc((size_t)argc + 1, sizeof *b.sets);
    if (!b.sets) return MULL_EXIT_FAILED;
    for (int i = 1; i < argc && !rc; i++) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(flag, "--help")) {
            fputs(USAGE, stdout);
            free(b.sets);
            return MULL_EXIT_OK;
        }
        if (*flag != '-' && !b.config) {
            b.config = flag;
            continue;
        }
        if (!value)
            rc = mull_cmd_usage("bench loader", "unknown argument or missing value: '%s'", flag);
        else if (!strcmp(flag, "--set"))
            b.sets[b.nsets++] = value;
        else if (!strcmp(flag, "--threads"))
            rc = mull_cmd_int("bench loader", flag, value, 1, 1024, &b.threads);
        else if (!strcmp(flag, "--batches"))
            rc = mull_cmd_int("bench loader", flag, value, 1, 1 << 30, &b.batches);
        else
            rc = mull_cmd_usage("bench loader", "unknown argument '%s'", flag);
        i++;
    }
    if (!rc && !b.config) rc = mull_cmd_usage("bench loader", "CONFIG.yaml is needed");
    if (!rc && run(&b, &err)) rc = mull_cmd_fail(&err);
    free(b.sets);
    return rc;
}
