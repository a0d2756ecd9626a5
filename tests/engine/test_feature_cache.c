/* The features' cache on disk: the same numbers as the tower, damage of every kind is computed again, and the folder
 * stays within its bound. */
#include "tests/engine/trainer_util.h"

#include "tests/engine/own_case.h"

#include "engine/train/feature_cache.h"

#include <sys/stat.h>
#include <zstd.h>

typedef struct cached {
    own_case own;
    char dir[64], notes[4096];
    int encoded;
} cached;

static void note(void *ctx, const char *level, const char *text) {
    cached *t = ctx;
    (void)level;
    strncat(t->notes, text, sizeof t->notes - strlen(t->notes) - 1);
}

static int tower(void *ctx, const mull_grid *g, const float *patches, float *out, mull_error *err) {
    cached *t = ctx;
    mull_pack_source s = mull_pack_tower(t->own.m);
    t->encoded++;
    return s.encode(s.ctx, g, patches, out, err);
}

static mull_feature_cache *opened(cached *t, int64_t limit, const char *model) {
    mull_feature_cache *f = NULL;
    mull_error err = {0};
    mull_feature_cache_opts o = {t->dir, limit, model ? model : t->own.dir, MULL_WEIGHT_F32, note, t};
    if (mull_feature_cache_open(&o, mull_model_config(t->own.m), (mull_pack_source){tower, t}, &f, &err))
        fail_msg("%s: %s", err.where, err.why);
    return f;
}

static void cached_init(cached *t) {
    *t = (cached){0};
    own_init(&t->own, MULL_WEIGHT_F32, 2);
    snprintf(t->dir, sizeof t->dir, "%s/features", t->own.dir);
}

static void cached_fini(cached *t) {
    remove_tree(t->dir);
    own_fini(&t->own);
}

static const mull_grid GRID = {.t = 1, .h = 6, .w = 10};

/* The features of picture k: the case's, its first value moved. */
static float *ask(cached *t, mull_feature_cache *f, int k) {
    mull_pack_source s = mull_feature_cache_source(f);
    float *out = malloc(15 * (size_t)mull_model_config(t->own.m)->hidden * sizeof *out);
    mull_error err = {0};
    assert_non_null(out);
    t->own.image[0] = (float)k;
    if (s.encode(s.ctx, &GRID, t->own.image, out, &err)) fail_msg("%s", err.why);
    return out;
}

/* Asks again and again compares with the tower. */
static void same(cached *t, mull_feature_cache *f, int k) {
    float *got = ask(t, f, k), *want = malloc(15 * (size_t)mull_model_config(t->own.m)->hidden * sizeof *want);
    mull_error err = {0};
    mull_pack_source s = mull_pack_tower(t->own.m);
    assert_int_equal(s.encode(s.ctx, &GRID, t->own.image, want, &err), 0);
    assert_memory_equal(got, want, 15 * (size_t)mull_model_config(t->own.m)->hidden * sizeof *want);
    free(got);
    free(want);
}

/* The only entry's path. */
static char *only(const cached *t) {
    char *found = NULL;
    for (int part = 0; part < 256; part++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%02x", t->dir, part);
        DIR *d = opendir(path);
        for (struct dirent *e; d && (e = readdir(d));)
            if (e->d_name[0] != '.') {
                assert_null(found);
                found = mull_path_join(path, e->d_name);
            }
        if (d) closedir(d);
    }
    assert_non_null(found);
    return found;
}

static void hits_are_the_same_bits(void **state) {
    (void)state;
    cached t;
    cached_init(&t);
    mull_feature_cache *f = opened(&t, 0, NULL);
    for (int round = 0; round < 3; round++)
        for (int k = 0; k < 3; k++) same(&t, f, k);
    assert_int_equal(t.encoded, 3);
    mull_feature_figures n = mull_feature_cache_figures(f);
    assert_true(n.found == 6 && n.computed == 3 && n.damaged == 0 && n.bytes > 0);
    mull_feature_cache_close(f);
    f = opened(&t, 0, NULL); /* another run */
    for (int k = 0; k < 3; k++) same(&t, f, k);
    assert_int_equal(t.encoded, 3);
    assert_int_equal(mull_feature_cache_figures(f).bytes, n.bytes);
    mull_feature_cache_close(f);
    /* Another tower, another entry; the language model does not matter. */
    char other[64];
    snprintf(other, sizeof other, "%s/other_XXXXXX", t.own.dir);
    util_checkpoint(OWN "/configs.json", "own", other);
    f = opened(&t, 0, other);
    same(&t, f, 0);
    assert_int_equal(t.encoded, 3);
    mull_feature_cache_close(f);
    mull_safetensors *file = NULL;
    mull_error err = {0};
    assert_int_equal(mull_safetensors_open(other, &file, &err), 0);
    const mull_tensor_info *w = mull_safetensors_find(file, "visual.patch_embed.proj.weight");
    if (!w) w = mull_safetensors_find(file, "model.visual.patch_embed.proj.weight");
    assert_non_null(w);
    float x = *(const float *)w->data, y = x + 1;
    mull_safetensors_close(file);
    char path[96];
    snprintf(path, sizeof path, "%s/model.safetensors", other);
    mull_buf b = file_bytes(other, "model.safetensors");
    char *at = memmem(b.data, b.len, &x, sizeof x);
    assert_non_null(at);
    FILE *out = fopen(path, "r+b");
    assert_non_null(out);
    assert_int_equal(fseek(out, (long)(at - b.data), SEEK_SET), 0);
    assert_int_equal(fwrite(&y, sizeof y, 1, out), 1);
    assert_int_equal(fclose(out), 0);
    mull_buf_fini(&b);
    f = opened(&t, 0, other);
    free(ask(&t, f, 0));
    assert_int_equal(t.encoded, 4);
    mull_feature_cache_close(f);
    remove_tree(other);
    cached_fini(&t);
}

static void damage_is_computed_again(void **state) {
    (void)state;
    cached t;
    cached_init(&t);
    mull_feature_cache *f = opened(&t, 0, NULL);
    same(&t, f, 0);
    char *path = only(&t);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (int how = 0; how < 5; how++) {
        FILE *x = fopen(path, how == 3 ? "wb" : "r+b");
        assert_non_null(x);
        char frame[256], byte;
        if (how == 0) { /* a bit, in the values */
            fseek(x, st.st_size / 2, SEEK_SET);
            assert_int_equal(fread(&byte, 1, 1, x), 1);
            byte ^= 4;
            fseek(x, st.st_size / 2, SEEK_SET);
            fwrite(&byte, 1, 1, x);
        } else if (how == 1) {
            assert_int_equal(ftruncate(fileno(x), st.st_size / 3), 0);
        } else if (how == 2) {
            assert_int_equal(ftruncate(fileno(x), 0), 0);
        } else if (how == 3) { /* a good frame of something else */
            size_t n = ZSTD_compress(frame, sizeof frame, "MULLFEA1 and more", 17, 1);
            assert_false(ZSTD_isError(n));
            fwrite(frame, 1, n, x);
        } else {
            assert_int_equal(ftruncate(fileno(x), 1 << 30), 0);
        }
        fclose(x);
        t.notes[0] = 0;
        same(&t, f, 0);
        assert_int_equal(t.encoded, how + 2);
        assert_non_null(strstr(t.notes, "is damaged"));
        same(&t, f, 0); /* and it is there again */
        assert_int_equal(t.encoded, how + 2);
    }
    assert_int_equal(mull_feature_cache_figures(f).damaged, 5);
    mull_feature_cache_close(f);
    free(path);
    cached_fini(&t);
}

/* Room for five entries: the ones used last stay. */
static void the_folder_is_bounded(void **state) {
    (void)state;
    cached t;
    cached_init(&t);
    mull_feature_cache *f = opened(&t, 0, NULL);
    same(&t, f, 0);
    int64_t one = mull_feature_cache_figures(f).bytes, limit = one * 11 / 2;
    mull_feature_cache_close(f);
    f = opened(&t, limit, NULL);
    for (int k = 1; k < 20; k++) {
        same(&t, f, k);
        same(&t, f, 0); /* used all the time */
        assert_true(mull_feature_cache_figures(f).bytes <= limit);
    }
    int before = t.encoded;
    same(&t, f, 0);
    same(&t, f, 19);
    assert_int_equal(t.encoded, before);
    same(&t, f, 1);
    assert_int_equal(t.encoded, before + 1);
    assert_true(mull_feature_cache_figures(f).removed >= 14);
    mull_feature_cache_close(f);
    cached_fini(&t);
}

/* A folder that takes nothing: everything is computed, and that is said once. */
static void no_room_at_all(void **state) {
    (void)state;
    cached t;
    cached_init(&t);
    assert_int_equal(mkdir(t.dir, 0777), 0);
    for (int part = 0; part < 256; part++) { /* files where folders should be */
        char path[160];
        snprintf(path, sizeof path, "%s/%02x", t.dir, part);
        FILE *x = fopen(path, "wb");
        assert_non_null(x);
        fclose(x);
    }
    mull_feature_cache *f = opened(&t, 0, NULL);
    for (int k = 0; k < 3; k++) same(&t, f, k);
    assert_int_equal(t.encoded, 3);
    const char *at = strstr(t.notes, "cannot write");
    assert_non_null(at);
    assert_null(strstr(at + 1, "cannot write"));
    mull_feature_cache_close(f);
    mull_error err = {0};
    mull_feature_cache_opts o = {"/nowhere/at/all", 0, t.own.dir, MULL_WEIGHT_F32, note, &t};
    assert_int_equal(mull_feature_cache_open(&o, mull_model_config(t.own.m), (mull_pack_source){tower, &t}, &f, &err),
                     MULL_EMISSING);
    assert_null(f);
    cached_fini(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(hits_are_the_same_bits),
                                       cmocka_unit_test(damage_is_computed_again),
                                       cmocka_unit_test(the_folder_is_bounded), cmocka_unit_test(no_room_at_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
