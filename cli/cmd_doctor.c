/* mull doctor: looks at everything a one-machine mull needs, says for each whether it is well, and what to do when it
 * is not. Changes nothing. */
#include "cli/args.h"
#include "cli/doctor.h"
#include "cli/jobs.h"

#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *state;
    bool json;
} options;

static const mull_opt opts[] = {
    {"--state", 0, MULL_OPT_TEXT, offsetof(options, state), NULL, "DIR", "the state folder (else MULL_STATE)"},
    {"--json", 0, MULL_OPT_FLAG, offsetof(options, json), NULL, NULL, "print the findings as JSON"},
    {0}};

static void print(const json_t *findings) {
    static const char *const colors[] = {"\033[32m", "\033[33m", "\033[31m"};
    bool color = mull_term_color(stdout);
    size_t i;
    const json_t *f;
    json_array_foreach(findings, i, f) {
        const char *status = mull_text(f, "status"), *todo = mull_text(f, "todo");
        char detail[1600];
        mull_text_clean(mull_text(f, "detail"), -1, detail, sizeof detail);
        const char *on = !color ? "" : colors[!strcmp(status, "ok") ? 0 : !strcmp(status, "warn") ? 1 : 2];
        printf("%s%-4s%s  %-12s %s%s%s\n", on, status, mull_color_reset(color), mull_text(f, "check"), detail,
               *todo ? "; " : "", todo);
    }
}

static int run(const mull_cmd *cmd, int argc, char **argv) {
    options o = {0};
    int words;
    mull_local l;
    mull_err err;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "'%s' is one word too many", argv[1]);
    if (mull_local_find(&l, o.state, &err)) {
        mull_err_print(stderr, &err);
        return MULL_EXIT_FAILED;
    }
    mull_doctor d = {.local = &l, .findings = json_array()};
    const char *server = getenv("MULL_SERVER");
    bool elsewhere = server && *server && !o.state; /* then it is the queue there that is asked about */
    if (!elsewhere) {
        mull_doctor_programs(&d);
        mull_doctor_machine(&d);
        mull_doctor_cgroups(&d);
        mull_doctor_services(&d);
    }
    if (!elsewhere && o.state) setenv("MULL_STATE", o.state, 1);
    if (!elsewhere) unsetenv("MULL_SERVER");
    mull_doctor_queue(&d, elsewhere);
    bool well = d.failed == 0;
    if (o.json) {
        mull_emit(json_pack("{s:b, s:s, s:o}", "ok", well, "state_dir", l.dir.root, "checks", d.findings));
    } else {
        print(d.findings);
        json_decref(d.findings);
        if (!well) fprintf(stderr, "%d of these must be mended\n", d.failed);
    }
    return well ? MULL_EXIT_OK : MULL_EXIT_FAILED;
}

const mull_cmd mull_cmd_doctor = {
    "doctor",
    "[--state DIR] [--json]",
    "look whether everything is well, and say what to do",
    "With MULL_SERVER it is the queue there that is looked at. Exit status 1 when something must be mended;\n"
    "warnings do not count.\n",
    opts,
    run};
