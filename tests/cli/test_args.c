/* Command lines: every form of an option, words in order, wrong ones refused, values put into a spec. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct options {
    bool flag, watch;
    const char *text;
    long number;
    json_t *spec;
} options;

static const mull_opt OPTS[] = {
    {"--flag", 'f', MULL_OPT_FLAG, offsetof(options, flag), NULL, NULL, ""},
    {"--watch", 'w', MULL_OPT_FLAG, offsetof(options, watch), NULL, NULL, ""},
    {"--text", 't', MULL_OPT_TEXT, offsetof(options, text), NULL, "T", ""},
    {"--number", 'n', MULL_OPT_INT, offsetof(options, number), NULL, "N", ""},
    {"--top-p", 0, MULL_OPT_SPEC_NUMBER, offsetof(options, spec), "sampling.top_p", "P", ""},
    {"--seed", 0, MULL_OPT_SPEC_INT, offsetof(options, spec), "sampling.seed", "N", ""},
    {"--image", 0, MULL_OPT_SPEC_PATHS, offsetof(options, spec), "images", "FILE...", ""},
    {"--stop", 0, MULL_OPT_SPEC_TEXTS, offsetof(options, spec), "stop", "T", ""},
    {0}};
static const mull_cmd CMD = {"test", "", "", NULL, OPTS, NULL};

/* Parses words given as one line. */
static int parse(const char *line, options *o, int *words, char **argv) {
    static char copy[512];
    int argc = 0;
    snprintf(copy, sizeof copy, "test %s", line);
    for (char *save, *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    argv[argc] = NULL;
    json_decref(o->spec);
    *o = (options){.spec = json_object()};
    return mull_args_parse(&CMD, argc, argv, o, words);
}

static void forms_of_options(void **state) {
    (void)state;
    options o = {0};
    int words;
    char *argv[64];
    assert_int_equal(parse("one -f --text=a two -n 5 -- --flag -x", &o, &words, argv), 0);
    assert_true(o.flag);
    assert_false(o.watch);
    assert_string_equal(o.text, "a");
    assert_int_equal(o.number, 5);
    assert_int_equal(words, 4);
    assert_string_equal(argv[1], "one");
    assert_string_equal(argv[2], "two");
    assert_string_equal(argv[3], "--flag");
    assert_string_equal(argv[4], "-x");
    assert_int_equal(parse("-fw -t b", &o, &words, argv), 0);
    assert_true(o.flag && o.watch);
    assert_string_equal(o.text, "b");
    assert_int_equal(parse("--text -f", &o, &words, argv), 0); /* a value may look like an option */
    assert_string_equal(o.text, "-f");
    assert_int_equal(parse("--help", &o, &words, argv), -1);
    json_decref(o.spec);
}

static void wrong_ones_are_refused(void **state) {
    (void)state;
    static const char *const lines[] = {"--flg",
                                        "--text",
                                        "-x",
                                        "--number five",
                                        "--number 5x",
                                        "--number=",
                                        "--flag=yes",
                                        "--seed 1.5",
                                        "--top-p nan",
                                        "--top-p 1e99999",
                                        "--number 99999999999999999999"};
    options o = {0};
    int words;
    char *argv[64];
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (parse(lines[i], &o, &words, argv) <= 0) fail_msg("accepted: %s", lines[i]);
    json_decref(o.spec);
}

static void values_go_into_the_spec(void **state) {
    (void)state;
    options o = {0};
    int words;
    char *argv[64], cwd[4096], want[5000];
    assert_non_null(getcwd(cwd, sizeof cwd));
    assert_int_equal(parse("--image a.png /b/../c.png word --top-p 0.5 --stop x --stop y", &o, &words, argv), 0);
    const json_t *images = json_object_get(o.spec, "images");
    assert_int_equal(json_array_size(images), 3); /* every word up to the next option */
    snprintf(want, sizeof want, "%s/a.png", strcmp(cwd, "/") ? cwd : "");
    assert_string_equal(json_string_value(json_array_get(images, 0)), want);
    assert_string_equal(json_string_value(json_array_get(images, 1)), "/c.png");
    assert_true(json_real_value(json_object_get(json_object_get(o.spec, "sampling"), "top_p")) == 0.5);
    assert_int_equal(json_array_size(json_object_get(o.spec, "stop")), 2);
    json_decref(o.spec);
}

static void absolute_paths(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"/", "/"},          {"//a//b/", "/a/b"},  {"/a/./b/../c", "/a/c"},
                                           {"/../..", "/"},     {"/a/...", "/a/..."}, {"/a/b/../../..", "/"},
                                           {"/a b/é", "/a b/é"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *got = mull_absolute(cases[i][0]);
        assert_string_equal(got, cases[i][1]);
        free(got);
    }
}

/* Every command's table is complete: help, completion and the nearest name live on it. */
static void commands_are_described(void **state) {
    (void)state;
    for (int i = 0; mull_commands[i]; i++) {
        const mull_cmd *c = mull_commands[i];
        assert_non_null(c->run);
        assert_true(strlen(c->summary) > 10);
        for (const mull_opt *o = c->opts; o->type != MULL_OPT_END; o++) {
            assert_int_equal(strncmp(o->name, "--", 2), 0);
            for (const mull_opt *p = c->opts; p != o; p++) {
                assert_string_not_equal(p->name, o->name);
                if (o->letter) assert_int_not_equal(p->letter, o->letter);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_of_options),        cmocka_unit_test(wrong_ones_are_refused),
        cmocka_unit_test(values_go_into_the_spec), cmocka_unit_test(absolute_paths),
        cmocka_unit_test(commands_are_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
