/* Removing a tree: all of it however deep, links themselves and not what they lead to, and nothing else even while
 * somebody swaps a folder of it for a link that leads out. */
#include "schema/remove_tree.h"
#include "tests/support/check.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char *folder;

static char *at(const char *rest) {
    static char ring[8][400];
    static int next;
    char *out = ring[next++ % 8];
    snprintf(out, 400, "%s/%s", folder, rest);
    return out;
}

static int setup(void **state) {
    (void)state;
    folder = mull_temp_folder("remove");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    mull_tree_remove(folder);
    free(folder);
    return 0;
}

static void links_are_not_followed(void **state) {
    (void)state;
    mkdir(at("kept"), 0755);
    mull_write_file(at("kept/file"), "k", 1);
    mkdir(at("a"), 0755);
    mkdir(at("a/b"), 0755);
    mull_write_file(at("a/b/file"), "f", 1);
    assert_int_equal(symlink(at("kept"), at("a/b/link")), 0);
    assert_int_equal(symlink(at("kept"), at("link")), 0);
    mkfifo(at("a/pipe"), 0600);
    assert_int_equal(mull_remove_tree(at("a/")), 0);
    assert_int_equal(access(at("a"), F_OK), -1);
    assert_int_equal(mull_remove_tree(at("link")), 0);
    assert_int_equal(access(at("link"), F_OK), -1);
    assert_int_equal(access(at("kept/file"), F_OK), 0);
    assert_int_equal(mull_remove_tree(at("a")), 0); /* not there */
    assert_int_equal(mull_remove_tree(at("no/such")), 0);
    assert_int_equal(mull_remove_tree("/"), EINVAL);
    assert_int_equal(mull_remove_tree("relative"), EINVAL);
}

static void deep_trees_need_few_descriptors(void **state) {
    (void)state;
    enum { LEVELS = 3000, FILES = 64 };
    struct rlimit was, few;
    mkdir(at("deep"), 0755);
    int dir = open(at("deep"), O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < LEVELS; i++) {
        assert_int_equal(mkdirat(dir, "d", 0755), 0);
        assert_int_equal(mkdirat(dir, ".mull-removed-0-0", 0755), 0); /* a name that removal itself would like */
        int next = openat(dir, "d", O_RDONLY | O_DIRECTORY);
        close(dir);
        dir = next;
    }
    close(dir);
    getrlimit(RLIMIT_NOFILE, &was);
    few = was;
    few.rlim_cur = FILES;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    int why = mull_remove_tree(at("deep"));
    setrlimit(RLIMIT_NOFILE, &was);
    assert_int_equal(why, 0);
    assert_int_equal(access(at("deep"), F_OK), -1);
}

static atomic_bool stop;

/* As a job would that wants a file of somebody else's to be removed: its folder is a link to there every other moment.
 */
static void *swap(void *arg) {
    char one[400], other[400]; /* at() is the main thread's */
    (void)arg;
    snprintf(one, sizeof one, "%s/job/sub", folder);
    snprintf(other, sizeof other, "%s/trap", folder);
    while (!atomic_load(&stop)) renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE);
    return NULL;
}

static void fill(const char *dir) {
    enum { FILES = 20 };
    for (int k = 0; k < FILES; k++) {
        char name[400];
        snprintf(name, sizeof name, "%s/%d", dir, k);
        mull_write_file(name, "v", 1);
    }
}

static void a_swapped_link_leads_nowhere(void **state) {
    (void)state;
    enum { ROUNDS = 150, FILES = 20 };
    pthread_t thread;
    char name[40];
    int there = FILES;
    mkdir(at("victim"), 0755);
    fill(at("victim"));
    assert_int_equal(pthread_create(&thread, NULL, swap, NULL), 0);
    for (int i = 0; i < ROUNDS && there == FILES; i++) {
        mull_remove_tree(at("trap")); /* the folder or the link, as it came to be */
        mull_remove_tree(at("job"));  /* what was swapped into it at its end */
        mkdir(at("job"), 0755);
        mkdir(at("job/sub"), 0755);
        fill(at("job/sub"));
        while (symlink(at("victim"), at("trap")) != 0) mull_remove_tree(at("trap")); /* from now on it is swapped */
        mull_remove_tree(at("job"));
        for (int k = there = 0; k < FILES; k++) {
            snprintf(name, sizeof name, "victim/%d", k);
            there += access(at(name), F_OK) == 0;
        }
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(there, FILES);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(links_are_not_followed),
                                       cmocka_unit_test(deep_trees_need_few_descriptors),
                                       cmocka_unit_test(a_swapped_link_leads_nowhere)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
