/* Pipe bytes into lines, and text into UTF-8. */
#include "worker/lines.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct got {
    char text[4096];
    size_t len, lines, dropped;
} got;

static void take(void *arg, const char *line, size_t n) {
    got *g = arg;
    g->lines++;
    if (!line) {
        g->dropped += n;
        return;
    }
    assert_true(g->len + n + 2 < sizeof g->text);
    memcpy(g->text + g->len, line, n);
    g->len += n;
    g->text[g->len++] = '|';
    g->text[g->len] = 0;
}

static void split(const char *data, size_t max, bool cut, size_t step, got *g) {
    mull_lines l;
    *g = (got){0};
    mull_lines_init(&l, max, cut);
    for (size_t at = 0, n = strlen(data); at < n; at += step)
        assert_int_equal(mull_lines_feed(&l, data + at, at + step < n ? step : n - at, take, g), 0);
    mull_lines_end(&l, take, g);
    mull_lines_fini(&l);
}

static void lines_whatever_the_pieces(void **state) {
    (void)state;
    for (size_t step = 1; step < 12; step++) {
        got g;
        split("one\r\ntwo\n\nlast", 100, true, step, &g);
        assert_string_equal(g.text, "one|two||last|");
    }
}

static void long_lines_are_cut_between_characters(void **state) {
    (void)state;
    for (size_t step = 1; step < 12; step++) {
        got g;
        split("abcd\xc3\xa9"
              "fg\nx\n",
              5, true, step, &g); /* the fifth byte begins a character of two */
        assert_string_equal(g.text, "abcd|\xc3\xa9"
                                    "fg|x|");
        assert_int_equal(g.dropped, 0);
    }
}

static void long_events_are_dropped_whole(void **state) {
    (void)state;
    for (size_t step = 1; step < 12; step++) {
        got g;
        split("12345\n123456789\nabc\n1234567", 5, false, step, &g);
        assert_string_equal(g.text, "12345|abc|");
        assert_int_equal(g.lines, 4);
        assert_int_equal(g.dropped, 16);
    }
}

static void repairs(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {{"plain", "plain"},
                 {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
                 {"a\xffz", "a\xef\xbf\xbdz"},
                 {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},                                 /* overlong */
                 {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},                 /* surrogate */
                 {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* above U+10FFFF */
                 {"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"}};                                /* cut off */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n;
        char *out = mull_utf8_repair(cases[i].in, strlen(cases[i].in), &n);
        assert_string_equal(out, cases[i].out);
        assert_int_equal(n, strlen(cases[i].out));
        free(out);
    }
    size_t n;
    char *out = mull_utf8_repair("a\0b", 3, &n);
    assert_string_equal(out, "a\xef\xbf\xbd"
                             "b");
    free(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(lines_whatever_the_pieces),
                                       cmocka_unit_test(long_lines_are_cut_between_characters),
                                       cmocka_unit_test(long_events_are_dropped_whole), cmocka_unit_test(repairs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
