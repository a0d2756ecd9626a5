/* Text of the inference engine with a real tokenizer: what is streamed is what the result says, no piece holds half a
 * character, and a stop string ends the text before it wherever the tokens cut it. */
#include "tests/engine/model_util.h"

#include "engine/infer/infer.h"
#include "engine/model/init.h"

enum { MOST = 16 };

typedef struct told {
    mull_buf pieces, text;
    mull_ids ids;
    mull_finish finish;
    int done;
} told;

typedef struct sink {
    told t[MOST];
} sink;

/* Length of the well-formed UTF-8 character at s, 0 when there is none. */
static size_t character(const unsigned char *s, size_t n) {
    size_t len = s[0] < 0x80                   ? 1
                 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
                 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
                 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                               : 0;
    if (!len || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return len;
}

static void on_text(void *ctx, uint64_t id, const char *piece, size_t len) {
    sink *s = ctx;
    assert_true(len > 0);
    assert_false(s->t[id].done);
    for (size_t i = 0, k; i < len; i += k) {
        k = character((const unsigned char *)piece + i, len - i);
        assert_true(k > 0);
    }
    assert_int_equal(mull_buf_add(&s->t[id].pieces, piece, len), 0);
}

static void on_done(void *ctx, const mull_result *r) {
    told *t = &((sink *)ctx)->t[r->id];
    t->done++;
    t->finish = r->finish;
    assert_int_equal(mull_buf_add(&t->text, r->text, r->text_len), 0);
    assert_int_equal(mull_ids_append(&t->ids, r->ids, r->n), 0);
}

static void sink_fini(sink *s) {
    for (int i = 0; i < MOST; i++) {
        mull_buf_fini(&s->t[i].pieces);
        mull_buf_fini(&s->t[i].text);
        mull_ids_fini(&s->t[i].ids);
    }
    memset(s, 0, sizeof *s);
}

typedef struct setup {
    char dir[32];
    mull_model *m;
    mull_tokenizer *tok;
    mull_infer *f;
    sink s;
} setup;

static int group_setup(void **state) {
    setup *u = calloc(1, sizeof *u);
    mull_error err = {0};
    assert_non_null(u);
    snprintf(u->dir, sizeof u->dir, "/tmp/mull_text_XXXXXX");
    assert_non_null(mkdtemp(u->dir));
    assert_int_equal(mull_init_checkpoint("tiny", u->dir, 5, NULL, &err), 0);
    u->m = util_load(u->dir, MULL_WEIGHT_BF16, 2);
    assert_int_equal(mull_tokenizer_load(u->dir, &u->tok, &err), 0);
    assert_int_equal(mull_infer_create(u->m, u->tok, &(mull_infer_opts){.cache_tokens = 4096, .max_batch = 6},
                                       &(mull_infer_callbacks){.ctx = &u->s, .on_text = on_text, .on_done = on_done},
                                       &u->f, &err),
                     0);
    *state = u;
    return 0;
}

static int group_teardown(void **state) {
    setup *u = *state;
    mull_infer_destroy(u->f);
    mull_tokenizer_destroy(u->tok);
    mull_model_destroy(u->m);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", u->dir);
    assert_int_equal(system(command), 0);
    free(u);
    return 0;
}

static void ask(setup *u, int i, const char *const *stop, int nstop) {
    mull_ids ids = {0};
    mull_error err = {0};
    assert_int_equal(mull_tokenizer_encode(u->tok, "Say something.", 14, false, &ids, &err), 0);
    mull_request r = {.id = (uint64_t)i,
                      .ids = ids.data,
                      .n = ids.len,
                      .sampling = {.max_new_tokens = 80,
                                   .temperature = 1.5,
                                   .top_p = 1,
                                   .repetition_penalty = 1,
                                   .seed = (uint64_t)i,
                                   .ignore_eos = true,
                                   .stop = stop,
                                   .nstop = nstop}};
    assert_int_equal(mull_infer_submit(u->f, &r, &err), 0);
    mull_ids_fini(&ids);
}

static void finish(setup *u) {
    mull_error err = {0};
    int rc;
    while ((rc = mull_infer_step(u->f, &err)) > 0) {
    }
    assert_int_equal(rc, 0);
}

static void test_stream_is_the_text(void **state) {
    setup *u = *state;
    for (int i = 0; i < MOST; i++) ask(u, i, NULL, 0);
    finish(u);
    int many_bytes = 0;
    for (int i = 0; i < MOST; i++) {
        const told *t = &u->s.t[i];
        mull_buf whole = {0};
        mull_error err = {0};
        assert_int_equal(t->done, 1);
        assert_int_equal(t->ids.len, 80);
        for (size_t k = 0; k < t->ids.len; k++) assert_true(t->ids.data[k] < mull_tokenizer_size(u->tok));
        assert_int_equal(t->pieces.len, t->text.len);
        assert_memory_equal(t->pieces.data, t->text.data, t->text.len);
        assert_int_equal(mull_tokenizer_decode(u->tok, t->ids.data, t->ids.len, true, &whole, &err), 0);
        assert_int_equal(whole.len, t->text.len);
        assert_memory_equal(whole.data, t->text.data, whole.len);
        for (size_t k = 0; k < whole.len; k++) many_bytes += (unsigned char)whole.data[k] >= 0x80;
        mull_buf_fini(&whole);
    }
    assert_true(many_bytes > 100); /* random bytes: characters of several tokens did occur */
    sink_fini(&u->s);
}

/* Any run of characters of a free answer, taken as the stop string, cuts the same answer before its first occurrence.
 */
static void test_stop_cuts_the_same_text(void **state) {
    setup *u = *state;
    enum { FREE = 8 };
    for (int i = 0; i < FREE; i++) ask(u, i, NULL, 0);
    finish(u);
    for (int i = 0; i < FREE; i++) {
        mull_buf text = {0};
        assert_int_equal(mull_buf_add(&text, u->s.t[i].text.data, u->s.t[i].text.len), 0);
        size_t at = text.len / 2;
        while (at < text.len && ((unsigned char)text.data[at] & 0xc0) == 0x80) at++;
        size_t end = at;
        for (int k = 0; k < 1 + i % 4 && end < text.len; k++)
            end += character((unsigned char *)text.data + end, text.len - end);
        char *stop = strndup(text.data + at, end - at);
        assert_non_null(stop);
        if (strlen(stop) == 0) { /* a NUL character was drawn: no C string */
            free(stop);
            mull_buf_fini(&text);
            continue;
        }
        const char *const stops[] = {"never to be seen in noise", stop};
        mull_buf_fini(&u->s.t[i].pieces);
        mull_buf_fini(&u->s.t[i].text);
        u->s.t[i].done = 0;
        ask(u, i, stops, 2);
        finish(u);
        size_t first = (size_t)((char *)memmem(text.data, text.len, stop, strlen(stop)) - text.data);
        const told *t = &u->s.t[i];
        assert_int_equal(t->finish, MULL_FINISH_STOP);
        assert_int_equal(t->text.len, first);
        assert_int_equal(t->pieces.len, first);
        if (first) {
            assert_memory_equal(t->text.data, text.data, first);
            assert_memory_equal(t->pieces.data, text.data, first);
        }
        free(stop);
        mull_buf_fini(&text);
    }
    sink_fini(&u->s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stream_is_the_text),
                                       cmocka_unit_test(test_stop_cuts_the_same_text)};
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
