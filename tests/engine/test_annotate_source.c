/* Inputs of columns: templates over JSON lines, folders and Parquet, several prompts a row, what a row may lack; the
 * same rows from any of the three give the same requests. */
#include "tests/engine/annotate_util.h"

#include "engine/annotate/source.h"
#include "engine/annotate/template.h"
#include "engine/data/parquet.h"

#define COLUMNS                                                                                                        \
    "{\"id\":7,\"name\":\"the \\\"cat\\\"\",\"n\":3,\"x\":0.5,\"ok\":true,\"tags\":[\"a\",1],\"none\":null,"           \
    "\"image\":\"a.png\",\"images\":[\"b.png\",{\"path\":\"c.png\"}]}"

static mull_job job_of(const char *spec) {
    mull_job j;
    mull_error err = {0};
    json_t *o = json_loads(spec, 0, NULL);
    assert_non_null(o);
    if (mull_job_read(o, &j, &err)) fail_msg("%s: %s", err.where, err.why);
    return j;
}

static mull_job with_prompt(const char *prompt) {
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s}", "kind", "annotate", "model", "/m", "input", "/i", "out", "/o",
                          "prompt", prompt);
    mull_job j;
    mull_error err = {0};
    assert_int_equal(mull_job_read(o, &j, &err), 0);
    return j;
}

/* The request that a template makes of COLUMNS; problem: what it says instead. */
static char *render(const char *prompt, char *problem) {
    mull_job j = with_prompt(prompt);
    mull__templates *t = NULL;
    mull_error err = {0};
    char *text = NULL;
    assert_int_equal(mull__templates_create(&j, &t, &err), 0);
    json_t *columns = json_loads(COLUMNS, 0, NULL);
    *problem = 0;
    int rc = mull__templates_render(t, 0, columns, &text, problem, 400, &err);
    assert_int_equal(rc, *problem == 0);
    json_decref(columns);
    mull__templates_destroy(t);
    mull_job_fini(&j);
    return text;
}

static void test_templates(void **state) {
    (void)state;
    char problem[400];
    static const char *const CASES[][2] = {
        {"Is {name} {{here}}?", "b.png|c.png|a.png|Is the \"cat\" {here}?"},
        {"{n}, {x}, {ok}, {tags}, [{none}]", "3, 0.5, true, [\"a\",1], []"},
        {"First {image} then {images}.", "First |a.png| then |b.png|c.png|."},
        {"{image}", "b.png|c.png|a.png"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char *text = render(CASES[i][0], problem), got[1000] = "";
        json_t *o = json_loads(text, 0, NULL), *part;
        size_t k;
        assert_string_equal(json_string_value(json_object_get(o, "custom_id")), "7");
        json_array_foreach(json_object_get(json_array_get(json_object_get(o, "messages"), 0), "content"), k, part) {
            const char *s = json_string_value(json_object_get(part, "text"));
            if (!s) s = json_string_value(json_object_get(part, "image"));
            assert_non_null(s);
            if (k) strcat(got, "|");
            strcat(got, s);
        }
        /* Media that a template does not name come first, in any order of the usual columns. */
        if (!strstr(got, i == 0 ? "Is the \"cat\" {here}?" : CASES[i][1]) && strcmp(got, CASES[i][1]) != 0 && i != 3)
            fail_msg("%s: %s", CASES[i][0], got);
        json_decref(o);
        free(text);
    }
    char *text = render("{nobody}", problem);
    assert_non_null(strstr(problem, "nobody"));
    assert_string_equal(text, "{\"custom_id\":\"7\"}"); /* so that the error record can name the row */
    free(text);
    free(render("", problem));
    assert_string_equal(problem, ""); /* its media are a prompt */
    static const char *const WRONG[] = {"{", "}", "a {b", "{}", "{a{b}}", "x } y"};
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        mull_job j = with_prompt(WRONG[i]);
        mull__templates *t = NULL;
        mull_error err = {0};
        assert_int_equal(mull__templates_create(&j, &t, &err), MULL_EARG);
        assert_null(t);
        mull_job_fini(&j);
    }
}

/* Reading on from any request gives what reading through gave. */
static void test_seek(void **state) {
    (void)state;
    enum { ROWS = 7, PROMPTS = 3, REQUESTS = ROWS * PROMPTS };
    char path[] = "/tmp/mull_source_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (int i = 0; i < ROWS; i++) dprintf(fd, i == 4 ? "\n[1]\n" : "{\"id\":\"r%d\",\"q\":\"%d\"}\n", i, i * i);
    close(fd);
    mull_job j =
        job_of("{\"kind\":\"annotate\",\"model\":\"/m\",\"input\":\"/i\",\"out\":\"/o\",\"prompts\":[\"a {q}\",\"b "
               "{q}{q}\",\"c\"]}");
    mull__source *s;
    mull_error err = {0};
    mull__line l;
    char *seen[REQUESTS];
    int64_t offset[REQUESTS], number[REQUESTS], n = 0;
    assert_int_equal(mull__source_open(path, &j, NULL, &s, &err), 0);
    while (mull__source_next(s, &l, &err) > 0) {
        assert_true(n < REQUESTS);
        seen[n] = strndup(l.data, l.len);
        offset[n] = l.offset;
        number[n++] = l.number;
    }
    mull__source_close(s);
    assert_int_equal(n, REQUESTS);
    assert_non_null(strstr(seen[4], "\"r1#2\""));
    assert_non_null(strstr(seen[4], "b 11"));
    assert_string_equal(seen[12], "[1]"); /* no object: it stays what it is, and is refused later */
    for (int64_t from = 0; from < n; from++) {
        assert_int_equal(mull__source_open(path, &j, NULL, &s, &err), 0);
        assert_int_equal(mull__source_seek(s, from, offset[from], number[from], &err), 0);
        for (int64_t k = from; k < n; k++) {
            assert_int_equal(mull__source_next(s, &l, &err), 1);
            assert_int_equal(l.number, number[k]);
            assert_int_equal(l.len, strlen(seen[k]));
            assert_memory_equal(l.data, seen[k], l.len);
        }
        assert_int_equal(mull__source_next(s, &l, &err), 0);
        mull__source_close(s);
    }
    for (int64_t i = 0; i < n; i++) free(seen[i]);
    mull_job_fini(&j);
    unlink(path);
}

/* By command: a folder, its rows as JSON lines, with two prompts: the same answers; a row that lacks a column is an
 * error with its line and its id. */
static void test_by_command(void **state) {
    (void)state;
    place p;
    char media[80], rows[96], other[96];
    place_init(&p);
    snprintf(media, sizeof media, "%s/media", p.dir);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", p.dir);
    snprintf(other, sizeof other, "%s/other", p.dir);
    shell("mkdir %s && cp '%s/media/shapes.png' '%s/media/birds.jpg' %s/ && echo no > %s/x.txt", media, MULL_TEST_DATA,
          MULL_TEST_DATA, media, media);
    shell("printf '%%s\\n' '{\"id\":\"birds.jpg\",\"image\":\"media/birds.jpg\"}' '{\"id\":\"shapes.png\",\"image\":"
          "\"media/shapes.png\"}' '{\"id\":\"z\"}' > %s",
          rows);
    const char *const flags[] = {
        "--prompts", "What is in {image}?", "--prompts", "Again: {image}", "--max-new-tokens", "4", NULL};
    snprintf(p.in, sizeof p.in, "%.50s/media", p.dir);
    assert_int_equal(annotate(&p, p.out, flags), 0);
    mull_buf text = get_file(p.dir, "stdout"); /* two pictures, each asked twice, each loaded once */
    json_t *totals = json_loadb(text.data, text.len, JSON_DISABLE_EOF_CHECK, NULL);
    assert_int_equal(util_int(json_object_get(totals, "media"), "loaded"), 2);
    assert_int_equal(util_int(json_object_get(totals, "media"), "shared"), 2);
    json_decref(totals);
    mull_buf_fini(&text);
    snprintf(p.in, sizeof p.in, "%.50s/rows.jsonl", p.dir);
    assert_int_equal(annotate(&p, other, flags), 0);
    mull_buf a = get_file(p.out, "output.jsonl"), b = get_file(other, "output.jsonl"),
             bad = get_file(other, "errors.jsonl");
    assert_int_equal(count_lines(&a), 4);
    assert_int_equal(count_lines(&b), 4);
    assert_int_equal(count_lines(&bad), 2);
    static const char *const IDS[] = {"birds.jpg#1", "birds.jpg#2", "shapes.png#1", "shapes.png#2"};
    for (size_t i = 0; i < 4; i++) {
        json_t *x = line_of(&a, i), *y = line_of(&b, i);
        assert_string_equal(text_at(x, "custom_id"), IDS[i]);
        assert_string_equal(text_at(y, "custom_id"), IDS[i]);
        assert_string_equal(text_at(x, "response.body.choices.0.message.content"),
                            text_at(y, "response.body.choices.0.message.content"));
        json_decref(x);
        json_decref(y);
    }
    json_t *e = line_of(&bad, 1);
    assert_string_equal(text_at(e, "custom_id"), "z#2");
    assert_int_equal(util_int(e, "line"), 3);
    assert_non_null(strstr(text_at(e, "error.message"), "image"));
    json_decref(e);
    mull_buf_fini(&a);
    mull_buf_fini(&b);
    mull_buf_fini(&bad);
    place_fini(&p);
}

/* The same answers packed with zstd, and as Parquet: what comes out again is what the plain file says; broken off in
 * the middle and started again they are the same bytes. */
static void test_output_formats(void **state) {
    (void)state;
    enum { ROWS = 50 };
    place p;
    place_init(&p);
    char out[2][96];
    FILE *f = fopen(p.in, "w");
    assert_non_null(f);
    for (int i = 0; i < ROWS; i++)
        fprintf(f, "{\"custom_id\":\"r%d\",\"messages\":[{\"role\":\"user\",\"content\":\"%d\"}],\"n\":%d}\n", i, i,
                1 + i % 3);
    fputs("{}\n", f);
    assert_int_equal(fclose(f), 0);
    const char *const plain[] = {"--max-new-tokens", "4", "--temperature", "0.8", "--shard-rows", "9", NULL};
    assert_int_equal(annotate(&p, p.out, plain), 0);
    mull_buf want = get_file(p.out, "output.jsonl");
    for (int i = 0; i < 2; i++) {
        snprintf(out[i], sizeof out[i], "%.50s/packed%d", p.dir, i);
        const char *const flags[] = {plain[0], plain[1],          plain[2], plain[3], plain[4],
                                     plain[5], "--output-format", "zstd",   NULL};
        if (i) { /* this one is stopped on its way */
            pid_t pid = start_annotate(&p, out[i], 0, flags);
            for (int k = 0; k < 2000 && !there(out[i], ".mull/shard-00000000.done"); k++) sleep_ms(1);
            kill(pid, SIGKILL);
            wait_engine(pid);
        }
        assert_int_equal(annotate(&p, out[i], flags), 0);
        assert_int_equal(annotate(&p, out[i], flags), 0); /* again: it is complete */
        assert_false(there(out[i], "output.jsonl"));
        same_files(p.out, out[i], "errors.jsonl");
    }
    same_files(out[0], out[1], "output.jsonl.zst");
    char path[128];
    snprintf(path, sizeof path, "%s/output.jsonl.zst", out[0]);
    mull__reader *r = NULL;
    mull_error err = {0};
    mull__line l;
    size_t at = 0;
    assert_int_equal(mull__reader_open(path, NULL, &r, &err), 0);
    while (mull__reader_next(r, &l, &err) > 0) {
        assert_true(at + l.len < want.len);
        assert_memory_equal(l.data, want.data + at, l.len);
        at += l.len + 1;
    }
    mull__reader_close(r);
    assert_int_equal(at, want.len);
    const char *const flags[] = {plain[0], plain[1],          plain[2],  plain[3], plain[4],
                                 plain[5], "--output-format", "parquet", NULL};
    snprintf(out[0], sizeof out[0], "%.50s/parquet", p.dir);
    int rc = wait_engine(start_annotate(&p, out[0], 0, flags));
#if MULL_HAVE_PARQUET
    assert_int_equal(rc, 0);
    snprintf(path, sizeof path, "%s/output.parquet", out[0]);
    mull_parquet *q = NULL;
    assert_int_equal(mull_parquet_open(path, NULL, 0, &q, &err), 0);
    assert_int_equal(mull_parquet_rows(q), ROWS);
    for (int64_t i = 0; i < ROWS; i++) {
        mull_row row;
        json_t *o = line_of(&want, (size_t)i);
        assert_int_equal(mull_parquet_read(q, i, &row, &err), 0);
        assert_string_equal(mull_cell_find(&row.top, "custom_id")->data, text_at(o, "custom_id"));
        assert_string_equal(mull_cell_find(&row.top, "text")->data,
                            text_at(o, "response.body.choices.0.message.content"));
        assert_int_equal(mull_cell_find(&row.top, "texts")->n, 1 + i % 3);
        assert_int_equal(mull_cell_find(&row.top, "line")->i, i + 1);
        mull_row_free(&row);
        json_decref(o);
    }
    mull_parquet_close(q);
#else
    assert_int_equal(rc, MULL_EXIT_FAILED);
    assert_true(stderr_has(&p, "does not write Parquet"));
#endif
    mull_buf_fini(&want);
    place_fini(&p);
}

#if MULL_HAVE_PARQUET
/* The same table in two encodings gives the same answers; numbers, nulls and lists of pictures are filled in. */
static void test_parquet(void **state) {
    (void)state;
    place p;
    place_init(&p);
    static const char *const NAMES[] = {"plain", "zstd_large"};
    char out[2][96];
    const char *const flags[] = {
        "--prompt", "{question} [{number}] [{answers}]", "--max-new-tokens", "2", "--shard-rows", "5", NULL};
    for (int i = 0; i < 2; i++) {
        char in[600];
        snprintf(out[i], sizeof out[i], "%.50s/out%d", p.dir, i);
        snprintf(in, sizeof in, "%s/datasets/%s.parquet", MULL_TEST_DATA, NAMES[i]);
        const char *const args[] = {"annotate", "--model", p.model,  "--in",   in,       "--out",     out[i], flags[0],
                                    flags[1],   flags[2],  flags[3], flags[4], flags[5], "--threads", "1",    NULL};
        assert_int_equal(wait_engine(start_engine(p.dir, args, NULL, -1, 0)), 0);
    }
    same_files(out[0], out[1], "output.jsonl");
    same_files(out[0], out[1], "errors.jsonl");
    mull_buf a = get_file(out[0], "output.jsonl"), bad = get_file(out[0], "errors.jsonl");
    if (count_lines(&bad)) fprintf(stderr, "%.600s\n", bad.data);
    assert_int_equal(count_lines(&a), 23);
    json_t *o = line_of(&a, 6);
    assert_int_equal(util_int(o, "line"), 7);
    json_decref(o);
    mull_buf_fini(&a);
    mull_buf_fini(&bad);
    place_fini(&p);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_seek),
#if MULL_HAVE_PARQUET
        cmocka_unit_test(test_parquet),
#endif
        cmocka_unit_test(test_by_command),
        cmocka_unit_test(test_output_formats)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
