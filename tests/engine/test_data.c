/* Recipes, JSON rows, the mix, the loader: without parquet and without reference vectors. */
#include "media_util.h"

#include "engine/data/loader.h"
#include "engine/data/json_rows.h"
#include "engine/model/init_tokenizer.h"

#include <math.h>
#include <sys/stat.h>

static char dir[64];

static int setup(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/mull-data-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}
static int teardown(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static char *in_dir(const char *name) {
    static char path[2][256];
    static int k;
    k ^= 1;
    snprintf(path[k], sizeof path[k], "%s/%s", dir, name);
    return path[k];
}

/* ---- recipes */
static const mull_recipe_note *find(const mull_recipe_report *r, const char *key) {
    for (size_t i = 0; i < r->n; i++)
        if (!strcmp(r->notes[i].key, key)) return &r->notes[i];
    fail_msg("nothing was said of %s", key);
    return NULL;
}

static void recipe_errors(void **state) {
    (void)state;
    static const char yaml[] = "learning_rat: 1\n"
                               "train_dataset_args:\n"
                               "  mix_datas: {SAT: 2, VideoR1: 2}\n"
                               "  sat_location: x\n"
                               "  num_latent_tokens: 1.5\n"
                               "  seed: 3\n"
                               "  split: train\n"
                               "  split: val\n"
                               "save_steps: [1]\n"
                               "freeze_vision: maybe\n"
                               "lr_scheduler_type: cosin\n"
                               "pause_token: <|latent_pad|>\n";
    mull_recipe r;
    mull_recipe_report report;
    mull_error err = {0};
    static const char *const sets[] = {"beta=-1", "nonsense", "stag=stage1"};
    assert_int_equal(mull_recipe_parse(yaml, sizeof yaml - 1, "t", sets, 3, &r, &report, &err), MULL_EARG);
    static const struct {
        const char *key, *mean;
        int line;
        bool error;
    } want[] = {
        {"learning_rat", "learning_rate", 1, true},
        {"train_dataset_args.mix_datas", "", 3, false}, /* normalised */
        {"train_dataset_args.num_latent_tokens", "", 5, true},
        {"train_dataset_args.seed", "", 6, true}, /* belongs at the top */
        {"train_dataset_args.split", "", 8, true},
        {"save_steps", "", 9, true},
        {"freeze_vision", "", 10, true},
        {"lr_scheduler_type", "", 11, true},
        {"pause_token", "", 12, false},
        {"beta", "", 0, true},
        {"stag", "stage", 0, true},
        {"train_dataset_args.video_r1_location", "", 3, true},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const mull_recipe_note *n = find(&report, want[i].key);
        assert_int_equal(n->line, want[i].line);
        assert_int_equal(n->error, want[i].error);
        assert_string_equal(n->did_you_mean, want[i].mean);
    }
    assert_int_equal(report.errors, 11); /* those above and "nonsense" */
    mull_recipe_report_fini(&report);
}

static const char SFT[] = "train_dataset_args:\n  mix_datas: {'SAT': 3, 'ZebraCOT': 1}\n  sat_location: a\n"
                          "  zebracot_location: b\n  no_reason_mode: True\n";

static void recipe_defaults(void **state) {
    (void)state;
    mull_recipe r;
    mull_error err = {0};
    assert_int_equal(mull_recipe_parse(SFT, sizeof SFT - 1, "t", NULL, 0, &r, NULL, &err), 0);
    assert_int_equal(r.kind, MULL_SFT);
    assert_true(fabs(r.weight[MULL_SET_SAT] - 0.75) < 1e-12);
    assert_int_equal(r.save_steps, 4000);
    mull_recipe_fini(&r);
    static const char *const sets[] = {"mmlatent_mode_stage2=true", "train_dataset_args.mmlatent_rl_mode=True",
                                       "mix_datas.SAT=1", "learning_rate=2e-6"};
    assert_int_equal(mull_recipe_parse(SFT, sizeof SFT - 1, "t", sets, 4, &r, NULL, &err), 0);
    assert_int_equal(r.kind, MULL_GRPO);
    assert_int_equal(r.save_steps, 50);
    assert_int_equal(r.gradient_accumulation_steps, 32);
    assert_true(r.weight[MULL_SET_SAT] == 1 && r.weight[MULL_SET_ZEBRA] == 0); /* --set brings a mix of its own */
    assert_true(r.learning_rate == 2e-6);
    json_t *j = mull_recipe_json(&r);
    assert_string_equal(text_at(j, "lr_scheduler_type"), "cosine");
    json_decref(j);
    mull_recipe_fini(&r);
    /* What only shows in the whole: Zebra-CoT without a mode, both stages at once. */
    static const char *const bad[] = {"no_reason_mode=False"}, *const both[] = {"mmlatent_mode_stage1=True",
                                                                                "mmlatent_mode_stage2=True"};
    assert_int_equal(mull_recipe_parse(SFT, sizeof SFT - 1, "t", bad, 1, &r, NULL, &err), MULL_EARG);
    assert_int_equal(mull_recipe_parse(SFT, sizeof SFT - 1, "t", both, 2, &r, NULL, &err), MULL_EARG);
    static const char *const broken[] = {"",     "a: [1,\n",          "- 1\n",
                                         "\t\n", "a: b\n---\nc: d\n", "&a {train_dataset_args: *a}"};
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(mull_recipe_parse(broken[i], strlen(broken[i]), "t", NULL, 0, &r, NULL, &err), MULL_EARG);
}

/* ---- JSON rows */
static void array_rows(void **state) {
    (void)state;
    /* Strings with brackets, escapes, a string longer than the scan's chunk, blanks of every kind, U+2028. */
    mull_buf b = {0};
    mull_error err = {0};
    mull_json_rows *r;
    mull_buf_puts(&b, "\xef\xbb\xbf \n\t[\r\n{\"a\":\"]},[\\\"\\\\\", \"n\":[[{}]]}\n , \"\xe2\x80\xa8\\u2028\" "
                      ",\t-1.5e3,null ,{\"long\":\"");
    for (int i = 0; i < 300000; i++) mull_buf_puts(&b, i % 3 ? "x" : "\\\"");
    mull_buf_puts(&b, "\"},{\"broken\": tru}, []\n]\n \n");
    FILE *f = fopen(in_dir("a.json"), "w");
    assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(mull_json_rows_open(in_dir("a.json"), &r, &err), 0);
    assert_int_equal(mull_json_rows_count(r), 7);
    json_t *row;
    assert_int_equal(mull_json_rows_get(r, 4, &row, &err), 0);
    assert_int_equal(json_string_length(json_object_get(row, "long")), 300000);
    json_decref(row);
    assert_int_equal(mull_json_rows_get(r, 0, &row, &err), 0);
    assert_string_equal(text_at(row, "a"), "]},[\"\\");
    json_decref(row);
    assert_int_equal(mull_json_rows_get(r, 1, &row, &err), 0);
    assert_string_equal(json_string_value(row), "\xe2\x80\xa8\xe2\x80\xa8");
    json_decref(row);
    assert_int_equal(mull_json_rows_get(r, 5, &row, &err), MULL_EFORMAT); /* costs itself only */
    assert_int_equal(mull_json_rows_get(r, 6, &row, &err), 0);
    json_decref(row);
    assert_int_equal(mull_json_rows_get(r, 7, &row, &err), MULL_EARG);
    mull_json_rows_close(r);
    mull_buf_fini(&b);
}

static void broken_rows(void **state) {
    (void)state;
    static const char *const bad[] = {
        "[1,,2]", "[1,]", "[1", "[\"a", "[1] x", "[1]]", "[}", "[,1]", "[{\"a\": \"b]}, 2]"};
    mull_json_rows *r;
    mull_error err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(mull_json_rows_from_bytes(bad[i], strlen(bad[i]), "bad.json", &r, &err), MULL_EFORMAT);
        assert_non_null(strstr(err.where, "bad.json, line 1"));
    }
    assert_int_equal(mull_json_rows_from_bytes("[]", 2, "x", &r, &err), 0);
    assert_int_equal(mull_json_rows_count(r), 0);
    mull_json_rows_close(r);
    static const char lines[] = "\n{\"a\":1}\r\n  \n[1]\n{\"a\":";
    assert_int_equal(mull_json_rows_from_bytes(lines, sizeof lines - 1, "x.jsonl", &r, &err), 0);
    assert_int_equal(mull_json_rows_count(r), 3);
    json_t *row;
    assert_int_equal(mull_json_rows_get(r, 2, &row, &err), MULL_EFORMAT);
    mull_json_rows_close(r);
}

/* ---- mix and loader over a set of messages, some rows bad */
enum { ROWS = 60, BAD_ROW = 7 };

typedef struct world {
    mull_recipe r;
    mull_mix *mix;
    mull_tokenizer *t;
    mull_builder b;
} world;

static void open_world(world *w, const char *const *sets, size_t n) {
    char yaml[512];
    mull_error err = {0};
    FILE *f = fopen(in_dir("m.jsonl"), "w");
    for (int i = 0; i < ROWS; i++) {
        if (i == BAD_ROW) {
            fprintf(f, "{\"messages\": 3}\n");
            continue;
        }
        fprintf(f, "{\"messages\": [{\"role\":\"user\",\"content\":\"question %d", i);
        for (int k = 0; k < i % 9; k++) fprintf(f, " and more");
        fprintf(f, "\"},{\"role\":\"assistant\",\"content\":\"<think><|latent_pad|></think>\\nanswer\"}]}\n");
    }
    assert_int_equal(fclose(f), 0);
    snprintf(yaml, sizeof yaml, "train_dataset_args:\n  mix_datas: {Messages: 1}\n  messages_location: %s/m.jsonl\n",
             dir);
    assert_int_equal(mull_recipe_parse(yaml, strlen(yaml), "t", sets, n, &w->r, NULL, &err), 0);
    assert_int_equal(mull_mix_open(&w->r, &w->mix, &err), 0);
    int ids[MULL_SPECIALS], size;
    assert_int_equal(mull_init_tokenizer_write(dir, false, ids, &size, &err), 0);
    assert_int_equal(mull_tokenizer_load(dir, &w->t, &err), 0);
    assert_int_equal(mull_builder_init(&w->b, &w->r, w->t, &err), 0);
}
static void close_world(world *w) {
    mull_mix_close(w->mix);
    mull_tokenizer_destroy(w->t);
    mull_recipe_fini(&w->r);
}

static void mix_draws(void **state) {
    (void)state;
    world w;
    open_world(&w, NULL, 0);
    for (int epoch = 0; epoch < 3; epoch++) { /* every row once an epoch, in another order */
        bool seen[ROWS] = {false};
        int moved = 0;
        for (int i = 0; i < ROWS; i++) {
            mull_draw d = mull_mix_draw(w.mix, epoch * ROWS + i), again = mull_mix_draw(w.mix, epoch * ROWS + i);
            assert_true(d.index == again.index && d.key == again.key);
            assert_false(seen[d.index]);
            seen[d.index] = true;
            moved += d.index != mull_mix_draw(w.mix, i).index;
        }
        if (epoch) assert_true(moved > ROWS / 2);
    }
    close_world(&w);
}

typedef struct told {
    int bad;
    int64_t index;
} told;
static void tell(void *ctx, const mull_draw *d, bool bad, const mull_error *why) {
    told *t = ctx;
    assert_true(bad && why->why[0]);
    t->bad++;
    t->index = d->index;
}

/* All ids of steps [from, to) of a rank, with the borders. */
static void run(world *w, int rank, int n_ranks, int threads, mull_position start, int steps, mull_ids *out, told *t,
                mull_position *end) {
    mull_loader *l;
    mull_error err = {0};
    mull_loader_opts o = {.rank = rank, .world = n_ranks, .threads = threads, .start = start, .note = tell, .ctx = t};
    assert_int_equal(mull_loader_open(&w->r, w->mix, &w->b, &o, &l, &err), 0);
    for (int s = 0; s < steps;) {
        mull_batch b;
        assert_int_equal(mull_loader_next(l, &b, &err), 0);
        assert_int_equal(b.cu[b.nseq], b.rows);
        if (w->r.pack_tokens) assert_true(b.rows <= w->r.pack_tokens || b.nseq == 1);
        for (int i = 0; i < b.nseq; i++) mull_ids_add(out, b.cu[i + 1]);
        mull_ids_append(out, b.ids, (size_t)b.rows);
        mull_ids_append(out, b.labels, (size_t)b.rows);
        s += b.last;
        mull_batch_fini(&b);
    }
    if (end) *end = mull_loader_position(l);
    mull_loader_close(l);
}

static void loader_repeats(void **state) {
    (void)state;
    static const char *const sets[] = {"gradient_accumulation_steps=6", "pack_tokens=150", "max_bad_share=0.2",
                                       "prefetch_tokens=100"};
    world w;
    open_world(&w, sets, 4);
    mull_ids one = {0}, four = {0}, parts = {0};
    told t1 = {0}, t4 = {0}, tp = {0};
    mull_position at, end;
    run(&w, 0, 1, 1, (mull_position){0}, 20, &one, &t1, &end);
    run(&w, 0, 1, 4, (mull_position){0}, 20, &four, &t4, NULL);
    run(&w, 0, 1, 3, (mull_position){0}, 7, &parts, &tp, &at);
    run(&w, 0, 1, 2, at, 13, &parts, &tp, &at);
    assert_int_equal(one.len, four.len);
    assert_memory_equal(one.data, four.data, one.len * sizeof *one.data);
    assert_int_equal(one.len, parts.len);
    assert_memory_equal(one.data, parts.data, one.len * sizeof *one.data);
    assert_int_equal(t1.bad, 2); /* 120 samples are two epochs */
    assert_int_equal(t1.index, BAD_ROW);
    assert_true(t4.bad == 2 && tp.bad == 2);
    assert_true(at.step == 20 && at.step == end.step && at.bad == 2 && at.drawn == end.drawn && end.drawn == 122);
    mull_ids_fini(&one);
    mull_ids_fini(&four);
    mull_ids_fini(&parts);
    close_world(&w);
}

static void loader_labels(void **state) {
    (void)state;
    static const char *const sets[] = {"loss_on=assistant", "max_bad_share=1"};
    world w;
    open_world(&w, sets, 2);
    mull_loader *l;
    mull_error err = {0};
    mull_loader_opts o = {0};
    mull_batch b;
    assert_int_equal(mull_loader_open(&w.r, w.mix, &w.b, &o, &l, &err), 0);
    assert_int_equal(mull_loader_next(l, &b, &err), 0);
    mull_ids counted = {0};
    mull_buf text = {0};
    for (int64_t i = 0; i < b.rows; i++)
        if (b.labels[i] != MULL_IGNORE) mull_ids_add(&counted, b.labels[i]);
    assert_int_equal(mull_tokenizer_decode(w.t, counted.data, counted.len, false, &text, &err), 0);
    assert_string_equal(text.data, "<think></think>\nanswer<|im_end|>"); /* the latent is not learnt */
    mull_batch_fini(&b);
    mull_loader_close(l);
    mull_ids_fini(&counted);
    mull_buf_fini(&text);
    close_world(&w);
}

static void loader_fails(void **state) {
    (void)state;
    static const char *const sets[] = {"max_bad_share=0", "gradient_accumulation_steps=60"};
    world w;
    open_world(&w, sets, 2);
    mull_loader *l;
    mull_error err = {0};
    mull_loader_opts o = {0};
    mull_batch b;
    int rc = MULL_OK;
    assert_int_equal(mull_loader_open(&w.r, w.mix, &w.b, &o, &l, &err), 0);
    for (int i = 0; !rc && i < 120; i++) {
        rc = mull_loader_next(l, &b, &err);
        mull_batch_fini(&b);
    }
    assert_int_equal(rc, MULL_ELIMIT);
    mull_loader_close(l);
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipe_errors), cmocka_unit_test(recipe_defaults), cmocka_unit_test(array_rows),
        cmocka_unit_test(broken_rows),   cmocka_unit_test(mix_draws),       cmocka_unit_test(loader_repeats),
        cmocka_unit_test(loader_labels), cmocka_unit_test(loader_fails),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
