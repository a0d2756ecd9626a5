/* Splitting text into the pieces that BPE works on, by the expression in tokenizer.json (PCRE2, UTF and UCP).
 * The reference's \s is Unicode White_Space; PCRE2's also takes U+180E; and its letters
 * and numbers depend on the Unicode version it was built with. So these classes are spelled out before compiling.
 */
#include "engine/text/tokenizer_internal.h"

#include <string.h>

#define SPACES                                                                                                         \
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Letters and numbers that Unicode 15 and 16 added after the tables of Debian 12's PCRE2 (Unicode 14); with a newer
 * PCRE2 they are named twice, which changes nothing. */
static const char NEW_LETTERS[] =
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d65}"
    "\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}"
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}"
    "\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
static const char NEW_NUMBERS[] =
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}\\x{16130}-\\x{16139}"
    "\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";

static int spell_out(const char *regex, mull_buf *out) {
    bool in_class = false;
    int rc = MULL_OK;
    for (const char *p = regex; *p && !rc; p++) {
        if (!strncmp(p, "\\p{L}", 5) || !strncmp(p, "\\p{N}", 5)) {
            const char *more = p[3] == 'L' ? NEW_LETTERS : NEW_NUMBERS;
            rc = mull_buf_printf(out, in_class ? "%.5s%s" : "[%.5s%s]", p, more);
            p += 4;
            continue;
        }
        if (*p == '\\' && p[1]) {
            p++;
            if (*p == 's')
                rc = mull_buf_puts(out, in_class ? SPACES : "[" SPACES "]");
            else if (*p == 'S' && !in_class)
                rc = mull_buf_puts(out, "[^" SPACES "]");
            else {
                const char two[3] = {'\\', *p, 0};
                rc = mull_buf_puts(out, two);
            }
            continue;
        }
        if (*p == '[' && !in_class)
            in_class = true;
        else if (*p == ']' && in_class)
            in_class = false;
        rc = mull_buf_add(out, p, 1);
    }
    return rc;
}

int mull__split_compile(const char *regex, const char *name, pcre2_code **out, mull_error *err) {
    mull_buf text = {0};
    int code;
    PCRE2_SIZE at;
    if (spell_out(regex, &text)) {
        mull_buf_fini(&text);
        return mull_fail(err, MULL_ENOMEM, "cannot read tokenizer", name, NULL, "out of memory");
    }
    *out = pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), text.len, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    mull_buf_fini(&text);
    if (!*out) {
        char why[200];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return mull_fail(err, MULL_EFORMAT, "cannot read tokenizer", name,
                         "use the tokenizer.json of a Qwen2.5-VL checkpoint",
                         "the pre_tokenizer's expression does not compile: %s", why);
    }
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it matching is only slower */
    return MULL_OK;
}

int mull__split_encode(const mull_tokenizer *t, const char *s, size_t n, mull_ids *out, mull_error *err) {
    if (n == 0) return MULL_OK;
    if (!t->split) return mull__bpe(t, s, n, out, err);
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(t->split, NULL);
    if (!m) return mull_fail(err, MULL_ENOMEM, "cannot tokenize", NULL, NULL, "out of memory");
    int rc = MULL_OK;
    for (size_t at = 0; at < n && !rc;) {
        /* NO_UTF_CHECK: the caller's text is valid. */
        int k = pcre2_match(t->split, (PCRE2_SPTR)s, n, at, at ? PCRE2_NO_UTF_CHECK : 0, m, NULL);
        if (k < 0 && k != PCRE2_ERROR_NOMATCH) {
            rc = mull_fail(err, MULL_ELIMIT, "cannot tokenize", NULL, "shorten the text",
                           "the splitting expression gave up (%d)", k);
            break;
        }
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(m);
        size_t from = k < 0 ? n : v[0], to = k < 0 ? n : v[1];
        if (from > at) rc = mull__bpe(t, s + at, from - at, out, err); /* what no match covers is a piece too */
        if (!rc && to > from) rc = mull__bpe(t, s + from, to - from, out, err);
        at = to > at ? to : n; /* an empty match cannot happen with a pattern that ends in \s+; never loop on one */
    }
    pcre2_match_data_free(m);
    return rc;
}
