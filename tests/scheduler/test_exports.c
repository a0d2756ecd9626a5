/* Exported folders: what is below them comes out and goes in, whole or not at all; nothing else does, whatever a path
 * says and wherever a link points. */
#include "scheduler/exports.h"
#include "tests/support/check.h"
#include "tests/support/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *folder;
static mull_exports x;
static char open_root[200], red_root[200];

static char *at(const char *fmt, const char *rest) {
    static char ring[8][400];
    static int next;
    char *out = ring[next++ % 8];
    snprintf(out, 400, "%s/%s%s", folder, fmt, rest);
    return out;
}

static int setup(void **state) {
    (void)state;
    mull_err err;
    char red[220];
    folder = mull_temp_folder("exports");
    mkdir(at("open", ""), 0755);
    mkdir(at("open/sub", ""), 0755);
    mkdir(at("red", ""), 0755);
    mkdir(at("secret", ""), 0755);
    mull_write_file(at("open/a.txt", ""), "hello", 5);
    mull_write_file(at("open/sub/b", ""), "", 0);
    mull_write_file(at("red/r", ""), "r", 1);
    mull_write_file(at("secret/key", ""), "k", 1);
    mkfifo(at("open/pipe", ""), 0600);
    (void)!symlink("../secret/key", at("open/up", ""));
    (void)!symlink(at("secret/key", ""), at("open/absolute", ""));
    (void)!symlink("a.txt", at("open/inside", ""));
    (void)!symlink("..", at("open/sub/round", ""));
    (void)!symlink("../secret", at("open/out", ""));
    snprintf(open_root, sizeof open_root, "%s/open", folder);
    snprintf(red_root, sizeof red_root, "%s/red/", folder); /* a slash at the end does not matter */
    snprintf(red, sizeof red, "red=%s", red_root);
    assert_int_equal(mull_exports_add(&x, strdup(open_root), &err), 0);
    assert_int_equal(mull_exports_add(&x, strdup(red), &err), 0);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    mull_tree_remove(folder);
    return 0;
}

static void folders(void **state) {
    (void)state;
    mull_err err;
    char relative[] = "x", none[] = "/no/such/folder", slash[] = "/", team[] = "a=b";
    assert_int_equal(mull_exports_add(&x, relative, &err), MULL_ERR_ARG);
    assert_int_equal(mull_exports_add(&x, team, &err), MULL_ERR_ARG);
    assert_int_equal(mull_exports_add(&x, slash, &err), MULL_ERR_ARG);
    assert_true(mull_exports_add(&x, none, &err) < 0);
    assert_true(mull_exports_has(&x, "blue", open_root));
    assert_true(mull_exports_has(&x, "blue", at("open/a", "")));
    assert_true(mull_exports_has(&x, "red", at("red/r", "")));
    assert_false(mull_exports_has(&x, "blue", at("red/r", "")));
    const char *const bad[] = {"/..",   "/../secret/key", "/sub/../../secret/key", "//a.txt", "/./a.txt",
                               "/sub/", "/sub/."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(mull_exports_has(&x, "blue", at("open", bad[i])));
    assert_false(mull_exports_has(&x, "blue", at("openly", "")));
    assert_false(mull_exports_has(&x, "blue", "open/a.txt"));
    assert_false(mull_exports_has(&x, "blue", ""));
}

static void trees(void **state) {
    (void)state;
    json_t *t = mull_exports_tree(&x, "blue", open_root), *f;
    size_t i;
    int seen = 0;
    assert_non_null(t);
    assert_true(json_is_true(json_object_get(t, "folder")));
    json_array_foreach(json_object_get(t, "files"), i, f) {
        const char *name = json_string_value(json_object_get(f, "name")),
                   *sum = json_string_value(json_object_get(f, "sha256"));
        if (!strcmp(name, "a.txt") || !strcmp(name, "inside")) {
            assert_string_equal(sum, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
            assert_int_equal(json_integer_value(json_object_get(f, "bytes")), 5);
        } else {
            assert_string_equal(name, "sub/b");
            assert_string_equal(sum, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        }
        seen++;
    }
    assert_int_equal(seen, 3);
    assert_int_equal(json_array_size(json_object_get(t, "left_out")), 5); /* pipe, up, absolute, round, out */
    json_decref(t);
    t = mull_exports_tree(&x, "blue", at("open/a.txt", ""));
    assert_true(json_is_false(json_object_get(t, "folder")));
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(t, "files"), 0), "name")), "");
    json_decref(t);
    const char *const none[] = {"open/pipe",    "open/up",      "open/absolute", "open/out",
                                "open/out/key", "open/nothing", "red",           "secret/key"};
    for (size_t k = 0; k < sizeof none / sizeof *none; k++) assert_null(mull_exports_tree(&x, "blue", at(none[k], "")));
}

static void reading(void **state) {
    (void)state;
    char buf[16];
    assert_int_equal(mull_exports_read(&x, "blue", at("open/a.txt", ""), 1, buf, sizeof buf), 4);
    assert_memory_equal(buf, "ello", 4);
    assert_int_equal(mull_exports_read(&x, "blue", at("open/a.txt", ""), 5, buf, sizeof buf), 0);
    const char *const bad[] = {"open/up",  "open/absolute", "open/out/key", "open/pipe",
                               "open/sub", "red/r",         "open/../red/r"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(mull_exports_read(&x, "blue", at(bad[i], ""), 0, buf, sizeof buf), -1);
    assert_int_equal(mull_exports_read(&x, "red", at("red/r", ""), 0, buf, sizeof buf), 1);
}

static void writing(void **state) {
    (void)state;
    static const char SUM[] = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    const char *path = at("open/new/deep/file", "");
    assert_int_equal(mull_exports_part(&x, "blue", path), 0);
    assert_int_equal(mull_exports_write(&x, "blue", path, 0, "he", 2), 0);
    assert_int_equal(mull_exports_part(&x, "blue", path), 2);
    assert_int_equal(mull_exports_write(&x, "blue", path, 3, "lo", 2), EINVAL); /* a hole */
    assert_int_equal(access(path, F_OK), -1);                                   /* nothing shows before it is whole */
    assert_int_equal(mull_exports_write(&x, "blue", path, 2, "llo", 3), 0);
    assert_int_equal(mull_exports_commit(&x, "blue", path, SUM), 0);
    size_t n;
    char *text = mull_slurp(path, &n);
    assert_string_equal(text, "hello");
    free(text);
    assert_int_equal(mull_exports_part(&x, "blue", path), 0);
    /* Damaged: the part goes, what was there stays. */
    assert_int_equal(mull_exports_write(&x, "blue", path, 0, "jello", 5), 0);
    assert_int_equal(mull_exports_commit(&x, "blue", path, SUM), EBADMSG);
    assert_int_equal(mull_exports_part(&x, "blue", path), 0);
    text = mull_slurp(path, &n);
    assert_string_equal(text, "hello");
    free(text);
    /* Asked again, as after a lost answer: it is what it was to become. Of other bytes there is nothing to commit. */
    assert_int_equal(mull_exports_commit(&x, "blue", path, SUM), 0);
    assert_int_equal(
        mull_exports_commit(&x, "blue", path, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ENOENT);
    assert_int_equal(mull_exports_commit(&x, "blue", at("open/new/deep", ""), SUM), ENOENT);
    assert_int_equal(mull_exports_commit(&x, "blue", at("open/new/none", ""), SUM), ENOENT);
    /* An empty file; and one that is begun again. */
    assert_int_equal(mull_exports_write(&x, "blue", at("open/empty", ""), 0, "", 0), 0);
    assert_int_equal(mull_exports_commit(&x, "blue", at("open/empty", ""),
                                         "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
                     0);
    assert_int_equal(mull_exports_write(&x, "blue", at("open/again", ""), 0, "xxxx", 4), 0);
    assert_int_equal(mull_exports_write(&x, "blue", at("open/again", ""), 0, "y", 1), 0);
    assert_int_equal(mull_exports_part(&x, "blue", at("open/again", "")), 1);
    /* No way out, and none through a link that stays inside either. */
    const char *const bad[] = {"open/out/x", "open/sub/round/x", "open/../secret/x", "red/x", "secret/x", "open"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_not_equal(mull_exports_write(&x, "blue", at(bad[i], ""), 0, "x", 1), 0);
    assert_int_equal(access(at("secret/x.mull-part", ""), F_OK), -1);
    /* A link that waits under the part's name is not followed. */
    (void)!symlink("../secret/key", at("open/trap.mull-part", ""));
    assert_int_not_equal(mull_exports_write(&x, "blue", at("open/trap", ""), 0, "x", 1), 0);
    text = mull_slurp(at("secret/key", ""), &n);
    assert_string_equal(text, "k");
    free(text);
    /* Renamed over a link, the link is what is replaced. */
    assert_int_equal(mull_exports_write(&x, "blue", at("open/up", ""), 0, "hello", 5), 0);
    assert_int_equal(mull_exports_commit(&x, "blue", at("open/up", ""), SUM), 0);
    text = mull_slurp(at("secret/key", ""), &n);
    assert_string_equal(text, "k");
    free(text);
}

static void removing(void **state) {
    (void)state;
    assert_int_equal(mull_exports_remove(&x, "blue", at("open/out", "")), 0); /* the link, not what it leads to */
    assert_int_equal(access(at("secret/key", ""), F_OK), 0);
    assert_int_equal(mull_exports_remove(&x, "blue", at("open/new", "")), 0);
    assert_int_equal(access(at("open/new", ""), F_OK), -1);
    assert_int_equal(mull_exports_remove(&x, "blue", at("open/nothing", "")), 0);
    assert_int_not_equal(mull_exports_remove(&x, "blue", at("red/r", "")), 0);
    assert_int_not_equal(mull_exports_remove(&x, "blue", open_root), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(folders), cmocka_unit_test(trees), cmocka_unit_test(reading),
                                       cmocka_unit_test(writing), cmocka_unit_test(removing)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
