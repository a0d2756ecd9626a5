/* Finding and reading the files of source.h. */
#include "engine/eval/source_internal.h"

#include "engine/core/digest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const WHAT = "cannot read the dataset";
enum { DEPTH = 2, FILES_MAX = 4096 };

typedef struct files {
    char **v;
    size_t n;
} files;

static void files_fini(files *f) {
    for (size_t i = 0; i < f->n; i++) free(f->v[i]);
    free(f->v);
    *f = (files){0};
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static void list(const char *dir, int depth, files *out) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.' || out->n >= FILES_MAX) continue;
        char *path = mull_path_join(dir, e->d_name);
        struct stat st;
        bool data = ends_with(e->d_name, ".parquet") || ends_with(e->d_name, ".jsonl") || ends_with(e->d_name, ".json");
        if (path && !stat(path, &st) && S_ISDIR(st.st_mode) && depth > 0)
            list(path, depth - 1, out);
        else if (path && data && S_ISREG(st.st_mode)) {
            char **v = realloc(out->v, (out->n + 1) * sizeof *v);
            if (v) {
                out->v = v;
                out->v[out->n++] = path;
                path = NULL;
            }
        }
        free(path);
    }
    if (d) closedir(d);
}

static int by_path(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Keeps what fits, unless nothing does. */
static void keep(files *f, bool (*fits)(const char *path, const char *what), const char *what) {
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) n += fits(f->v[i], what);
    if (!n || n == f->n) return;
    n = 0;
    for (size_t i = 0; i < f->n; i++)
        if (fits(f->v[i], what))
            f->v[n++] = f->v[i];
        else
            free(f->v[i]);
    f->n = n;
}

/* A word of the file's or its folder's name, so that "test" is in test-00000-of-00001 and SAT_test, not in latest. */
static bool names_split(const char *path, const char *split) {
    const char *last = strrchr(path, '/'), *from = last;
    while (from && from > path && from[-1] != '/') from--;
    size_t k = strlen(split);
    for (const char *p = from ? from : path; (p = strstr(p, split)); p++) {
        bool before = p == path || !((p[-1] | 32) >= 'a' && (p[-1] | 32) <= 'z');
        bool behind = !((p[k] | 32) >= 'a' && (p[k] | 32) <= 'z');
        if (before && behind) return true;
    }
    return false;
}

/* As the Hub names the parts of a split: test-00000-of-00003.parquet. A folder may have subsets of the split beside
 * them (VSI-Bench's test_debiased), whose rows would count twice. */
static bool hub_part(const char *path, const char *split) {
    const char *last = strrchr(path, '/'), *p = last ? last + 1 : path;
    size_t k = strlen(split);
    if (strncmp(p, split, k) || p[k] != '-') return false;
    p += k + 1;
    size_t n = strspn(p, "0123456789");
    return n >= 5 && !strncmp(p + n, "-of-", 4);
}

/* In a folder of this name, such as STARE's configuration that has all the others' rows. */
static bool in_folder(const char *path, const char *name) {
    size_t k = strlen(name);
    for (const char *p = path; (p = strstr(p, name)); p++)
        if (p > path && p[-1] == '/' && p[k] == '/') return true;
    return false;
}

static bool has_name(const char *path, const char *name) {
    const char *last = strrchr(path, '/');
    return !strncmp(last ? last + 1 : path, name, strlen(name));
}

static int index_lines(mull__part *p, mull_error *err) {
    char *line = NULL;
    size_t cap = 0, room = 0;
    int64_t at = 0;
    int rc = MULL_OK;
    for (ssize_t n; !rc && (n = getline(&line, &cap, p->f)) > 0; at += n) {
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        if ((size_t)p->rows == room) {
            room = room ? room * 2 : 256;
            int64_t *v = realloc(p->at, room * sizeof *v);
            if (!v)
                rc = mull_fail(err, MULL_ENOMEM, WHAT, p->path, NULL, "out of memory");
            else
                p->at = v;
        }
        if (!rc) p->at[p->rows++] = at;
    }
    free(line);
    return rc;
}

static int part_open(mull__part *p, mull_error *err) {
    if (ends_with(p->path, ".parquet")) return mull__parquet_open(p, err);
    json_error_t je;
    p->f = fopen(p->path, "re");
    if (!p->f) return mull_fail_errno(err, errno, WHAT, p->path, "check the folder");
    int c = fgetc(p->f);
    rewind(p->f);
    if (c != '[') return index_lines(p, err);
    p->array = json_loadf(p->f, 0, &je);
    if (!json_is_array(p->array))
        return mull_fail(err, MULL_EFORMAT, WHAT, p->path, "download the file again", "line %d: %s", je.line, je.text);
    p->rows = (int64_t)json_array_size(p->array);
    return MULL_OK;
}

static int part_get(mull__part *p, int64_t i, json_t **out, mull_error *err) {
    if (p->parquet) return mull__parquet_get(p, i, out, err);
    if (p->array) {
        *out = json_incref(json_array_get(p->array, (size_t)i));
        return MULL_OK;
    }
    char *line = NULL;
    size_t cap = 0;
    json_error_t je = {0};
    ssize_t n = fseeko(p->f, p->at[i], SEEK_SET) ? -1 : getline(&line, &cap, p->f);
    *out = n > 0 ? json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &je) : NULL;
    free(line);
    if (json_is_object(*out)) return MULL_OK;
    json_decref(*out);
    *out = NULL;
    return mull_fail(err, MULL_EFORMAT, WHAT, p->path, "download the file again", "row %lld: %s", (long long)i,
                     n > 0 ? je.text[0] ? je.text : "it is no object" : "it cannot be read");
}

static void part_close(mull__part *p) {
    if (p->parquet) mull__parquet_close(p);
    if (p->f) fclose(p->f);
    json_decref(p->array);
    free(p->at);
    free(p->path);
}

/* Files of the split in a candidate folder, of one kind: JSON lines, else parquet, else JSON (of which downloads have
 * others too, such as dataset_infos.json). */
static void choose(const mull_task *t, files *f, bool by_name) {
    static const char *const KINDS[] = {".jsonl", ".parquet", ".json"};
    if (f->n) qsort(f->v, f->n, sizeof *f->v, by_path);
    if (by_name) {
        size_t n = 0;
        for (size_t i = 0; i < f->n; i++)
            if (has_name(f->v[i], t->name))
                f->v[n++] = f->v[i];
            else
                free(f->v[i]);
        f->n = n;
    }
    keep(f, names_split, t->split);
    keep(f, hub_part, t->split);
    keep(f, in_folder, "full");
    for (size_t k = 0; k < 3; k++) {
        size_t n = 0;
        for (size_t i = 0; i < f->n; i++) n += ends_with(f->v[i], KINDS[k]);
        if (!n) continue;
        keep(f, ends_with, KINDS[k]);
        break;
    }
}

static int find(mull_source *s, bool alone, files *out, mull_error *err) {
    const mull_task *t = s->task;
    const char *names[12] = {t->name};
    size_t n = 1;
    mull_buf tried = {0};
    for (int i = 0; i < 4 && t->aliases[i]; i++) names[n++] = t->aliases[i];
    for (int i = 0; i < 4 && t->folders[i]; i++) names[n++] = t->folders[i];
    for (size_t i = 0; i < n && !out->n; i++) {
        char *dir = mull_path_join(s->data, names[i]);
        if (!dir) break;
        list(dir, DEPTH, out);
        choose(t, out, false);
        if (out->n)
            s->folder = dir;
        else {
            mull_buf_printf(&tried, "%s%s", tried.len ? ", " : "", names[i]);
            free(dir);
        }
    }
    if (!out->n) {
        files more = {0};
        list(s->data, 0, &more);
        choose(t, &more, !alone);
        if (more.n) s->folder = strdup(s->data);
        *out = more;
    }
    char todo[320];
    snprintf(todo, sizeof todo, "download %.90s (split %s) into %.120s/%s", t->hub, t->split, s->data, t->name);
    int rc = out->n ? MULL_OK
                    : mull_fail(err, MULL_EMISSING, "cannot find the dataset of a task", t->name, todo,
                                "no parquet, .jsonl or .json file in %s (folders looked for: %s)", s->data,
                                tried.data ? tried.data : "none");
    mull_buf_fini(&tried);
    return rc;
}

static bool listed(const mull_task *t, const char *column) {
    for (int i = 0; i < 6 && t->columns[i]; i++)
        if (!strcmp(t->columns[i], column)) return true;
    return false;
}

/* Of numbered images (image_1, image_2, ...) those before one that is there; two names are two ways to keep one. */
static void name_gaps(const mull_task *t, const json_t *doc, mull_buf *missing) {
    const char *const *names = t->media.singles;
    int last = names[0] && names[1] && names[2] ? 8 : -1;
    while (last >= 0 && !(names[last] && json_object_get(doc, names[last]))) last--;
    for (int i = 0; i < last; i++)
        if (!json_object_get(doc, names[i])) mull_buf_printf(missing, "%s%s", missing->len ? ", " : "", names[i]);
}

/* The first row has what the task needs; everything that is missing is named at once. */
static int check_columns(mull_source *s, mull_error *err) {
    const mull_task *t = s->task;
    json_t *doc = NULL;
    mull_buf missing = {0};
    int rc = s->rows ? part_get(&s->parts[0], 0, &doc, err)
                     : mull_fail(err, MULL_EFORMAT, WHAT, s->folder, "download it again", "it has no rows");
    for (int i = 0; !rc && i < 6 && t->columns[i]; i++)
        if (!json_object_get(doc, t->columns[i]))
            mull_buf_printf(&missing, "%s%s", missing.len ? ", " : "", t->columns[i]);
    const char *pattern = t->media.video;
    bool media = pattern != NULL, url = t->media.video_url && json_object_get(doc, t->media.video_url);
    for (const char *from = url || !pattern ? NULL : strchr(pattern, '{'); !rc && from; from = strchr(from + 1, '{')) {
        char key[40];
        snprintf(key, sizeof key, "%.*s", (int)strcspn(from + 1, "}"), from + 1);
        if (!listed(t, key) && !json_object_get(doc, key)) /* listed ones are named above */
            mull_buf_printf(&missing, "%s%s", missing.len ? ", " : "", key);
    }
    for (int i = 0; i < 4 && t->media.lists[i]; i++) media = media || json_object_get(doc, t->media.lists[i]);
    for (int i = 0; i < 9 && t->media.singles[i]; i++) media = media || json_object_get(doc, t->media.singles[i]);
    name_gaps(t, doc, &missing);
    if (!rc && !media) {
        const char *const *names = t->media.lists[0] ? t->media.lists : t->media.singles;
        for (int i = 0; i < 4 && names[i] && !listed(t, names[i]); i++)
            mull_buf_printf(&missing, "%s%s", i ? " or " : missing.len ? ", " : "", names[i]);
    }
    if (!rc && missing.len)
        rc = mull_fail(err, MULL_EFORMAT, "the dataset of a task lacks columns", s->parts[0].path,
                       "download the dataset that the task names, or rename the columns", "%s needs %s", t->name,
                       missing.data);
    mull_buf_fini(&missing);
    json_decref(doc);
    return rc;
}

int mull_source_open(const mull_task *t, const char *data, bool alone, mull_source **out, mull_error *err) {
    mull_source *s = calloc(1, sizeof *s);
    files f = {0};
    *out = NULL;
    if (!s) return mull_fail(err, MULL_ENOMEM, WHAT, data, NULL, "out of memory");
    s->task = t;
    s->data = strdup(data);
    int rc = s->data ? find(s, alone, &f, err) : mull_fail(err, MULL_ENOMEM, WHAT, data, NULL, "out of memory");
    if (!rc && !(s->parts = calloc(f.n, sizeof *s->parts)))
        rc = mull_fail(err, MULL_ENOMEM, WHAT, data, NULL, "out of memory");
    for (size_t i = 0; i < f.n && !rc; i++) {
        mull__part *p = &s->parts[s->nparts++];
        p->path = f.v[i];
        f.v[i] = NULL;
        rc = part_open(p, err);
        s->rows += p->rows;
    }
    files_fini(&f);
    if (!rc) rc = check_columns(s, err);
    if (!rc) rc = mull_source_arrange(s, true, true, err);
    if (rc) {
        mull_source_close(s);
        return rc;
    }
    *out = s;
    return MULL_OK;
}

void mull_source_close(mull_source *s) {
    if (!s) return;
    for (size_t i = 0; i < s->nparts; i++) part_close(&s->parts[i]);
    free(s->parts);
    free(s->order);
    free(s->data);
    free(s->folder);
    free(s);
}

static int row_get(mull_source *s, int64_t row, json_t **doc, mull_error *err) {
    size_t k = 0;
    while (k + 1 < s->nparts && row >= s->parts[k].rows) row -= s->parts[k++].rows;
    return part_get(&s->parts[k], row, doc, err);
}

static int drop_many_images(mull_source *s, mull_error *err) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->count; i++) {
        json_t *doc = NULL;
        int rc = row_get(s, s->order[i] / 2, &doc, err);
        if (rc) return rc;
        if (json_array_size(json_object_get(doc, "visual")) <= 4) s->order[n++] = s->order[i];
        json_decref(doc);
    }
    s->count = n;
    return MULL_OK;
}

int mull_source_arrange(mull_source *s, bool circular, bool shuffle, mull_error *err) {
    bool twice = circular && !strcmp(s->task->name, "sat_real");
    free(s->order);
    s->count = twice ? 2 * s->rows : s->rows;
    s->order = calloc((size_t)s->count + 1, sizeof *s->order);
    uint32_t *mixed = calloc((size_t)s->rows + 1, sizeof *mixed);
    int rc = s->order && mixed ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, s->folder, NULL, "out of memory");
    bool mix = shuffle && !strcmp(s->task->name, "vsibench");
    if (!rc && mix) rc = mull_shuffle_order(42, (size_t)s->rows, mixed);
    for (int64_t i = 0; i < s->count && !rc; i++)
        s->order[i] = i < s->rows ? 2 * (mix ? (int64_t)mixed[i] : i) : 2 * (i - s->rows) + 1;
    free(mixed);
    return !rc && !strcmp(s->task->name, "sitebench") ? drop_many_images(s, err) : rc;
}

int mull_source_digest(const mull_source *s, char hex[65], mull_error *err) {
    uint8_t md[32];
    mull__sha *sha = mull__sha_create();
    int rc = sha ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, s->folder, NULL, "out of memory");
    for (size_t i = 0; i < s->nparts && !rc; i++) rc = mull_digest_file(sha, AT_FDCWD, s->parts[i].path, WHAT, err);
    if (!rc) {
        mull__sha_done(sha, md);
        mull__hex(md, 32, hex);
    }
    mull__sha_destroy(sha);
    return rc;
}

int64_t mull_source_count(const mull_source *s) {
    return s->count;
}
int64_t mull_source_rows(const mull_source *s) {
    return s->rows;
}
const char *mull_source_folder(const mull_source *s) {
    return s->folder;
}

/* A video by its address on the Hub: its path within the repository is what a download has. */
static void video_path(const mull_task *t, json_t *doc) {
    static const char MAIN[] = "/resolve/main/";
    const char *url = t->media.video_url ? json_string_value(json_object_get(doc, t->media.video_url)) : NULL;
    if (!url || json_object_get(doc, "video_path")) return;
    const char *tail = strstr(url, MAIN);
    json_object_set_new(doc, "video_path", json_string(tail ? tail + sizeof MAIN - 1 : url));
}

int mull_source_get(mull_source *s, int64_t i, json_t **doc, mull_error *err) {
    int rc = row_get(s, s->order[i] / 2, doc, err);
    if (!rc) video_path(s->task, *doc);
    const json_t *answers = rc ? NULL : json_object_get(*doc, "answers");
    if (!rc && s->order[i] % 2 && json_is_array(answers)) {
        json_t *reversed = json_array();
        for (size_t k = json_array_size(answers); k-- > 0;) json_array_append(reversed, json_array_get(answers, k));
        json_object_set_new(*doc, "answers", reversed);
    }
    return rc;
}
