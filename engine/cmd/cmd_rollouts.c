/* mull-engine rollouts: the completions that a GRPO run kept, for people or as JSON lines. What a model wrote is shown
 * with its control characters replaced, so that it cannot speak to the terminal. */
#include "engine/cmd/cmd.h"

#include "engine/annotate/reader.h"
#include "engine/core/buf.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine rollouts DIR [--step N] [--type TYPE] [--min-reward X] [--max-reward X] [--limit N] "
    "[--json]\n\n"
    "Shows the completions that a GRPO run kept below DIR/rollouts, newest step last. --step: the loader step's only,\n"
    "-1 the last one; --type: of one problem type; --limit: at most N completions (default 20, 0: all); --json: whole\n"
    "lines, with token ids and log-probs.\n";

typedef struct filter {
    long long step, limit;
    const char *type;
    double lo, hi;
    bool json;
    long long shown;
    json_int_t last_step, last_prompt;
} filter;

static int64_t step_of(const char *name) {
    long long n;
    int end = 0;
    return sscanf(name, "step-%lld.jsonl.zst%n", &n, &end) == 1 && end && !name[end] && n >= 0 ? n : -1;
}

static int by_step(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static int list(const char *dir, int64_t **steps, size_t *n, mull_error *err) {
    DIR *d = opendir(dir);
    if (!d)
        return mull_fail(err, MULL_EMISSING, "cannot show completions", dir,
                         "give the output folder of a GRPO run with save_rollouts: True", "there is no such folder");
    int rc = MULL_OK;
    for (struct dirent *e; !rc && (e = readdir(d));) {
        int64_t step = step_of(e->d_name);
        if (step < 0) continue;
        int64_t *p = realloc(*steps, (*n + 1) * sizeof *p);
        if (!p) rc = mull_fail(err, MULL_ENOMEM, "cannot show completions", dir, NULL, "out of memory");
        if (!p) break;
        *steps = p;
        p[(*n)++] = step;
    }
    closedir(d);
    if (!rc && *n) qsort(*steps, *n, sizeof **steps, by_step);
    return rc;
}

static const char *word(const json_t *j, const char *key) {
    const char *s = json_string_value(json_object_get(j, key));
    return s ? s : "";
}

static double real(const json_t *j, const char *key) {
    return json_number_value(json_object_get(j, key));
}

/* Text with line ends kept, indented, other control characters as '?'. */
static void print_text(const char *label, const char *s) {
    printf("  %s: ", label);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '\n')
            printf("\n    ");
        else
            /* C1 controls are C2 80 to C2 9F in UTF-8. */
            putchar(c < ' ' || c == 127 || (c == 0xc2 && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0)
                        ? '?'
                        : *s);
    }
    putchar('\n');
}

static void show(filter *f, const json_t *j) {
    json_int_t step = json_integer_value(json_object_get(j, "step")),
               prompt = json_integer_value(json_object_get(j, "prompt"));
    if (step != f->last_step || prompt != f->last_prompt) {
        char head[200];
        snprintf(head, sizeof head, "step %lld, prompt %lld (%.40s %lld, %.40s)", (long long)step, (long long)prompt,
                 word(j, "dataset"), (long long)json_integer_value(json_object_get(j, "index")),
                 word(j, "problem_type"));
        printf("%s%s\n", f->shown ? "\n" : "", head);
        print_text("question", word(j, "question"));
        print_text("solution", word(j, "solution"));
    }
    f->last_step = step;
    f->last_prompt = prompt;
    char label[160];
    snprintf(label, sizeof label, "%+.3f (accuracy %.3g, format %.3g%s) advantage %+.3f", real(j, "reward"),
             real(j, "accuracy"), real(j, "format"), json_is_true(json_object_get(j, "truncated")) ? ", cut" : "",
             real(j, "advantage"));
    print_text(label, word(j, "completion"));
}

static int one_file(const char *path, filter *f, mull_error *err) {
    mull__reader *r;
    mull__line line;
    int rc = mull__reader_open(path, NULL, &r, err);
    if (rc) return rc;
    while ((!f->limit || f->shown < f->limit) && (rc = mull__reader_next(r, &line, err)) > 0) {
        json_error_t je;
        json_t *j = line.too_long ? NULL : json_loadb(line.data, line.len, JSON_ALLOW_NUL, &je);
        if (!json_is_object(j)) {
            rc = mull_fail(err, MULL_EFORMAT, "cannot show completions", path, "remove the file",
                           "line %lld is no JSON object", (long long)line.number);
            json_decref(j);
            break;
        }
        double reward = real(j, "reward");
        if ((!f->type || !strcmp(word(j, "problem_type"), f->type)) && reward >= f->lo && reward <= f->hi) {
            if (f->json)
                mull_cmd_emit(json_incref(j));
            else
                show(f, j);
            f->shown++;
        }
        json_decref(j);
    }
    mull__reader_close(r);
    return rc < 0 ? rc : MULL_OK;
}

int mull_cmd_rollouts(int argc, char **argv) {
    filter f = {.step = -2, .limit = 20, .lo = -INFINITY, .hi = INFINITY, .last_step = -1};
    const char *dir = NULL;
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i];
        int rc = 0;
        if (!strcmp(flag, "--help")) {
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        }
        if (!strcmp(flag, "--json")) {
            f.json = true;
            continue;
        }
        if (strncmp(flag, "--", 2) && !dir) {
            dir = flag;
            continue;
        }
        if (i + 1 == argc) return mull_cmd_usage("rollouts", "%s is unknown or needs a value", flag);
        const char *value = argv[++i];
        if (!strcmp(flag, "--step"))
            rc = mull_cmd_int("rollouts", flag, value, -1, INT64_MAX, &f.step);
        else if (!strcmp(flag, "--limit"))
            rc = mull_cmd_int("rollouts", flag, value, 0, INT64_MAX, &f.limit);
        else if (!strcmp(flag, "--type"))
            f.type = value;
        else if (!strcmp(flag, "--min-reward"))
            rc = mull_cmd_double("rollouts", flag, value, -1e300, 1e300, &f.lo);
        else if (!strcmp(flag, "--max-reward"))
            rc = mull_cmd_double("rollouts", flag, value, -1e300, 1e300, &f.hi);
        else
            return mull_cmd_usage("rollouts", "unknown argument '%s'", flag);
        if (rc) return rc;
    }
    if (!dir) return mull_cmd_usage("rollouts", "it takes the output folder of a run");
    mull_error err = {0};
    int64_t *steps = NULL;
    size_t n = 0;
    char *folder = mull_path_join(dir, "rollouts");
    int rc = folder ? list(folder, &steps, &n, &err)
                    : mull_fail(&err, MULL_ENOMEM, "cannot show completions", dir, NULL, "out of memory");
    if (f.step == -1 && n) f.step = steps[n - 1];
    for (size_t i = 0; i < n && !rc && (!f.limit || f.shown < f.limit); i++) {
        char name[64];
        if (f.step >= 0 && steps[i] != f.step) continue;
        snprintf(name, sizeof name, "step-%09lld.jsonl.zst", (long long)steps[i]);
        char *path = mull_path_join(folder, name);
        rc = path ? one_file(path, &f, &err)
                  : mull_fail(&err, MULL_ENOMEM, "cannot show completions", dir, NULL, "out of memory");
        free(path);
    }
    free(steps);
    free(folder);
    if (!rc && !f.json && fflush(stdout))
        rc = mull_fail(&err, MULL_EIO, "cannot show completions", "stdout", NULL, "it cannot be written");
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
