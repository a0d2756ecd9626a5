/* M-RoPE positions; see positions.h. One pass over the ids: a placeholder starts the next medium, whose whole run is
 * placed at once, everything else is text. The rule is the published one (4.49 of the reference, and its config);
 * continuing after a video at max(h, w) alone would let later text repeat the video's time indices. */
#include "engine/model/positions.h"

#include <stdio.h>

int64_t mull_grid_tokens(const mull_config *c, const mull_grid *g) {
    int64_t m = c->vision.merge;
    return g->t * (g->h / m) * (g->w / m);
}

int32_t mull_grid_time(int64_t i, float second_per_grid, float tokens_per_second) {
    float seconds = (float)i * second_per_grid;
    return (int32_t)(seconds * tokens_per_second);
}

int mull_grid_check(const mull_config *c, const mull_grid *g, size_t index, mull_error *err) {
    char where[64];
    snprintf(where, sizeof where, "medium %zu", index);
    int64_t limit = 1 << 20; /* patches a side: far above any picture, far below overflow of t * h * w */
    if (g->t < 1 || g->h < 1 || g->w < 1 || g->t > limit || g->h > limit || g->w > limit)
        return mull_fail(err, MULL_EARG, "wrong media grid", where, "", "the grid is %lld x %lld x %lld patches",
                         (long long)g->t, (long long)g->h, (long long)g->w);
    if (g->h % c->vision.merge || g->w % c->vision.merge)
        return mull_fail(err, MULL_EARG, "wrong media grid", where, "resize to multiples of the merged unit",
                         "%lld x %lld patches are not whole units of %d", (long long)g->h, (long long)g->w,
                         c->vision.merge);
    if (!g->video && g->t != 1)
        return mull_fail(err, MULL_EARG, "wrong media grid", where, "", "an image has one grid step, not %lld",
                         (long long)g->t);
    if (!g->video) return MULL_OK;
    double last = (double)(g->t - 1) * g->second_per_grid * c->vision.tokens_per_second;
    if (!(g->second_per_grid > 0) || !(last < 1 << 24)) /* float32 counts exactly up to here */
        return mull_fail(err, MULL_EARG, "wrong seconds per grid step", where, "pass 2 / sampled frames a second",
                         "%g s a step gives no usable time positions", (double)g->second_per_grid);
    return MULL_OK;
}

/* Places medium g, whose first placeholder is at index at, from position start on; returns the largest position. */
static int64_t place(const mull_config *c, const mull_grid *g, int32_t *pos, size_t stride, size_t at, int64_t start) {
    int64_t h = g->h / c->vision.merge, w = g->w / c->vision.merge, last = start;
    for (int64_t t = 0; t < g->t; t++) {
        int64_t time = g->video ? mull_grid_time(t, g->second_per_grid, (float)c->vision.tokens_per_second) : 0;
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++, at++) {
                pos[at] = (int32_t)(start + time);
                pos[stride + at] = (int32_t)(start + y);
                pos[2 * stride + at] = (int32_t)(start + x);
            }
        if (start + time > last) last = start + time;
    }
    int64_t side = start + (h > w ? h : w) - 1;
    return side > last ? side : last;
}

static int mismatch(mull_error *err, size_t at, const char *why) {
    char where[64];
    snprintf(where, sizeof where, "token %zu", at);
    return mull_fail(err, MULL_EARG, "placeholders do not match the media", where,
                     "give each medium t*h*w/4 placeholders of its kind, in order", "%s", why);
}

int mull_positions(const mull_config *c, const int32_t *ids, size_t n, const mull_grid *media, size_t nmedia,
                   int32_t *pos, size_t stride, int64_t *delta, size_t *first, mull_error *err) {
    int64_t next = 0; /* the position of the next text token: largest so far + 1 */
    size_t i = 0, m = 0;
    while (i < n) {
        bool image = ids[i] == c->image_token, video = ids[i] == c->video_token;
        if (!image && !video) {
            for (int a = 0; a < 3; a++) pos[(size_t)a * stride + i] = (int32_t)next;
            next++;
            i++;
            continue;
        }
        if (m == nmedia) return mismatch(err, i, "there are placeholders for more media than were given");
        const mull_grid *g = &media[m];
        int rc = mull_grid_check(c, g, m, err);
        if (rc) return rc;
        if (g->video != video) return mismatch(err, i, "a video was given where an image belongs, or the reverse");
        uint64_t tokens = (uint64_t)mull_grid_tokens(c, g);
        if (tokens > n - i) return mismatch(err, i, "the sequence ends inside a medium");
        for (size_t k = 0; k < tokens; k++)
            if (ids[i + k] != ids[i]) return mismatch(err, i + k, "a medium has too few placeholders");
        if (first) first[m] = i;
        if (next > 1 << 30) return mismatch(err, i, "positions grow too large");
        next = place(c, g, pos, stride, i, next) + 1;
        i += tokens;
        m++;
    }
    if (m != nmedia) return mismatch(err, n, "more media were given than the text has placeholders for");
    *delta = next - (int64_t)n;
    return MULL_OK;
}
