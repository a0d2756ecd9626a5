/* str.lower and str.upper: simple mappings by utf8proc, and the full ones of SpecialCasing.txt. */
#include "engine/eval/text.h"

#include <utf8proc.h>

/* Code points whose upper case is longer than one (SpecialCasing.txt, Unicode 14, sorted). */
static const struct {
    uint32_t c, up[3];
} LONGER[] = {{0xdf, {0x53, 0x53}},
              {0x149, {0x2bc, 0x4e}},
              {0x1f0, {0x4a, 0x30c}},
              {0x390, {0x399, 0x308, 0x301}},
              {0x3b0, {0x3a5, 0x308, 0x301}},
              {0x587, {0x535, 0x552}},
              {0x1e96, {0x48, 0x331}},
              {0x1e97, {0x54, 0x308}},
              {0x1e98, {0x57, 0x30a}},
              {0x1e99, {0x59, 0x30a}},
              {0x1e9a, {0x41, 0x2be}},
              {0x1f50, {0x3a5, 0x313}},
              {0x1f52, {0x3a5, 0x313, 0x300}},
              {0x1f54, {0x3a5, 0x313, 0x301}},
              {0x1f56, {0x3a5, 0x313, 0x342}},
              {0x1f80, {0x1f08, 0x399}},
              {0x1f81, {0x1f09, 0x399}},
              {0x1f82, {0x1f0a, 0x399}},
              {0x1f83, {0x1f0b, 0x399}},
              {0x1f84, {0x1f0c, 0x399}},
              {0x1f85, {0x1f0d, 0x399}},
              {0x1f86, {0x1f0e, 0x399}},
              {0x1f87, {0x1f0f, 0x399}},
              {0x1f88, {0x1f08, 0x399}},
              {0x1f89, {0x1f09, 0x399}},
              {0x1f8a, {0x1f0a, 0x399}},
              {0x1f8b, {0x1f0b, 0x399}},
              {0x1f8c, {0x1f0c, 0x399}},
              {0x1f8d, {0x1f0d, 0x399}},
              {0x1f8e, {0x1f0e, 0x399}},
              {0x1f8f, {0x1f0f, 0x399}},
              {0x1f90, {0x1f28, 0x399}},
              {0x1f91, {0x1f29, 0x399}},
              {0x1f92, {0x1f2a, 0x399}},
              {0x1f93, {0x1f2b, 0x399}},
              {0x1f94, {0x1f2c, 0x399}},
              {0x1f95, {0x1f2d, 0x399}},
              {0x1f96, {0x1f2e, 0x399}},
              {0x1f97, {0x1f2f, 0x399}},
              {0x1f98, {0x1f28, 0x399}},
              {0x1f99, {0x1f29, 0x399}},
              {0x1f9a, {0x1f2a, 0x399}},
              {0x1f9b, {0x1f2b, 0x399}},
              {0x1f9c, {0x1f2c, 0x399}},
              {0x1f9d, {0x1f2d, 0x399}},
              {0x1f9e, {0x1f2e, 0x399}},
              {0x1f9f, {0x1f2f, 0x399}},
              {0x1fa0, {0x1f68, 0x399}},
              {0x1fa1, {0x1f69, 0x399}},
              {0x1fa2, {0x1f6a, 0x399}},
              {0x1fa3, {0x1f6b, 0x399}},
              {0x1fa4, {0x1f6c, 0x399}},
              {0x1fa5, {0x1f6d, 0x399}},
              {0x1fa6, {0x1f6e, 0x399}},
              {0x1fa7, {0x1f6f, 0x399}},
              {0x1fa8, {0x1f68, 0x399}},
              {0x1fa9, {0x1f69, 0x399}},
              {0x1faa, {0x1f6a, 0x399}},
              {0x1fab, {0x1f6b, 0x399}},
              {0x1fac, {0x1f6c, 0x399}},
              {0x1fad, {0x1f6d, 0x399}},
              {0x1fae, {0x1f6e, 0x399}},
              {0x1faf, {0x1f6f, 0x399}},
              {0x1fb2, {0x1fba, 0x399}},
              {0x1fb3, {0x391, 0x399}},
              {0x1fb4, {0x386, 0x399}},
              {0x1fb6, {0x391, 0x342}},
              {0x1fb7, {0x391, 0x342, 0x399}},
              {0x1fbc, {0x391, 0x399}},
              {0x1fc2, {0x1fca, 0x399}},
              {0x1fc3, {0x397, 0x399}},
              {0x1fc4, {0x389, 0x399}},
              {0x1fc6, {0x397, 0x342}},
              {0x1fc7, {0x397, 0x342, 0x399}},
              {0x1fcc, {0x397, 0x399}},
              {0x1fd2, {0x399, 0x308, 0x300}},
              {0x1fd3, {0x399, 0x308, 0x301}},
              {0x1fd6, {0x399, 0x342}},
              {0x1fd7, {0x399, 0x308, 0x342}},
              {0x1fe2, {0x3a5, 0x308, 0x300}},
              {0x1fe3, {0x3a5, 0x308, 0x301}},
              {0x1fe4, {0x3a1, 0x313}},
              {0x1fe6, {0x3a5, 0x342}},
              {0x1fe7, {0x3a5, 0x308, 0x342}},
              {0x1ff2, {0x1ffa, 0x399}},
              {0x1ff3, {0x3a9, 0x399}},
              {0x1ff4, {0x38f, 0x399}},
              {0x1ff6, {0x3a9, 0x342}},
              {0x1ff7, {0x3a9, 0x342, 0x399}},
              {0x1ffc, {0x3a9, 0x399}},
              {0xfb00, {0x46, 0x46}},
              {0xfb01, {0x46, 0x49}},
              {0xfb02, {0x46, 0x4c}},
              {0xfb03, {0x46, 0x46, 0x49}},
              {0xfb04, {0x46, 0x46, 0x4c}},
              {0xfb05, {0x53, 0x54}},
              {0xfb06, {0x53, 0x54}},
              {0xfb13, {0x544, 0x546}},
              {0xfb14, {0x544, 0x535}},
              {0xfb15, {0x544, 0x53b}},
              {0xfb16, {0x54e, 0x546}},
              {0xfb17, {0x544, 0x53d}}};

static const uint32_t *longer(uint32_t c) {
    size_t lo = 0, hi = sizeof LONGER / sizeof *LONGER;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (LONGER[mid].c < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < sizeof LONGER / sizeof *LONGER && LONGER[lo].c == c ? LONGER[lo].up : NULL;
}

mull__text mull__upper(mull__arena *a, mull__text t) {
    uint32_t *out = mull__alloc(a, t.n > SIZE_MAX / 16 ? SIZE_MAX : 3 * t.n * sizeof *out);
    size_t k = 0;
    if (!out) return (mull__text){0};
    for (size_t i = 0; i < t.n; i++) {
        uint32_t c = t.c[i];
        const uint32_t *up = c < 0xdf ? NULL : longer(c);
        if (c < 0x80)
            out[k++] = c >= 'a' && c <= 'z' ? c - 32 : c;
        else if (!up)
            out[k++] = (uint32_t)utf8proc_toupper((utf8proc_int32_t)c);
        else
            for (int j = 0; j < 3 && up[j]; j++) out[k++] = up[j];
    }
    return (mull__text){out, k};
}

static bool case_ignorable(uint32_t c) {
    switch (c) { /* the marks inside words (Word_Break MidLetter, MidNumLet, Single_Quote) */
    case '\'':
    case '.':
    case ':':
    case 0xb7:
    case 0x387:
    case 0x55f:
    case 0x5f4:
    case 0x2018:
    case 0x2019:
    case 0x2024:
    case 0x2027:
    case 0xfe13:
    case 0xfe52:
    case 0xfe55:
    case 0xff07:
    case 0xff0e:
    case 0xff1a:
        return true;
    default:
        break;
    }
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return false;
    }
}

static bool cased(uint32_t c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

/* A capital sigma is final when a cased letter stands before it and none behind it, marks aside. */
static bool final_sigma(mull__text t, size_t at) {
    size_t i = at;
    while (i > 0 && case_ignorable(t.c[i - 1])) i--;
    if (i == 0 || !cased(t.c[i - 1])) return false;
    for (i = at + 1; i < t.n && case_ignorable(t.c[i]);) i++;
    return i == t.n || !cased(t.c[i]);
}

mull__text mull__lower(mull__arena *a, mull__text t) {
    uint32_t *out = mull__alloc(a, t.n > SIZE_MAX / 16 ? SIZE_MAX : 2 * t.n * sizeof *out);
    size_t k = 0;
    if (!out) return (mull__text){0};
    for (size_t i = 0; i < t.n; i++) {
        uint32_t c = t.c[i];
        if (c < 0x80)
            out[k++] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        else if (c == 0x130) {
            out[k++] = 'i';
            out[k++] = 0x307;
        } else if (c == 0x3a3)
            out[k++] = final_sigma(t, i) ? 0x3c2 : 0x3c3;
        else
            out[k++] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    }
    return (mull__text){out, k};
}
