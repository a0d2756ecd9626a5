/* Server-sent events: the same events however the bytes are cut, and nothing foreign breaks the decoder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct seen {
    char text[512];
    int stop_at, n;
} seen;

static int on_event(const char *event, const json_t *data, void *arg) {
    seen *s = arg;
    char *json = data ? json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    size_t used = strlen(s->text);
    snprintf(s->text + used, sizeof s->text - used, "%s=%s;", event, json ? json : "null");
    free(json);
    return ++s->n == s->stop_at;
}

static const char STREAM[] = ": comment\n\nevent: log\ndata: {\"n\":1}\n\n"
                             "event:log\r\ndata:{\"n\":\r\ndata: 2}\r\n\r\n"
                             "id: 4\nretry: 10\nevent: end\ndata: {\"state\":\"COMPLETED\"}\n\n";
static const char WANT[] = "log={\"n\":1};log={\"n\":2};end={\"state\":\"COMPLETED\"};";

static void cut_anywhere(void **state) {
    (void)state;
    for (size_t step = 1; step < sizeof STREAM; step++) {
        seen got = {.stop_at = -1};
        mull_sse s = {.cb = on_event, .arg = &got};
        for (size_t at = 0; at < sizeof STREAM - 1; at += step) {
            size_t n = sizeof STREAM - 1 - at < step ? sizeof STREAM - 1 - at : step;
            mull_sse_feed(&s, STREAM + at, n);
        }
        assert_false(s.failed);
        assert_string_equal(got.text, WANT);
        mull_sse_fini(&s);
    }
}

static void stops_when_told(void **state) {
    (void)state;
    seen got = {.stop_at = 1};
    mull_sse s = {.cb = on_event, .arg = &got};
    mull_sse_feed(&s, STREAM, sizeof STREAM - 1);
    assert_int_not_equal(s.stopped, 0);
    assert_int_equal(got.n, 1);
    mull_sse_fini(&s);
}

static void an_endless_line_is_refused(void **state) {
    (void)state;
    seen got = {.stop_at = -1};
    mull_sse s = {.cb = on_event, .arg = &got};
    char block[65536];
    memset(block, 'x', sizeof block);
    for (size_t fed = 0; fed <= MULL_SSE_LINE_MAX && !s.failed; fed += sizeof block)
        mull_sse_feed(&s, block, sizeof block);
    assert_true(s.failed);
    assert_int_equal(got.n, 0);
    mull_sse_fini(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(cut_anywhere), cmocka_unit_test(stops_when_told),
                                       cmocka_unit_test(an_endless_line_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
