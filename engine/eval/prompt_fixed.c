/* Prompts of the tasks without modes: V*Bench, MMVU, MME-RealWorld. */
#include "engine/eval/task_internal.h"

#include <string.h>

static bool option_at(mull__text t, size_t i) {
    return i + 2 < t.n && t.c[i] == '(' && t.c[i + 1] >= 'A' && t.c[i + 1] <= 'D' && t.c[i + 2] == ')';
}

/* Matches \([A-D]\)\s*([^()]+?)(?=\s*\([A-D]\)|$) at i; group 1, and *next where the search goes on. */
static mull__text option_text(mull__text t, size_t i, size_t *next) {
    if (!option_at(t, i)) return (mull__text){0};
    size_t from = i + 3, stop, end;
    while (from < t.n && mull__is_space(t.c[from])) from++;
    for (stop = from; stop < t.n && t.c[stop] != '(' && t.c[stop] != ')';) stop++;
    if (stop < t.n && !option_at(t, stop)) return (mull__text){0};
    if (stop == from) { /* an empty option: one of its spaces is taken for it */
        if (from == i + 3) return (mull__text){0};
        *next = from;
        return mull__sub(t, from - 1, from);
    }
    end = stop;
    if (stop < t.n)
        while (end > from + 1 && mull__is_space(t.c[end - 1])) end--;
    else if (t.c[end - 1] == '\n' && end > from + 1)
        end--;
    *next = end;
    return mull__sub(t, from, end);
}

int mull__prompt_vstar(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    (void)o;
    const json_t *text = mull__doc_need(doc, "text", err);
    if (!json_is_string(text)) return MULL_EARG;
    mull__text t = mull__decode_json(a, text);
    size_t first = mull__find_ascii(t, 0, "(A)"), found = 0, next = 0;
    size_t start = out->len;
    mull_buf list = {0};
    int rc = MULL_OK;
    for (size_t i = 0; i < t.n && !rc;) {
        mull__text g = option_text(t, i, &next);
        if (!g.c) {
            i++;
            continue;
        }
        if (found < 4) {
            rc = mull_buf_printf(&list, "\n%c. ", (char)('A' + found));
            if (!rc) rc = mull__text_utf8(mull__strip(g), &list);
        }
        found++;
        i = next;
    }
    if (!rc) rc = mull__text_utf8(found ? mull__strip(mull__sub(t, 0, first == MULL__NPOS ? t.n : first)) : t, out);
    if (!rc && list.len) rc = mull_buf_add(out, list.data, list.len);
    if (!rc) rc = mull_buf_puts(out, "\nAnswer with the option's letter from the given choices directly.");
    if (rc) out->len = start;
    mull_buf_fini(&list);
    return rc;
}

int mull__prompt_mme(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    (void)a;
    (void)o;
    const char *q = json_string_value(mull__doc_need(doc, "question", err));
    const json_t *options = q ? mull__doc_need(doc, "multi-choice options", err) : NULL;
    if (!options) return MULL_EARG;
    int rc = mull_buf_printf(out, "%s The choices are listed below:\n", q);
    for (size_t i = 0; i < json_array_size(options) && !rc; i++) {
        const char *s = json_string_value(json_array_get(options, i));
        rc = mull_buf_printf(out, "%s%s", i ? "\n" : "", s ? s : "");
    }
    if (!rc)
        rc = mull_buf_puts(out, "\nSelect the best answer to the above multiple-choice question based on the image. "
                                "Respond with only the letter (A, B, C, D, or E) of the correct option.\n"
                                "The best answer is: ");
    return rc;
}

int mull__prompt_mmvu(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out, mull_error *err) {
    static const char *const ENDS[2][2] = {
        {"Do not generate any intermediate reasoning process. Directly output the final answer.\n",
         "Answer the given question step by step. Begin by explaining your reasoning process clearly. Conclude\n"
         "by stating the final answer using the following format: \"Therefore, the final answer is: \"Answer:\n"
         "$ANSWER\" (without quotes), where $ANSWER is the final answer of the question. Think step by\n"
         "step before answering.\n"},
        {"Do not generate any intermediate reasoning process. Answer directly with the option letter from the\n"
         "given choices.\n",
         "Answer the given multiple-choice question step by step. Begin by explaining your reasoning process\n"
         "clearly. Conclude by stating the final answer using the following format: \"Therefore, the final answer\n"
         "is: $LETTER\" (without quotes), where $LETTER is one of the options. Think step by step before\n"
         "answering.\n"}};
    (void)a;
    const char *q = json_string_value(mull__doc_need(doc, "question", err)),
               *kind = q ? json_string_value(mull__doc_need(doc, "question_type", err)) : NULL;
    if (!kind) return MULL_EARG;
    bool letters = !strcmp(kind, "multiple-choice");
    const json_t *choices = letters ? mull__doc_need(doc, "choices", err) : NULL;
    if (letters && !choices) return MULL_EARG;
    int rc = mull_buf_printf(out, "\nQuestion:%s\n", q);
    for (char c = 'A'; letters && c <= 'E' && !rc; c++) {
        const char *s = json_string_value(json_object_get(choices, (char[]){c, 0}));
        rc = mull_buf_printf(out, "%c: %s\n", c, s ? s : "");
    }
    if (!rc)
        rc = mull_buf_printf(out, "Visual Information: processed video\n%s", ENDS[letters][o->style == MULL_STYLE_COT]);
    return rc;
}
