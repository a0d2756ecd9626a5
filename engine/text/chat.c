/* Rendering: the frame is built as a row of segments. Special tokens of the frame are pushed as ids; everything between
 * two of them, the frame's own words and the user's, is one run of plain text that is tokenised in one piece with
 * special tokens off. So a user can write "<|im_end|>" and it stays text, and a word that straddles frame and user text
 * is tokenised as in the whole string. */
#include "engine/text/chat.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot render the prompt";

static int parse_word(const char *s, const char *what, const char *const *words, int n, int *out, mull_error *err) {
    for (int i = 0; i < n; i++)
        if (!strcmp(s, words[i])) {
            *out = i;
            return MULL_OK;
        }
    return mull_fail(err, MULL_EARG, WHAT, what, "choose one of them", "'%.80s' is not one of %s, %s, %s%s%s", s,
                     words[0], words[1], words[2], n > 3 ? ", " : "", n > 3 ? words[3] : "");
}

int mull_prompt_format_parse(const char *s, mull_prompt_format *out, mull_error *err) {
    static const char *const words[] = {"mull", "chatml", "old"};
    int i = 0, rc = parse_word(s, "prompt format", words, 3, &i, err);
    if (!rc) *out = (mull_prompt_format)i;
    return rc;
}

int mull_prompt_mode_parse(const char *s, mull_prompt_mode *out, mull_error *err) {
    static const char *const words[] = {"mmlatent2", "new_wtxt", "none", "new_sepprompt"};
    int i = 0, rc = parse_word(s, "mode", words, 4, &i, err);
    if (!rc) *out = (mull_prompt_mode)i;
    return rc;
}

/* ---- what messages hold */
static int wrong(mull_error *err, size_t message, long part, const char *why) {
    char where[80];
    if (part < 0)
        snprintf(where, sizeof where, "messages[%zu]", message);
    else
        snprintf(where, sizeof where, "messages[%zu].content[%ld]", message, part);
    return mull_fail(err, MULL_EARG, WHAT, where, "use OpenAI or Hugging Face style messages", "%s", why);
}

typedef enum part_kind { PART_TEXT, PART_IMAGE, PART_VIDEO } part_kind;

/* A content part's kind and its text or url. */
static int read_part(const json_t *part, size_t m, long i, part_kind *kind, const char **value, size_t *len,
                     mull_error *err) {
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *v;
    if (!json_is_object(part)) return wrong(err, m, i, "a part must be an object with a type");
    if (!type)
        type = json_object_get(part, "text")    ? "text"
               : json_object_get(part, "image") ? "image"
               : json_object_get(part, "video") ? "video"
                                                : "";
    if (!strcmp(type, "text")) {
        v = json_object_get(part, "text");
        *kind = PART_TEXT;
        if (!json_is_string(v)) return wrong(err, m, i, "a text part needs \"text\"");
    } else if (!strcmp(type, "image") || !strcmp(type, "image_url") || !strcmp(type, "video") ||
               !strcmp(type, "video_url")) {
        bool video = type[0] == 'v';
        *kind = video ? PART_VIDEO : PART_IMAGE;
        const char *names[] = {video ? "video" : "image", video ? "video_url" : "image_url", "url", "path"};
        v = NULL;
        for (int k = 0; k < 4 && !v; k++) v = json_object_get(part, names[k]);
        if (json_is_object(v)) v = json_object_get(v, "url");
        if (video && json_is_array(v))
            return wrong(err, m, i, "a video as a list of frames is not supported; give a video file");
        if (!json_is_string(v) || !json_string_length(v))
            return wrong(err, m, i,
                         video ? "a video part needs \"video\": PATH or \"video_url\": {\"url\"}"
                               : "an image part needs \"image\": PATH or \"image_url\": {\"url\"}");
    } else if (!strcmp(type, "input_text") || !strcmp(type, "input_image") || !strcmp(type, "output_text")) {
        /* Chat completions refuse these at OpenAI too. */
        return wrong(err, m, i, "its type belongs to the Responses API; chat completions have text and image_url");
    } else {
        return wrong(err, m, i, "its type is not one of text, image, image_url, video, video_url");
    }
    *value = json_string_value(v);
    *len = json_string_length(v);
    return MULL_OK;
}

static int check_message(const json_t *messages, size_t m, const char **role, mull_error *err) {
    const json_t *msg = json_array_get(messages, m), *content = json_object_get(msg, "content");
    *role = json_string_value(json_object_get(msg, "role"));
    if (*role && !strcmp(*role, "developer")) *role = "system"; /* OpenAI's newer name of it */
    if (*role && (!strcmp(*role, "tool") || !strcmp(*role, "function")))
        return wrong(err, m, -1, "it is the answer of a tool, and this engine offers no tools");
    /* Roles go into the frame, so only known ones do. */
    if (!*role || (strcmp(*role, "system") && strcmp(*role, "user") && strcmp(*role, "assistant")))
        return wrong(err, m, -1, "its role is not one of system, developer, user, assistant");
    if (json_array_size(json_object_get(msg, "tool_calls")) || json_is_object(json_object_get(msg, "function_call")))
        return wrong(err, m, -1, "it calls a tool, and this engine offers no tools");
    if (!json_is_string(content) && !json_is_array(content))
        return wrong(err, m, -1, "its content must be a text or a list of parts");
    return MULL_OK;
}

static int check_messages(const json_t *messages, mull_error *err) {
    if (json_is_array(messages) && json_array_size(messages)) return MULL_OK;
    return mull_fail(err, MULL_EARG, WHAT, "messages", "use OpenAI or Hugging Face style messages",
                     "it must be a list with at least one message");
}

int mull_chat_media(const json_t *messages, mull_media_ref **refs, size_t *n, mull_error *err) {
    mull_media_ref *out = NULL;
    size_t count = 0, cap = 0;
    int rc = check_messages(messages, err);
    for (size_t m = 0; !rc && m < json_array_size(messages); m++) {
        const char *role;
        rc = check_message(messages, m, &role, err);
        const json_t *content = json_object_get(json_array_get(messages, m), "content");
        for (size_t i = 0; !rc && i < json_array_size(content); i++) {
            const json_t *part = json_array_get(content, i);
            part_kind kind;
            const char *url;
            size_t len;
            rc = read_part(part, m, (long)i, &kind, &url, &len, err);
            if (rc || kind == PART_TEXT) continue;
            if (count == cap) {
                cap = cap ? cap * 2 : 8;
                mull_media_ref *p = realloc(out, cap * sizeof *p);
                if (!p) {
                    rc = mull_fail(err, MULL_ENOMEM, WHAT, "messages", NULL, "out of memory");
                    break;
                }
                out = p;
            }
            out[count++] = (mull_media_ref){kind == PART_VIDEO, url, part};
        }
    }
    if (rc) {
        free(out);
        return rc;
    }
    *refs = out;
    *n = count;
    return MULL_OK;
}

/* ---- rendering */
typedef struct frame {
    const mull_tokenizer *t;
    mull_buf run;   /* plain text since the last special token */
    mull_buf *text; /* may be NULL */
    mull_ids *ids;  /* may be NULL */
    mull_error *err;
    int rc;
} frame;

static void fail(frame *f, int rc) {
    if (!f->rc && rc) f->rc = rc == MULL_ENOMEM ? mull_fail(f->err, rc, WHAT, NULL, NULL, "out of memory") : rc;
}

static void plain(frame *f, const char *s, size_t n) {
    if (f->rc) return;
    fail(f, mull_buf_add(&f->run, s, n));
    if (f->text) fail(f, mull_buf_add(f->text, s, n));
}
static void words(frame *f, const char *s) {
    plain(f, s, strlen(s));
}

static void flush(frame *f) {
    if (f->rc || !f->run.len) return;
    if (f->ids) f->rc = mull_tokenizer_encode(f->t, f->run.data, f->run.len, false, f->ids, f->err);
    f->run.len = 0;
}

static void special(frame *f, const char *token, int64_t times) {
    if (times <= 0) return; /* before the flush: text on both sides of nothing is one run */
    flush(f);
    if (f->rc) return;
    int32_t id = mull_tokenizer_special(f->t, token);
    if (id < 0) {
        f->rc = mull_fail(f->err, MULL_EARG, WHAT, token, "use --mode none, or a checkpoint that has the token",
                          "the checkpoint's tokenizer has no such token");
        return;
    }
    for (int64_t i = 0; i < times && !f->rc; i++) {
        if (f->ids) fail(f, mull_ids_add(f->ids, id));
        if (f->text) fail(f, mull_buf_puts(f->text, token));
    }
}

static void begin(frame *f, const char *role) {
    special(f, "<|im_start|>", 1);
    words(f, role);
    words(f, "\n");
}

/* keep: ChatML's end of message; the Mull release deletes it. */
static void end(frame *f, bool keep) {
    if (!keep) return;
    special(f, "<|im_end|>", 1);
    words(f, "\n");
}

static void content(frame *f, const json_t *c, size_t m, const int64_t *tokens, size_t nmedia, size_t *medium) {
    if (json_is_string(c)) {
        plain(f, json_string_value(c), json_string_length(c));
        return;
    }
    for (size_t i = 0; !f->rc && i < json_array_size(c); i++) {
        part_kind kind;
        const char *value;
        size_t len;
        f->rc = read_part(json_array_get(c, i), m, (long)i, &kind, &value, &len, f->err);
        if (f->rc) return;
        if (kind == PART_TEXT) {
            plain(f, value, len);
            continue;
        }
        if (*medium >= nmedia) {
            f->rc = mull_fail(f->err, MULL_EINTERNAL, WHAT, "messages", NULL, "more media than sizes");
            return;
        }
        special(f, "<|vision_start|>", 1);
        special(f, kind == PART_VIDEO ? "<|video_pad|>" : "<|image_pad|>", tokens[(*medium)++]);
        special(f, "<|vision_end|>", 1);
    }
}

/* The assistant's beginning that the model continues. */
static void prefix(frame *f, const mull_render_opts *o) {
    bool old = o->format == MULL_PROMPT_OLD, again = old && o->old_evaluation;
    begin(f, "assistant");
    if (o->mode == MULL_MODE_NONE || (again && o->mode != MULL_MODE_MMLATENT2)) return;
    if (o->mode == MULL_MODE_NEW_SEPPROMPT) {
        words(f, " Think using both text and by imagining images to come up with the answer. <think>");
        return;
    }
    words(f, "<think>");
    special(f, "<|latent_pad|>", o->latents);
    if (o->mode == MULL_MODE_MMLATENT2) words(f, old ? "</think>" : "</think>\n");
    if (again) begin(f, "assistant");
}

int mull_chat_render(const mull_tokenizer *t, const json_t *messages, const int64_t *tokens, size_t nmedia,
                     const mull_render_opts *opts, mull_buf *text, mull_ids *ids, mull_error *err) {
    frame f = {.t = t, .text = text, .ids = ids, .err = err};
    bool keep = opts->format == MULL_PROMPT_CHATML;
    size_t medium = 0, count = json_array_size(messages);
    f.rc = check_messages(messages, err);
    const char *role = "";
    for (size_t m = 0; !f.rc && m < count; m++) {
        f.rc = check_message(messages, m, &role, err);
        if (f.rc) break;
        if (m == 0 && strcmp(role, "system")) {
            begin(&f, "system");
            words(&f, "You are a helpful assistant.");
            end(&f, keep);
        }
        begin(&f, role);
        content(&f, json_object_get(json_array_get(messages, m), "content"), m, tokens, nmedia, &medium);
        end(&f, keep);
    }
    /* A conversation that ends with the assistant's answer is whole: nothing is left to continue. */
    if (!f.rc && !(opts->mode == MULL_MODE_NONE && !strcmp(role, "assistant"))) prefix(&f, opts);
    flush(&f);
    mull_buf_fini(&f.run);
    return f.rc;
}
