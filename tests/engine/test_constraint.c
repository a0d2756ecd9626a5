/* Answers that must match an expression: the automaton agrees with PCRE2 on fixed and on random expressions and texts,
 * wrong expressions are refused with a place, and what a model says under a constraint matches it, whatever is asked
 * beside it. */
#include "tests/engine/annotate_util.h"

#include "engine/infer/regex.h"
#include "engine/infer/schema_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* 1: the whole of text matches, 0: it does not. */
static int ours(const char *regex, const char *text, size_t n) {
    mull_regex *r = NULL;
    mull_error err = {0};
    if (mull_regex_create(regex, strlen(regex), &r, &err)) fail_msg("%s: %s (%s)", regex, err.why, err.where);
    int32_t s = MULL_REGEX_START;
    for (size_t i = 0; i < n && s > MULL_REGEX_DEAD; i++) s = mull_regex_step(r, s, (uint8_t)text[i]);
    assert_true(s >= 0);
    int yes = s != MULL_REGEX_DEAD && mull_regex_accepts(r, s);
    if (s != MULL_REGEX_DEAD && mull_regex_ends(r, s))
        assert_true(yes); /* a live state that ends is an accepting one */
    mull_regex_destroy(r);
    return yes;
}

static int theirs(const char *regex, const char *text, size_t n) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *c =
        pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    if (!c) fail_msg("PCRE2 refuses %s at %zu", regex, (size_t)at);
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(c, NULL);
    int rc = pcre2_match(c, (PCRE2_SPTR)text, n, 0, 0, m, NULL);
    pcre2_match_data_free(m);
    pcre2_code_free(c);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) fail_msg("PCRE2: %d for %s", rc, regex);
    return rc >= 0;
}

static void same(const char *regex, const char *text) {
    size_t n = strlen(text);
    int a = ours(regex, text, n), b = theirs(regex, text, n);
    if (a != b) fail_msg("'%s' on '%s': %d, PCRE2 %d", regex, text, a, b);
}

static void test_fixed(void **state) {
    (void)state;
    static const char *const REGEX[] = {"",
                                        "a",
                                        "abc|abd|x",
                                        "(a|b)*abb",
                                        "[a-c]+[^a-c]",
                                        "\\d{2,3}-\\d+",
                                        "(?:yes|no)\\.",
                                        ".*",
                                        "\xc3\xa9+\xe2\x82\xac?",
                                        "[\xc3\xa0-\xc3\xbf]{2}",
                                        "[^\xc3\xa9]",
                                        "\\w+\\s\\W",
                                        "a{0}b{1}c{2,}",
                                        "(a?){3}",
                                        "((a|b)(c|d)?)+",
                                        "^ab$",
                                        "[]a]+",
                                        "[\\]\\-x]+",
                                        "\\x41\\.\\n\\t",
                                        "(|a)b",
                                        "[-a]+",
                                        "\\{\"n\": \\d+\\}"};
    static const char *const TEXT[] = {"",
                                       "a",
                                       "ab",
                                       "abc",
                                       "abd",
                                       "x",
                                       "abb",
                                       "aabb",
                                       "babb",
                                       "aad",
                                       "12-3",
                                       "1-2",
                                       "yes.",
                                       "no",
                                       "\xc3\xa9",
                                       "\xc3\xa9\xc3\xa9",
                                       "\xe2\x82\xac",
                                       "\xc3\xa9\xe2\x82\xac",
                                       "word !",
                                       "w\t\xc3\xa9",
                                       "bcc",
                                       "bccc",
                                       "aaa",
                                       "aaaa",
                                       "acbd",
                                       "]a]",
                                       "-x]",
                                       "A.\n\t",
                                       "b",
                                       "--a",
                                       "{\"n\": 12}",
                                       "\xf0\x9f\x98\x80",
                                       "a\nb"};
    for (size_t i = 0; i < sizeof REGEX / sizeof *REGEX; i++)
        for (size_t k = 0; k < sizeof TEXT / sizeof *TEXT; k++) same(REGEX[i], TEXT[k]);
}

/* A random expression over a, b, 0 and two longer characters. */
static void grow(uint64_t *s, int depth, mull_buf *out) {
    static const char *const ATOMS[] = {"a",
                                        "b",
                                        "0",
                                        "\xc3\xa9",
                                        "\xe2\x82\xac",
                                        ".",
                                        "[ab]",
                                        "[^a]",
                                        "\\d",
                                        "\\W",
                                        "[a\xc3\xa9-\xe2\x82\xac]",
                                        "[^\xc3\xa9"
                                        "0]"};
    static const char *const MORE[] = {"*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", ""};
    *s = util_splitmix(*s);
    int n = 1 + (int)(*s % 3);
    for (int i = 0; i < n; i++) {
        *s = util_splitmix(*s);
        if (depth > 0 && *s % 3 == 0) {
            mull_buf_puts(out, "(");
            grow(s, depth - 1, out);
            if (*s % 2) {
                mull_buf_puts(out, "|");
                grow(s, depth - 1, out);
            }
            mull_buf_puts(out, ")");
        } else {
            mull_buf_puts(out, ATOMS[*s % 12]);
        }
        *s = util_splitmix(*s);
        if (*s % 3 == 0) mull_buf_puts(out, MORE[*s / 3 % 8]);
    }
}

static void test_random(void **state) {
    (void)state;
    static const char *const CHARS[] = {"a", "b", "0", "\xc3\xa9", "\xe2\x82\xac", "\n"};
    uint64_t s = 42;
    int matched = 0;
    for (int i = 0; i < 600; i++) {
        mull_buf regex = {0};
        grow(&s, 2, &regex);
        for (int k = 0; k < 12; k++) {
            char text[64] = "";
            s = util_splitmix(s);
            for (int n = (int)(s % 7); n > 0; n--) {
                s = util_splitmix(s);
                strcat(text, CHARS[s % 6]);
            }
            same(regex.data, text);
            matched += ours(regex.data, text, strlen(text));
        }
        mull_buf_fini(&regex);
    }
    assert_true(matched > 200); /* else the comparison says little */
}

/* As Python's re, which PCRE2 takes for literals in some versions. */
static void test_up_to(void **state) {
    (void)state;
    static const struct {
        const char *regex, *text;
        int yes;
    } CASES[] = {{"a{,2}", "", 1},        {"a{,2}", "aa", 1},        {"a{,2}", "aaa", 0},   {"a{,2}", "a{,2}", 0},
                 {"(ab){,1}c", "abc", 1}, {"(ab){,1}c", "ababc", 0}, {"a{,}b", "aaaab", 1}, {"[x]{,0}", "x", 0}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        if (ours(CASES[i].regex, CASES[i].text, strlen(CASES[i].text)) != CASES[i].yes)
            fail_msg("%s on '%s'", CASES[i].regex, CASES[i].text);
}

static void test_refused(void **state) {
    (void)state;
    static const char *const WRONG[] = {"(",      ")",  "a)b",   "[",     "[a",      "*a",      "a**+", "a{2",
                                        "a{3,2}", "\\", "(?=a)", "(?i)a", "\\1",     "\\bx",    "a++",  "[b-a]",
                                        "\\xg1",  "x^", "a$b",   "{1}",   "\\ud800", "a{1001}", "\xff"};
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        mull_regex *r = NULL;
        mull_error err = {0};
        int rc = mull_regex_create(WRONG[i], strlen(WRONG[i]), &r, &err);
        if (!rc || r || !err.why[0]) fail_msg("accepted: %s", WRONG[i]);
    }
    /* Large ones cost a bounded amount: refused when made, or when walked. */
    static const char *const LARGE[] = {"((a{1000}){1000}){1000}", "((((){1000}){1000}){1000}){1000}",
                                        "(a|b)*a(a|b){500}", "(.{0,900}){900}"};
    for (size_t i = 0; i < sizeof LARGE / sizeof *LARGE; i++) {
        mull_regex *r = NULL;
        mull_error err = {0};
        if (mull_regex_create(LARGE[i], strlen(LARGE[i]), &r, &err)) continue;
        int32_t at = MULL_REGEX_START;
        uint64_t s = 7;
        for (int k = 0; k < 30000 && at > MULL_REGEX_DEAD; k++) {
            s = util_splitmix(s);
            at = mull_regex_step(r, at, s & 1 ? 'a' : 'b');
        }
        assert_true(mull_regex_states(r) <= MULL_REGEX_STATES);
        mull_regex_destroy(r);
    }
}

/* Documents that a schema's expression takes and leaves. */
static void test_schemas(void **state) {
    (void)state;
    static const struct {
        const char *schema, *good, *bad; /* documents with ~ between them */
    } CASES[] = {
        {"{\"type\":\"integer\"}", "0~-7~123", "01~1.0~\"1\"~--1~"},
        {"{\"type\":\"number\",\"title\":\"x\"}", "0~-0.5~1e5~12.25E-3", ".5~1.~1e~+1"},
        {"{\"type\":[\"boolean\",\"null\"]}", "true~false~null", "True~nul~"},
        {"{\"type\":\"string\",\"minLength\":1,\"maxLength\":3}", "\"a\"~\"\xc3\xa9\\n\\u00e9\"~\"\\\\\\\"x\"",
         "\"\"~\"abcd\"~\"a~\"\\q\"~\"\n\""},
        {"{\"enum\":[\"a.b\",3,null,{\"x\":[1]}]}", "\"a.b\"~3~null~{\"x\":[1]}", "\"axb\"~4~{\"x\": [1]}"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", "[]~[1]~[1,2]~[1, 2,3]", "[1,]~[ 1]~[1 ,2]~1"},
        {"{\"type\":\"array\",\"items\":{\"const\":\"k\"},\"minItems\":2,\"maxItems\":3}",
         "[\"k\",\"k\"]~[\"k\",\"k\", \"k\"]", "[]~[\"k\"]~[\"k\",\"k\",\"k\",\"k\"]"},
        {"{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\"},\"what "
         "\\\"it\\\"\":{\"anyOf\":[{\"type\":\"null\"},{"
         "\"$ref\":\"#/$defs/"
         "c\"}]}},\"required\":[\"n\"],\"additionalProperties\":false,\"$defs\":{\"c\":{\"enum\":[\"red\","
         "\"blue\"]}}}",
         "{\"n\":1,\"what \\\"it\\\"\":null}~{\"n\": -2, \"what \\\"it\\\"\": \"red\"}",
         "{\"n\":1}~{}~{\"what \\\"it\\\"\":null,\"n\":1}"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        for (int good = 0; good < 2; good++) {
            json_t *s = json_loads(CASES[i].schema, 0, NULL);
            mull_buf b = {0};
            mull_error err = {0};
            assert_non_null(s);
            if (mull_schema_regex(s, &b, &err)) fail_msg("%s: %s (%s)", CASES[i].schema, err.why, err.where);
            for (const char *at = good ? CASES[i].good : CASES[i].bad;;) {
                size_t n = strcspn(at, "~");
                if (ours(b.data, at, n) != good) fail_msg("%s: %.*s: %d", CASES[i].schema, (int)n, at, !good);
                if (!at[n]) break;
                at += n + 1;
            }
            mull_buf_fini(&b);
            json_decref(s);
        }
    static const char *const REFUSED[] = {
        "{}",
        "{\"type\":\"integer\",\"minimum\":3}",
        "{\"type\":\"string\",\"pattern\":\"a\"}",
        "{\"type\":\"object\"}",
        "{\"type\":\"array\"}",
        "{\"oneOf\":[{\"type\":\"null\"}]}",
        "{\"$ref\":\"#/$defs/a\"}",
        "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/a\"}}}",
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"}},\"required\":[\"b\"]}",
        "{\"type\":\"thing\"}",
        "{\"enum\":[]}",
        "{\"type\":\"string\",\"maxLength\":100000}"};
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++) {
        json_t *s = json_loads(REFUSED[i], 0, NULL);
        mull_buf b = {0};
        mull_error err = {0};
        assert_non_null(s);
        if (!mull_schema_regex(s, &b, &err) || !err.why[0]) fail_msg("accepted: %s", REFUSED[i]);
        mull_buf_fini(&b);
        json_decref(s);
    }
    mull_buf any = {0};
    mull_error err = {0};
    assert_int_equal(mull_json_regex(&any, &err), 0);
    static const char *const OBJECTS[] = {"{}", "{\"a\": [1, {\"b\":\"\"}, null], \"c\":{\"d\":true}}"};
    for (size_t i = 0; i < 2; i++) assert_true(ours(any.data, OBJECTS[i], strlen(OBJECTS[i])));
    assert_false(ours(any.data, "[]", 2));
    assert_false(ours(any.data, "{\"a\":}", 6));
    mull_buf_fini(&any);
}

/* By command: rows with forms of their own and one from the job, hot, in one batch; alone they say the same. */
static void test_answers(void **state) {
    (void)state;
    static const struct {
        const char *extra, *regex;
    } ROWS[] = {{"\"guided_choice\":[\"yes\",\"no\",\"per haps\"]", "yes|no|per haps"},
                {"\"guided_regex\":\"[A-D]\"", "[A-D]"},
                {"\"guided_regex\":\"\\\\d{4}-\\\\d\\\\d\"", "\\d{4}-\\d\\d"},
                {"\"guided_regex\":\"\\\\{\\\"n\\\": [0-9]{1,3}, \\\"ok\\\": (true|false)\\\\}\"",
                 "\\{\"n\": [0-9]{1,3}, \"ok\": (true|false)\\}"},
                {"\"guided_regex\":\"\xc3\xa9\xe2\x82\xac[\xc3\xa0-\xc3\xbf]{3}\"",
                 "\xc3\xa9\xe2\x82\xac[\xc3\xa0-\xc3\xbf]{3}"},
                {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"strict\":true,"
                 "\"schema\":{\"type\":"
                 "\"object\",\"properties\":{\"kind\":{\"enum\":[\"cat\",\"dog\"]},\"sure\":{\"type\":\"boolean\"}},"
                 "\"required\":["
                 "\"kind\",\"sure\"]}}}",
                 "\\{\"kind\": ?\"(cat|dog)\", ?\"sure\": ?(true|false)\\}"},
                {"\"n\":3", "job|words"}};
    enum { N = sizeof ROWS / sizeof *ROWS, TIMES = 6 };
    place p;
    place_init(&p);
    FILE *f = fopen(p.in, "w");
    assert_non_null(f);
    for (int i = 0; i < N * TIMES; i++)
        fprintf(f, "{\"messages\":[{\"role\":\"user\",\"content\":\"%d\"}],\"temperature\":1.5,%s}\n", i,
                ROWS[i % N].extra);
    fprintf(
        f, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"guided_regex\":\"(\"}\n"
           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"guided_choice\":[]}\n"
           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"guided_choice\":[\"a\"],\"guided_regex\":\"a\"}\n");
    assert_int_equal(fclose(f), 0);
    const char *const flags[] = {"--max-new-tokens", "60", "--choice", "job", "--choice", "words", NULL};
    assert_int_equal(annotate(&p, p.out, flags), 0);
    mull_buf a = get_file(p.out, "output.jsonl"), bad = get_file(p.out, "errors.jsonl");
    assert_int_equal(count_lines(&a), N * TIMES);
    assert_int_equal(count_lines(&bad), 3);
    int different = 0;
    char first[200] = "";
    for (size_t i = 0; i < N * TIMES; i++) {
        json_t *o = line_of(&a, i);
        for (int c = 0; c < (i % N == N - 1 ? 3 : 1); c++) {
            char at[80];
            snprintf(at, sizeof at, "response.body.choices.%d.message.content", c);
            const char *text = text_at(o, at);
            if (!theirs(ROWS[i % N].regex, text, strlen(text))) fail_msg("row %zu: '%s'", i, text);
            snprintf(at, sizeof at, "response.body.choices.%d.finish_reason", c);
            assert_string_equal(text_at(o, at), "stop");
            if (i % N == 2) {
                if (!*first) snprintf(first, sizeof first, "%s", text);
                different += strcmp(first, text) != 0;
            }
        }
        json_decref(o);
    }
    assert_true(different > 0); /* they are drawn, not fixed */
    /* One at a time, the same bytes. */
    char out[96];
    snprintf(out, sizeof out, "%s/alone", p.dir);
    const char *const alone[] = {"--max-new-tokens", "60", "--choice", "job", "--choice", "words",
                                 "--batch",          "1",  NULL};
    assert_int_equal(annotate(&p, out, alone), 0);
    same_files(p.out, out, "output.jsonl");
    mull_buf_fini(&a);
    mull_buf_fini(&bad);
    place_fini(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fixed),   cmocka_unit_test(test_random),
                                       cmocka_unit_test(test_up_to),   cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_schemas), cmocka_unit_test(test_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
