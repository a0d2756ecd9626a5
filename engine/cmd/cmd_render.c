/* mull-engine render: messages to the prompt's text and ids, with the media's grids. */
#include "engine/cmd/cmd.h"
#include "engine/cmd/jsonl.h"
#include "engine/media/media.h"
#include "engine/infer/media_ref.h"
#include "engine/text/chat.h"

#include <stdlib.h>
#include <string.h>

typedef struct job {
    mull_tokenizer *t;
    mull_render_opts opts;
    mull_media_limits limits;
} job;

static json_t *render_row(void *ctx, const json_t *in, mull_error *err) {
    const job *j = ctx;
    const json_t *messages = json_object_get(in, "messages");
    mull_media_ref *refs = NULL;
    size_t n = 0;
    json_t *out = NULL, *images = json_array(), *videos = json_array(), *seconds = json_array(), *list = json_array();
    mull_buf text = {0};
    mull_ids ids = {0};
    int rc = mull_chat_media(messages, &refs, &n, err);
    int64_t *tokens = rc ? NULL : calloc(n + 1, sizeof *tokens);
    if (!rc && !tokens) rc = mull_fail(err, MULL_ENOMEM, "cannot render the prompt", NULL, NULL, "out of memory");
    for (size_t i = 0; !rc && i < n; i++) {
        mull_media m = {0};
        rc = mull_media_ref_load(&refs[i], &j->limits, &m, err);
        if (rc) break;
        tokens[i] = m.tokens;
        json_array_append_new(refs[i].video ? videos : images, json_pack("[I,I,I]", (json_int_t)m.grid[0],
                                                                         (json_int_t)m.grid[1], (json_int_t)m.grid[2]));
        if (refs[i].video) json_array_append_new(seconds, json_real(m.second_per_grid));
        mull_media_fini(&m);
    }
    if (!rc) rc = mull_chat_render(j->t, messages, tokens, n, &j->opts, &text, &ids, err);
    for (size_t i = 0; !rc && i < ids.len; i++) json_array_append_new(list, json_integer(ids.data[i]));
    if (!rc)
        out = json_pack("{s:o,s:O,s:O,s:O,s:O}", "text", json_stringn(text.data ? text.data : "", text.len), "ids",
                        list, "image_grid_thw", images, "video_grid_thw", videos, "second_per_grid_ts", seconds);
    json_decref(images);
    json_decref(videos);
    json_decref(seconds);
    json_decref(list);
    mull_buf_fini(&text);
    mull_ids_fini(&ids);
    free(tokens);
    free(refs);
    return out;
}

static const char *const HELP = "usage: mull-engine render --model DIR [flags]\n\n"
                                "JSON lines {\"messages\": [...]} on stdin to "
                                "{\"text\",\"ids\",\"image_grid_thw\",\"video_grid_thw\",\"second_per_grid_ts\"}.\n\n"
                                "  --prompt-format mull|chatml|old    default mull, or chatml with --mode none\n"
                                "  --mode mmlatent2|new_wtxt|new_sepprompt|none     default mmlatent2, or none when "
                                "the tokenizer has no <|latent_pad|>\n"
                                "  --latents N                        default 20\n"
                                "  --min-pixels N --max-pixels N --fps F --nframes N   as in preprocess\n";

int mull_cmd_render(int argc, char **argv) {
    const char *model = NULL;
    job j = {.opts = {.latents = 20}};
    bool format = false, mode = false;
    mull_error err = {0};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(HELP, stdout);
            return MULL_EXIT_OK;
        }
        if (i + 1 == argc) return mull_cmd_usage("render", "unknown argument or missing value: '%s'", argv[i]);
        const char *flag = argv[i], *value = argv[++i];
        long long n = 0;
        int bad = 0;
        if (!strcmp(flag, "--model"))
            model = value;
        else if (!strcmp(flag, "--prompt-format")) {
            format = true;
            if (mull_prompt_format_parse(value, &j.opts.format, &err)) return mull_cmd_fail(&err);
        } else if (!strcmp(flag, "--mode")) {
            mode = true;
            if (mull_prompt_mode_parse(value, &j.opts.mode, &err)) return mull_cmd_fail(&err);
        } else if (!strcmp(flag, "--latents")) {
            bad = mull_cmd_int("render", flag, value, 0, 4096, &n);
            j.opts.latents = (int)n;
        } else if (!strcmp(flag, "--min-pixels")) {
            bad = mull_cmd_int("render", flag, value, 1, INT64_MAX, &n);
            j.limits.min_pixels = n;
        } else if (!strcmp(flag, "--max-pixels")) {
            bad = mull_cmd_int("render", flag, value, 1, INT64_MAX, &n);
            j.limits.max_pixels = n;
        } else if (!strcmp(flag, "--fps")) {
            bad = mull_cmd_double("render", flag, value, 1e-6, 1e6, &j.limits.fps);
        } else if (!strcmp(flag, "--nframes")) {
            bad = mull_cmd_int("render", flag, value, 1, 1 << 20, &n);
            j.limits.nframes = (int)n;
        } else
            return mull_cmd_usage("render", "unknown argument '%s'", flag);
        if (bad) return MULL_EXIT_USAGE;
    }
    if (!model) return mull_cmd_usage("render", "--model is needed");
    int rc = mull_tokenizer_load(model, &j.t, &err);
    if (!rc) rc = mull_media_limits_from_model(model, &j.limits, &err);
    if (rc) {
        mull_tokenizer_destroy(j.t);
        return mull_cmd_fail(&err);
    }
    if (!mode && mull_tokenizer_special(j.t, "<|latent_pad|>") < 0) j.opts.mode = MULL_MODE_NONE;
    if (!format) j.opts.format = j.opts.mode == MULL_MODE_NONE ? MULL_PROMPT_CHATML : MULL_PROMPT_MULL;
    int status = mull_cmd_jsonl("render", render_row, &j);
    mull_tokenizer_destroy(j.t);
    return status;
}
