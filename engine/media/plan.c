/* smart_resize and the choice of video frames, value for value as qwen-vl-utils computes them in Python: doubles,
 * round half to even, and torch.linspace's float32 for the frame indices (float64 picks another frame in rare rows).
 * Contraction to fma is off in this file: it would move a
 * rounding; where the reference has an fma it is written out. */
#include "engine/media/media.h"
#include "engine/media/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __clang__
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

/* Python's round() to a multiple of 28: ties go to the even multiple. */
static double round28(double v) {
    return nearbyint(v / MULL_FACTOR) * MULL_FACTOR;
}
static double floor28(double v) {
    return floor(v / MULL_FACTOR) * MULL_FACTOR;
}
static double ceil28(double v) {
    return ceil(v / MULL_FACTOR) * MULL_FACTOR;
}
static double at_least(double v, double lo) {
    return v < lo ? lo : v;
}

int mull_smart_resize(int64_t h, int64_t w, int64_t min_pixels, int64_t max_pixels, int64_t *out_h, int64_t *out_w,
                      mull_error *err) {
    static const char what[] = "cannot choose a size";
    const int64_t side_max = INT32_MAX;
    if (h < 1 || w < 1 || h > side_max || w > side_max)
        return mull_fail(err, MULL_EARG, what, NULL, "give an image with pixels", "the source has %lld x %lld pixels",
                         (long long)w, (long long)h);
    if (min_pixels < 1 || max_pixels < min_pixels || max_pixels > ((int64_t)1 << 40))
        return mull_fail(err, MULL_EARG, what, NULL, "give 1 <= min_pixels <= max_pixels",
                         "min_pixels is %lld and max_pixels %lld", (long long)min_pixels, (long long)max_pixels);
    double aspect = (double)(h > w ? h : w) / (double)(h > w ? w : h);
    if (aspect > MULL_MAX_ASPECT)
        return mull_fail(err, MULL_ELIMIT, what, NULL, "crop the image",
                         "absolute aspect ratio must be smaller than %d, got %.10g", MULL_MAX_ASPECT, aspect);
    double hb = at_least(round28((double)h), MULL_FACTOR), wb = at_least(round28((double)w), MULL_FACTOR);
    if (hb * wb > (double)max_pixels) {
        double beta = sqrt((double)h * (double)w / (double)max_pixels);
        hb = at_least(floor28((double)h / beta), MULL_FACTOR);
        wb = at_least(floor28((double)w / beta), MULL_FACTOR);
    } else if (hb * wb < (double)min_pixels) {
        double beta = sqrt((double)min_pixels / ((double)h * (double)w));
        hb = ceil28((double)h * beta);
        wb = ceil28((double)w * beta);
    }
    *out_h = (int64_t)hb;
    *out_w = (int64_t)wb;
    return MULL_OK;
}

int mull_plan_video_size(int64_t h, int64_t w, int nframes, int64_t min_pixels, int64_t max_pixels,
                         int64_t total_pixels, int64_t *out_h, int64_t *out_w, mull_error *err) {
    double lo = min_pixels > 0 ? (double)min_pixels : MULL_VIDEO_MIN_PIXELS;
    double total = total_pixels > 0 ? (double)total_pixels : MULL_VIDEO_TOTAL_PIXELS;
    double hi = fmin(MULL_VIDEO_MAX_PIXELS, total / nframes * 2);
    hi = fmax(hi, floor(lo * 1.05));
    if (max_pixels > 0) hi = fmin(hi, (double)max_pixels);
    /* A user's cap wins over a floor that nobody asked for. */
    if (min_pixels <= 0) lo = fmin(lo, floor(hi));
    return mull_smart_resize(h, w, (int64_t)lo, (int64_t)hi, out_h, out_w, err);
}

static double clampd(double v, double lo, double hi) {
    return fmax(lo, fmin(v, hi));
}

/* The frames [first, last] that video_start and video_end leave. */
static int frame_range(int64_t total, double fps, const mull_frame_ask *ask, int64_t *first, int64_t *last,
                       mull_error *err) {
    double duration = (double)total / fps;
    *first = 0;
    *last = total - 1;
    if (isnan(ask->video_start) && isnan(ask->video_end)) return MULL_OK;
    if (!isnan(ask->video_start)) *first = (int64_t)ceil(clampd(ask->video_start, 0, duration) * fps);
    if (!isnan(ask->video_end)) {
        *last = (int64_t)floor(clampd(ask->video_end, 0, duration) * fps);
        if (*last > total - 1) *last = total - 1;
    }
    if (*first < *last) return MULL_OK;
    return mull_fail(err, MULL_EARG, "cannot choose frames", NULL, "give video_start < video_end inside the video",
                     "start frame %lld is not before end frame %lld (%.2f s, %lld frames at %g a second)",
                     (long long)*first, (long long)*last, duration, (long long)total, fps);
}

/* torch.linspace(first, last, n).round() in float32, from both ends. torch multiplies and adds in one rounding: with
 * two the choice differs in one of thirty long videos (over 10,000 frames). */
static int64_t linspace_at(int64_t first, int64_t last, int n, int i) {
    float a = (float)first, b = (float)last;
    float step = (b - a) / (float)(n - 1);
    float v = i < n / 2 ? fmaf(step, (float)i, a) : fmaf(-step, (float)(n - 1 - i), b);
    int64_t at = (int64_t)nearbyintf(v);
    /* Past 2^24 frames float32 cannot name every index; never step outside. */
    return at < first ? first : at > last ? last : at;
}

int mull_plan_frames(int64_t total, double video_fps, const mull_frame_ask *ask, mull_frame_plan *out,
                     mull_error *err) {
    static const char what[] = "cannot choose frames";
    memset(out, 0, sizeof *out);
    if (!isnan(ask->fps) && !isnan(ask->nframes))
        return mull_fail(err, MULL_EARG, what, NULL, "give one of them", "fps and nframes were both given");
    if (!(video_fps > 0) || isinf(video_fps))
        return mull_fail(err, MULL_EARG, what, NULL, NULL, "video_fps must be a positive number");
    if (total <= 0 || total > INT32_MAX)
        return mull_fail(err, MULL_EARG, what, NULL, NULL, "the number of frames must be positive, got %lld",
                         (long long)total);
    if (ask->min_frames < 0 || ask->max_frames < 0 || (!isnan(ask->fps) && !(ask->fps > 0)))
        return mull_fail(err, MULL_EARG, what, NULL, NULL, "fps, min_frames and max_frames must be positive");
    int64_t first, last;
    int rc = frame_range(total, video_fps, ask, &first, &last, err);
    if (rc) return rc;
    int64_t frames = last - first + 1;

    double n;
    if (!isnan(ask->nframes)) {
        n = nearbyint(ask->nframes / 2) * 2;
    } else {
        double lo = ceil((ask->min_frames ? (double)ask->min_frames : 4) / 2) * 2;
        double cap = ask->max_frames ? (double)ask->max_frames : fmin(768, (double)frames);
        double hi = floor(cap / 2) * 2;
        n = (double)frames / video_fps * (isnan(ask->fps) ? 2 : ask->fps);
        n = fmin(fmin(fmax(n, lo), hi), (double)frames);
        n = floor(n / 2) * 2;
    }
    if (!(n >= 2 && n <= (double)frames))
        return mull_fail(err, MULL_EARG, what, NULL, "ask for fewer frames or give a longer video",
                         "nframes must be in [2, %lld], got %.0f", (long long)frames, n);

    out->nframes = (int)n;
    out->indices = malloc((size_t)out->nframes * sizeof *out->indices);
    if (!out->indices) return mull_fail(err, MULL_ENOMEM, what, NULL, NULL, "no memory for %d indices", out->nframes);
    for (int i = 0; i < out->nframes; i++) out->indices[i] = linspace_at(first, last, out->nframes, i);
    out->sample_fps = n / (double)frames * video_fps;
    out->second_per_grid = 2 / out->sample_fps;
    return MULL_OK;
}
