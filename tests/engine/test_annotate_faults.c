/* Annotation under faults: whatever happens to the process or the disk, starting it again ends with the bytes of an
 * undisturbed run, and rows that were answered are not answered again. */
#include "tests/engine/annotate_util.h"

#include <sys/file.h>

enum { ROWS = 300 };
static const char *const FLAGS[] = {
    "--max-new-tokens", "12", "--shard-rows", "40", "--temperature", "0.9", "--seed", "7", "--batch", "8", NULL};

/* Rows of several lengths, some bad, some with an image. */
static void write_rows(const place *p, int rows) {
    FILE *f = fopen(p->in, "w");
    assert_non_null(f);
    shell("cp '%s/media/shapes.png' %s/", MULL_TEST_DATA, p->dir);
    for (int i = 0; i < rows; i++) {
        if (i % 29 == 5)
            fprintf(f, "{\"custom_id\":\"r%d\",\"method\":\"GET\"}\n", i);
        else if (i % 31 == 7)
            fprintf(f,
                    "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"image\":\"shapes.png\"},"
                    "{\"type\":\"text\",\"text\":\"row %d\"}]}],\"max_tokens\":3}\n",
                    i);
        else
            fprintf(f,
                    "{\"custom_id\":\"r%d\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":"
                    "\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"row %d\"}],\"max_tokens\":%d,\"n\":%d}}\n",
                    i, i, 1 + i * 7 % 30, 1 + (i % 17 == 3));
    }
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state) {
    place *p = calloc(1, sizeof *p);
    assert_non_null(p);
    place_init(p);
    write_rows(p, ROWS);
    assert_int_equal(annotate(p, p->out, FLAGS), 0);
    *state = p;
    return 0;
}

static int teardown(void **state) {
    place_fini(*state);
    free(*state);
    return 0;
}

static void same_as_undisturbed(const place *p, const char *out) {
    same_files(p->out, out, "output.jsonl");
    same_files(p->out, out, "errors.jsonl");
}

static uint64_t draw(uint64_t *s) {
    return *s = util_splitmix(*s);
}

static void test_kill_at_any_time(void **state) {
    const place *p = *state;
    uint64_t seed = 1;
    char out[96];
    int killed = 0;
    snprintf(out, sizeof out, "%s/killed", p->dir);
    for (int round = 0; round < 4; round++) {
        /* From the start up to the merge; a start that comes to its end begins another folder. */
        for (int i = 0; i < 40; i++) {
            pid_t pid = start_annotate(p, out, 0, FLAGS);
            sleep_ms((int64_t)(draw(&seed) % (round == 0 ? 60 : 400)));
            kill(pid, SIGKILL);
            if (wait_engine(pid) != -SIGKILL) break;
            killed++;
        }
        assert_int_equal(annotate(p, out, FLAGS), 0);
        same_as_undisturbed(p, out);
        shell("rm -rf %s", out);
    }
    assert_true(killed > 10);
}

static int64_t resumed_rows(const place *p) {
    mull_buf b = get_file(p->dir, "stdout");
    json_t *o = line_of(&b, 0);
    int64_t n = util_int(o, "resumed_rows");
    assert_int_equal(util_int(o, "rows"), ROWS);
    assert_int_equal(util_int(o, "ok") + util_int(o, "errors"), ROWS);
    json_decref(o);
    mull_buf_fini(&b);
    return n;
}

/* Bytes of all shard files of out. */
static int64_t kept_bytes(const char *out) {
    int64_t sum = 0;
    for (int i = 0; i < (ROWS + 39) / 40; i++) {
        char path[160];
        struct stat st;
        snprintf(path, sizeof path, "%s/.mull/shard-%08d.rows", out, i);
        if (stat(path, &st) == 0) sum += (int64_t)st.st_size;
    }
    return sum;
}

static void test_term_keeps_what_is_done(void **state) {
    const place *p = *state;
    char out[96];
    snprintf(out, sizeof out, "%s/term", p->dir);
    pid_t pid = start_annotate(p, out, 0, FLAGS);
    for (int i = 0; i < 2000 && kept_bytes(out) < 5000; i++) sleep_ms(2);
    kill(pid, SIGTERM);
    int rc = wait_engine(pid);
    if (rc == MULL_EXIT_REQUEUE) {
        assert_true(kept_bytes(out) >= 5000);
        assert_false(there(out, "output.jsonl"));
        assert_int_equal(annotate(p, out, FLAGS), 0);
        assert_true(resumed_rows(p) >= 10);
    } else {
        assert_int_equal(rc, 0); /* it was faster */
    }
    same_as_undisturbed(p, out);
    shell("rm -rf %s", out);
}

/* Every file is cut at every possible size by turns: the limit grows until all fits. */
static void test_disk_full(void **state) {
    const place *p = *state;
    char out[96];
    int full = 0;
    snprintf(out, sizeof out, "%s/full", p->dir);
    for (rlim_t limit = 64; limit < 1 << 20; limit = limit * 5 / 3) {
        int rc = wait_engine(start_annotate(p, out, limit, FLAGS));
        if (rc == 0) break;
        /* stderr has the same limit, so its text may be cut, but not at the first words when there is room */
        assert_int_equal(rc, MULL_EXIT_FAILED);
        assert_false(there(out, "output.jsonl"));
        full++;
    }
    assert_true(full >= 3);
    assert_int_equal(annotate(p, out, FLAGS), 0);
    same_as_undisturbed(p, out);
    shell("rm -rf %s", out);
}

static void stop_half_way(const place *p, const char *out) {
    shell("rm -rf %s", out);
    pid_t pid = start_annotate(p, out, 0, FLAGS);
    for (int i = 0; i < 4000 && kept_bytes(out) < 9000; i++) sleep_ms(1);
    kill(pid, SIGKILL);
    assert_int_equal(wait_engine(pid), -SIGKILL);
}

/* What a power cut may leave: half a record, zeros, an old marker over missing rows. */
static void test_torn_files(void **state) {
    const place *p = *state;
    uint64_t seed = 3;
    char out[96], path[160];
    snprintf(out, sizeof out, "%s/torn", p->dir);
    snprintf(path, sizeof path, "%s/.mull/shard-%08d.rows", out, 0);
    for (int i = 0; i < 6; i++) {
        stop_half_way(p, out);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        int fd = open(path, O_RDWR);
        assert_true(fd >= 0);
        off_t at = (off_t)(draw(&seed) % (uint64_t)(st.st_size + 1));
        char junk[300];
        memset(junk, i % 2 ? 0 : 'M', sizeof junk);
        if (i < 2) {
            assert_int_equal(ftruncate(fd, at), 0);
        } else if (i < 4) {
            assert_int_equal(pwrite(fd, junk, sizeof junk, at), sizeof junk);
        } else {
            assert_int_equal(pwrite(fd, junk, sizeof junk, st.st_size), sizeof junk);
        }
        close(fd);
        assert_int_equal(annotate(p, out, FLAGS), 0);
        same_as_undisturbed(p, out);
    }
    shell("rm -rf %s", out);
}

static void test_one_prepares(void **state) {
    const place *p = *state;
    char out[96];
    snprintf(out, sizeof out, "%s/two", p->dir);
    shell("mkdir -p %s/.mull", out);
    char lock[128];
    snprintf(lock, sizeof lock, "%s/.mull/lock", out);
    int fd = open(lock, O_RDWR | O_CREAT, 0666);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0); /* as another process would hold it */
    const char *const more[] = {"--wait", "0.2", NULL};
    assert_int_equal(wait_engine(start_annotate(p, out, 0, more)), MULL_EXIT_FAILED);
    assert_true(stderr_has(p, "another process prepares the work in it"));
    assert_false(there(out, ".mull/manifest.json"));
    /* Once it is given up, one that waits goes on. */
    const char *const patient[] = {"--wait",
                                   "60",
                                   "--max-new-tokens",
                                   "12",
                                   "--shard-rows",
                                   "40",
                                   "--temperature",
                                   "0.9",
                                   "--seed",
                                   "7",
                                   "--batch",
                                   "8",
                                   NULL};
    pid_t pid = start_annotate(p, out, 0, patient);
    sleep_ms(200);
    assert_false(there(out, ".mull/plan"));
    close(fd);
    assert_int_equal(wait_engine(pid), 0);
    same_as_undisturbed(p, out);
    shell("rm -rf %s", out);
}

/* Several processes in one folder, some of them killed and started again: the same bytes, and each that ends well says
 * the same totals. */
static void test_many_at_once(void **state) {
    const place *p = *state;
    enum { MANY = 3, ROUNDS = 6 };
    char out[96], dirs[MANY][80];
    snprintf(out, sizeof out, "%s/many", p->dir);
    for (int round = 0; round < ROUNDS; round++) {
        pid_t pids[MANY];
        shell("rm -rf %s", out);
        for (int i = 0; i < MANY; i++) {
            snprintf(dirs[i], sizeof dirs[i], "%.40s/p%d", p->dir, i);
            shell("mkdir -p %s", dirs[i]);
            place mine = *p;
            snprintf(mine.dir, sizeof mine.dir, "%.40s/p%d", p->dir, i);
            pids[i] = start_annotate(&mine, out, 0, FLAGS);
        }
        /* One dies with shards in its hands, at another moment each round; the last round nobody. */
        if (round + 1 < ROUNDS) {
            for (int i = 0; i < 2000 && kept_bytes(out) < round * 4000; i++) sleep_ms(1);
            kill(pids[round % MANY], SIGKILL);
        }
        for (int i = 0; i < MANY; i++) {
            int rc = wait_engine(pids[i]);
            if (i == round % MANY && round + 1 < ROUNDS)
                assert_true(rc == -SIGKILL || rc == 0);
            else
                assert_int_equal(rc, 0);
            if (rc) continue;
            mull_buf text = get_file(dirs[i], "stdout");
            json_t *o = json_loadb(text.data, text.len, JSON_DISABLE_EOF_CHECK, NULL);
            assert_int_equal(util_int(o, "rows"), util_int(o, "ok") + util_int(o, "errors"));
            assert_true(util_int(o, "rows") > 0);
            json_decref(o);
            mull_buf_fini(&text);
        }
        same_as_undisturbed(p, out);
    }
    shell("rm -rf %s", out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill_at_any_time), cmocka_unit_test(test_term_keeps_what_is_done),
        cmocka_unit_test(test_disk_full),        cmocka_unit_test(test_torn_files),
        cmocka_unit_test(test_one_prepares),     cmocka_unit_test(test_many_at_once)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
