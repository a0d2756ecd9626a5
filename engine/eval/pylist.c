/* Lists written as Python literals, as MMMU's options are: strings with escapes, numbers, commas. */
#include "engine/eval/task_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static int put(mull_buf *b, long c) {
    utf8proc_uint8_t four[4];
    if (c < 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) c = 0xfffd;
    return mull_buf_add(b, four, (size_t)utf8proc_encode_char((utf8proc_int32_t)c, four));
}

/* n hexadecimal digits at *p */
static long hex(const char **p, int n) {
    char s[9] = "";
    for (int i = 0; i < n; i++) {
        if (!(*p)[i] || !strchr("0123456789abcdefABCDEF", (*p)[i])) return 0xfffd;
        s[i] = (*p)[i];
    }
    *p += n;
    return strtol(s, NULL, 16);
}

static int escape(const char **p, mull_buf *b) {
    static const char FROM[] = "ntrabfv0\\'\"", TO[] = "\n\t\r\a\b\f\v\0\\'\"";
    char c = *(*p)++;
    const char *k = strchr(FROM, c);
    if (c == '\n') return MULL_OK;
    if (c == 'x') return put(b, hex(p, 2));
    if (c == 'u') return put(b, hex(p, 4));
    if (c == 'U') return put(b, hex(p, 8));
    if (c && k) return mull_buf_add(b, &TO[k - FROM], 1);
    return mull_buf_add(b, (char[]){'\\', c}, c ? 2 : 1);
}

/* A string from its quote on, appended; NULL when it does not end. */
static const char *quoted(const char *p, const char *end, bool raw, mull_buf *b) {
    char q = *p++;
    while (p < end && *p != q) {
        int rc;
        if (*p == '\\' && p + 1 < end && !raw) {
            p++;
            rc = escape(&p, b);
        } else
            rc = mull_buf_add(b, p++, 1);
        if (rc) return NULL;
    }
    return p < end ? p + 1 : NULL;
}

static const char *blanks(const char *p, const char *end) {
    while (p < end && strchr(" \t\r\n", *p)) p++;
    return p;
}

/* One item: adjacent strings are one, anything else is kept as it is written. */
static const char *item(const char *p, const char *end, mull_buf *b) {
    bool any = false;
    for (;;) {
        const char *at = blanks(p, end);
        bool raw = false;
        while (at + 1 < end && strchr("rRuU", *at) && strchr("rR'\"", at[1])) raw |= *at == 'r' || *at == 'R', at++;
        if (at >= end || (*at != '\'' && *at != '"')) break;
        if (!(p = quoted(at, end, raw, b))) return NULL;
        any = true;
    }
    if (any) return p;
    p = blanks(p, end);
    const char *from = p;
    while (p < end && *p != ',' && *p != ']') p++;
    return p == from || mull_buf_add(b, from, (size_t)(p - from)) ? NULL : p;
}

json_t *mull__python_list(const json_t *v) {
    if (json_is_array(v)) return json_incref((json_t *)(uintptr_t)v);
    if (!json_is_string(v)) return NULL;
    const char *p = json_string_value(v), *end = p + json_string_length(v);
    json_t *list = json_array();
    p = blanks(p, end);
    bool ok = p < end && *p++ == '[';
    while (ok && (p = blanks(p, end)) < end && *p != ']') {
        mull_buf b = {0};
        p = item(p, end, &b);
        ok = p && !json_array_append_new(list, json_stringn(b.data ? b.data : "", b.len));
        mull_buf_fini(&b);
        if (ok) p = blanks(p, end);
        ok = ok && p < end && (*p == ',' || *p == ']');
        if (ok && *p == ',') p++;
    }
    if (ok && p < end) return list;
    json_decref(list);
    return NULL;
}
