/* A tokenizer of bytes: every text has ids and every id list a text, with no vocabulary to ship. The layout is that of
 * Qwen's tokenizer.json, so that the same loaders read it. With words, merges follow the bytes (init_merges.h). */
#include "engine/model/init_tokenizer.h"

#include "engine/core/buf.h"
#include "engine/model/init_merges.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const WHAT = "cannot write checkpoint";
enum { MAX_IDS = 1 << 24, MAX_FILE = 256 << 20 };

const char *const mull_special_texts[MULL_SPECIALS] = {
    "<|endoftext|>",    "<|im_start|>",   "<|im_end|>",     "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>",    "<|box_end|>",    "<|quad_start|>", "<|quad_end|>",         "<|vision_start|>",
    "<|vision_end|>",   "<|vision_pad|>", "<|image_pad|>",  "<|video_pad|>",        "<tool_call>",
    "</tool_call>",     "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",       "<|fim_pad|>",
    "<|repo_name|>",    "<|file_sep|>",   "<|latent_pad|>", "<|latent_start|>",     "<|latent_end|>",
    "<|latent_image|>",
};

static const char PATTERN[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                              "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static const char CHAT_TEMPLATE[] =
    "{%- for m in messages -%}"
    "{%- if loop.first and m['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
    "{{- '<|im_start|>' + m['role'] + '\\n' -}}"
    "{%- if m['content'] is string -%}{{- m['content'] -}}{%- else -%}"
    "{%- for part in m['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part['type'] == 'video' or 'video' in part -%}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in part -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";

int mull_init_write_file(const char *dir, const char *name, const char *text, size_t len, mull_error *err) {
    char *path = mull_path_join(dir, name), *tmp = NULL;
    int rc = MULL_OK, fd = -1;
    if (path && asprintf(&tmp, "%s.tmp", path) < 0) tmp = NULL;
    if (!path || !tmp) {
        rc = mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
        goto out;
    }
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok = fd >= 0;
    while (ok && len) {
        ssize_t k = write(fd, text, len);
        if (k < 0 && errno == EINTR) continue;
        ok = k >= 0;
        if (ok) {
            text += k;
            len -= (size_t)k;
        }
    }
    if (!ok || fsync(fd) || rename(tmp, path))
        rc = mull_fail_errno(err, errno, WHAT, path, "free space or choose another folder");
out:
    if (fd >= 0) close(fd);
    if (rc && tmp) unlink(tmp);
    free(path);
    free(tmp);
    return rc;
}

static int write_json(const char *dir, const char *name, json_t *o, mull_error *err) {
    char *s = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
    json_decref(o);
    int rc = s ? mull_init_write_file(dir, name, s, strlen(s), err)
               : mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
    free(s);
    return rc;
}

/* GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and on. */
static void byte_text(int byte, char out[4]) {
    int next = 256, cp = byte;
    for (int b = 0; b <= byte; b++) {
        bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) cp = plain ? b : next;
        if (!plain) next++;
    }
    if (cp < 0x80) {
        out[0] = (char)cp;
        out[1] = 0;
    } else {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        out[2] = 0;
    }
}

/* The tool, fim and file tokens stay visible when special tokens are skipped. */
static bool is_special(int i) {
    return i < 14 || i >= 22;
}

int mull_init_tokenizer_write(const char *dir, bool words, int ids[MULL_SPECIALS], int *size, mull_error *err) {
    json_t *vocab = json_object(), *added = json_array(), *decoder = json_object(), *pairs = json_array();
    char text[256][4];
    mull_buf merges = {0};
    for (int b = 0; b < 256; b++) {
        byte_text(b, text[b]);
        json_object_set_new(vocab, text[b], json_integer(b));
    }
    int rc = words ? mull__init_merges(text, vocab, pairs, &merges, err) : MULL_OK,
        first = (int)json_object_size(vocab);
    for (int i = 0; i < MULL_SPECIALS; i++) {
        ids[i] = first + i;
        json_t *flags = json_pack("{s:s,s:b,s:b,s:b,s:b,s:b}", "content", mull_special_texts[i], "single_word", 0,
                                  "lstrip", 0, "rstrip", 0, "normalized", 0, "special", is_special(i));
        char key[12];
        snprintf(key, sizeof key, "%d", ids[i]);
        json_object_set_new(decoder, key, json_deep_copy(flags));
        json_object_set_new(flags, "id", json_integer(ids[i]));
        json_array_append_new(added, flags);
    }
    *size = first + MULL_SPECIALS;
    json_t *level =
        json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 0);
    json_t *split = json_pack("{s:s,s:{s:s},s:s,s:b}", "type", "Split", "pattern", "Regex", PATTERN, "behavior",
                              "Isolated", "invert", 0);
    json_t *root = json_pack("{s:s,s:n,s:n,s:o,s:{s:s},s:{s:s,s:[o,O]},s:O,s:O}", "version", "1.0", "truncation",
                             "padding", "added_tokens", added, "normalizer", "type", "NFC", "pre_tokenizer", "type",
                             "Sequence", "pretokenizers", split, level, "post_processor", level, "decoder", level);
    json_object_set_new(root, "model",
                        json_pack("{s:s,s:n,s:n,s:s,s:s,s:b,s:b,s:b,s:O,s:o}", "type", "BPE", "dropout", "unk_token",
                                  "continuing_subword_prefix", "", "end_of_word_suffix", "", "fuse_unk", 0,
                                  "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges", pairs));
    json_decref(level);
    if (!rc)
        rc = write_json(dir, "tokenizer.json", root, err);
    else
        json_decref(root);
    json_t *config =
        json_pack("{s:b,s:o,s:n,s:s,s:b,s:s,s:s,s:i,s:s,s:b,s:s,s:n}", "add_prefix_space", 0, "added_tokens_decoder",
                  decoder, "bos_token", "chat_template", CHAT_TEMPLATE, "clean_up_tokenization_spaces", 0, "eos_token",
                  "<|im_end|>", "errors", "replace", "model_max_length", 131072, "pad_token", "<|endoftext|>",
                  "split_special_tokens", 0, "tokenizer_class", "Qwen2Tokenizer", "unk_token");
    if (!rc)
        rc = write_json(dir, "tokenizer_config.json", config, err);
    else
        json_decref(config);
    if (!rc) rc = write_json(dir, "chat_template.json", json_pack("{s:s}", "chat_template", CHAT_TEMPLATE), err);
    if (!rc) rc = write_json(dir, "vocab.json", json_incref(vocab), err);
    const char *lines = merges.data ? merges.data : "#version: 0.2\n";
    if (!rc) rc = mull_init_write_file(dir, "merges.txt", lines, strlen(lines), err);
    mull_buf_fini(&merges);
    json_decref(vocab);
    return rc;
}

static int read_ids(const char *path, int ids[MULL_SPECIALS], int *size, mull_error *err) {
    mull_buf text = {0};
    int rc = mull_read_file(path, MAX_FILE, "tokenizer", &text, err);
    if (rc) return rc;
    json_error_t je;
    json_t *root = json_loadb(text.data, text.len, 0, &je), *v;
    mull_buf_fini(&text);
    const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab"),
                 *added = json_object_get(root, "added_tokens");
    if (!json_is_object(vocab) || !json_is_array(added))
        rc = mull_fail(err, MULL_EFORMAT, "cannot use the tokenizer", path, "name a folder with a BPE tokenizer.json",
                       "%s", root ? "it has no model.vocab or added_tokens" : je.text);
    json_int_t top = -1;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        if (json_integer_value(v) > top) top = json_integer_value(v);
    }
    for (int i = 0; i < MULL_SPECIALS; i++) ids[i] = -1;
    for (size_t k = 0; !rc && k < json_array_size(added); k++) {
        const json_t *a = json_array_get(added, k);
        const char *content = json_string_value(json_object_get(a, "content"));
        json_int_t id = json_integer_value(json_object_get(a, "id"));
        if (id > top) top = id;
        for (int i = 0; content && i < MULL_SPECIALS; i++)
            if (!strcmp(content, mull_special_texts[i]) && id >= 0 && id < MAX_IDS) ids[i] = (int)id;
    }
    if (!rc && top >= MAX_IDS)
        rc = mull_fail(err, MULL_ELIMIT, "cannot use the tokenizer", path, "name a folder with a BPE tokenizer.json",
                       "its highest id is %lld; at most %d", (long long)top, MAX_IDS - 1);
    *size = rc ? 0 : (int)top + 1;
    json_decref(root);
    return rc;
}

/* transformers' processor wants the chat template in a file of its own; tokenizer folders have it in
 * tokenizer_config.json alone. */
static int add_chat_template(const char *dir, mull_error *err) {
    char *json = mull_path_join(dir, "chat_template.json"), *jinja = mull_path_join(dir, "chat_template.jinja"),
         *config = mull_path_join(dir, "tokenizer_config.json");
    int rc = MULL_OK;
    if (!json || !jinja || !config)
        rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    else if (access(json, F_OK) && access(jinja, F_OK)) {
        json_t *root = json_load_file(config, 0, NULL);
        const char *text = json_string_value(json_object_get(root, "chat_template"));
        if (text) rc = write_json(dir, "chat_template.json", json_pack("{s:s}", "chat_template", text), err);
        json_decref(root);
    }
    free(json);
    free(jinja);
    free(config);
    return rc;
}

int mull_init_tokenizer_copy(const char *from, const char *dir, int ids[MULL_SPECIALS], int *size, mull_error *err) {
    static const char *const names[] = {"tokenizer.json",     "tokenizer_config.json", "vocab.json",
                                        "merges.txt",         "added_tokens.json",     "special_tokens_map.json",
                                        "chat_template.json", "chat_template.jinja"};
    int rc = MULL_OK;
    for (size_t i = 0; !rc && i < sizeof names / sizeof *names; i++) {
        char *path = mull_path_join(from, names[i]);
        mull_buf text = {0};
        if (!path)
            rc = mull_fail(err, MULL_ENOMEM, WHAT, from, NULL, "out of memory");
        else if (i == 0)
            rc = read_ids(path, ids, size, err);
        if (!rc && (i == 0 || access(path, F_OK) == 0)) {
            rc = mull_read_file(path, MAX_FILE, "tokenizer", &text, err);
            if (!rc) rc = mull_init_write_file(dir, names[i], text.data ? text.data : "", text.len, err);
        }
        mull_buf_fini(&text);
        free(path);
    }
    return rc ? rc : add_chat_template(dir, err);
}
