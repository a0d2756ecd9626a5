/* The chat frame of training samples: every message whole, the answer included. Between two special tokens all text is
 * tokenised in one piece with special tokens off, so that nothing a dataset spells becomes one; the latents of an
 * answer are special by their place (mull_text), not by their spelling. */
#include "engine/data/sample.h"

#include <string.h>

static const char what[] = "cannot build the sample";

int mull_builder_init(mull_builder *b, const mull_recipe *r, const mull_tokenizer *t, mull_error *err) {
    *b = (mull_builder){.recipe = r, .tokenizer = t};
    const struct {
        const char *name;
        int32_t *id;
        bool ours;
    } tokens[] = {
        {"<|image_pad|>", &b->image_pad, false},
        {"<|video_pad|>", &b->video_pad, false},
        {"<|vision_start|>", &b->vision_start, false},
        {"<|vision_end|>", &b->vision_end, false},
        {"<|im_start|>", &b->im_start, false},
        {"<|im_end|>", &b->im_end, false},
        {"<|endoftext|>", &b->pad, false},
        {"<|latent_pad|>", &b->latent_pad, true},
        {"<|latent_start|>", &b->latent_start, true},
        {"<|latent_end|>", &b->latent_end, true},
        {"<|latent_image|>", &b->latent_image, true},
    };
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        *tokens[i].id = mull_tokenizer_special(t, tokens[i].name);
        if (*tokens[i].id >= 0) continue;
        if (!tokens[i].ours)
            return mull_fail(err, MULL_EARG, what, tokens[i].name, "give a Qwen2.5-VL checkpoint's tokenizer",
                             "the tokenizer has no such token");
        *tokens[i].id = mull_tokenizer_size(t) + b->added++;
    }
    return MULL_OK;
}

typedef struct frame {
    const mull_builder *b;
    mull_buf run;   /* plain text since the last special token */
    size_t mine;    /* length of the run's beginning that is not the assistant's; SIZE_MAX: none of it is */
    bool assistant; /* what comes now is the assistant's own */
    mull_buf *text;
    mull_ids *ids, *labels;
    mull_error *err;
    int rc;
} frame;

static void fail(frame *f, int rc) {
    if (!f->rc && rc) f->rc = rc == MULL_ENOMEM ? mull_fail(f->err, rc, what, NULL, NULL, "out of memory") : rc;
}

static void plain(frame *f, const char *s, size_t n) {
    if (f->rc || !n) return;
    if (f->assistant && f->mine == SIZE_MAX) f->mine = f->run.len;
    fail(f, mull_buf_add(&f->run, s, n));
    if (f->text) fail(f, mull_buf_add(f->text, s, n));
}
static void words(frame *f, const char *s) {
    plain(f, s, strlen(s));
}

/* Whether an id counts in the loss when everything counts. */
static bool ignored(const mull_builder *b, int32_t id) {
    if (id == b->pad || id == b->image_pad || id == b->latent_pad || id == b->latent_image) return true;
    return !b->recipe->label_mask && (id == b->vision_start || id == b->vision_end || id == b->video_pad);
}

static void label(frame *f, size_t from, bool counts) {
    for (size_t i = from; f->labels && i < f->ids->len; i++) {
        int32_t id = f->ids->data[i];
        bool on = !ignored(f->b, id) && (counts || f->b->recipe->loss_on == MULL_LOSS_ALL);
        fail(f, mull_ids_add(f->labels, on ? id : MULL_IGNORE));
    }
}

/* Ids at the start of the run that hold nothing of the assistant's: those that its foreign beginning alone would give,
 * as far as they agree. A token that straddles counts as the assistant's. */
static size_t foreign(frame *f, size_t from) {
    mull_ids head = {0};
    size_t same = 0;
    if (!f->mine) return 0;
    fail(f, mull_tokenizer_encode(f->b->tokenizer, f->run.data, f->mine, false, &head, f->err));
    while (!f->rc && same < head.len && from + same < f->ids->len && head.data[same] == f->ids->data[from + same])
        same++;
    mull_ids_fini(&head);
    return same;
}

static void flush(frame *f) {
    if (f->rc || !f->run.len) return;
    if (f->ids) {
        size_t from = f->ids->len;
        f->rc = mull_tokenizer_encode(f->b->tokenizer, f->run.data, f->run.len, false, f->ids, f->err);
        if (!f->rc && f->labels) {
            size_t head = f->mine == SIZE_MAX ? f->ids->len - from : foreign(f, from), all = f->ids->len;
            f->ids->len = from + head;
            label(f, from, false);
            f->ids->len = all;
            label(f, from + head, true);
        }
    }
    f->run.len = 0;
    f->mine = SIZE_MAX;
}

/* times: ids; the text shows shown of them. */
static void special(frame *f, int32_t id, const char *spelled, int64_t times, int64_t shown) {
    flush(f);
    size_t from = f->ids ? f->ids->len : 0;
    for (int64_t i = 0; f->ids && !f->rc && i < times; i++) fail(f, mull_ids_add(f->ids, id));
    if (f->ids) label(f, from, f->assistant);
    for (int64_t i = 0; f->text && !f->rc && i < shown; i++) fail(f, mull_buf_puts(f->text, spelled));
}

static void begin(frame *f, const char *role) {
    f->assistant = false;
    special(f, f->b->im_start, "<|im_start|>", 1, 1);
    words(f, role);
    words(f, "\n");
    f->assistant = !strcmp(role, "assistant");
}

/* last: nothing follows. */
static void end(frame *f, bool last) {
    const mull_recipe *r = f->b->recipe;
    bool grpo = r->kind == MULL_GRPO, keep = !grpo || (r->prompt_format && !last);
    if (keep) special(f, f->b->im_end, "<|im_end|>", 1, 1);
    f->assistant = false;
    if (keep || !r->prompt_format) words(f, "\n");
}

static void medium(frame *f, bool video, int64_t tokens) {
    special(f, f->b->vision_start, "<|vision_start|>", 1, 1);
    special(f, video ? f->b->video_pad : f->b->image_pad, video ? "<|video_pad|>" : "<|image_pad|>", tokens, 1);
    special(f, f->b->vision_end, "<|vision_end|>", 1, 1);
}

static void latent(frame *f, const char *s, size_t n) {
    static const char *const names[] = {"<|latent_pad|>", "<|latent_image|>", "<|latent_start|>", "<|latent_end|>"};
    const int32_t ids[] = {f->b->latent_pad, f->b->latent_image, f->b->latent_start, f->b->latent_end};
    for (int i = 0; i < 4; i++)
        if (strlen(names[i]) == n && !memcmp(names[i], s, n)) special(f, ids[i], names[i], 1, 1);
}

static void marked(frame *f, const mull_text *t) {
    size_t at = 0;
    for (size_t i = 0; i < t->nspecial; i++) {
        plain(f, t->s.data + at, t->special[i].at - at);
        latent(f, t->s.data + t->special[i].at, t->special[i].len);
        at = t->special[i].at + t->special[i].len;
    }
    plain(f, t->s.data + at, t->s.len - at);
}

static void sample_frame(frame *f, const mull_example *e, const int64_t *tokens) {
    begin(f, "system");
    words(f, "You are a helpful assistant");
    end(f, false);
    begin(f, "user");
    for (size_t i = 0; i < e->nmedia; i++) medium(f, e->media[i].kind == MULL_MEDIA_VIDEO, tokens[i]);
    marked(f, &e->question);
    end(f, false);
    begin(f, "assistant");
    marked(f, &e->answer);
    end(f, true);
}

/* Text of somebody's own messages; in the assistant's, the latent tokens may be spelled. */
static void spelled(frame *f, const char *s, size_t n) {
    static const char *const names[] = {"<|latent_pad|>", "<|latent_image|>", "<|latent_start|>", "<|latent_end|>"};
    size_t from = 0;
    for (size_t at = 0; f->assistant && at < n;) {
        size_t hit = 0;
        for (int i = 0; !hit && s[at] == '<' && i < 4; i++)
            if (n - at >= strlen(names[i]) && !memcmp(s + at, names[i], strlen(names[i]))) hit = strlen(names[i]);
        if (hit) {
            plain(f, s + from, at - from);
            latent(f, s + at, hit);
            from = at + hit;
        }
        at += hit ? hit : 1;
    }
    plain(f, s + from, n - from);
}

/* The shapes were checked by mull_chat_media when the row was read. */
static void messages_frame(frame *f, const mull_example *e, const int64_t *tokens) {
    size_t m, i, k = 0, n = json_array_size(e->messages);
    json_t *message, *part;
    json_array_foreach(e->messages, m, message) {
        const char *role = json_string_value(json_object_get(message, "role"));
        const json_t *content = json_object_get(message, "content");
        if (!m && strcmp(role, "system")) {
            begin(f, "system");
            words(f, "You are a helpful assistant.");
            end(f, false);
        }
        begin(f, role);
        if (json_is_string(content)) spelled(f, json_string_value(content), json_string_length(content));
        json_array_foreach(content, i, part) {
            const json_t *text = json_object_get(part, "text");
            const char *type = json_string_value(json_object_get(part, "type"));
            if (json_is_string(text) && (!type || !strcmp(type, "text")))
                spelled(f, json_string_value(text), json_string_length(text));
            else if (k < e->nmedia)
                medium(f, e->media[k].kind == MULL_MEDIA_VIDEO, tokens[k]), k++;
        }
        bool prefix = !strcmp(role, "assistant");
        end(f, m + 1 == n && prefix);
        /* GRPO: what is to be answered; an assistant's turn at the end is the beginning of the answer. */
        if (m + 1 == n && !prefix && f->b->recipe->kind == MULL_GRPO) begin(f, "assistant");
    }
}

int mull_sample_render(const mull_builder *b, const mull_example *e, const int64_t *tokens, mull_buf *text,
                       mull_ids *ids, mull_ids *labels, mull_error *err) {
    frame f = {.b = b, .mine = SIZE_MAX, .text = text, .ids = ids, .labels = ids ? labels : NULL, .err = err};
    if (e->messages)
        messages_frame(&f, e, tokens);
    else
        sample_frame(&f, e, tokens);
    flush(&f);
    mull_buf_fini(&f.run);
    return f.rc;
}
