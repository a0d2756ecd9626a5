/* Reading and writing safetensors. The reader meets foreign bytes: every lie a header can tell must end in one error;
 * the writer must leave the old file or the whole new one. Little-endian values are written out by hand. */
#include "tests/engine/load_util.h"

#include "engine/model/safetensors_write.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* 8-aligned, as a map of a file is. */
static int parse(const mull_buf *b, size_t len, void **copy, mull_safetensors **st, mull_error *err) {
    *copy = aligned_alloc(64, (len + 64) & ~(size_t)63);
    assert_non_null(*copy);
    if (len) memcpy(*copy, b->data, len);
    return mull_safetensors_parse(*copy, len, "file", st, err);
}

static const char GOOD[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
                           "\"none\":{\"dtype\":\"U8\",\"shape\":[0,5],\"data_offsets\":[22,22]},"
                           "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[22,23]}}";

static void test_good(void **state) {
    (void)state;
    mull_buf b = load_file(GOOD, 23);
    void *copy;
    mull_safetensors *st = NULL;
    mull_error err = {0};
    assert_int_equal(parse(&b, b.len, &copy, &st, &err), 0);
    assert_int_equal(mull_safetensors_count(st), 4);
    const mull_tensor_info *a = mull_safetensors_find(st, "a"), *bf = mull_safetensors_find(st, "b"),
                           *none = mull_safetensors_find(st, "none"), *one = mull_safetensors_find(st, "one");
    assert_true(a && bf && none && one);
    assert_ptr_equal(a, mull_safetensors_at(st, 0)); /* by the place of the data, not of the entry */
    assert_ptr_equal(bf, mull_safetensors_at(st, 1));
    assert_int_equal(a->dtype, MULL_F32);
    assert_int_equal(a->ndim, 2);
    assert_int_equal(a->count, 4);
    assert_int_equal(((const unsigned char *)a->data)[15], 15);
    assert_int_equal(((const unsigned char *)bf->data)[0], 16);
    assert_int_equal(none->count, 0);
    assert_int_equal(one->ndim, 0);
    assert_int_equal(one->count, 1);
    assert_int_equal(*(const unsigned char *)one->data, 22);
    assert_null(mull_safetensors_find(st, "c"));
    assert_null(mull_safetensors_find(st, "__metadata__"));
    mull_safetensors_close(st);
    free(copy);
    mull_buf_fini(&b);
}

static void test_hostile(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *word;
    } cases[] = {
        {"", 0, "no JSON object"},
        {"[]     ", 0, "no JSON object"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", 4, "no JSON object"},
        {"{\"a\":1}", 0, "lacks dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "lacks dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "lacks dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "lacks dtype"},
        {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "type Q4 is not known"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "dimensions"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "no whole number"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, "no whole number"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]}}", 1, "no whole number"},
        /* 2^63 elements; 2^32 * 2^32 = 2^64, which would wrap to 0 bytes; 2^62 of 8 bytes wrap too */
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,2147483648],\"data_offsets\":[0,0]}}", 0, "too large"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "too large"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "too large"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,0]}}", 2, "rising"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[-2,0]}}", 2, "rising"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2.0]}}", 2, "rising"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "the shape needs 3"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}}", 8, "cut short"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3, "1 bytes follow"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "overlap or hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, "overlap or hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, "duplicate"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}",
         5, "not aligned"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mull_buf b = load_file(cases[i].header, cases[i].data);
        void *copy;
        mull_safetensors *st = NULL;
        mull_error err = {0};
        load_expect(parse(&b, b.len, &copy, &st, &err), MULL_EFORMAT, &err, cases[i].word);
        assert_null(st);
        free(copy);
        mull_buf_fini(&b);
    }
}

static void test_header_length(void **state) {
    (void)state;
    static const uint64_t lengths[] = {1 << 10, (uint64_t)101 << 20, UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        mull_buf b = load_file(GOOD, 23);
        for (int k = 0; k < 8; k++) b.data[k] = (char)(lengths[i] >> 8 * k);
        void *copy;
        mull_safetensors *st = NULL;
        mull_error err = {0};
        load_expect(parse(&b, b.len, &copy, &st, &err), MULL_EFORMAT, &err, "its header says");
        free(copy);
        mull_buf_fini(&b);
    }
}

/* No proper prefix of a file is a file. */
static void test_every_truncation(void **state) {
    (void)state;
    mull_buf b = load_file(GOOD, 23);
    for (size_t len = 0; len < b.len; len++) {
        void *copy;
        mull_safetensors *st = NULL;
        mull_error err = {0};
        int rc = parse(&b, len, &copy, &st, &err);
        assert_int_equal(rc, MULL_EFORMAT);
        assert_true(err.why[0] && !st);
        free(copy);
    }
    mull_buf_fini(&b);
}

static const int64_t ints[3] = {1, -2, INT64_MAX};
static const float floats[5] = {0.5f, -1, 2, 3, 4};
static const uint8_t bytes[3] = {7, 8, 9};

/* An odd count of floats before 64-bit integers would leave these unaligned in the given order. */
static void mixed(mull_tensor_info t[3]) {
    t[0] = (mull_tensor_info){.name = "bytes", .dtype = MULL_U8, .ndim = 1, .shape = {3}, .count = 3, .data = bytes};
    t[1] = (mull_tensor_info){.name = "floats", .dtype = MULL_F32, .ndim = 1, .shape = {5}, .count = 5, .data = floats};
    t[2] = (mull_tensor_info){.name = "ints", .dtype = MULL_I64, .ndim = 2, .shape = {3, 1}, .count = 3, .data = ints};
}

static void test_round_trip(void **state) {
    (void)state;
    char *dir = load_mkdir(), *path = mull_path_join(dir, "x.safetensors");
    mull_tensor_info t[3];
    mixed(t);
    mull_error err = {0};
    mull_safetensors *st = NULL;
    for (int twice = 0; twice < 2; twice++) assert_int_equal(mull_safetensors_write(path, t, 3, &err), 0);
    assert_false(load_has(dir, "x.safetensors.tmp"));
    assert_int_equal(mull_safetensors_open(path, &st, &err), 0);
    assert_int_equal(mull_safetensors_count(st), 3);
    for (int i = 0; i < 3; i++) {
        const mull_tensor_info *r = mull_safetensors_find(st, t[i].name);
        assert_non_null(r);
        assert_int_equal(r->dtype, t[i].dtype);
        assert_int_equal(r->ndim, t[i].ndim);
        assert_memory_equal(r->shape, t[i].shape, (size_t)t[i].ndim * sizeof *t[i].shape);
        assert_memory_equal(r->data, t[i].data, (size_t)t[i].count * mull_dtype_size(t[i].dtype));
        mull_safetensors_drop(st, r); /* the pages come back when they are read again */
        assert_memory_equal(r->data, t[i].data, (size_t)t[i].count * mull_dtype_size(t[i].dtype));
    }
    mull_safetensors_close(st);
    free(path);
    load_rmdir(dir);
}

static void test_no_tensors(void **state) {
    (void)state;
    char *dir = load_mkdir(), *path = mull_path_join(dir, "x.safetensors");
    mull_error err = {0};
    mull_safetensors *st = NULL;
    assert_int_equal(mull_safetensors_write(path, NULL, 0, &err), 0);
    assert_int_equal(mull_safetensors_open(path, &st, &err), 0);
    assert_int_equal(mull_safetensors_count(st), 0);
    assert_null(mull_safetensors_find(st, ""));
    mull_safetensors_close(st);
    free(path);
    load_rmdir(dir);
}

/* A write that the system stops half-way (here by a file size limit, as a full disk does) leaves the old file as it was
 * and nothing beside it. */
static void test_write_fails(void **state) {
    (void)state;
    char *dir = load_mkdir(), *path = mull_path_join(dir, "x.safetensors");
    mull_tensor_info t[3];
    mixed(t);
    mull_error err = {0};
    assert_int_equal(mull_safetensors_write(path, t, 3, &err), 0);
    mull_buf before = load_get(dir, "x.safetensors");
    struct rlimit old, small = {0};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){.rlim_cur = before.len - 4, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = mull_safetensors_write(path, t, 3, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    load_expect(rc, MULL_EIO, &err, "cannot write safetensors");
    assert_false(load_has(dir, "x.safetensors.tmp"));
    mull_buf after = load_get(dir, "x.safetensors");
    assert_int_equal(after.len, before.len);
    assert_memory_equal(after.data, before.data, before.len);
    mull_buf_fini(&before);
    mull_buf_fini(&after);
    err = (mull_error){0};
    load_expect(mull_safetensors_write("/nonexistent/x.safetensors", t, 3, &err), MULL_EMISSING, &err, "/nonexistent");
    free(path);
    load_rmdir(dir);
}

/* A pipe or device keeps its place: renaming over it once replaced /dev/full by a file. */
static void test_not_over_a_device(void **state) {
    (void)state;
    mull_error err = {0};
    struct stat st;
    char path[] = "/tmp/mull-fifo-XXXXXX";
    assert_non_null(mkdtemp(path));
    char *fifo = mull_path_join(path, "out");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(mull_safetensors_write(fifo, NULL, 0, &err), MULL_EIO);
    assert_int_equal(stat(fifo, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_int_equal(unlink(fifo), 0);
    assert_int_equal(rmdir(path), 0);
    free(fifo);
}

static void test_streamed_length(void **state) {
    (void)state;
    char *dir = load_mkdir(), *path = mull_path_join(dir, "x.safetensors");
    mull_tensor_info t[3];
    mixed(t);
    mull_error err = {0};
    mull_safetensors_writer *w = NULL;
    assert_int_equal(mull_safetensors_writer_open(path, t + 1, 1, &w, &err), 0);
    assert_int_equal(mull_safetensors_writer_add(w, floats, 8, &err), 0);
    load_expect(mull_safetensors_writer_commit(w, &err), MULL_EINTERNAL, &err, "12 bytes are missing");
    assert_int_equal(mull_safetensors_writer_open(path, t + 1, 1, &w, &err), 0);
    assert_int_equal(mull_safetensors_writer_add(w, floats, 16, &err), 0);
    load_expect(mull_safetensors_writer_add(w, floats, 8, &err), MULL_EINTERNAL, &err, "4 bytes more");
    mull_safetensors_writer_abort(w);
    assert_false(load_has(dir, "x.safetensors"));
    assert_false(load_has(dir, "x.safetensors.tmp"));
    free(path);
    load_rmdir(dir);
}

/* ---- folders of shards */
static void put_shard(const char *dir, const char *name, const mull_tensor_info *t, size_t n) {
    char *path = mull_path_join(dir, name);
    mull_error err = {0};
    assert_int_equal(mull_safetensors_write(path, t, n, &err), 0);
    free(path);
}

static void put_index(const char *dir, const char *text) {
    load_put(dir, "model.safetensors.index.json", text, strlen(text));
}

static void refuse(const char *dir, int code, const char *word) {
    mull_safetensors *st = NULL;
    mull_error err = {0};
    load_expect(mull_safetensors_open(dir, &st, &err), code, &err, word);
    assert_null(st);
}

static void test_shards(void **state) {
    (void)state;
    char *dir = load_mkdir();
    mull_tensor_info t[3];
    mixed(t);
    refuse(dir, MULL_EMISSING, "neither model.safetensors nor");
    put_index(dir, "{\"weight_map\":{\"bytes\":\"1.st\",\"floats\":\"2.st\",\"ints\":\"3.st\"}}");
    put_shard(dir, "1.st", t, 1);
    refuse(dir, MULL_EMISSING, "2 of 3 shards are not there: 2.st, 3.st");
    put_shard(dir, "2.st", t + 1, 1);
    put_shard(dir, "3.st", t + 2, 1);
    mull_safetensors *st = NULL;
    mull_error err = {0};
    assert_int_equal(mull_safetensors_open(dir, &st, &err), 0);
    assert_int_equal(mull_safetensors_count(st), 3);
    const mull_tensor_info *r = mull_safetensors_find(st, "ints");
    assert_memory_equal(r->data, ints, sizeof ints);
    assert_non_null(strstr(r->file, "3.st"));
    mull_safetensors_close(st);

    put_index(dir, "{\"weight_map\":{\"bytes\":\"1.st\",\"floats\":\"3.st\",\"ints\":\"2.st\"}}");
    refuse(dir, MULL_EFORMAT, "and is elsewhere");
    put_index(dir, "{\"weight_map\":{\"bytes\":\"1.st\",\"more\":\"2.st\"}}");
    refuse(dir, MULL_EFORMAT, "tensor more should be in 2.st and is not there");
    put_shard(dir, "2.st", t, 2); /* has bytes as well */
    put_index(dir, "{\"weight_map\":{\"bytes\":\"1.st\",\"floats\":\"2.st\"}}");
    refuse(dir, MULL_EFORMAT, "tensor bytes is also in");
    put_index(dir, "{\"weight_map\":{\"bytes\":\"../1.st\"}}");
    refuse(dir, MULL_EFORMAT, "names no file of this folder");
    put_index(dir, "{\"weight_map\":{\"bytes\":\"..\"}}");
    refuse(dir, MULL_EFORMAT, "no regular file");
    put_index(dir, "{\"weight_map\":{\"bytes\":7}}");
    refuse(dir, MULL_EFORMAT, "names no file of this folder");
    put_index(dir, "{\"weight_map\":[]}");
    refuse(dir, MULL_EFORMAT, "no weight_map");
    put_index(dir, "{\"weight_map\":{\"bytes\":");
    refuse(dir, MULL_EFORMAT, "index.json");
    put_index(dir, "");
    refuse(dir, MULL_EFORMAT, "index.json");
    load_put(dir, "1.st", "", 0);
    put_index(dir, "{\"weight_map\":{\"bytes\":\"1.st\"}}");
    refuse(dir, MULL_EFORMAT, "the file is empty");
    load_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),          cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_header_length), cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_no_tensors),
        cmocka_unit_test(test_write_fails),   cmocka_unit_test(test_streamed_length),
        cmocka_unit_test(test_shards),        cmocka_unit_test(test_not_over_a_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
