/* Several parquet files as one table. Opening reads only their footers. A reader holds one file open at the place where
 * it last read; idle readers are kept, a few of them, so that going on in a file costs nothing. */
#include "engine/data/dataset_internal.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { IDLE_MAX = 8 };

struct mull__table {
    char **paths;
    int64_t *first; /* [n + 1] first row of each file */
    size_t n;
    char **columns; /* [ncolumns] */
    size_t ncolumns;
    pthread_mutex_t lock;
    struct {
        mull_parquet *p;
        size_t file;
        int64_t next; /* the row that is cheap to read */
        uint64_t used;
    } idle[IDLE_MAX];
    uint64_t clock;
};

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int mull__paths(const char *dir, const char *prefix, const char *suffix, char ***out, size_t *n, mull_error *err) {
    char **list = NULL;
    size_t count = 0, cap = 0, pre = strlen(prefix), suf = strlen(suffix);
    int rc = MULL_OK;
    *out = NULL;
    *n = 0;
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT || errno == ENOTDIR
                   ? MULL_OK
                   : mull_fail_errno(err, errno, "cannot list the dataset", dir, "check the path and its permissions");
    for (struct dirent *e; !rc && (e = readdir(d));) {
        size_t len = strlen(e->d_name);
        if (len < pre + suf || strncmp(e->d_name, prefix, pre) || strcmp(e->d_name + len - suf, suffix)) continue;
        if (count == cap) {
            cap = cap ? cap * 2 : 16;
            char **p = realloc(list, cap * sizeof *p);
            if (!p) rc = MULL_ENOMEM;
            if (p) list = p;
        }
        char *path = rc ? NULL : mull_path_join(dir, e->d_name);
        struct stat st;
        if (!path)
            rc = MULL_ENOMEM;
        else if (!stat(path, &st) && S_ISREG(st.st_mode))
            list[count++] = path;
        else
            free(path);
    }
    closedir(d);
    if (rc) {
        mull__paths_fini(list, count);
        return mull_fail(err, rc, "cannot list the dataset", dir, NULL, "out of memory");
    }
    if (count) qsort(list, count, sizeof *list, by_name);
    *out = list;
    *n = count;
    return MULL_OK;
}

void mull__paths_fini(char **paths, size_t n) {
    for (size_t i = 0; paths && i < n; i++) free(paths[i]);
    free(paths);
}

int mull__table_open(char *const *paths, size_t npaths, const char *const *columns, size_t ncolumns, mull__table **out,
                     mull_error *err) {
    mull__table *t = calloc(1, sizeof *t);
    int rc = t ? MULL_OK : MULL_ENOMEM;
    *out = NULL;
    if (t) {
        pthread_mutex_init(&t->lock, NULL);
        t->paths = calloc(npaths + 1, sizeof *t->paths);
        t->first = calloc(npaths + 1, sizeof *t->first);
        t->columns = calloc(ncolumns + 1, sizeof *t->columns);
        if (!t->paths || !t->first || !t->columns) rc = MULL_ENOMEM;
    }
    for (size_t i = 0; !rc && i < ncolumns; i++, t->ncolumns++)
        if (!(t->columns[i] = strdup(columns[i]))) rc = MULL_ENOMEM;
    if (rc) rc = mull_fail(err, rc, "cannot open the dataset", NULL, NULL, "out of memory");
    for (size_t i = 0; !rc && i < npaths; i++) {
        mull_parquet *p;
        rc = mull_parquet_open(paths[i], columns, ncolumns, &p, err);
        if (rc) break;
        t->first[i + 1] = t->first[i] + mull_parquet_rows(p);
        mull_parquet_close(p);
        t->paths[t->n++] = strdup(paths[i]);
        if (!t->paths[i]) rc = mull_fail(err, MULL_ENOMEM, "cannot open the dataset", paths[i], NULL, "out of memory");
    }
    if (rc) {
        mull__table_close(t);
        return rc;
    }
    *out = t;
    return MULL_OK;
}

void mull__table_close(mull__table *t) {
    if (!t) return;
    for (int i = 0; i < IDLE_MAX; i++)
        if (t->idle[i].p) mull_parquet_close(t->idle[i].p);
    mull__paths_fini(t->paths, t->n);
    mull__paths_fini(t->columns, t->ncolumns);
    free(t->first);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

int64_t mull__table_rows(const mull__table *t) {
    return t->first[t->n];
}

/* The idle reader of the file that has the shortest way to row, taken out; NULL when there is none. */
static mull_parquet *take(mull__table *t, size_t file, int64_t row) {
    int best = -1;
    pthread_mutex_lock(&t->lock);
    for (int i = 0; i < IDLE_MAX; i++) {
        if (!t->idle[i].p || t->idle[i].file != file) continue;
        /* Behind the row is better than past it, and the nearer the better. */
        bool ahead = t->idle[i].next <= row;
        if (best < 0 || (ahead && (t->idle[best].next > row || t->idle[i].next > t->idle[best].next))) best = i;
    }
    mull_parquet *p = best < 0 ? NULL : t->idle[best].p;
    if (best >= 0) t->idle[best].p = NULL;
    pthread_mutex_unlock(&t->lock);
    return p;
}

static void give(mull__table *t, mull_parquet *p, size_t file, int64_t next) {
    pthread_mutex_lock(&t->lock);
    int slot = 0;
    for (int i = 0; i < IDLE_MAX; i++) {
        if (!t->idle[i].p) {
            slot = i;
            break;
        }
        if (t->idle[i].used < t->idle[slot].used) slot = i;
    }
    mull_parquet *old = t->idle[slot].p;
    t->idle[slot].p = p;
    t->idle[slot].file = file;
    t->idle[slot].next = next;
    t->idle[slot].used = ++t->clock;
    pthread_mutex_unlock(&t->lock);
    if (old) mull_parquet_close(old);
}

int mull__table_read(mull__table *t, int64_t i, mull_row *out, mull_error *err) {
    size_t lo = 0, hi = t->n;
    *out = (mull_row){0};
    if (i < 0 || i >= mull__table_rows(t))
        return mull_fail(err, MULL_EARG, "cannot read a row", NULL, NULL, "there is no row %lld", (long long)i);
    while (hi - lo > 1) { /* first[lo] <= i < first[hi] */
        size_t mid = lo + (hi - lo) / 2;
        if (t->first[mid] <= i)
            lo = mid;
        else
            hi = mid;
    }
    int64_t row = i - t->first[lo];
    mull_parquet *p = take(t, lo, row);
    int rc = MULL_OK;
    if (!p)
        rc =
            mull_parquet_open(t->paths[lo], t->ncolumns ? (const char *const *)t->columns : NULL, t->ncolumns, &p, err);
    if (rc) return rc;
    rc = mull_parquet_read(p, row, out, err);
    give(t, p, lo, row + 1);
    return rc;
}
