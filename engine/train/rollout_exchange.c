/* See rollout_exchange.h. */
#include "engine/train/rollout_exchange.h"

#include "engine/annotate/fileio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const WHAT = "cannot use the exchange of rollouts";
enum { FORMAT = 1, RUN_BYTES = 4 << 20, WANT_BYTES = 4096 };
static const int64_t MOST = INT64_MAX / 4;

int mull_exchange_open(const char *out, bool create, mull_exchange *x, mull_error *err) {
    *x = (mull_exchange){.dir = -1};
    int n = snprintf(x->path, sizeof x->path, "%s/exchange", out);
    if (n < 0 || (size_t)n >= sizeof x->path) return mull_fail(err, MULL_EARG, WHAT, out, NULL, "the path is too long");
    int rc = create ? mull__make_folders(x->path, WHAT, err) : MULL_OK;
    if (rc) return rc;
    x->dir = open(x->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return x->dir >= 0 ? MULL_OK : mull_fail_errno(err, errno, WHAT, x->path, "check the folder");
}

void mull_exchange_close(mull_exchange *x) {
    if (x->dir > 0) close(x->dir);
    *x = (mull_exchange){.dir = -1};
}

void mull_want_name(int64_t step, mull_exchange_name out) {
    snprintf(out, sizeof(mull_exchange_name), "want-%09lld.json", (long long)step);
}
void mull_shard_name(int64_t step, int64_t shard, mull_exchange_name out) {
    snprintf(out, sizeof(mull_exchange_name), "rollout-%09lld-%05lld.zst", (long long)step, (long long)shard);
}
void mull_policy_name(int64_t version, mull_exchange_name out) {
    snprintf(out, sizeof(mull_exchange_name), "policy-%09lld.safetensors", (long long)version);
}
bool mull_exchange_has(const mull_exchange *x, const char *name) {
    return faccessat(x->dir, name, F_OK, 0) == 0;
}

void mull_exchange_pause(double *s, double limit) {
    nanosleep(&(struct timespec){(time_t)*s, (long)((*s - (double)(time_t)*s) * 1e9)}, NULL);
    *s = *s * 1.5 < limit ? *s * 1.5 : limit;
}

static int put_json(const mull_exchange *x, const char *name, json_t *v, mull_error *err) {
    char *text = v ? json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    int rc = text ? mull__put_file(x->dir, name, text, strlen(text), err)
                  : mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
    free(text);
    json_decref(v);
    return rc;
}

/* ---- run.json */
static const char *const PATHS[] = {"model_path",        "sat_location",  "video_r1_location",
                                    "zebracot_location", "sims_location", "messages_location"};

/* Jobs start in other folders than the trainer did. */
static void absolute(json_t *o) {
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        const char *path = json_string_value(json_object_get(o, PATHS[i]));
        char *full = path && *path && *path != '/' ? realpath(path, NULL) : NULL;
        if (full) json_object_set_new(o, PATHS[i], json_string(full));
        free(full);
    }
}

int mull_exchange_put_run(const mull_exchange *x, const mull_recipe *r, bool done, mull_error *err) {
    json_t *recipe = mull_recipe_json(r);
    if (!recipe) return mull_fail(err, MULL_ENOMEM, WHAT, "run.json", NULL, "out of memory");
    json_object_del(recipe, "kind"); /* it follows from the keys */
    json_object_del(recipe, "resume_from_checkpoint");
    absolute(recipe);
    absolute(json_object_get(recipe, "train_dataset_args"));
    return put_json(x, "run.json", json_pack("{s:i,s:b,s:o}", "format", FORMAT, "done", (int)done, "recipe", recipe),
                    err);
}

/* JSON is YAML. The weights of the mix are taken as they are: normalising them again could move a draw. */
static int read_recipe(const json_t *j, const char *text, const char *name, mull_recipe *r, mull_error *err) {
    int rc = mull_recipe_parse(text, strlen(text), name, NULL, 0, r, NULL, err);
    const json_t *mix = json_object_get(json_object_get(j, "train_dataset_args"), "mix_datas");
    for (int s = 0; !rc && s < MULL_SET_COUNT; s++)
        r->weight[s] = json_number_value(json_object_get(mix, mull_set_name((mull_set)s)));
    return rc;
}

static void hash_text(mull__sha *s, const char *text, char hex[65]) {
    uint8_t md[32];
    mull__sha_add(s, text, strlen(text));
    mull__sha_done(s, md);
    mull__hex(md, 32, hex);
}

int mull_exchange_get_run(const mull_exchange *x, mull_recipe *r, bool *done, char hash[65], mull_error *err) {
    mull_buf b = {0};
    int rc = mull__get_file(x->dir, "run.json", RUN_BYTES, &b, err);
    json_t *j = rc ? NULL : json_loadb(b.data ? b.data : "", b.len, 0, NULL);
    const json_t *recipe = json_object_get(j, "recipe");
    char *text = json_is_object(recipe) ? json_dumps(recipe, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    mull__sha *s = mull__sha_create();
    if (!rc && (json_integer_value(json_object_get(j, "format")) != FORMAT || !text))
        rc = mull_fail(err, MULL_EFORMAT, WHAT, "run.json", "start the training job with this version of mull",
                       "it is not what version %d writes", FORMAT);
    if (!rc && !s) rc = mull_fail(err, MULL_ENOMEM, WHAT, "run.json", NULL, "out of memory");
    if (!rc) {
        *done = json_is_true(json_object_get(j, "done"));
        hash_text(s, text, hash);
        if (r) rc = read_recipe(recipe, text, "run.json", r, err);
    }
    mull__sha_destroy(s);
    free(text);
    json_decref(j);
    mull_buf_fini(&b);
    return rc;
}

/* ---- wants */
int mull_want_put(const mull_exchange *x, const mull_want *w, mull_error *err) {
    mull_exchange_name name;
    mull_want_name(w->step, name);
    return put_json(x, name,
                    json_pack("{s:i,s:I,s:I,s:s,s:I,s:I}", "format", FORMAT, "step", (json_int_t)w->step, "version",
                              (json_int_t)w->version, "policy", w->policy, "groups", (json_int_t)w->groups, "each",
                              (json_int_t)w->each),
                    err);
}

bool mull__json_whole(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out) {
    const json_t *v = json_object_get(o, key);
    *out = json_integer_value(v);
    return json_is_integer(v) && *out >= lo && *out <= hi;
}

int mull_want_parse(const char *text, size_t len, const char *name, mull_want *w, mull_error *err) {
    json_t *j = json_loadb(text, len, 0, NULL);
    const char *policy = json_string_value(json_object_get(j, "policy"));
    int64_t format, most = 1 << 30;
    bool good = mull__json_whole(j, "format", FORMAT, FORMAT, &format) &&
                mull__json_whole(j, "step", 0, MOST >> 32, &w->step) &&
                mull__json_whole(j, "version", 0, MOST, &w->version) &&
                mull__json_whole(j, "groups", 1, most, &w->groups) && mull__json_whole(j, "each", 1, most, &w->each) &&
                policy && strlen(policy) == 64 && strspn(policy, "0123456789abcdef") == 64;
    if (good) memcpy(w->policy, policy, 65);
    json_decref(j);
    if (good) return MULL_OK;
    return mull_fail(err, MULL_EFORMAT, WHAT, name, "start the training job with this version of mull",
                     "it is not what version %d writes", FORMAT);
}

int mull_want_get(const mull_exchange *x, int64_t step, mull_want *w, mull_error *err) {
    mull_exchange_name name;
    mull_buf b = {0};
    mull_want_name(step, name);
    int rc = mull__get_file(x->dir, name, WANT_BYTES, &b, err);
    if (!rc) rc = mull_want_parse(b.data ? b.data : "", b.len, name, w, err);
    if (!rc && w->step != step) rc = mull_fail(err, MULL_EFORMAT, WHAT, name, NULL, "it is of another step");
    mull_buf_fini(&b);
    return rc;
}

static int rising(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

int mull_want_list(const mull_exchange *x, int64_t **steps, size_t *n, mull_error *err) {
    *steps = NULL;
    *n = 0;
    /* A descriptor of its own: one that is shared would share the place in the folder too. */
    int fd = openat(x->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = MULL_OK;
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        rc = mull_fail_errno(err, errno, WHAT, x->path, "check the folder");
        if (fd >= 0) close(fd);
        return rc;
    }
    for (struct dirent *e; !rc && (e = readdir(d));) {
        long long step;
        int end = 0;
        if (sscanf(e->d_name, "want-%18lld.json%n", &step, &end) != 1 || !end || e->d_name[end] || step < 0) continue;
        int64_t *p = realloc(*steps, (*n + 1) * sizeof *p);
        if (!p) {
            rc = mull_fail(err, MULL_ENOMEM, WHAT, x->path, NULL, "out of memory");
            break;
        }
        *steps = p;
        p[(*n)++] = step;
    }
    closedir(d);
    if (*n) qsort(*steps, *n, sizeof **steps, rising);
    return rc;
}
