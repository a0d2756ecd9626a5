/* Indexes of arrays and schedules: what people write, what it means, what is refused. */
#include "schema/array_range.h"
#include "schema/cron.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void array_is(const char *text, const char *want) {
    char why[160] = "";
    json_t *got = mull_array_parse(text, why, sizeof why), *json = json_loads(want, 0, NULL);
    assert_non_null(json);
    if (!got) fail_msg("%s: %s", text, why);
    json_object_set_new(json, "range", json_string(text));
    char *words = json_dumps(got, 0);
    if (!json_equal(got, json)) fail_msg("%s is %s", text, words);
    free(words);
    json_decref(got);
    json_decref(json);
}

static void arrays(void **state) {
    (void)state;
    array_is("0-99%10", "{\"los\":[0],\"steps\":[1],\"starts\":[0],\"total\":100,\"lim\":10}");
    array_is("7", "{\"los\":[7],\"steps\":[1],\"starts\":[0],\"total\":1,\"lim\":null}");
    array_is("1,4,10-20:5", "{\"los\":[1,4,10],\"steps\":[1,1,5],\"starts\":[0,1,2],\"total\":5,\"lim\":null}");
    array_is("0-999999", "{\"los\":[0],\"steps\":[1],\"starts\":[0],\"total\":1000000,\"lim\":null}");
    array_is("0-3%9",
             "{\"los\":[0],\"steps\":[1],\"starts\":[0],\"total\":4,\"lim\":null}"); /* a limit that limits nothing */
    static const char *const bad[] = {"",       "-1",    "1-",      "5-3",        "0-1000000",
                                      "1,1",    "1-5,3", "0-9%0",   "0-9%",       "a-b",
                                      "0-9:0",  "0-9:",  "0-9 ",    "1,,2",       "1-2-3",
                                      "0-9%%2", "1;2",   "0x1-0x2", "1000000001", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char why[160] = "";
        json_t *j = mull_array_parse(bad[i], why, sizeof why);
        if (j || !why[0]) fail_msg("'%s' was taken", bad[i]);
    }
}

static void cron_is(const char *text, const char *key, const char *want) {
    char why[256];
    json_t *j = mull_cron_parse(text, why, sizeof why);
    if (!j) fail_msg("%s: %s", text, why);
    char *got = json_dumps(json_object_get(j, key), JSON_ENCODE_ANY | JSON_COMPACT);
    assert_string_equal(got, want);
    free(got);
    json_decref(j);
}

static void schedules(void **state) {
    (void)state;
    cron_is("30 2 * * mon-fri", "minute", "[30]");
    cron_is("30 2 * * mon-fri", "dow", "[1,2,3,4,5]");
    cron_is("30 2 * * mon-fri", "dow_any", "false");
    cron_is("30 2 * * mon-fri", "dom_any", "true");
    cron_is("30 2 * * mon-fri", "hour_any", "false");
    cron_is("*/20 * * * *", "minute", "[0,20,40]");
    cron_is("5/20 * * * *", "minute", "[5,25,45]");
    cron_is("0 1-9/4,23 * * *", "hour", "[1,5,9,23]");
    cron_is("0 0 1 JAN,jul *", "month", "[1,7]");
    cron_is("0 0 * * 7", "dow", "[0]");
    cron_is("0 0 * * 5-7", "dow", "[0,5,6]");
    cron_is("  0   0 * * sun ", "dow", "[0]");
    cron_is("@weekly", "dow", "[0]");
    cron_is("@hourly", "hour_any", "true");
    static const char *const bad[] = {
        "",           "* * * *",     "* * * * * *", "60 * * * *",    "* 24 * * *",  "* * 0 * *",
        "* * 32 * *", "* * * 13 *",  "* * * * 8",   "*/0 * * * *",   "5-1 * * * *", "a * * * *",
        "1, * * * *", "* * * foo *", "@sometimes",  "1-2-3 * * * *", "** * * * *",  "-1 * * * *"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char why[256] = "";
        json_t *j = mull_cron_parse(bad[i], why, sizeof why);
        if (j || !why[0]) fail_msg("'%s' was taken", bad[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(arrays), cmocka_unit_test(schedules)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
