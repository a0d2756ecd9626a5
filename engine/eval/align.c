/* Longest common subsequence and edit distance by bit-vectors: a block of 64 positions of x is one machine word, y runs
 * past it, and what leaves the block at its top for each row of y is kept for the next block. Sources: Crochemore et
 * al. 2001 and Hyyro 2004 (LCS); Myers 1999 in Hyyro's 2003 form (edit distance). */
#include "engine/eval/rouge.h"

#include <string.h>

/* masks[id]: where the block x[0..k) has this id; cleared again by the same call with set false. */
static void mark(uint64_t *masks, const uint32_t *x, size_t k, bool set) {
    for (size_t i = 0; i < k; i++)
        if (set)
            masks[x[i]] |= UINT64_C(1) << i;
        else
            masks[x[i]] = 0;
}

static void *zeros(mull__arena *a, size_t bytes) {
    void *p = mull__alloc(a, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

size_t mull__lcs(mull__arena *a, const uint32_t *x, size_t n, const uint32_t *y, size_t m, size_t ids) {
    uint64_t *masks = zeros(a, ids * sizeof *masks);
    unsigned char *carry = zeros(a, m);
    size_t length = 0;
    if (!masks || !carry) return 0;
    for (size_t at = 0; at < n; at += 64) {
        size_t k = n - at < 64 ? n - at : 64;
        uint64_t v = ~UINT64_C(0); /* a zero bit: the subsequence grows at this position */
        mark(masks, x + at, k, true);
        for (size_t j = 0; j < m; j++) {
            uint64_t u = v & masks[y[j]], sum = v + u, out = sum < v;
            uint64_t with = sum + carry[j];
            out |= with < sum;
            v = with | (v - u);
            carry[j] = (unsigned char)out;
        }
        mark(masks, x + at, k, false);
        uint64_t used = k == 64 ? ~UINT64_C(0) : (UINT64_C(1) << k) - 1;
        length += (size_t)__builtin_popcountll(~v & used);
    }
    return length;
}

size_t mull__edit_distance(mull__arena *a, const uint32_t *x, size_t n, const uint32_t *y, size_t m, size_t ids) {
    uint64_t *masks = zeros(a, ids * sizeof *masks);
    signed char *edge = mull__alloc(a, m); /* horizontal difference under the block: -1, 0, 1; above all of x it is 1 */
    if (!masks || !edge) return 0;
    if (n == 0) return m;
    memset(edge, 1, m);
    size_t distance = 0;
    for (size_t at = 0; at < n; at += 64) {
        size_t k = n - at < 64 ? n - at : 64;
        uint64_t top = UINT64_C(1) << (k - 1), vp = ~UINT64_C(0), vn = 0;
        distance = at + k; /* of the block's last row, before the first column */
        mark(masks, x + at, k, true);
        for (size_t j = 0; j < m; j++) {
            uint64_t eq = masks[y[j]], xv = eq | vn;
            if (edge[j] < 0) eq |= 1;
            uint64_t xh = (((eq & vp) + vp) ^ vp) | eq;
            uint64_t hp = vn | ~(xh | vp), hn = vp & xh;
            int out = (hp & top) ? 1 : (hn & top) ? -1 : 0;
            hp <<= 1;
            hn <<= 1;
            if (edge[j] > 0) hp |= 1;
            if (edge[j] < 0) hn |= 1;
            vp = hn | ~(xv | hp);
            vn = hp & xv;
            edge[j] = (signed char)out;
            distance = (size_t)((long long)distance + out);
        }
        mark(masks, x + at, k, false);
    }
    return distance;
}
