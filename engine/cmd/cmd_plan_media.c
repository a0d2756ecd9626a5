/* mull-engine plan-media: the resize and frame formulas alone, one JSON answer a JSON line, to check a budget. */
#include "engine/cmd/cmd.h"
#include "engine/media/media.h"
#include "engine/media/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: mull-engine plan-media < JSONL\n\n"
    "  {\"h\":480,\"w\":640,\"min\":3136,\"max\":200704}          gives {\"size\":[h,w]}\n"
    "  {\"total\":491,\"video_fps\":22.29,\"ask\":{\"fps\":2}}      gives {\"nframes\",\"indices\",\"sample_fps\","
    "\"second_per_grid\"}\n"
    "  ask: fps or nframes, min_frames, max_frames, video_start, video_end (seconds)\n"
    "  A line that cannot be answered gives {\"error\"}; the exit status is then 1.\n";

static json_t *refuse(const mull_error *err) {
    char line[sizeof(mull_error) + 64];
    return json_pack("{s:s}", "error", mull_error_line(err, line, sizeof line));
}

/* A whole number under key; none if absent; an error if something else stands there. */
static int whole(const json_t *o, const char *key, int64_t none, int64_t *out, mull_error *err) {
    const json_t *v = json_object_get(o, key);
    *out = v && json_is_integer(v) ? (int64_t)json_integer_value(v) : none;
    if (!v || json_is_integer(v)) return MULL_OK;
    return mull_fail(err, MULL_EARG, "cannot plan", key, NULL, "it must be a whole number");
}

static int number(const json_t *o, const char *key, double none, double *out, mull_error *err) {
    const json_t *v = json_object_get(o, key);
    *out = v && json_is_number(v) ? json_number_value(v) : none;
    if (!v || json_is_null(v) || json_is_number(v)) return MULL_OK;
    return mull_fail(err, MULL_EARG, "cannot plan", key, NULL, "it must be a number");
}

static json_t *plan_size(const json_t *row, mull_error *err) {
    int64_t h, w, lo, hi;
    if (whole(row, "h", 0, &h, err) || whole(row, "w", 0, &w, err) ||
        whole(row, "min", MULL_IMAGE_MIN_PIXELS, &lo, err) || whole(row, "max", MULL_IMAGE_MAX_PIXELS, &hi, err) ||
        mull_smart_resize(h, w, lo, hi, &h, &w, err))
        return NULL;
    return json_pack("{s:[I,I]}", "size", (json_int_t)h, (json_int_t)w);
}

static json_t *plan_frames(const json_t *row, mull_error *err) {
    const double none = (double)NAN;
    const json_t *asked = json_object_get(row, "ask");
    mull_frame_ask ask;
    int64_t total;
    double fps;
    if (asked && !json_is_object(asked)) {
        mull_fail(err, MULL_EARG, "cannot plan", "ask", NULL, "it must be an object");
        return NULL;
    }
    if (whole(row, "total", 0, &total, err) || number(row, "video_fps", 0, &fps, err) ||
        number(asked, "fps", none, &ask.fps, err) || number(asked, "nframes", none, &ask.nframes, err) ||
        whole(asked, "min_frames", 0, &ask.min_frames, err) || whole(asked, "max_frames", 0, &ask.max_frames, err) ||
        number(asked, "video_start", none, &ask.video_start, err) ||
        number(asked, "video_end", none, &ask.video_end, err))
        return NULL;
    mull_frame_plan plan;
    if (mull_plan_frames(total, fps, &ask, &plan, err)) return NULL;
    json_t *indices = json_array();
    for (int i = 0; i < plan.nframes; i++) json_array_append_new(indices, json_integer(plan.indices[i]));
    free(plan.indices);
    return json_pack("{s:i,s:o,s:f,s:f}", "nframes", plan.nframes, "indices", indices, "sample_fps", plan.sample_fps,
                     "second_per_grid", plan.second_per_grid);
}

int mull_cmd_plan_media(int argc, char **argv) {
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(usage, stdout);
        return MULL_EXIT_OK;
    }
    if (argc > 1) return mull_cmd_usage("plan-media", "it takes no argument, got '%s'", argv[1]);
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    bool failed = false;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        json_error_t je;
        mull_error err = {0};
        json_t *row = json_loadb(line, (size_t)n, JSON_REJECT_DUPLICATES, &je), *out = NULL;
        if (!json_is_object(row))
            mull_fail(&err, MULL_EARG, "cannot plan", NULL, NULL, "%s", row ? "the line is no object" : je.text);
        else
            out = json_object_get(row, "total") ? plan_frames(row, &err) : plan_size(row, &err);
        json_decref(row);
        if (!out) {
            failed = true;
            out = refuse(&err);
        }
        mull_cmd_emit(out);
    }
    free(line);
    return failed ? MULL_EXIT_FAILED : MULL_EXIT_OK;
}
