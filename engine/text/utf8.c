/* See utf8.h. */
#include "engine/text/utf8.h"

int mull_utf8_next(const char *str, size_t n, bool *ok) {
    const unsigned char *s = (const unsigned char *)str;
    *ok = true;
    if (s[0] < 0x80) return 1;
    *ok = false;
    int need;
    unsigned lo = 0x80, hi = 0xbf; /* bounds of the second byte */
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        need = 2;
    else if (s[0] >= 0xe0 && s[0] <= 0xef) {
        need = 3;
        if (s[0] == 0xe0) lo = 0xa0;
        if (s[0] == 0xed) hi = 0x9f;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        need = 4;
        if (s[0] == 0xf0) lo = 0x90;
        if (s[0] == 0xf4) hi = 0x8f;
    } else
        return 1;
    for (int i = 1; i < need; i++) {
        if ((size_t)i == n) return 0;
        if (s[i] < lo || s[i] > hi) return i;
        lo = 0x80;
        hi = 0xbf;
    }
    *ok = true;
    return need;
}

int mull_utf8_lossy(const char *s, size_t n, bool last, size_t *used, mull_buf *out) {
    size_t i = 0;
    int rc = MULL_OK;
    while (i < n && !rc) {
        bool ok;
        int k = mull_utf8_next(s + i, n - i, &ok);
        if (k == 0 && !last) break;
        if (k == 0) k = (int)(n - i);
        rc = ok ? mull_buf_add(out, s + i, (size_t)k) : mull_buf_puts(out, "\xef\xbf\xbd");
        i += (size_t)k;
    }
    if (used) *used = i;
    return rc;
}

bool mull_utf8_valid(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        bool ok;
        int k = mull_utf8_next(s + i, n - i, &ok);
        if (!ok || k == 0) return false;
        i += (size_t)k;
    }
    return true;
}
