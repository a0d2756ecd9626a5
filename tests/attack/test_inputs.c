/* Texts that mean something to SQL, shells, terminals and browsers, in every field that takes one: they come back as
 * they were, or are refused, and do nothing. */
#include "tests/attack/attack.h"

#include <dirent.h>
#include <sys/stat.h>

static attack *a;

static const char *const TEXTS[] = {
    "'; DROP TABLE job; --",
    "' OR '1'='1",
    "\\'; SELECT pg_sleep(10); --",
    "$$; COPY job TO PROGRAM 'touch PWNED'; $$",
    "%s%n%x",
    "$(touch PWNED)",
    "`touch PWNED`",
    "; touch PWNED;",
    "| touch PWNED",
    "a\nb",
    "../../../../etc/passwd",
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred",
    "\xc2\x9b"
    "31mred",
    "\xe2\x80\xae"
    "gnp.exe",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "{{7*7}}${7*7}",
    "-rf",
    "--help",
};
enum { COUNT = sizeof TEXTS / sizeof *TEXTS };

static json_t *spec_with(const char *key, json_t *value) {
    json_t *o = json_pack("{s:s, s:s, s:s, s:b}", "kind", "generate", "model", a->model, "prompt", "p", "hold", 1);
    json_object_set_new(o, key, value);
    return o;
}

static int submit(json_t *spec) {
    char *body = json_dumps(spec, JSON_COMPACT);
    int status = attack_ask(a, a->red, "POST", "/v1/jobs", NULL, body);
    free(body);
    json_decref(spec);
    return status;
}

/* The tables are there, nothing was started, and jobs that were taken hold what was sent. */
static void nothing_happened(void) {
    assert_int_equal(attack_count(a, "SELECT count(*) FROM pg_tables WHERE tablename = 'job'"), 1);
    char path[700];
    const char *const folders[] = {a->folder, a->state, "."};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/PWNED", folders[i]);
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

static void texts_in_every_field(void **state) {
    (void)state;
    static const char *const keys[] = {"name",     "prompt",   "key",   "team",       "after",
                                       "begin",    "labels",   "model", "images",     "dtype",
                                       "sampling", "priority", "array", "time_limit", "out"};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        for (size_t i = 0; i < COUNT; i++) {
            bool list = !strcmp(keys[k], "labels") || !strcmp(keys[k], "images");
            json_t *v = list ? json_pack("[s]", TEXTS[i]) : json_string(TEXTS[i]);
            int status = submit(spec_with(keys[k], v));
            if (status != 201 && status != 400 && status != 403)
                fail_msg("%s = %s: %d %.400s", keys[k], TEXTS[i], status, a->answer);
            if (status != 201) continue;
            json_t *made = attack_json(a);
            char target[64];
            snprintf(target, sizeof target, "/v1/jobs/%s", json_string_value(json_object_get(made, "id")));
            json_decref(made);
            if (strcmp(keys[k], "name") != 0) continue;
            assert_int_equal(attack_ask(a, a->red, "GET", target, NULL, NULL), 200);
            json_t *shown = attack_json(a);
            assert_string_equal(json_string_value(json_object_get(shown, "name")), TEXTS[i]);
            json_decref(shown);
        }
    nothing_happened();
}

static void texts_in_paths_and_queries(void **state) {
    (void)state;
    static const char *const targets[] = {
        "/v1/jobs?team=%s",          "/v1/jobs?state=%s",  "/v1/jobs/%s",        "/v1/runs?name=%s",
        "/v1/checkpoints?job=%s",    "/v1/files/%s",       "/v1/batches/%s",     "/v1/cron/%s",
        "/v1/jobs/1/metrics?key=%s", "/v1/files?after=%s", "/v1/nodes/%s/drain", "/%s"};
    for (size_t k = 0; k < sizeof targets / sizeof *targets; k++)
        for (size_t i = 0; i < COUNT; i++) {
            char escaped[400] = "", target[600];
            for (const char *c = TEXTS[i]; *c; c++) sprintf(escaped + strlen(escaped), "%%%02x", (unsigned char)*c);
            snprintf(target, sizeof target, targets[k], escaped);
            int status = attack_ask(a, a->red, "GET", target, NULL, NULL);
            if (status != 200 && (status < 400 || status > 499)) fail_msg("%s: %d %.300s", target, status, a->answer);
            /* What repeats a text is JSON to every browser. */
            if (strstr(a->answer, "<script>")) {
                assert_non_null(strstr(a->answer, "Content-Type: application/json\r\n"));
                assert_non_null(strstr(a->answer, "X-Content-Type-Options: nosniff\r\n"));
            }
        }
    nothing_happened();
}

/* Names reach a terminal without what would steer it, and JSON without bytes that do. */
static void no_escape_reaches_a_terminal(void **state) {
    (void)state;
    static const char *const commands[][4] = {{"ps", "-o", "wide"}, {"ps"},   {"show", "1"},   {"ps", "--json"},
                                              {"audit", "ls"},      {"team"}, {"token", "ls"}, {"queue"}};
    json_t *made =
        attack_own(a, "POST", "/v1/tokens", "{\"user\":\"a\\u001b[31mb\",\"note\":\"\\u001b]0;x\\u0007\"}", 201);
    json_decref(made);
    assert_int_equal(submit(spec_with("name", json_string("x\x1b[2Jy\x07z\xc2\x9bw\r\b"))), 201);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const char *argv[6] = {MULL};
        for (int k = 0; k < 4 && commands[i][k]; k++) argv[k + 1] = commands[i][k];
        mull_run r = mull_run_command(argv, LIMIT_S);
        if (r.status) fail_msg("%s: %s", commands[i][0], r.err);
        for (const char *text = r.out; text; text = text == r.out ? r.err : NULL)
            for (const unsigned char *c = (const unsigned char *)text; *c; c++)
                if ((*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7f ||
                    (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0))
                    fail_msg("mull %s prints byte %#x: %.300s", commands[i][0], *c, text);
        mull_run_fini(&r);
    }
}

/* The dashboard loads nothing from elsewhere, runs no script that is not its file, and builds no HTML out of texts. */
static void the_dashboard_takes_no_script(void **state) {
    (void)state;
    assert_int_equal(attack_ask(a, NULL, "GET", "/", NULL, NULL), 200);
    assert_non_null(strstr(a->answer, "X-Frame-Options: DENY"));
    const char *policy =
        strstr(a->answer, "\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'self'");
    assert_non_null(policy);
    assert_null(strstr(a->answer, "unsafe-"));
    assert_int_equal(attack_ask(a, NULL, "GET", "/dashboard.js", NULL, NULL), 200);
    static const char *const words[] = {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) assert_null(strstr(a->answer, words[i]));
}

/* What a row may name as a medium: no address of a network, no file outside, nothing that is no plain file. */
static void media_of_rows_lead_nowhere(void **state) {
    (void)state;
    char in[720], out[700], media[700], text[8000] = "", path[760];
    snprintf(media, sizeof media, "%s/media", a->folder);
    snprintf(in, sizeof in, "%s/rows.jsonl", media);
    snprintf(out, sizeof out, "%s/answers", a->folder);
    mkdir(media, 0755);
    snprintf(path, sizeof path, "%s/fifo", media);
    assert_int_equal(mkfifo(path, 0644), 0);
    snprintf(path, sizeof path, "%s/link.png", media);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    static const char *const urls[] = {"http://127.0.0.1:1/x.png",
                                       "https://169.254.169.254/latest/meta-data/",
                                       "HTTP://127.0.0.1/",
                                       "ftp://127.0.0.1/x",
                                       "gopher://127.0.0.1/",
                                       "//127.0.0.1/x",
                                       "file:///etc/passwd",
                                       "file://../../etc/passwd",
                                       "/etc/passwd",
                                       "../../../../../../etc/passwd",
                                       "/proc/self/environ",
                                       "/dev/zero",
                                       "fifo",
                                       "link.png",
                                       "/proc/self/root/etc/passwd",
                                       "concat:/etc/passwd|/etc/group",
                                       "subfile,,start,0,end,10,,:/etc/passwd",
                                       "data:image/png;base64,AAAA"};
    size_t rows = sizeof urls / sizeof *urls;
    for (size_t i = 0; i < rows; i++)
        sprintf(text + strlen(text),
                "{\"custom_id\":\"%zu\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"%s\",\"%s\":{\"url\":"
                "\"%s\"}}]}]}\n",
                i, i % 2 ? "video_url" : "image_url", i % 2 ? "video_url" : "image_url", urls[i]);
    /* A pattern whose matching by backtracking would never end, and one that unfolds to something huge. */
    sprintf(text + strlen(text),
            "{\"custom_id\":\"r1\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"guided_regex\":\"(a+)+(b|c)*$"
            "\"}\n"
            "{\"custom_id\":\"r2\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"guided_regex\":"
            "\"((((a{1,999}){1,999}){1,999}){1,999}){1,999}\"}\n");
    mull_write_file(in, text, strlen(text));
    free(mull_run_ok((const char *const[]){MULL, "submit", "annotate", "--model", a->model, "--in", in, "--out", out,
                                           "--max-new-tokens", "4", "--wait", NULL},
                     LIMIT_S));
    snprintf(path, sizeof path, "%s/errors.jsonl", out);
    char *errors = mull_slurp(path, NULL);
    snprintf(path, sizeof path, "%s/output.jsonl", out);
    char *good = mull_slurp(path, NULL);
    assert_non_null(errors);
    size_t bad = 0;
    for (const char *p = errors; (p = strchr(p, '\n')); p++) bad++;
    for (size_t i = 0; i < rows; i++) {
        char id[40];
        snprintf(id, sizeof id, "\"custom_id\":\"%zu\"", i);
        if (!strstr(errors, id)) fail_msg("%s was no error", urls[i]);
        if (good && strstr(good, id)) fail_msg("%s was answered", urls[i]);
    }
    assert_non_null(strstr(errors, "\"custom_id\":\"r2\""));
    assert_null(strstr(errors, "root:x:0"));
    free(errors);
    free(good);
}

/* A few KiB that unfold to gigabytes: read row by row, they cost no memory. */
static void a_zstd_bomb_is_an_error(void **state) {
    (void)state;
    char command[2500], in[600], out[600];
    snprintf(in, sizeof in, "%s/bomb.jsonl.zst", a->folder);
    snprintf(out, sizeof out, "%s/bombed", a->folder);
    snprintf(command, sizeof command,
             "command -v zstd >/dev/null && head -c 2000000000 /dev/zero | tr '\\0' a | zstd -q -o '%s'", in);
    mull_run r = mull_run_command((const char *const[]){"/bin/sh", "-c", command, NULL}, LIMIT_S);
    bool made = r.status == 0;
    mull_run_fini(&r);
    if (!made) {
        print_message("NOTE: not tested: there is no zstd command\n");
        skip();
    }
    snprintf(command, sizeof command,
             "ulimit -v 4000000; exec " MULL_BIN_DIR "/mull-engine annotate --model '%s' --in '%s' --out '%s'",
             a->model, in, out);
    r = mull_run_command((const char *const[]){"/bin/sh", "-c", command, NULL}, LIMIT_S);
    if (r.status < 0 || r.status > 127 || strstr(r.err, "memory")) fail_msg("status %d: %.500s", r.status, r.err);
    mull_run_fini(&r);
}

/* Secrets are in no command line, and in no log of a service. */
static void secrets_stay_out_of_sight(void **state) {
    (void)state;
    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    for (struct dirent *e; (e = readdir(proc));) {
        char path[300];
        size_t len = 0;
        snprintf(path, sizeof path, "/proc/%.200s/cmdline", e->d_name);
        char *text = strtol(e->d_name, NULL, 10) > 0 ? mull_slurp(path, &len) : NULL;
        if (text && (memmem(text, len, a->admin, strlen(a->admin)) || memmem(text, len, a->red, strlen(a->red))))
            fail_msg("the command line of process %s has a token", e->d_name);
        free(text);
    }
    closedir(proc);
    static const char *const services[] = {"scheduler", "worker", "redis", "postgres", "supervisor"};
    for (size_t i = 0; i < sizeof services / sizeof *services; i++) {
        char path[700];
        snprintf(path, sizeof path, "%s/log/%s.log", a->state, services[i]);
        char *text = mull_slurp(path, NULL);
        if (text && (strstr(text, a->admin) || strstr(text, a->red))) fail_msg("%s has a token", path);
        free(text);
    }
}

static int start(void **state) {
    (void)state;
    a = attack_start();
    return 0;
}

static int stop(void **state) {
    (void)state;
    return attack_stop(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_in_every_field),         cmocka_unit_test(texts_in_paths_and_queries),
        cmocka_unit_test(no_escape_reaches_a_terminal), cmocka_unit_test(the_dashboard_takes_no_script),
        cmocka_unit_test(media_of_rows_lead_nowhere),   cmocka_unit_test(a_zstd_bomb_is_an_error),
        cmocka_unit_test(secrets_stay_out_of_sight),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
