/* Job specs: every error at once, each with its path, line and the nearest word; the values and defaults of good ones;
 * durations and times. */
#include "schema/jobspec.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *yaml(const char *text, mull_diags *d) {
    return mull_jobspec_parse(text, strlen(text), MULL_SPEC_YAML, d);
}
static json_t *json(const char *text, mull_diags *d) {
    return mull_jobspec_parse(text, strlen(text), MULL_SPEC_JSON, d);
}

static void a_good_spec_gets_its_defaults(void **state) {
    (void)state;
    mull_diags d;
    json_t *s =
        yaml("kind: annotate\nmodel: /m\ninput: /i.jsonl\noutput: /o\ntime_limit: 1-02:03:04\nshard_rows: 7\n", &d);
    assert_non_null(s);
    assert_int_equal(json_integer_value(json_object_get(s, "shard_rows")), 7);
    assert_string_equal(json_string_value(json_object_get(s, "out")), "/o"); /* output is another word for out */
    assert_null(json_object_get(s, "output"));
    assert_string_equal(json_string_value(json_object_get(s, "team")), "default");
    assert_int_equal(json_integer_value(json_object_get(s, "retries")), 3);
    assert_int_equal(json_integer_value(json_object_get(s, "latents")), 20);
    assert_int_equal(json_integer_value(json_object_get(s, "time_limit_s")), 86400 + 2 * 3600 + 3 * 60 + 4);
    json_t *sampling = json_object_get(s, "sampling");
    assert_int_equal(json_integer_value(json_object_get(sampling, "max_new_tokens")), 512);
    assert_true(json_number_value(json_object_get(sampling, "temperature")) == 0);
    json_decref(s);
    s = json(
        "{\"kind\":\"generate\",\"model\":\"/m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"name\":null}",
        &d);
    assert_non_null(s);
    assert_null(json_object_get(s, "name"));
    json_decref(s);
}

typedef struct fault {
    const char *text, *path;
    int line;
    const char *word; /* of the message */
    const char *near; /* did_you_mean, "" for none */
} fault;

static const fault faults[] = {
    {"kind: eval\nmodel: /m\ndata: /d\nout: /o\n", "tasks", 0, "missing", ""},
    {"kind: eval\nmodel: /m\ntasks: [erqa]\nout: /o\n", "data", 0, "missing", ""},
    {"kind: eval\nmodel: /m\ntasks: [erqa]\ndata: /d\n", "out", 0, "missing", ""},
    {"kind: eval\nmodel: /m\ndata: /d\nout: /o\ntasks: [erqa, blink_m]\n", "tasks[1]", 5, "one of", "blink_mv"},
    {"kind: eval\nmodel: /m\ndata: /d\nout: /o\ntasks: []\n", "tasks", 5, "list of 1", ""},
    {"kind: eval\nmodel: /m\ndata: /d\nout: /o\ntasks: erqa\n", "tasks", 5, "list of 1", ""},
    {"kind: eval\nmodel: /m\ndata: /d\nout: /o\ntasks: [erqa]\nsampling:\n  stop: [x]\n", "sampling.stop", 7,
     "no key of kind eval", ""},
    {"kind: generate\nmodel: /m\nprompt: x\npriorty: 1\n", "priorty", 4, "unknown key", "priority"},
    {"kind: generat\nmodel: /m\nprompt: x\n", "kind", 1, "must be one of", "generate"},
    {"kind: generate\nmodel: m\nprompt: x\n", "model", 2, "absolute", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nname: ''\n", "name", 4, "empty", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nteam: ''\n", "team", 4, "empty", ""},
    {"kind: generate\nmodel: /m\nprompt: x\ngpus: two\n", "gpus", 4, "whole number", ""},
    {"kind: generate\nmodel: /m\nprompt: x\ngpus: 1.5\n", "gpus", 4, "whole number", ""},
    {"kind: generate\nmodel: /m\nprompt: x\ngpus: -1\n", "gpus", 4, "from 0", ""},
    {"kind: generate\nmodel: /m\nprompt: x\npriority: 101\n", "priority", 4, "-100 to 100", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nhold: perhaps\n", "hold", 4, "true or false", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nfps: 1\nnframes: 8\n", "nframes", 5, "not both", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nmessages:\n- role: user\n", "messages", 4, "not both", ""},
    {"kind: generate\nmodel: /m\nmessages: []\n", "messages", 3, "list of messages", ""},
    {"kind: generate\nmodel: /m\n", "prompt", 0, "missing", ""},
    {"kind: generate\nmodel: ~\nprompt: x\n", "model", 0, "missing", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nmessages: null\nsampling: {seed: null, top_p: 9}\n", "sampling.top_p", 5,
     "from", ""},
    {"kind: annotate\nmodel: /m\nout: /o\n", "input", 0, "missing", ""},
    {"kind: annotate\nmodel: /m\ninput: /i\n", "out", 0, "missing", ""},
    {"model: /m\n", "kind", 0, "missing", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nimages: /a.jpg\n", "images", 4, "list", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nimages:\n- /a.jpg\n- b.jpg\n", "images[1]", 6, "absolute", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nshard_rows: 5\n", "shard_rows", 4, "no key of kind generate", ""},
    {"kind: annotate\nmodel: /m\ninput: /i\nout: /o\nmessages: []\n", "messages", 5, "no key of kind annotate", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nsampling:\n  top_q: 1\n", "sampling.top_q", 5, "unknown key", "top_p"},
    {"kind: generate\nmodel: /m\nprompt: x\ntop_p: 1\n", "top_p", 4, "unknown key", "sampling.top_p"},
    {"kind: generate\nmodel: /m\nprompt: x\nsampling:\n  temperature: .nan\n", "sampling.temperature", 5, "number", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nsampling: 3\n", "sampling", 4, "mapping", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nsampling:\n  stop: [a, 3]\n", "sampling.stop[1]", 5, "text", ""},
    {"kind: generate\nmodel: /m\nprompt: x\ndtype: bf61\n", "dtype", 4, "one of", "bf16"},
    {"kind: generate\nmodel: /m\nprompt: x\nmode: mmlatent\n", "mode", 4, "one of", "mmlatent2"},
    {"kind: generate\nmodel: /m\nprompt: x\ntime_limit: 1:99:00\n", "time_limit", 4, "time such as", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nbegin: tomorrow\n", "begin", 4, "time such as", ""},
    {"kind: generate\nmodel: /m\nprompt: x\nafter: afterk:3\n", "after", 4, "afterok", "afterok"},
    {"kind: generate\nmodel: /m\nprompt: x\nafter: 'afterok:'\n", "after", 4, "afterok", "afterok"},
    {"kind: generate\nmodel: /m\nprompt: x\nafter: afterok:1:x\n", "after", 4, "afterok", "afterok"},
    {"kind: generate\nmodel: /m\nprompt: x\nprompt: y\n", "prompt", 4, "twice", ""},
    {"kind: generate\nmodel: /m\nprompt: [\n", "", 4, "no YAML", ""},
    {"kind: generate\n---\nkind: generate\n", "", 2, "second document", ""},
    {"? [a, b]\n: c\n", "", 1, "plain word", ""},
    {"- a\n", "", 1, "mapping", ""},
    {"", "", 1, "empty", ""},
};

static void each_fault_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const fault *f = &faults[i];
        mull_diags d;
        json_t *s = yaml(f->text, &d);
        if (s) fail_msg("accepted: %s", f->text);
        const mull_diag *x = NULL;
        for (int k = 0; k < d.n; k++)
            if (!strcmp(d.at[k].path, f->path) && strstr(d.at[k].message, f->word)) x = &d.at[k];
        if (!x) fail_msg("%s: no such error, but %s: %s", f->text, d.at[0].path, d.at[0].message);
        if (x->line != f->line) fail_msg("%s: line %d", f->text, x->line);
        assert_string_equal(x->did_you_mean, f->near);
    }
}

static void all_at_once_and_bounded(void **state) {
    (void)state;
    mull_diags d;
    assert_null(yaml("kind: generate\nmodle: /m\nprompt: 3\ngpus: x\nsampling: {top_p: 2, seed: -1}\n", &d));
    assert_int_equal(d.n, 6); /* modle, model missing, prompt no text, gpus, top_p, seed */
    char *many = malloc(200 * 12 + 1);
    size_t n = 0;
    for (int i = 0; i < 200; i++) n += (size_t)sprintf(many + n, "zzzz%d: 1\n", i);
    assert_null(yaml(many, &d));
    free(many);
    assert_int_equal(d.n, MULL_DIAGS_MAX);
    assert_int_equal(d.n + d.more, 201); /* and kind is missing */
    json_t *j = mull_diags_json(&d);
    assert_int_equal(json_array_size(j), MULL_DIAGS_MAX + 1);
    json_decref(j);
}

static void json_errors_have_lines(void **state) {
    (void)state;
    mull_diags d;
    assert_null(json("{\n \"kind\": \"generate\",\n \"model\": \"/m\",\n \"prompt\": \"a\\\"b\",\n \"nam\": \"x\",\n"
                     " \"sampling\": {\n  \"top_p\": 3,\n  \"stop\": [\"a\",\n   7]\n }\n}",
                     &d));
    int seen = 0;
    for (int i = 0; i < d.n; i++) {
        seen += !strcmp(d.at[i].path, "nam") && d.at[i].line == 5 && !strcmp(d.at[i].did_you_mean, "name");
        seen += !strcmp(d.at[i].path, "sampling.top_p") && d.at[i].line == 7;
        seen += !strcmp(d.at[i].path, "sampling.stop[1]") && d.at[i].line == 9;
    }
    assert_int_equal(seen, 3);
    assert_null(json("{\"kind\":\n\"generate\",,}", &d));
    assert_int_equal(d.at[0].line, 2);
}

static void hostile_documents_cost_nothing(void **state) {
    (void)state;
    mull_diags d;
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = 0;
    assert_null(yaml(deep, &d));
    assert_null(json(deep, &d));
    free(deep);
    /* Nine levels of nine aliases: 387 million values when unfolded. */
    char bomb[2000] = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n";
    for (int i = 1; i < 9; i++) {
        char line[200];
        int k = snprintf(line, sizeof line, "a%d: &a%d [", i, i);
        for (int e = 0; e < 9; e++) k += snprintf(line + k, sizeof line - (size_t)k, "%s*a%d", e ? "," : "", i - 1);
        strcat(bomb, line);
        strcat(bomb, "]\n");
    }
    assert_null(yaml(bomb, &d));
    assert_true(d.n > 0);
    assert_null(yaml("a: &a [*a]\n", &d)); /* an alias inside itself */
    assert_null(mull_jobspec_parse("kind: \"a\\0b\"\n", 13, MULL_SPEC_YAML, &d));
    assert_null(mull_jobspec_parse("\xff\xfe\xfd", 3, MULL_SPEC_YAML, &d));
}

static void durations(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t s; /* 0: refused */
    } cases[] = {{"90", 90},    {"1:30", 90}, {"01:00:00", 3600}, {"2-00:00:00", 172800}, {"1-23:59:59", 172799},
                 {"0", 0},      {"", 0},      {"1:60", 0},        {"1:60:00", 0},         {"-1", 0},
                 {"1-1:00", 0}, {"1-12", 0},  {"a", 0},           {"1:2:3:4", 0},         {"99999999999", 0},
                 {" 1", 0},     {"1 ", 0},    {"1.5", 0},         {"100:00:00", 360000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t s = -1;
        int rc = mull_duration_parse(cases[i].text, &s);
        if ((rc == 0) != (cases[i].s > 0) || (rc == 0 && s != cases[i].s))
            fail_msg("%s: %d %lld", cases[i].text, rc, (long long)s);
    }
}

static void times(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t ms; /* -1: refused */
    } cases[] = {{"now", 5000},
                 {"now+10s", 15000},
                 {"now+2m", 125000},
                 {"now+1h", 3605000},
                 {"now+1d", 86405000},
                 {"2026-01-31T08:00:00Z", 1769846400000},
                 {"2026-01-31T08:00:00.25Z", 1769846400250},
                 {"2026-01-31T09:00:00+01:00", 1769846400000},
                 {"2026-01-31T08:00:00", -1},
                 {"2026-13-31T08:00:00Z", -1},
                 {"now+999999999d", -1},
                 {"now-1s", -1},
                 {"now+1w", -1},
                 {"yesterday", -1},
                 {"", -1},
                 {"2026-01-31T08:00:00Zx", -1},
                 {"1969-01-01T00:00:00Z", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t ms = -1;
        int rc = mull_time_parse(cases[i].text, 5000, &ms);
        if ((rc == 0) != (cases[i].ms >= 0) || (rc == 0 && ms != cases[i].ms))
            fail_msg("%s: %d %lld", cases[i].text, rc, (long long)ms);
    }
}

static void nearest_words(void **state) {
    (void)state;
    static const char *const words[] = {"model", "prompt", "priority"};
    assert_string_equal(mull_nearest("modle", words, 3), "model");
    assert_string_equal(mull_nearest("Prompt", words, 3), "prompt");
    assert_null(mull_nearest("zebra", words, 3));
    assert_null(mull_nearest("", words, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_spec_gets_its_defaults),
        cmocka_unit_test(each_fault_is_named),
        cmocka_unit_test(all_at_once_and_bounded),
        cmocka_unit_test(json_errors_have_lines),
        cmocka_unit_test(hostile_documents_cost_nothing),
        cmocka_unit_test(durations),
        cmocka_unit_test(times),
        cmocka_unit_test(nearest_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
