/* Which checkpoints a run's folder has, and which of them stay; see checkpoint.h. */
#include "engine/core/buf.h"
#include "engine/train/checkpoint_internal.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot remove a checkpoint";

typedef struct found {
    int64_t step;
    double loss; /* NAN: it does not say */
    bool best;
} found;

static int64_t number_of(const char *name) {
    char *end;
    if (strncmp(name, "checkpoint-", 11) || name[11] < '0' || name[11] > '9') return -1;
    int64_t n = strtoll(name + 11, &end, 10);
    return *end ? -1 : n;
}

static char *path_of(const char *out, int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%lld", (long long)step);
    return mull_path_join(out, name);
}

char *mull_checkpoint_newest(const char *out) {
    int64_t best = -1;
    DIR *d = opendir(out);
    for (struct dirent *e; d && (e = readdir(d));) {
        int64_t n = number_of(e->d_name);
        if (n > best) best = n;
    }
    if (d) closedir(d);
    return best < 0 ? NULL : path_of(out, best);
}

static int by_age(const void *a, const void *b) {
    const found *x = a, *y = b;
    return (x->step < y->step) - (x->step > y->step);
}

/* All of them, newest first. */
static int list(const char *out, found **all, size_t *n, mull_error *err) {
    size_t cap = 0;
    DIR *d = opendir(out);
    *all = NULL;
    *n = 0;
    if (!d) return mull_fail_errno(err, errno, WHAT, out, "check the folder");
    int rc = MULL_OK;
    for (struct dirent *e; !rc && (e = readdir(d));) {
        int64_t step = number_of(e->d_name);
        if (step < 0) continue;
        if (*n == cap) {
            cap = cap ? 2 * cap : 16;
            found *more = realloc(*all, cap * sizeof **all);
            if (!more) {
                rc = mull_fail(err, MULL_ENOMEM, WHAT, out, NULL, "out of memory");
                break;
            }
            *all = more;
        }
        (*all)[(*n)++] = (found){.step = step, .loss = NAN};
    }
    closedir(d);
    if (*n) qsort(*all, *n, sizeof **all, by_age);
    return rc;
}

static double loss_of(const char *out, int64_t step) {
    char *dir = path_of(out, step), *path = dir ? mull_path_join(dir, "trainer_state.json") : NULL;
    json_t *j = path ? json_load_file(path, 0, NULL) : NULL;
    const json_t *v = json_object_get(j, "loss_mean");
    double loss = json_is_number(v) ? json_number_value(v) : NAN;
    json_decref(j);
    free(path);
    free(dir);
    return loss;
}

/* Marks the keep with the least loss; of equal ones the newest. */
static void mark_best(const char *out, found *all, size_t n, int64_t keep) {
    for (size_t i = 0; i < n; i++) all[i].loss = loss_of(out, all[i].step);
    for (int64_t k = 0; k < keep; k++) {
        found *least = NULL;
        for (size_t i = 0; i < n; i++)
            if (!all[i].best && isfinite(all[i].loss) && (!least || all[i].loss < least->loss)) least = &all[i];
        if (!least) return;
        least->best = true;
    }
}

int mull_checkpoint_retain(const char *out, const mull_retention *keep, mull_error *err) {
    if (keep->keep_last <= 0) return MULL_OK;
    found *all;
    size_t n;
    int rc = list(out, &all, &n, err);
    if (!rc && keep->keep_best > 0 && (int64_t)n > keep->keep_last) mark_best(out, all, n, keep->keep_best);
    for (size_t i = (size_t)keep->keep_last; i < n && !rc; i++) {
        if (all[i].best) continue;
        char *path = path_of(out, all[i].step);
        if (!path)
            rc = mull_fail(err, MULL_ENOMEM, WHAT, out, NULL, "out of memory");
        else if (mull__checkpoint_remove(path))
            rc = mull_fail_errno(err, errno, WHAT, path, "check the folder and its permissions");
        else if (keep->removed)
            keep->removed(keep->ctx, all[i].step, path);
        free(path);
    }
    free(all);
    return rc;
}
