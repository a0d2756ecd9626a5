/* A small dataset for evaluations in tests: BLINK's IQ test and SAT as folders of rows with images beside them. */
#ifndef MULL_TESTS_SUPPORT_EVAL_DATA_H
#define MULL_TESTS_SUPPORT_EVAL_DATA_H

#include "tests/support/check.h"
#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static inline void mull_eval_copy(const char *from, const char *to) {
    size_t n;
    char *bytes = mull_slurp(from, &n);
    if (!bytes) fail_msg("%s is not there", from);
    mull_write_file(to, bytes, n);
    free(bytes);
}

/* FOLDER/BLINK/IQ_Test with rows rows, every seventh with an image that is not there, and FOLDER/SAT-v2 with sat. */
static inline void mull_eval_data(const char *folder, int rows, int sat) {
    char path[600];
    static const char *const MADE[] = {"", "/BLINK", "/BLINK/IQ_Test", "/SAT-v2"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s", folder, MADE[i]);
        mkdir(path, 0777);
    }
    snprintf(path, sizeof path, "%s/BLINK/IQ_Test/a.png", folder);
    mull_eval_copy(MULL_TEST_DATA "/media/small_alpha.png", path);
    snprintf(path, sizeof path, "%s/SAT-v2/b.png", folder);
    mull_eval_copy(MULL_TEST_DATA "/media/small_palette.png", path);
    snprintf(path, sizeof path, "%s/BLINK/IQ_Test/val.jsonl", folder);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    for (int i = 0; i < rows; i++)
        fprintf(f,
                "{\"idx\":\"v%d\",\"sub_task\":\"IQ_Test\",\"prompt\":\"Which of these is number %d?\\n(A) x\\n(B) y\","
                "\"answer\":\"(%c)\",\"image_1\":\"%s\",\"image_2\":null}\n",
                i, i, i % 2 ? 'A' : 'B', i % 7 == 4 ? "gone.png" : "a.png");
    assert_int_equal(fclose(f), 0);
    snprintf(path, sizeof path, "%s/SAT-v2/SAT_test.json", folder);
    assert_non_null(f = fopen(path, "we"));
    for (int i = 0; i < sat; i++)
        fprintf(f,
                "%s{\"question\":\"Is it %d?\",\"answers\":[\"yes\",\"no\"],\"correct_answer\":\"yes\","
                "\"question_type\":\"t%d\",\"image_paths\":[\"b.png\"]}",
                i ? ",\n" : "[", i, i % 3);
    fputs("]\n", f);
    assert_int_equal(fclose(f), 0);
}

/* The two folders hold the same results and samples, byte for byte. */
static inline void mull_eval_same(const char *a, const char *b, const char *const *names) {
    for (size_t i = 0; names[i]; i++) {
        char one[600], two[600];
        snprintf(one, sizeof one, "%s/%s", a, names[i]);
        snprintf(two, sizeof two, "%s/%s", b, names[i]);
        char *x = mull_slurp(one, NULL), *y = mull_slurp(two, NULL);
        if (!x || !y) fail_msg("%s is not there", x ? two : one);
        size_t at = 0;
        while (x[at] && x[at] == y[at]) at++;
        if (x[at] || y[at])
            fail_msg("%s and %s differ at byte %zu:\n%.200s\nand\n%.200s", one, two, at, x + at, y + at);
        free(x);
        free(y);
    }
}

#endif
