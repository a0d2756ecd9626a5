/* Parquet through Arrow: the same table in six encodings reads the same, in any order; damage is an error. The files
 * are tests/data/datasets, written by make.py there. */
#include "media_util.h"

#include "engine/data/dataset.h"
#include "engine/data/parquet.h"
#include "engine/data/sample.h"

#if !MULL_HAVE_PARQUET
static void says_so(void **state) {
    (void)state;
    mull_parquet *p;
    mull_error err = {0};
    assert_false(mull_parquet_available());
    assert_int_equal(mull_parquet_open("x.parquet", NULL, 0, &p, &err), MULL_EUNSUPPORTED);
    assert_non_null(strstr(err.todo, "ops/deps"));
}
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(says_so)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else

static const char *const FILES[] = {"plain", "snappy", "gzip_v2", "zstd_large", "brotli_delta", "lz4"};
enum { NFILES = 6, ROWS = 23 };

static char *path_of(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/datasets/%s.parquet", MULL_TEST_DATA, name);
    return path;
}

static void check_row(const mull_row *r, int i) {
    const mull_cell *q = mull_cell_find(&r->top, "question"), *a = mull_cell_find(&r->top, "answers"),
                    *im = mull_cell_find(&r->top, "images"), *n = mull_cell_find(&r->top, "number"),
                    *s = mull_cell_find(&r->top, "share"), *f = mull_cell_find(&r->top, "flag");
    char want[64];
    assert_true(q && a && im && n && s && f);
    snprintf(want, sizeof want, "How many? \xc3\xbc %d ", i);
    if (i == 5) {
        assert_int_equal(q->kind, MULL_CELL_NULL);
    } else {
        assert_int_equal(q->kind, MULL_CELL_TEXT);
        assert_int_equal(q->len, strlen(want) + (size_t)i * 40);
        assert_memory_equal(q->data, want, strlen(want));
        assert_int_equal(q->data[q->len], 0);
    }
    assert_int_equal(a->kind, MULL_CELL_LIST);
    assert_int_equal(a->n, i % 4 + 1);
    for (size_t k = 0; k < a->n; k++) assert_int_equal(a->items[k].data[0], '0' + (int)k);
    assert_int_equal(im->n, i % 3);
    for (size_t k = 0; k < im->n; k++) {
        const mull_cell *b = mull_cell_find(&im->items[k], "bytes"), *p = mull_cell_find(&im->items[k], "path");
        assert_int_equal(b->kind, MULL_CELL_BYTES);
        assert_memory_equal(b->data, "\x89PNG", 4);
        assert_int_equal(p->kind, MULL_CELL_NULL);
    }
    if (i % 7 == 3)
        assert_int_equal(n->kind, MULL_CELL_NULL);
    else
        assert_true(n->kind == MULL_CELL_INT && n->i == i * 1000003);
    assert_true(s->kind == MULL_CELL_REAL && s->real == i / 8.0);
    assert_true(f->kind == MULL_CELL_BOOL && f->i == (i % 2 == 0));
}

static void encodings(void **state) {
    (void)state;
    for (int k = 0; k < NFILES; k++) {
        mull_parquet *p;
        mull_error err = {0};
        mull_row r;
        assert_int_equal(mull_parquet_open(path_of(FILES[k]), NULL, 0, &p, &err), 0);
        assert_int_equal(mull_parquet_rows(p), ROWS);
        assert_int_equal(mull_parquet_columns(p), 7);
        /* In order, backwards, and by jumps over row groups. */
        for (int i = 0; i < 3 * ROWS; i++) {
            int row = i < ROWS ? i : i < 2 * ROWS ? 2 * ROWS - 1 - i : i * 10 % ROWS;
            assert_int_equal(mull_parquet_read(p, row, &r, &err), 0);
            check_row(&r, row);
            mull_row_free(&r);
        }
        assert_int_equal(mull_parquet_read(p, ROWS, &r, &err), MULL_EARG);
        mull_parquet_close(p);
    }
}

static void columns(void **state) {
    (void)state;
    static const char *const names[] = {"images", "absent", "number"};
    mull_parquet *p;
    mull_error err = {0};
    mull_row r;
    assert_int_equal(mull_parquet_open(path_of("snappy"), names, 3, &p, &err), 0);
    assert_int_equal(mull_parquet_read(p, 10, &r, &err), 0);
    assert_int_equal(r.top.n, 2);
    assert_non_null(mull_cell_find(&r.top, "images"));
    assert_null(mull_cell_find(&r.top, "question"));
    mull_row_free(&r);
    mull_parquet_close(p);
}

/* Whatever byte is wrong, and wherever the file ends: an error or some row, never a crash. */
static void damage(void **state) {
    (void)state;
    char path[] = "/tmp/mull-parquet-XXXXXX";
    int fd = mkstemp(path), refused = 0;
    assert_true(fd >= 0);
    for (int k = 0; k < NFILES; k++) {
        mull_buf b = slurp(path_of(FILES[k]));
        for (int t = 0; t < 60; t++) {
            mull_parquet *p;
            mull_error err = {0};
            size_t at = b.len * (size_t)t / 60, len = t % 2 ? b.len : at;
            char was = b.data[at];
            b.data[at] = (char)(was ^ 0x55);
            assert_int_equal(ftruncate(fd, 0), 0);
            assert_int_equal(pwrite(fd, b.data, len, 0), (ssize_t)len);
            b.data[at] = was;
            int rc = mull_parquet_open(path, NULL, 0, &p, &err);
            for (int i = 0; !rc && i < mull_parquet_rows(p) && i < ROWS; i++) {
                mull_row r;
                mull_error e = {0};
                if (mull_parquet_read(p, i, &r, &e)) assert_true(e.why[0]);
                mull_row_free(&r);
            }
            if (rc) {
                assert_true(err.why[0] && !strcmp(err.where, path));
                refused++;
            } else {
                mull_parquet_close(p);
            }
        }
        mull_buf_fini(&b);
    }
    assert_true(refused >= NFILES * 30); /* all that were cut */
    close(fd);
    unlink(path);
}

/* The columns of SAT: the rows with a question become samples, the one without is bad. */
static void as_sat(void **state) {
    (void)state;
    for (int k = 0; k < NFILES; k++) {
        char yaml[1200];
        mull_recipe r;
        mull_dataset *d;
        mull_error err = {0};
        snprintf(yaml, sizeof yaml, "train_dataset_args:\n  mix_datas: {SAT: 1}\n  sat_location: %s\n",
                 path_of(FILES[k]));
        assert_int_equal(mull_recipe_parse(yaml, strlen(yaml), "t", NULL, 0, &r, NULL, &err), 0);
        assert_int_equal(mull_dataset_open(&r, MULL_SET_SAT, &d, &err), 0);
        assert_int_equal(mull_dataset_rows(d), ROWS);
        for (int i = 0; i < ROWS; i++) {
            mull_example e;
            int rc = mull_dataset_get(d, i, 1, &e, &err);
            assert_int_equal(rc, i == 5 ? MULL_EFORMAT : MULL_OK);
            if (rc) continue;
            assert_int_equal(e.nmedia, i % 3);
            assert_int_equal(e.norder, i % 4 + 1);
            int right = 0;
            while (e.order[right]) right++; /* the answer is answers[0] */
            char want[64];
            snprintf(want, sizeof want, "<answer>%c. 0</answer>", 'A' + right);
            assert_string_equal(e.answer.s.data, want);
            mull_example_fini(&e);
        }
        mull_dataset_close(d);
        mull_recipe_fini(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodings),
        cmocka_unit_test(columns),
        cmocka_unit_test(damage),
        cmocka_unit_test(as_sat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
