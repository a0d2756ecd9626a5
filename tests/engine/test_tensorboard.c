/* Event files: the framing and both sums of every record, read back; what they say; a run that goes on. */
#include "tests/engine/trainer_util.h"

#include "engine/train/tensorboard.h"

#include <fcntl.h>

typedef struct record {
    const unsigned char *data;
    size_t len;
} record;

static uint64_t le(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

/* Splits the file, checking lengths and sums; how many records. */
static int split(const mull_buf *file, record *out, int max) {
    int n = 0;
    const unsigned char *p = (const unsigned char *)file->data;
    for (size_t at = 0; at < file->len; n++) {
        assert_true(n < max && file->len - at >= 16);
        uint64_t len = le(p + at, 8);
        assert_true(len <= file->len - at - 16);
        assert_int_equal(le(p + at + 8, 4), mull_crc32c_masked(p + at, 8));
        assert_int_equal(le(p + at + 12 + len, 4), mull_crc32c_masked(p + at + 12, len));
        out[n] = (record){p + at + 12, len};
        at += 16 + len;
    }
    return n;
}

static uint64_t varint(const unsigned char **p, const unsigned char *end) {
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(*p < end && shift < 64);
        unsigned char c = *(*p)++;
        v |= (uint64_t)(c & 127) << shift;
        if (c < 128) return v;
    }
}

/* The field of a message: a number for varints and fixed widths, else a piece of it. false: it has none. */
static bool field(record m, unsigned want, uint64_t *number, record *bytes) {
    const unsigned char *p = m.data, *end = m.data + m.len;
    while (p < end) {
        uint64_t tag = varint(&p, end), v = 0;
        record b = {0};
        switch (tag & 7) {
        case 0:
            v = varint(&p, end);
            break;
        case 1:
            assert_true(end - p >= 8);
            v = le(p, 8), p += 8;
            break;
        case 5:
            assert_true(end - p >= 4);
            v = le(p, 4), p += 4;
            break;
        default:
            assert_int_equal(tag & 7, 2);
            b.len = varint(&p, end);
            assert_true(b.len <= (size_t)(end - p));
            b.data = p, p += b.len;
        }
        if (tag >> 3 != want) continue;
        if (number) *number = v;
        if (bytes) *bytes = b;
        return true;
    }
    return false;
}

/* The scalar of this name in an event. */
static float scalar(record event, const char *name) {
    record summary, rest;
    assert_true(field(event, 5, NULL, &summary));
    for (rest = summary; rest.len;) {
        const unsigned char *p = rest.data, *end = rest.data + rest.len;
        assert_int_equal(varint(&p, end), 1 << 3 | 2);
        record value, tag;
        value.len = varint(&p, end);
        value.data = p;
        uint64_t bits;
        assert_true(field(value, 1, NULL, &tag) && field(value, 2, &bits, NULL));
        if (tag.len == strlen(name) && !memcmp(tag.data, name, tag.len)) {
            float x;
            memcpy(&x, &(uint32_t){(uint32_t)bits}, 4);
            return x;
        }
        rest = (record){p + value.len, (size_t)(end - p) - value.len};
    }
    fail_msg("there is no %s", name);
    return 0;
}

static char *only_file(const char *dir, int *count) {
    char *last = NULL;
    DIR *d = opendir(dir);
    assert_non_null(d);
    *count = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, "tfevents")) continue;
        free(last);
        last = strdup(e->d_name);
        ++*count;
    }
    closedir(d);
    return last;
}

static void the_sum(void **state) {
    (void)state;
    /* RFC 3720, B.4: 32 zeroes, 32 ones, 0 to 31; and the usual check word. */
    unsigned char b[32] = {0};
    assert_int_equal(mull_crc32c(b, 32), 0x8a9136aa);
    memset(b, 255, 32);
    assert_int_equal(mull_crc32c(b, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) b[i] = (unsigned char)i;
    assert_int_equal(mull_crc32c(b, 32), 0x46dd794e);
    assert_int_equal(mull_crc32c("123456789", 9), 0xe3069283);
}

static void what_was_written(void **state) {
    (void)state;
    char dir[] = "/tmp/mull_tb_XXXXXX", sub[64];
    assert_non_null(mkdtemp(dir));
    snprintf(sub, sizeof sub, "%s/tensorboard", dir);
    mull_tb *t;
    mull_error err = {0};
    assert_int_equal(mull_tb_open(sub, 301, &t, &err), MULL_OK);
    for (int i = 301; i <= 303; i++) {
        json_t *v = json_pack("{s:f,s:f,s:i,s:s}", "loss", 1.5 * i, "grpo/kl", 0.25, "n", i, "text", "left out");
        assert_int_equal(mull_tb_scalars(t, i, v, &err), MULL_OK);
        json_decref(v);
    }
    mull_tb_close(t);
    int count;
    char *name = only_file(sub, &count);
    assert_int_equal(count, 1);
    mull_buf file = file_bytes(sub, name);
    record r[8], b;
    uint64_t n;
    assert_int_equal(split(&file, r, 8), 5);
    assert_true(field(r[0], 3, NULL, &b) && b.len == 13 && !memcmp(b.data, "brain.Event:2", 13));
    assert_true(field(r[1], 7, NULL, &b) && field(b, 1, &n, NULL) && n == 1); /* START: drop what is newer */
    assert_true(field(r[1], 2, &n, NULL) && n == 301);
    for (int i = 2; i < 5; i++) {
        assert_true(field(r[i], 2, &n, NULL));
        assert_int_equal(n, 299 + i);
        assert_true(scalar(r[i], "loss") == (float)(1.5 * (299 + i)));
        assert_true(scalar(r[i], "grpo/kl") == 0.25f);
        assert_true(field(r[i], 1, &n, NULL));
        double wall;
        memcpy(&wall, &n, 8);
        assert_true(wall > 1.6e9 && wall < 1e11);
    }
    mull_buf_fini(&file);
    free(name);
    remove_tree(dir);
}

/* A full disk costs the file, not the run. */
static void a_write_that_fails(void **state) {
    (void)state;
    if (access("/dev/full", W_OK)) skip();
    char dir[] = "/tmp/mull_tb_XXXXXX";
    assert_non_null(mkdtemp(dir));
    mull_tb *t;
    mull_error err = {0};
    assert_int_not_equal(mull_tb_open("/dev/null/no", 1, &t, &err), MULL_OK);
    assert_int_equal(mull_tb_open(dir, 1, &t, &err), MULL_OK);
    int count, full = open("/dev/full", O_WRONLY), fd = -1;
    char *name = only_file(dir, &count), path[300], link[64];
    for (int i = 3; i < 64 && fd < 0; i++) { /* the file's own descriptor becomes the full device */
        snprintf(link, sizeof link, "/proc/self/fd/%d", i);
        ssize_t n = readlink(link, path, sizeof path - 1);
        if (n > 0 && (path[n] = 0, strstr(path, name))) fd = i;
    }
    assert_true(fd >= 0);
    assert_int_equal(dup2(full, fd), fd);
    json_t *v = json_pack("{s:f}", "loss", 1.0);
    int rc = MULL_OK;
    for (int i = 0; i < 5000 && !rc; i++) rc = mull_tb_scalars(t, i, v, &err);
    assert_int_equal(rc, MULL_ENOSPACE);
    assert_int_equal(mull_tb_scalars(t, 9, v, &err), MULL_OK);
    mull_tb_close(t);
    json_decref(v);
    close(full);
    free(name);
    remove_tree(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_sum), cmocka_unit_test(what_was_written),
                                       cmocka_unit_test(a_write_that_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
