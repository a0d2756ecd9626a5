/* Loading what messages name; see media_ref.h. Data URLs are decoded here (RFC 2397, base64 only), file:// URLs lose
 * their escapes, anything else is a path. */
#include "engine/infer/media_ref.h"

#include "engine/core/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int number(const json_t *part, const char *where, const char *key, double lo, double hi, double *out,
                  mull_error *err) {
    const json_t *v = json_object_get(part, key);
    if (!v || json_is_null(v)) return MULL_OK;
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= lo && x <= hi))
        return mull_fail(err, MULL_EARG, "wrong media limit", where, "", "%s takes a number from %g to %g", key, lo,
                         hi);
    *out = x;
    return MULL_OK;
}

int mull_media_limits_override(const json_t *part, const char *where, mull_media_limits *limits, mull_error *err) {
    double min = NAN, max = NAN, fps = NAN, nframes = NAN;
    int rc = number(part, where, "min_pixels", 1, 1e12, &min, err);
    if (!rc) rc = number(part, where, "max_pixels", 1, 1e12, &max, err);
    if (!rc) rc = number(part, where, "fps", 1e-6, 1e6, &fps, err);
    if (!rc) rc = number(part, where, "nframes", 1, 1e6, &nframes, err);
    if (rc) return rc;
    if (!isnan(fps) && !isnan(nframes))
        return mull_fail(err, MULL_EARG, "wrong media limit", where, "give one of them",
                         "fps and nframes exclude each other");
    if (!isnan(min)) limits->min_pixels = (int64_t)min;
    if (!isnan(max)) limits->max_pixels = (int64_t)max;
    if (!isnan(fps)) {
        limits->fps = fps;
        limits->nframes = 0;
    }
    if (!isnan(nframes)) {
        limits->nframes = (int)nframes;
        limits->fps = 0;
    }
    return MULL_OK;
}

static int base64_value(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

/* Decodes text into out, which has room for 3/4 of its length. False on a character that does not belong. */
static bool base64(const char *text, uint8_t *out, size_t *len) {
    uint32_t bits = 0;
    int have = 0;
    size_t n = 0;
    for (; *text && *text != '='; text++) {
        if (strchr("\r\n\t ", *text)) continue;
        int v = base64_value(*text);
        if (v < 0) return false;
        bits = bits << 6 | (uint32_t)v;
        if ((have += 6) < 8) continue;
        have -= 8;
        out[n++] = (uint8_t)(bits >> have);
    }
    *len = n;
    return have != 6 && text[strspn(text, "=\r\n\t ")] == 0;
}

static int load_data_url(const char *url, mull_media_kind kind, const mull_media_limits *limits, mull_media *out,
                         mull_error *err) {
    const char *comma = strchr(url, ',');
    if (!comma || comma - url < 7 || strncasecmp(comma - 7, ";base64", 7))
        return mull_fail(err, MULL_EFORMAT, "cannot read the data URL", "", "write data:TYPE;base64,DATA",
                         "it is not base64");
    uint8_t *bytes = malloc(strlen(comma) + 1);
    if (!bytes) return mull_fail(err, MULL_ENOMEM, "cannot read the data URL", "", "", "out of memory");
    size_t len;
    int rc = base64(comma + 1, bytes, &len)
                 ? mull_media_load_bytes(bytes, len, "data URL", kind, limits, 0, out, err)
                 : mull_fail(err, MULL_EFORMAT, "cannot read the data URL", "", "", "its base64 is broken");
    free(bytes);
    return rc;
}

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* file://[localhost]/path with %xx. */
char *mull_media_ref_path(const char *url) {
    if (strncasecmp(url, "file://", 7)) return strdup(url);
    const char *s = url + strlen("file://");
    if (!strncasecmp(s, "localhost/", 10)) s += 9;
    char *path = strdup(s), *w = path;
    for (; path && *s; s++) {
        if (*s == '%' && hex(s[1]) >= 0 && hex(s[2]) >= 0 && (hex(s[1]) || hex(s[2]))) {
            *w++ = (char)(hex(s[1]) * 16 + hex(s[2]));
            s += 2;
        } else {
            *w++ = *s;
        }
    }
    if (path) *w = 0;
    return path;
}

int mull_media_ref_remote(const char *url, mull_error *err) {
    size_t n = strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    if (!strncasecmp(url, "file://", 7) || n == 0 || strncmp(url + n, "://", 3)) return MULL_OK;
    return mull_fail(err, MULL_EUNSUPPORTED, "cannot load a medium", url, "fetch it first and give its path",
                     "the engine does not use the network");
}

int mull_media_ref_load(const mull_media_ref *ref, const mull_media_limits *limits, mull_media *out, mull_error *err) {
    mull_media_limits own = *limits;
    mull_media_kind kind = ref->video ? MULL_MEDIA_VIDEO : MULL_MEDIA_IMAGE;
    *out = (mull_media){0};
    int rc = mull_media_limits_override(ref->part, ref->video ? "video" : "image", &own, err);
    if (rc) return rc;
    if (!strncasecmp(ref->url, "data:", 5)) return load_data_url(ref->url, kind, &own, out, err);
    if ((rc = mull_media_ref_remote(ref->url, err))) return rc;
    char *path = mull_media_ref_path(ref->url);
    if (!path) return mull_fail(err, MULL_ENOMEM, "cannot load a medium", ref->url, "", "out of memory");
    rc = mull_media_load_file(path, kind, &own, 0, out, err);
    free(path);
    return rc;
}
