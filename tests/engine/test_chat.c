/* Rendering: text around nothing is one run. "<think>" and "</think>" without latents between them are tokenised
 * together, as the reference tokenises the whole string. */
#include "engine/text/chat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Printable ASCII and newline (Ċ), one merge over the seam: "><". */
static mull_tokenizer *small_tokenizer(void) {
    json_t *vocab = json_object(), *added = json_array();
    int id = 0;
    for (int c = 33; c < 127; c++) {
        const char text[2] = {(char)c, 0};
        json_object_set_new(vocab, text, json_integer(id++));
    }
    json_object_set_new(vocab, "\xc4\xa0", json_integer(id++));
    json_object_set_new(vocab, "\xc4\x8a", json_integer(id++));
    json_object_set_new(vocab, "><", json_integer(id++));
    static const char *const names[] = {"<|im_start|>", "<|im_end|>", "<|latent_pad|>"};
    for (int i = 0; i < 3; i++)
        json_array_append_new(added, json_pack("{s:i, s:s, s:b}", "id", id++, "content", names[i], "special", 1));
    json_t *root =
        json_pack("{s:{s:s, s:o, s:[s]}, s:o, s:{s:s, s:b}}", "model", "type", "BPE", "vocab", vocab, "merges", "> <",
                  "added_tokens", added, "pre_tokenizer", "type", "ByteLevel", "use_regex", 0);
    char *text = json_dumps(root, 0);
    mull_tokenizer *t = NULL;
    mull_error err = {0};
    if (mull_tokenizer_parse(text, strlen(text), "test", &t, &err)) fail_msg("%s", err.why);
    free(text);
    json_decref(root);
    return t;
}

static size_t count(const mull_ids *ids, int32_t id) {
    size_t n = 0;
    for (size_t i = 0; i < ids->len; i++) n += ids->data[i] == id;
    return n;
}

static void seam(void **state) {
    (void)state;
    mull_tokenizer *t = small_tokenizer();
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "x");
    for (int latents = 0; latents < 3; latents++) {
        mull_render_opts o = {.format = MULL_PROMPT_CHATML, .mode = MULL_MODE_MMLATENT2, .latents = latents};
        mull_ids ids = {0};
        mull_error err = {0};
        assert_int_equal(mull_chat_render(t, messages, NULL, 0, &o, NULL, &ids, &err), 0);
        assert_int_equal(count(&ids, mull_tokenizer_special(t, "<|latent_pad|>")), latents);
        assert_int_equal(count(&ids, 96), latents == 0); /* "><" */
        mull_ids_fini(&ids);
    }
    json_decref(messages);
    mull_tokenizer_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(seam)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
