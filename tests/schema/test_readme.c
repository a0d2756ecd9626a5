/* schema/README.md names what the code names, and nothing else: every first cell of its tables is looked up in the
 * source, and every name of the source in the tables. */
#include "schema/keys.h"
#include "schema/states.h"
#include "tests/support/check.h"

#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct list {
    char names[128][64];
    size_t n;
} list;

static void add(list *l, const char *from, size_t len) {
    char name[64];
    assert_true(l->n < 128 && len < sizeof name);
    memcpy(name, from, len);
    name[len] = 0;
    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->names[i], name)) return;
    strcpy(l->names[l->n++], name);
}

static bool has(const list *l, const char *name) {
    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->names[i], name)) return true;
    return false;
}

static char *slurp(const char *path) {
    FILE *in = fopen(path, "rb");
    if (!in) fail_msg("%s is not there", path);
    char *text = calloc(1, 1 << 20);
    size_t n = fread(text, 1, (1 << 20) - 1, in);
    fclose(in);
    assert_true(n > 0);
    return text;
}

/* First cells of the table whose heading row begins with "| HEAD |". */
static list documented(const char *head) {
    list l = {.n = 0};
    char *text = slurp(MULL_SOURCE_DIR "/schema/README.md"), row[64];
    snprintf(row, sizeof row, "\n| %s |", head);
    char *at = strstr(text, row);
    if (!at) fail_msg("no table of %s", head);
    at = strchr(at + 1, '\n') + 1; /* |---| */
    while ((at = strchr(at, '\n')) && strncmp(at + 1, "| `", 3) == 0) {
        at += 4;
        add(&l, at, strcspn(at, "`"));
    }
    free(text);
    return l;
}

/* What follows every occurrence of before in a file (after from, before to), up to a character of end. */
static void collect(list *l, const char *file, const char *from, const char *to, const char *before, const char *end) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", MULL_SOURCE_DIR, file);
    char *text = slurp(path), *at = from ? strstr(text, from) : text, *stop = to && at ? strstr(at, to) : NULL;
    if (!at) fail_msg("%s has no %s", file, from);
    if (stop) *stop = 0;
    for (char *p = at; (p = strstr(p, before));) {
        p += strlen(before);
        add(l, p, strcspn(p, end));
    }
    free(text);
}

static void same(const char *what, const list *code, const list *words) {
    assert_true(code->n > 0);
    for (size_t i = 0; i < code->n; i++)
        if (!has(words, code->names[i])) fail_msg("%s %s is not in schema/README.md", what, code->names[i]);
    for (size_t i = 0; i < words->n; i++)
        if (!has(code, words->names[i]))
            fail_msg("schema/README.md has a %s %s that the code has not", what, words->names[i]);
}

static void words_of_states(void **state) {
    (void)state;
    list states = {.n = 0}, reasons = {.n = 0}, classes = {.n = 0};
#define X(name, ...) add(&states, #name, strlen(#name));
    MULL_JOB_STATES(X)
#undef X
#define X(name, ...) add(&reasons, #name, strlen(#name));
    MULL_REASONS(X)
#undef X
#define X(name, ...) add(&classes, #name, strlen(#name));
    MULL_CLASSES(X)
#undef X
    list d = documented("state");
    same("state", &states, &d);
    d = documented("reason");
    same("reason", &reasons, &d);
    d = documented("class");
    same("class", &classes, &d);
}

static void tables(void **state) {
    (void)state;
    list code = {.n = 0}, d = documented("table");
    glob_t files;
    assert_int_equal(glob(MULL_SOURCE_DIR "/schema/migrations/*.sql", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++)
        collect(&code, files.gl_pathv[i] + strlen(MULL_SOURCE_DIR) + 1, NULL, NULL, "\nCREATE TABLE ", " ");
    globfree(&files);
    add(&code, "schema_migration", strlen("schema_migration"));
    add(&code, "schema_functions", strlen("schema_functions"));
    same("table", &code, &d);
}

static void spec_keys(void **state) {
    (void)state;
    list code = {.n = 0}, d = documented("key");
    collect(&code, "schema/jobspec.c", "sampling_fields[] = {", "typedef struct checker", "    {\"", "\"");
    assert_true(code.n > 30);
    same("key of a job spec", &code, &d);
}

static void lines(void **state) {
    (void)state;
    list events = {.n = 0}, commands = {.n = 0}, engine = {.n = 0};
    collect(&events, "schema/event_line.c", "shape events[] = {", "};", "    {\"", "\"");
    collect(&commands, "schema/event_line.c", "shape inbox[] = {", "};", "    {\"", "\"");
    collect(&engine, "schema/event_line.c", "shape lines[] = {", "};", "    {\"", "\"");
    list d = documented("type");
    same("event", &events, &d);
    d = documented("command");
    same("command", &commands, &d);
    d = documented("ev");
    same("engine line", &engine, &d);
}

static void redis_keys(void **state) {
    (void)state;
    list code = {.n = 0};
    char inbox[MULL_KEY_MAX];
    mull_key_inbox("BOOT", inbox, sizeof inbox);
    add(&code, MULL_KEY_READY, strlen(MULL_KEY_READY));
    add(&code, MULL_KEY_EVENTS, strlen(MULL_KEY_EVENTS));
    add(&code, inbox, strlen(inbox));
    char *text = slurp(MULL_SOURCE_DIR "/schema/README.md"), *at = strstr(text, "\n## Redis");
    assert_non_null(at);
    for (size_t i = 0; i < code.n; i++) {
        char row[80];
        snprintf(row, sizeof row, "\n| `%s` |", code.names[i]);
        if (!strstr(at, row)) fail_msg("the Redis key %s is not in schema/README.md", code.names[i]);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_of_states), cmocka_unit_test(tables),     cmocka_unit_test(spec_keys),
        cmocka_unit_test(lines),           cmocka_unit_test(redis_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
