/* Event, inbox and engine lines; the words of states and classes. */
#include "schema/event_line.h"
#include "schema/keys.h"
#include "schema/states.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

typedef json_t *parser(const char *text, size_t len, mull_err *err);

static bool takes(parser *p, const char *text) {
    mull_err err = {0};
    json_t *j = p(text, strlen(text), &err);
    if (!j) assert_true(err.code < 0 && err.why[0]);
    json_decref(j);
    return j != NULL;
}

#define COMMON "\"v\":1,\"node\":\"n\",\"boot\":\"b\",\"seq\":1,\"at\":2"
#define FENCE ",\"job\":\"1\",\"attempt\":1,\"fence\":1"

static void events(void **state) {
    (void)state;
    static const char *const good[] = {
        "{\"type\":\"node_hello\"," COMMON ",\"devices\":[]}",
        "{\"type\":\"node_heartbeat\"," COMMON ",\"attempts\":[],\"later\":\"kept\"}",
        "{\"type\":\"attempt_started\"," COMMON FENCE ",\"pid\":3}",
        "{\"type\":\"engine\"," COMMON FENCE ",\"rank\":0,\"line\":{}}",
        "{\"type\":\"log\"," COMMON FENCE ",\"rank\":0,\"stream\":\"stdout\",\"lines\":[]}",
        "{\"type\":\"attempt_ended\"," COMMON FENCE ",\"exit_code\":null,\"exit_signal\":9,\"class\":\"infra\"}",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!takes(mull_event_parse, good[i])) fail_msg("refused: %s", good[i]);
        /* Without any one of its fields it is refused, unless the field may be null or is none of its own. */
        mull_err err;
        json_t *whole = mull_event_parse(good[i], strlen(good[i]), &err), *v;
        const char *key;
        json_object_foreach(whole, key, v) {
            json_t *less = json_copy(whole);
            json_object_del(less, key);
            char *text = json_dumps(less, 0);
            bool optional = !strcmp(key, "later") || !strcmp(key, "exit_code") || !strcmp(key, "exit_signal");
            if (takes(mull_event_parse, text) != optional) fail_msg("without %s: %s", key, text);
            json_object_set_new(less, key, json_true());
            free(text);
            text = json_dumps(less, 0);
            if (takes(mull_event_parse, text) != !strcmp(key, "later")) fail_msg("%s of the wrong type: %s", key, text);
            free(text);
            json_decref(less);
        }
        json_decref(whole);
    }
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "3",
                                      "null",
                                      "{\"type\":\"nothing\"," COMMON "}",
                                      "{\"type\":\"node_hello\"," COMMON ",\"devices\":[],\"seq\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(takes(mull_event_parse, bad[i]));
}

static void commands_and_engine_lines(void **state) {
    (void)state;
    assert_true(takes(mull_inbox_parse, "{\"v\":1,\"type\":\"start\"" FENCE ",\"term\":1,\"spec\":{}}"));
    assert_true(
        takes(mull_inbox_parse, "{\"v\":1,\"type\":\"cancel\",\"job\":\"1\",\"fence\":2,\"reason\":\"timeout\"}"));
    assert_true(takes(mull_inbox_parse, "{\"v\":1,\"type\":\"ack\",\"seq\":4}"));
    assert_true(takes(mull_inbox_parse, "{\"v\":1,\"type\":\"resync\",\"from\":4}"));
    assert_false(takes(mull_inbox_parse, "{\"v\":1,\"type\":\"ack\"}"));
    assert_false(takes(mull_inbox_parse, "{\"type\":\"ack\",\"seq\":4}"));
    assert_true(takes(mull_engine_line_parse, "{\"ev\":\"progress\",\"done\":1,\"total\":null}"));
    assert_true(takes(mull_engine_line_parse, "{\"ev\":\"metric\",\"step\":1,\"values\":{\"loss\":1}}"));
    assert_false(takes(mull_engine_line_parse, "{\"ev\":\"metric\",\"values\":3}"));
    assert_false(takes(mull_engine_line_parse, "{\"ev\":\"progress\",\"done\":1.5}"));
}

static void what_the_database_cannot_store_is_replaced(void **state) {
    (void)state;
    mull_err err;
    const char text[] = "{\"ev\":\"log\",\"text\":\"a\\u0000b\xff\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80z\",\"deep\":[{"
                        "\"x\":\"\\u0000\"}]}";
    json_t *j = mull_engine_line_parse(text, sizeof text - 1, &err);
    assert_non_null(j);
#define R "\xef\xbf\xbd"
    assert_string_equal(json_string_value(json_object_get(j, "text")), "a" R "b" R R R R R R R R R R "z");
    json_t *x = json_object_get(json_array_get(json_object_get(j, "deep"), 0), "x");
    assert_string_equal(json_string_value(x), R);
    json_decref(j);
    size_t n;
    char *clean =
        mull_utf8_clean("\xe2\x82\xac \xf0\x9f\x98\x80 \xe2\x82", 11, &n); /* cut in the middle of a character */
    assert_string_equal(clean, "\xe2\x82\xac \xf0\x9f\x98\x80 " R R);
    free(clean);
    assert_int_equal(mull_utf8_check("h\xc3\xa9"), 0);
    assert_int_equal(mull_utf8_check("h\xe9"), -1);
}

static void limits(void **state) {
    (void)state;
    mull_err err;
    char *big = malloc(MULL_EVENT_MAX + 2);
    memset(big, ' ', MULL_EVENT_MAX + 1);
    assert_null(mull_event_parse(big, MULL_EVENT_MAX + 1, &err));
    assert_int_equal(err.code, MULL_ERR_LIMIT);
    memset(big, '[', 100000);
    assert_null(mull_event_parse(big, 100000, &err));
    assert_int_equal(err.code, MULL_ERR_LIMIT);
    free(big);
}

static void words(void **state) {
    (void)state;
    assert_string_equal(mull_job_state("PENDING"), "PENDING");
    assert_null(mull_job_state("pending"));
    assert_string_equal(mull_job_state_nearest("RUNING"), "RUNNING");
    assert_false(mull_job_state_terminal("PENDING") || mull_job_state_terminal("RUNNING") ||
                 mull_job_state_terminal("PREEMPTED"));
    assert_true(mull_job_state_terminal("COMPLETED") && mull_job_state_terminal("NODE_FAIL"));
    assert_string_equal(mull_class("infra"), "infra");
    assert_null(mull_class("strange"));
    assert_true(*mull_job_state_meaning("TIMEOUT") && *mull_reason_meaning("Held") && !*mull_reason_meaning("x"));
    char key[MULL_KEY_MAX];
    mull_key_inbox("b1", key, sizeof key);
    assert_string_equal(key, "mull:inbox:b1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events),
        cmocka_unit_test(commands_and_engine_lines),
        cmocka_unit_test(what_the_database_cannot_store_is_replaced),
        cmocka_unit_test(limits),
        cmocka_unit_test(words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
