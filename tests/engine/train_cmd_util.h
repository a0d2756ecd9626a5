/* mull-engine train as a process: a folder with a tiny model, nine rows of text and pictures, and a recipe. */
#ifndef MULL_TESTS_ENGINE_TRAIN_CMD_UTIL_H
#define MULL_TESTS_ENGINE_TRAIN_CMD_UTIL_H

#include "tests/engine/trainer_util.h"

#include <fcntl.h>
#include <sys/wait.h>

enum { STEPS = 14 };

typedef struct place {
    char dir[64], model[96], config[96], log[96];
} place;

/* Starts mull-engine with a NULL-ended list, standard output to the log. */
static inline pid_t start(const place *p, const char *const *args) {
    unlink(p->log);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid) return pid;
    int fd = open(p->log, O_WRONLY | O_CREAT | O_TRUNC, 0666), none = open("/dev/null", O_WRONLY);
    dup2(fd, STDOUT_FILENO);
    dup2(none, STDERR_FILENO);
    execv(MULL_BIN_DIR "/mull-engine", (char *const *)(uintptr_t)args);
    _exit(127);
}

static inline int finish(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static inline int run(const place *p, const char *const *args) {
    int status = finish(start(p, args));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline void put(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static inline void place_init(place *p) {
    char rows[96], image[] = MULL_TEST_DATA "/media/shapes.png", text[4096] = "", line[512];
    snprintf(p->dir, sizeof p->dir, "/tmp/mull_traincmd_XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->model, sizeof p->model, "%s/model", p->dir);
    snprintf(p->config, sizeof p->config, "%s/c.yaml", p->dir);
    snprintf(p->log, sizeof p->log, "%s/log", p->dir);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", p->dir);
    assert_int_equal(run(p, (const char *[]){"mull-engine", "init", "--preset", "tiny", "--out", p->model, NULL}), 0);
    for (int i = 0; i < 9; i++) {
        bool picture = MULL_HAVE_MEDIA && i % 3 == 0;
        snprintf(
            line, sizeof line,
            "{\"messages\":[{\"role\":\"user\",\"content\":[%s%s%s{\"type\":\"text\",\"text\":\"How many is %d?\"}]},"
            "{\"role\":\"assistant\",\"content\":\"<answer>%d</answer>\"}]}\n",
            picture ? "{\"type\":\"image\",\"image\":\"" : "", picture ? image : "", picture ? "\"}," : "", i, i);
        strcat(text, line);
    }
    put(rows, text);
    snprintf(text, sizeof text,
             "model_path: %s\nfreeze_vision: True\nlearning_rate: 0.002\nper_device_train_batch_size: 2\n"
             "gradient_accumulation_steps: 2\nsave_steps: 3\nsave_total_limit: 2\npack_tokens: 512\nmax_steps: %d\n"
             "train_dataset_args:\n  mix_datas:\n    Messages: 1.0\n  messages_location: %s\n",
             p->model, STEPS, rows);
    put(p->config, text);
}

static inline json_t *last_line(const place *p, int *lines) {
    FILE *f = fopen(p->log, "r");
    assert_non_null(f);
    char line[8192];
    json_t *j = NULL;
    for (*lines = 0; fgets(line, sizeof line, f); ++*lines) {
        json_decref(j);
        assert_non_null(j = json_loads(line, 0, NULL));
    }
    fclose(f);
    return j;
}

#endif
