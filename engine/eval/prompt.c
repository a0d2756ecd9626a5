/* See prompt.h. The r1 template exists with and without a full stop after "expressions" (method.md, section 3), and
 * SAT's latent template lacks its last sentence: both as the checkpoints saw them. */
#include "engine/eval/task_internal.h"
#include "engine/eval/vsi.h"

#include <string.h>

#define DEEPLY                                                                                                         \
    "Please think about this question deeply. It's encouraged to include self-reflection or verification in the "      \
    "reasoning process."
#define FINAL "Provide your final answer between the <answer> </answer> tags."
#define HUMAN                                                                                                          \
    "Please think about this question as if you were a human pondering deeply. Engage in an internal dialogue using "  \
    "expressions such as 'let me think', 'wait', 'Hmm', 'oh, I see', 'let's break it down', etc, or other natural "    \
    "language thought expressions"
#define VERIFY                                                                                                         \
    " It's encouraged to include self-reflection or verification in the reasoning process. Provide your detailed "     \
    "reasoning between the <think> </think> tags, and then give your final answer between the <answer> </answer> "     \
    "tags."
#define LETTER_ONLY " Please provide only the single option letter (e.g., A, B, C, D, etc.) "
#define TAGS "within the <answer> </answer> tags."
#define LETTER LETTER_ONLY TAGS
#define NUMBER_ONLY " Please provide the numerical value (e.g., 42 or 3.14) "

static const struct {
    const char *name;
    mull_prompt_style style;
} STYLES[] = {{"latents", MULL_STYLE_LATENTS},
              {"videor1", MULL_STYLE_VIDEOR1},
              {"sft", MULL_STYLE_SFT},
              {"base", MULL_STYLE_BASE},
              {"base_reason", MULL_STYLE_BASE_REASON},
              {"default", MULL_STYLE_DEFAULT},
              {"cot", MULL_STYLE_COT},
              {"r1", MULL_STYLE_VIDEOR1}};

int mull_prompt_style_parse(const char *s, mull_prompt_style *out, mull_error *err) {
    for (size_t i = 0; i < sizeof STYLES / sizeof *STYLES; i++)
        if (!strcmp(STYLES[i].name, s)) {
            *out = STYLES[i].style;
            return MULL_OK;
        }
    return mull_fail(err, MULL_EARG, "unknown prompt mode", s, "see method.md, section 3",
                     "it is none of latents, videor1, sft, base, base_reason, default, cot");
}

const char *mull_prompt_style_name(mull_prompt_style s) {
    return STYLES[s].name;
}

int mull_task_prompt(const mull_task *t, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    mull__arena a = {0};
    int rc = t->prompt(&a, doc, o, out, err);
    if (a.failed && !rc) rc = mull_fail(err, MULL_ENOMEM, "cannot write a prompt", t->name, NULL, "out of memory");
    mull__arena_fini(&a);
    return rc;
}

static const char *column(const json_t *doc, const char *key, mull_error *err) {
    const json_t *v = mull__doc_need(doc, key, err);
    if (v && !json_is_string(v))
        mull_fail(err, MULL_EARG, "cannot use a row", key, "give the row as the dataset has it",
                  "the column is no text");
    return json_string_value(v);
}

static int lacks(const mull_prompt_opts *o, mull_error *err) {
    return mull_fail(err, MULL_EARG, "cannot write a prompt", mull_prompt_style_name(o->style),
                     "choose latents, videor1 or sft", "the task has no such prompt mode");
}

enum { BASE = 1, BASE_REASON = 2, FULL_STOP = 4, NO_FINAL = 8 }; /* what a task has */

/* Behind the question: its template and type. bare: the type's words for the modes without tags. */
static int ask(const mull_prompt_opts *o, int has, const char *type, const char *bare, mull_buf *out, mull_error *err) {
    switch (o->style) {
    case MULL_STYLE_LATENTS:
        return mull_buf_printf(out, "\n" DEEPLY " %s%s", has & NO_FINAL ? "" : FINAL, type);
    case MULL_STYLE_VIDEOR1:
        return mull_buf_printf(out, "\n" HUMAN "%s" VERIFY "%s", has & FULL_STOP ? "." : "", type);
    case MULL_STYLE_SFT:
        return mull_buf_printf(out, "\n" FINAL "%s", type);
    case MULL_STYLE_BASE:
        return has & BASE ? mull_buf_printf(out, "\n%s", bare) : lacks(o, err);
    case MULL_STYLE_BASE_REASON:
        return has & BASE_REASON ? mull_buf_printf(out, "\n" DEEPLY "%s", bare) : lacks(o, err);
    default:
        return lacks(o, err);
    }
}

static int put_text(mull__text t, mull_buf *out) {
    return mull__text_utf8(t, out);
}

int mull__prompt_blink(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    (void)a;
    const char *q = column(doc, "prompt", err);
    if (!q) return MULL_EARG;
    int rc = mull_buf_puts(out, q);
    return rc ? rc : ask(o, 0, LETTER, "", out, err);
}

int mull__prompt_plain(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    (void)a;
    const char *q = column(doc, "question", err);
    if (!q) return MULL_EARG;
    int rc = mull_buf_puts(out, q);
    return rc ? rc : ask(o, BASE, LETTER, "", out, err);
}

/* The words that a Video-R1 row has in training (engine/data/compose.c). */
int mull__prompt_puzzles(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    (void)a;
    const char *q = column(doc, "question", err);
    const json_t *options = q ? mull__doc_need(doc, "options", err) : NULL;
    if (!options) return MULL_EARG;
    int rc = mull_buf_printf(out, "%sOptions:\n", q);
    for (size_t i = 0; i < json_array_size(options) && !rc; i++) {
        const char *s = json_string_value(json_array_get(options, i));
        rc = mull_buf_printf(out, "%s\n", s ? s : "");
    }
    return rc ? rc : ask(o, 0, LETTER, "", out, err);
}

int mull__prompt_mmsi(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    if (!column(doc, "question", err)) return MULL_EARG;
    int rc = put_text(mull__strip(mull__decode_json(a, json_object_get(doc, "question"))), out);
    return rc ? rc : ask(o, FULL_STOP, LETTER, "", out, err);
}

int mull__prompt_sat(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    const char *q = column(doc, "question", err);
    const json_t *answers = q ? mull__doc_need(doc, "answers", err) : NULL;
    mull_buf list = {0};
    if (!answers) return MULL_EARG;
    int rc = MULL_OK;
    for (size_t i = 0; i < json_array_size(answers) && i < 26 && !rc; i++) {
        const char *s = json_string_value(json_array_get(answers, i));
        rc = mull_buf_printf(&list, "(%c) %s\n", (char)('A' + i), s ? s : "");
    }
    if (!rc) rc = mull_buf_printf(out, "%s Choose from the following options: \n", q);
    if (!rc) rc = put_text(mull__strip(mull__decode(a, list.data ? list.data : "", list.len)), out);
    mull_buf_fini(&list);
    return rc ? rc : ask(o, NO_FINAL, LETTER, "", out, err);
}

int mull__prompt_vsibench(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out,
                          mull_error *err) {
    (void)a;
    const char *q = column(doc, "question", err), *kind = q ? column(doc, "question_type", err) : NULL;
    if (!kind) return MULL_EARG;
    const json_t *options = json_object_get(doc, "options");
    int rc = mull_buf_puts(out, q);
    bool letters = mull__vsi_letters(kind);
    if (!letters && !mull__vsi_numbers(kind))
        return mull_fail(err, MULL_EARG, "cannot write a prompt", "question_type", "see the dataset's card",
                         "'%s' is no type of VSI-Bench", kind);
    if (o->vsibench_options && json_array_size(options) && !rc) {
        rc = mull_buf_puts(out, "\nOptions:");
        for (size_t i = 0; i < json_array_size(options) && !rc; i++) {
            const char *s = json_string_value(json_array_get(options, i));
            rc = mull_buf_printf(out, "\n%s", s ? s : "");
        }
    }
    if (rc) return rc;
    return ask(o, BASE | BASE_REASON, letters ? LETTER : NUMBER_ONLY TAGS,
               letters ? LETTER_ONLY "as the final answer." : NUMBER_ONLY "as the final answer.", out, err);
}

int mull__prompt_sitebench(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out,
                           mull_error *err) {
    if (!column(doc, "question", err)) return MULL_EARG;
    const json_t *options = mull__doc_need(doc, "options", err);
    if (!options) return MULL_EARG;
    int rc = put_text(mull__strip(mull__decode_json(a, json_object_get(doc, "question"))), out);
    if (!rc) rc = mull_buf_puts(out, json_array_size(options) ? "\nOptions:" : "\nOptions:\n");
    for (size_t i = 0; i < json_array_size(options) && i < 26 && !rc; i++) {
        const char *s = json_string_value(json_array_get(options, i));
        rc = mull_buf_printf(out, "\n%c: %s", (char)('A' + i), s ? s : "");
    }
    return rc ? rc : ask(o, FULL_STOP, LETTER, "", out, err);
}

int mull__prompt_mmmu(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    (void)a;
    const char *q = column(doc, "question", err), *kind = q ? column(doc, "question_type", err) : NULL;
    if (!kind) return MULL_EARG;
    bool letters = !strcmp(kind, "multiple-choice");
    int rc = mull_buf_puts(out, q);
    if (letters) {
        json_t *options = mull__python_list(json_object_get(doc, "options"));
        if (!options)
            return mull_fail(err, MULL_EARG, "cannot write a prompt", "options", NULL, "the column is no list");
        if (!json_array_size(options) && !rc) rc = mull_buf_puts(out, "\n");
        for (size_t i = 0; i < json_array_size(options) && i < 26 && !rc; i++) {
            const char *s = json_string_value(json_array_get(options, i));
            rc = mull_buf_printf(out, "\n%c. %s", (char)('A' + i), s ? s : "");
        }
        json_decref(options);
    }
    if (rc) return rc;
    return ask(o, FULL_STOP, letters ? LETTER : " Please provide a single word or phrase as the answer " TAGS, "", out,
               err);
}

int mull__prompt_vqav2(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    (void)a;
    const char *q = column(doc, "question", err);
    if (!q) return MULL_EARG;
    int rc = mull_buf_puts(out, q);
    return rc ? rc : ask(o, FULL_STOP, " Please provide a single word or short phrase answer " TAGS, "", out, err);
}
