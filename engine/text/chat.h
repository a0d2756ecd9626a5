/* From OpenAI/Hugging Face style messages to the model's frame: the chat template, the Mull prefix and the
 * placeholders of media. Source: Mull release and Qwen2.5-VL chat template (engine/MODEL.md, "Prompts"). */
#ifndef MULL_ENGINE_TEXT_CHAT_H
#define MULL_ENGINE_TEXT_CHAT_H

#include "engine/text/tokenizer.h"

#include <jansson.h>

typedef enum mull_prompt_format { MULL_PROMPT_MULL, MULL_PROMPT_CHATML, MULL_PROMPT_OLD } mull_prompt_format;
typedef enum mull_prompt_mode {
    MULL_MODE_MMLATENT2,
    MULL_MODE_NEW_WTXT,
    MULL_MODE_NONE,
    MULL_MODE_NEW_SEPPROMPT /* words that ask for thought in text and images, no latents */
} mull_prompt_mode;

typedef struct mull_render_opts {
    mull_prompt_format format;
    mull_prompt_mode mode;
    int latents; /* N, default 20 */
    /* With MULL_PROMPT_OLD, as the release's evaluations of that version: a second, empty assistant message is behind
     * the latents, and no other mode has a prefix. */
    bool old_evaluation;
} mull_render_opts;

/* 0 and *out, or MULL_EARG naming the accepted words. */
int mull_prompt_format_parse(const char *s, mull_prompt_format *out, mull_error *err);
int mull_prompt_mode_parse(const char *s, mull_prompt_mode *out, mull_error *err);

/* One medium as a message names it, in order of appearance. part is borrowed from the messages: the whole
 * content part, whose "min_pixels", "max_pixels", "fps", "nframes" the loader honours. */
typedef struct mull_media_ref {
    bool video;
    const char *url; /* path, file:// or data: URL, as written */
    const json_t *part;
} mull_media_ref;

/* Lists the media of messages. Accepts {"type":"image","image":PATH}, {"type":"image_url","image_url":{"url"}|STR},
 * {"type":"video","video":PATH}, {"type":"video_url",...}. refs is malloc'ed; caller frees. Every wrong
 * shape is MULL_EARG with where = messages[i].content[j]. */
int mull_chat_media(const json_t *messages, mull_media_ref **refs, size_t *n, mull_error *err);

/* Renders messages. tokens[i] = placeholders of medium i (t*h*w/4). text and ids are appended; either may be NULL.
 * User text is encoded with special tokens off, the frame with them on. */
int mull_chat_render(const mull_tokenizer *t, const json_t *messages, const int64_t *tokens, size_t nmedia,
                     const mull_render_opts *opts, mull_buf *text, mull_ids *ids, mull_error *err);

#endif
