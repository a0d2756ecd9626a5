/* What people see: cleaning and cutting of foreign text, tables, spans. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/term.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void cleaned(const char *in, int columns, const char *want) {
    char out[256];
    mull_text_clean(in, columns, out, sizeof out);
    assert_string_equal(out, want);
}

static void control_characters_never_pass(void **state) {
    (void)state;
    cleaned("a\033[31mb\r\n\t\x7f", -1, "a?[31mb????");
    cleaned("x\xc2\x9b"
            "31m",
            -1, "x?31m"); /* C1: CSI in one character */
    cleaned("a\xe2\x80\xae"
            "b",
            -1, "a?b"); /* right-to-left override */
    cleaned("", 5, "");
}

static void cut_at_columns_not_bytes(void **state) {
    (void)state;
    cleaned("hello", 5, "hello");
    cleaned("hello!", 5, "hell…");
    cleaned("日本語", 6, "日本語");
    cleaned("日本語", 5, "日本…");
    cleaned("日本語", 4, "日…"); /* a wide character that would need half a column is left out */
    cleaned("naïve", 4, "naï…");
    cleaned("abc", 1, "…");
    cleaned("abc", 0, "");
    assert_int_equal(mull_text_columns("日本語ab"), 8);
    assert_int_equal(mull_text_columns("\xff\xfe"), 2);
    assert_int_equal(mull_text_columns("\xe6\x97"), 2); /* half a character */
}

static void never_writes_past_the_room(void **state) {
    (void)state;
    const char *text = "日本語 and more that does not fit";
    for (size_t cap = 4; cap < 40; cap++) {
        char out[64];
        memset(out, 'X', sizeof out);
        mull_text_clean(text, -1, out, cap);
        assert_true(strlen(out) < cap);
        for (size_t i = cap; i < sizeof out; i++) assert_int_equal(out[i], 'X');
        mull_text_clean(text, 7, out, cap);
        assert_true(strlen(out) < cap);
    }
}

static char *printed(const mull_table *t, int width, bool color) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    assert_non_null(f);
    mull_table_print(t, f, width, color);
    fclose(f);
    return text;
}

static void tables_fit(void **state) {
    (void)state;
    static const mull_column columns[] = {
        {"ID", .right = true}, {"NAME", .shrink = 4}, {"STATE", .state = true}, {"NODE", .shrink = 3}};
    mull_table t;
    mull_table_init(&t, columns, 4);
    mull_table_row(&t, (const char *const[]){"7", "a name with 日本語 in it", "RUNNING", "node-number-one"});
    mull_table_row(&t, (const char *const[]){"12345", "b\nb", "PENDING", NULL});
    char *wide = printed(&t, 0, false);
    assert_non_null(strstr(wide, "a name with 日本語 in it  RUNNING  node-number-one\n"));
    assert_non_null(strstr(wide, "12345  b?b"));
    assert_null(strstr(wide, " \n"));
    free(wide);
    for (int width = 1; width < 70; width++) {
        char *text = printed(&t, width, false), *save = NULL;
        int lines = 0;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save), lines++)
            assert_true(mull_text_columns(line) <= width);
        assert_true(lines <= 3);
        free(text);
    }
    char *color = printed(&t, 0, true);
    assert_non_null(strstr(color, "\033[34mRUNNING\033[0m"));
    free(color);
    mull_table_fini(&t);
}

static void spans(void **state) {
    (void)state;
    static const struct {
        double s;
        const char *want;
    } cases[] = {
        {0, "0:00"},  {7.4, "0:07"}, {59.6, "1:00"},  {754, "12:34"}, {11045, "3:04:05"}, {183845, "2-03:04:05"},
        {-5, "0:00"}, {NAN, "?"},    {INFINITY, "?"}, {1e300, "?"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[40];
        mull_span(cases[i].s, out, sizeof out);
        assert_string_equal(out, cases[i].want);
    }
    char out[40];
    mull_bytes(1536, out, sizeof out);
    assert_string_equal(out, "1.5 KiB");
    mull_bytes(12, out, sizeof out);
    assert_string_equal(out, "12 B");
}

int main(void) {
    setlocale(LC_CTYPE, "C.UTF-8");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(control_characters_never_pass),
        cmocka_unit_test(cut_at_columns_not_bytes),
        cmocka_unit_test(never_writes_past_the_room),
        cmocka_unit_test(tables_fit),
        cmocka_unit_test(spans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
