/* Images on the repository's own small files; expected hashes were made with Pillow 13 and numpy (the commands are
 * those of the reference processor: convert, resize bicubic, normalise, patches). Then hostile input. */
#include "media_util.h"

#include "engine/media/image.h"
#include "engine/media/media.h"
#include "engine/media/plan.h"

#include <sys/stat.h>

#if !MULL_HAVE_MEDIA
int main(void) {
    fprintf(stderr, "skipped: this build has no decoders\n");
    return 77;
}
#else

static const char *data_file(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/media/%s", MULL_TEST_DATA, name);
    return path;
}

static const struct {
    const char *file, *format;
    int w, h, resized_w, resized_h; /* with min_pixels 3136, max_pixels 50176 */
    const char *rgb, *resized, *pixels;
} expected[] = {
    {"birds.jpg", "jpeg", 400, 294, 252, 168, "b8d9ea99574521bdaa953e5f9a8eee74fd3fa9b0208409e1964cbdfc93050c89",
     "8ba89e356271f60101554296b121d043f06ba238b53667a880aa994c515f55ae",
     "950741b6e7868e1dc91fa8588a80c8c1b3064d6d48e2ad0919800b942bb4b97b"},
    {"cats.webp", "webp", 320, 240, 252, 168, "e71532182acf3de46cbb5514b4cd582d1898e45267a9eb7a029bcbfeace8da52",
     "fbce086b6d1fff95d21d6cdf8b693c32f45ce090d1f0cab5e544894b9aa3e922",
     "1f8dde6f50eaa40046e2b54b7ce9fa178b1d5dbaf7e0dbc68446ceb4b19a1718"},
    {"shapes.png", "png", 224, 168, 224, 168, "e06225bad9c89c8132b44260cace9caeb3c4bb17b9ab767311831dca8edecc32",
     "e06225bad9c89c8132b44260cace9caeb3c4bb17b9ab767311831dca8edecc32",
     "922c96ac0c96784098672b551e5b6495ef608bce2c9acf44c504e046e001c443"},
    {"small.bmp", "bmp", 56, 42, 56, 56, "1ce9ad5947ece8f79490c6b6ea707721014eb8dab4019c04be046928f4dae73a",
     "32beedde5b93ae5a8295ca539d6f56a571267df373f45b3cb40653faf222d2f7",
     "61ee7e5525be0c35828fc8d8408a99672114984ab770b2c313e41bc927269a67"},
    {"small.gif", "gif", 56, 42, 56, 56, "300b1b0f2b230fe70f4faee880b7651538678d89b16ee1d7627fe0ea4e2346b2",
     "7e8d259d264af8500271d2acf150e1cfc03ea96bfa37d2750b7be3ad69c79b1b",
     "15716f51adcbec27f6dad6b0e47716e8cb942484e32cc1dc3d51cb7ed4ec6594"},
    {"small_420_progressive.jpg", "jpeg", 56, 42, 56, 56,
     "d63eab7e9234cf903694dd296dfcac04025e650d2c4786af361a87e2242397b7",
     "cf6997ed272ee7e96c50179271a4e4701460ce0695c211a7991179069fa699df",
     "1c030a1cf0fa58e82f290031794edaca32887fa96a59f91e115c75ac553e1482"},
    {"small_alpha.png", "png", 56, 42, 56, 56, "ba9361dc117285d67693bcce9a02d341a8e6c3f25951b46843af5642630bf29b",
     "26caf3a00690194d8ef3883a00c91668c076b89702ca5895ae4e897cf43a3325",
     "771f98becc632155ff2b20bfcac40836c1681952db835f105160627a039f581e"},
    {"small_alpha.webp", "webp", 56, 42, 56, 56, "ba9361dc117285d67693bcce9a02d341a8e6c3f25951b46843af5642630bf29b",
     "26caf3a00690194d8ef3883a00c91668c076b89702ca5895ae4e897cf43a3325",
     "771f98becc632155ff2b20bfcac40836c1681952db835f105160627a039f581e"},
    {"small_animated.webp", "webp", 53, 37, 84, 56, "9d7a606ced9b664c1cf19cd66446a015a837e3e4bce26eeb3fc3ea5289c9710a",
     "3e0721ed1019c0b13989bb6f4042dc684bb171b2e5c773651400075ca3299713",
     "6e0372b3ab07f5ba935a107a51d6e92c9892fa86c84bdf6a7c2b69b5141a002d"},
    {"small_bit.png", "png", 56, 42, 56, 56, "ec301a5e330427981fd2f7c9a672371e22e6cd7ff48d9a3b112e67c7b5d8d4db",
     "184e8268d0c3438623e71cf5a088ff08c99d3cdefb436f8d6a311b2ac19b4d1d",
     "00960582c7f1a90c304d59f2b9d7377b0e6cfec3cdf2e411e6bb2c13ebb5eb04"},
    {"small_cmyk.jpg", "jpeg", 56, 42, 56, 56, "0756e17e0f370ab9b79a05e2e1ef059b4657d16e2ce48774a9e8d96c469ccef3",
     "bb95b6b295c01e9eb8e02f0e4c4d9607384e57db6ac0f41a788d12785ce44045",
     "a65123e5ce04c8cbb8c8c9aa4347a42249c37e38cb5a31b9360b4b57b5f7aae7"},
    {"small_grey16.png", "png", 56, 42, 56, 56, "ff37a22d3c47e56481872965e7144625c86bce07c253ecd5b80f3cc13620c5ee",
     "07bc3eb438105d3f7d1aee7febb805629349403597b4ac9cecb4027c8c249966",
     "ab6bfae39f96c3461522d744fbd5d1c0eb2df0ff0ae391125e3a6106e59c933f"},
    {"small_grey_alpha.png", "png", 56, 42, 56, 56, "d2ba03f73764a968d90bd4c46a8ca8b1c7d9da1e95263e09246b018e2584bd48",
     "22b050598ca1e6a782c23437ada909fa63647765e81c923172431a219b418957",
     "b8c13a35ba7a3a6deb37107c070935bf1c87cddd3604c5ce169d75aadefce7b3"},
    {"small_grey_alpha16.png", "png", 53, 37, 84, 56,
     "8e0ed84cf70c0038277ceb7cf1e28349a3283455c0f3f46702a5df3c6205fc8b",
     "a7bd427350aa79855e237f56edba08b7a44ff6367bc14fd6bb53fb54c113bed6",
     "7c15e62a4785c99fb400b3d4f3bdcbeca59fe7cf73d1849127013ab57ea4f62a"},
    {"small_interlaced.gif", "gif", 53, 37, 84, 56, "52210678744ab4c1f254cb30de0c91bdd4ce59d97bddbe4e3ccf3d1a3279f978",
     "b882303e11406f279db6204947228652368412d0b740a3c6ec325676b883e379",
     "5474fa77ad90cdb903f3dbc991de9a786cab078db8c5f3bb77064862b1fa7f26"},
    {"small_offset.gif", "gif", 80, 60, 84, 56, "2965330af44159cbf3cc841237b5e4f2280c96b679ce9b53199aead53652578c",
     "cc72604bbd9c2ed00c4d163e338a2540ae4ed00e0697ea3813bea735468248aa",
     "83b50a974b7b6d971a81afefec81bf8c8303a9118cd6ca2536fb7db0ccd61723"},
    {"small_palette.png", "png", 56, 42, 56, 56, "300b1b0f2b230fe70f4faee880b7651538678d89b16ee1d7627fe0ea4e2346b2",
     "7e8d259d264af8500271d2acf150e1cfc03ea96bfa37d2750b7be3ad69c79b1b",
     "15716f51adcbec27f6dad6b0e47716e8cb942484e32cc1dc3d51cb7ed4ec6594"},
    {"small_short_palette.gif", "gif", 53, 37, 84, 56,
     "421171d4e743105a7f2baee4037b226397f3ffe5313ffcd5b8711c8185acd0e6",
     "e343de1d33820eeceef8929a2178db0ed4aa12f02b696c10c340a76c313f8725",
     "11a9267400c5e269c2bcc0deb487d4d87d43678b3d2b6c9270da13ec9a4e4682"},
    {"small_short_palette.png", "png", 53, 37, 84, 56,
     "f9abfba072e133c93802fe586220b115c932df3a7dd5239d04f4ab1ef34cf063",
     "5eee948454b0d966b14177f6fbb25ffc2f4d198941a0f7d5eeb647cc2877fc67",
     "88fdb2a442ae613aa7034ca9d78bb75722b29fada114ecf30f8e29638b518665"},
};
enum { FILES = sizeof expected / sizeof *expected };

static void matches_pillow(void **state) {
    (void)state;
    bad_rows = 0;
    const mull_media_limits limits = {.min_pixels = 3136, .max_pixels = 50176};
    for (int i = 0; i < FILES; i++) {
        mull_media m;
        mull_error e = {0};
        if (mull_media_load_file(data_file(expected[i].file), MULL_MEDIA_AUTO, &limits, MULL_MEDIA_HASHES, &m, &e)) {
            BAD("%s: %s", expected[i].file, e.why);
            continue;
        }
        assert_int_equal(m.kind, MULL_MEDIA_IMAGE);
        assert_string_equal(m.format, expected[i].format);
        assert_int_equal(m.width, expected[i].w);
        assert_int_equal(m.height, expected[i].h);
        assert_int_equal(m.resized_w, expected[i].resized_w);
        assert_int_equal(m.resized_h, expected[i].resized_h);
        assert_int_equal(m.tokens, m.resized_w / 28 * (m.resized_h / 28));
        assert_int_equal(m.grid[0], 1);
        if (strcmp(m.rgb_sha256, expected[i].rgb)) BAD("%s: decoded pixels", expected[i].file);
        if (strcmp(m.resized_sha256, expected[i].resized)) BAD("%s: resized pixels", expected[i].file);
        if (strcmp(m.pixels_sha256, expected[i].pixels)) BAD("%s: patches", expected[i].file);
        mull_media_fini(&m);
    }
    assert_int_equal(bad_rows, 0);
}

/* Values by reasoning: ties round to even multiples, limits win, a side is never 0. */
static void sizes(void **state) {
    (void)state;
    static const struct {
        int64_t h, w, lo, hi, out_h, out_w;
    } rows[] = {{28, 28, 784, 784, 28, 28},        /* identity */
                {70, 42, 784, 1 << 20, 56, 56},    /* 2.5 and 1.5 both round to 2 units */
                {2800, 28, 784, 784, 280, 28},     /* the short side keeps one unit: beta = 10 */
                {14, 14, 3136, 12845056, 56, 56}}; /* grown to min_pixels */
    mull_error e;
    int64_t h, w;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(mull_smart_resize(rows[i].h, rows[i].w, rows[i].lo, rows[i].hi, &h, &w, &e), 0);
        assert_int_equal(h, rows[i].out_h);
        assert_int_equal(w, rows[i].out_w);
    }
    assert_int_equal(mull_smart_resize(1, 200, 3136, 12845056, &h, &w, &e), 0); /* exactly 200 is allowed */
    assert_int_equal(mull_smart_resize(1, 201, 3136, 12845056, &h, &w, &e), MULL_ELIMIT);
    assert_int_equal(mull_smart_resize(0, 5, 3136, 12845056, &h, &w, &e), MULL_EARG);
    assert_int_equal(mull_smart_resize(5, -5, 3136, 12845056, &h, &w, &e), MULL_EARG);
    assert_int_equal(mull_smart_resize(50, 50, 5000, 4000, &h, &w, &e), MULL_EARG);
    assert_int_equal(mull_smart_resize(50, 50, 0, 4000, &h, &w, &e), MULL_EARG);
    assert_int_equal(mull_smart_resize(INT64_MAX, INT64_MAX, 1, 4000, &h, &w, &e), MULL_EARG);
}

/* Noise of every odd shape through each kernel: the vector ones must equal the plain one byte for byte. */
static void kernels_agree(void **state) {
    (void)state;
    static const int sizes_of[][4] = {{1, 1, 5, 7},     {3, 2, 1, 1},    {64, 48, 28, 28}, {97, 63, 56, 84},
                                      {61, 47, 84, 56}, {200, 9, 31, 9}, {9, 200, 9, 31},  {130, 120, 129, 5}};
    uint32_t seed = 1;
    int tried = 0;
    for (size_t k = 0; k < sizeof sizes_of / sizeof *sizes_of; k++) {
        const int *z = sizes_of[k];
        mull_image in, plain, fast;
        mull_error e;
        assert_int_equal(mull_image_init(&in, z[0], z[1], 0, "noise", &e), 0);
        /* Extremes provoke the clamps and the widest sums. */
        for (int i = 0; i < z[0] * z[1] * 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            in.px[i] = (uint8_t)(seed >> 24 & 1 ? (seed >> 25 & 1 ? 255 : 0) : seed >> 16);
        }
        for (int f = MULL_BICUBIC; f <= MULL_LANCZOS; f++) {
            assert_int_equal(mull_resize_pillow(&in, z[2], z[3], (mull_filter)f, MULL_SIMD_NONE, &plain, &e), 0);
            for (mull_simd s = MULL_SIMD_AUTO; s <= MULL_SIMD_AVX512; s++) {
                if (!mull_simd_has(s)) continue;
                assert_int_equal(mull_resize_pillow(&in, z[2], z[3], (mull_filter)f, s, &fast, &e), 0);
                assert_memory_equal(plain.px, fast.px, (size_t)z[2] * (size_t)z[3] * 3);
                mull_image_fini(&fast);
                tried++;
            }
            mull_image_fini(&plain);
        }
        mull_image_fini(&in);
    }
    assert_true(tried >= 32);
}

static void flat_stays_flat(void **state) {
    (void)state;
    mull_image in, out;
    mull_error e;
    assert_int_equal(mull_image_init(&in, 37, 23, 0, "flat", &e), 0);
    memset(in.px, 200, 37 * 23 * 3);
    for (int f = MULL_BICUBIC; f <= MULL_LANCZOS; f++) {
        assert_int_equal(mull_resize_pillow(&in, 84, 56, (mull_filter)f, MULL_SIMD_AUTO, &out, &e), 0);
        for (int i = 0; i < 84 * 56 * 3; i++) assert_int_equal(out.px[i], 200);
        mull_image_fini(&out);
    }
    mull_image_fini(&in);
}

static void expect_error(const void *p, size_t n, mull_media_kind kind, const mull_media_limits *l, int code) {
    mull_media m;
    mull_error e = {0};
    assert_int_equal(mull_media_load_bytes(p, n, "upload", kind, l, 0, &m, &e), code);
    assert_true(e.what[0] && e.why[0]);
    assert_string_equal(e.where, "upload");
    assert_null(m.patches);
}

/* A grey BMP of 1 bit a pixel: as small as a file with that many pixels gets. */
static mull_buf bmp(int32_t w, int32_t h, size_t body) {
    uint8_t head[62] = {'B', 'M'};
    const uint32_t all = (uint32_t)(62 + body), offset = 62, size = 40, two = 2;
    memcpy(head + 2, &all, 4);
    memcpy(head + 10, &offset, 4);
    memcpy(head + 14, &size, 4);
    memcpy(head + 18, &w, 4);
    memcpy(head + 22, &h, 4);
    head[26] = 1;
    head[28] = 1;
    memcpy(head + 46, &two, 4);
    memset(head + 58, 255, 3);
    mull_buf b = {0};
    mull_buf_add(&b, head, sizeof head);
    for (size_t i = 0; i < body; i++) mull_buf_add(&b, "\x55", 1);
    return b;
}

static void refusals(void **state) {
    (void)state;
    expect_error("", 0, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);
    expect_error("hello, I am no picture\n", 23, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);
    expect_error("\x89PNG\r\n\x1a\n", 8, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);
    expect_error("\xff\xd8\xff", 3, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);
    expect_error("GIF89a", 6, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);
    expect_error("RIFF\x04\0\0\0WEBP", 12, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);
    expect_error("II*\0\x08\0\0\0", 8, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);

    mull_buf png = slurp(data_file("shapes.png"));
    expect_error(png.data, png.len, MULL_MEDIA_VIDEO, NULL, MULL_EFORMAT);
    const mull_media_limits small = {.max_source_pixels = 1000};
    expect_error(png.data, png.len, MULL_MEDIA_AUTO, &small, MULL_ELIMIT);
    const mull_media_limits crossed = {.min_pixels = 9000, .max_pixels = 8000};
    expect_error(png.data, png.len, MULL_MEDIA_AUTO, &crossed, MULL_EARG);
    mull_buf_fini(&png);

    mull_buf tall = bmp(1, 201, 201 * 4), bomb = bmp(60000, 60000, 64), good = bmp(1, 200, 200 * 4);
    expect_error(tall.data, tall.len, MULL_MEDIA_AUTO, NULL, MULL_ELIMIT);
    mull_media m;
    mull_error e = {0};
    assert_int_not_equal(mull_media_load_bytes(bomb.data, bomb.len, "bomb", MULL_MEDIA_AUTO, NULL, 0, &m, &e), 0);
    assert_int_equal(mull_media_load_bytes(good.data, good.len, "good", MULL_MEDIA_AUTO, NULL, 0, &m, &e), 0);
    assert_int_equal(m.width, 1);
    assert_int_equal(m.height, 200);
    mull_media_fini(&m);
    mull_buf_fini(&tall);
    mull_buf_fini(&bomb);
    mull_buf_fini(&good);
}

/* A cut that takes none of the pixels, only what follows them, is forgiven as Pillow forgives it; one byte of pixels
 * more and it is an error. ends: what may be missing (as Pillow 13.0 has it: the checksum of the data itself too, and
 * what of the compressed data the last row does not need). */
static void cut_after_the_pixels(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t ends;
    } CASES[] = {{"shapes.png", 21},         {"small_alpha.png", 22},        {"small_bit.png", 21},
                 {"small_palette.png", 20},  {"small_grey_alpha16.png", 20}, {"small.gif", 2},
                 {"small_interlaced.gif", 2}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        mull_buf b = slurp(data_file(CASES[i].name));
        mull_media whole, cut;
        mull_error e = {0};
        assert_int_equal(
            mull_media_load_bytes(b.data, b.len, "whole", MULL_MEDIA_AUTO, NULL, MULL_MEDIA_HASHES, &whole, &e), 0);
        for (size_t n = 1; n <= CASES[i].ends; n++) {
            if (mull_media_load_bytes(b.data, b.len - n, "cut", MULL_MEDIA_AUTO, NULL, MULL_MEDIA_HASHES, &cut, &e))
                fail_msg("%s without its last %zu bytes: %s", CASES[i].name, n, e.why);
            assert_string_equal(cut.rgb_sha256, whole.rgb_sha256);
            mull_media_fini(&cut);
        }
        expect_error(b.data, b.len - CASES[i].ends - 1, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);
        mull_media_fini(&whole);
        mull_buf_fini(&b);
    }
}

/* A wrong checksum of pixel data: a chunk's is forgiven, as Pillow forgives it, that of the decompressed bytes not. */
static void wrong_sums(void **state) {
    (void)state;
    mull_buf b = slurp(data_file("shapes.png"));
    mull_media whole, other;
    mull_error e = {0};
    assert_int_equal(
        mull_media_load_bytes(b.data, b.len, "whole", MULL_MEDIA_AUTO, NULL, MULL_MEDIA_HASHES, &whole, &e), 0);
    /* One chunk of data, its sum, and 12 bytes of IEND. */
    b.data[b.len - 14] ^= 1;
    assert_int_equal(
        mull_media_load_bytes(b.data, b.len, "chunk", MULL_MEDIA_AUTO, NULL, MULL_MEDIA_HASHES, &other, &e), 0);
    assert_string_equal(other.rgb_sha256, whole.rgb_sha256);
    b.data[b.len - 14] ^= 1;
    b.data[b.len - 18] ^= 1;
    expect_error(b.data, b.len, MULL_MEDIA_AUTO, NULL, MULL_EFORMAT);
    mull_media_fini(&whole);
    mull_media_fini(&other);
    mull_buf_fini(&b);
}

static void wrong_paths(void **state) {
    (void)state;
    mull_media m;
    mull_error e = {0};
    assert_int_equal(mull_media_load_file("/nonexistent/x.png", MULL_MEDIA_AUTO, NULL, 0, &m, &e), MULL_EMISSING);
    assert_int_equal(mull_media_load_file(MULL_TEST_DATA, MULL_MEDIA_AUTO, NULL, 0, &m, &e), MULL_EFORMAT);
    char fifo[] = "/tmp/mull-test-XXXXXX";
    assert_non_null(mkdtemp(fifo));
    char path[64];
    snprintf(path, sizeof path, "%s/pipe", fifo);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not hang */
    assert_int_equal(mull_media_load_file(path, MULL_MEDIA_AUTO, NULL, 0, &m, &e), MULL_EFORMAT);
    unlink(path);
    rmdir(fifo);
}

/* Every file cut at many places and with flipped bytes: one clear error or a picture, never a crash (run under the
 * sanitizers, never a leak). Cutting a JPEG, PNG or WebP in the middle must be an error. */
static void damage(void **state) {
    (void)state;
    const mull_media_limits limits = {.max_pixels = 3136, .max_source_pixels = 1 << 20};
    for (int i = 0; i < FILES; i++) {
        mull_buf b = slurp(data_file(expected[i].file));
        size_t step = b.len / 40 + 1;
        for (size_t n = 0; n < b.len; n += step) {
            mull_media m;
            mull_error e = {0};
            char *cut = malloc(n ? n : 1); /* exactly n bytes: a read past them is seen */
            memcpy(cut, b.data, n);
            int rc = mull_media_load_bytes(cut, n, "cut", MULL_MEDIA_AUTO, &limits, 0, &m, &e);
            if (rc) assert_true(e.what[0] && e.why[0]);
            if (n < b.len / 2) assert_int_not_equal(rc, 0);
            mull_media_fini(&m);
            free(cut);
        }
        for (size_t n = 0; n < b.len; n += step) {
            mull_media m;
            mull_error e = {0};
            b.data[n] = (char)(b.data[n] ^ 0x40);
            int rc = mull_media_load_bytes(b.data, b.len, "flipped", MULL_MEDIA_AUTO, &limits, 0, &m, &e);
            if (rc) assert_true(e.what[0] && e.why[0]);
            b.data[n] = (char)(b.data[n] ^ 0x40);
            mull_media_fini(&m);
        }
        mull_buf_fini(&b);
    }
}

static void limits_of_model(void **state) {
    (void)state;
    char dir[] = "/tmp/mull-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/preprocessor_config.json", dir);
    mull_error e = {0};
    mull_media_limits l = {0};
    assert_int_equal(mull_media_limits_from_model(dir, &l, &e), 0); /* no file: Qwen's defaults */
    assert_int_equal(l.image_min_pixels, 0);
    static const char *const texts[] = {"{\"min_pixels\":6272,\"max_pixels\":200704}",
                                        "{\"size\":{\"shortest_edge\":6272,\"longest_edge\":200704}}"};
    for (int i = 0; i < 3; i++) {
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(i < 2 ? texts[i] : "{", f);
        fclose(f);
        l = (mull_media_limits){0};
        assert_int_equal(mull_media_limits_from_model(dir, &l, &e), i < 2 ? 0 : MULL_EFORMAT);
        if (i == 2) break;
        assert_int_equal(l.image_min_pixels, 6272);
        assert_int_equal(l.image_max_pixels, 200704);
    }
    unlink(path);
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(matches_pillow), cmocka_unit_test(sizes),
                                       cmocka_unit_test(kernels_agree),  cmocka_unit_test(flat_stays_flat),
                                       cmocka_unit_test(refusals),       cmocka_unit_test(cut_after_the_pixels),
                                       cmocka_unit_test(wrong_sums),     cmocka_unit_test(wrong_paths),
                                       cmocka_unit_test(damage),         cmocka_unit_test(limits_of_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
