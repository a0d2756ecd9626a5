/* Scorers that search the whole reply for one letter: V*Bench, MMVU, MME-RealWorld. */
#include "engine/eval/patterns.h"
#include "engine/eval/task_internal.h"

#include <string.h>

static bool a_to_d(uint32_t c) {
    return c >= 'A' && c <= 'D';
}

static size_t skip(mull__text t, size_t at, bool colons) {
    while (at < t.n && (mull__is_space(t.c[at]) || (colons && t.c[at] == ':'))) at++;
    return at;
}

/* (?:THE\s+)?(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D]) */
static uint32_t after_word(mull__text t) {
    static const char *const WORDS[] = {"answer", "choice", "option"};
    for (size_t i = 0; i < t.n; i++)
        for (int w = 0; w < 3; w++) {
            if (!mull__starts_fold(t, i, WORDS[w])) continue;
            size_t behind = i + 6, at = skip(t, behind, false);
            if (at > behind && mull__starts_fold(t, at, "is")) {
                size_t k = skip(t, at + 2, true);
                if (k > at + 2 && k < t.n && a_to_d(t.c[k])) return t.c[k];
            }
            at = skip(t, behind, true);
            if (at > behind && at < t.n && a_to_d(t.c[at])) return t.c[at];
        }
    return 0;
}

static uint32_t vstar_letter(mull__text t) {
    if (t.n && a_to_d(t.c[0])) return t.c[0];
    uint32_t c = after_word(t);
    for (size_t i = 0; i + 2 < t.n && !c; i++)
        if (t.c[i] == '(' && a_to_d(t.c[i + 1]) && t.c[i + 2] == ')') c = t.c[i + 1];
    for (size_t i = 0; i < t.n && !c; i++) {
        size_t k = a_to_d(t.c[i]) ? skip(t, i + 1, false) : t.n;
        if (k < t.n && (t.c[k] == '.' || t.c[k] == ')' || t.c[k] == ']')) c = t.c[i];
    }
    for (size_t i = 0; i < t.n && !c; i++)
        if (a_to_d(t.c[i]) && (i == 0 || mull__is_space(t.c[i - 1])) && (i + 1 == t.n || mull__is_space(t.c[i + 1])))
            c = t.c[i];
    if (c) return c;
    size_t letters = 0;
    uint32_t last = 0;
    for (size_t i = 0; i < t.n; i++)
        if (a_to_d(t.c[i])) {
            letters++;
            last = t.c[i];
        }
    return letters == 1 ? last : 0;
}

int mull__score_vstar(mull__scoring *s, mull__text reply) {
    mull__text label;
    int rc = mull__doc_text(s, "label", &label);
    if (rc) return rc;
    uint32_t c = vstar_letter(mull__upper(s->a, mull__strip(reply)));
    mull__text want = mull__upper(s->a, mull__strip(label)), pred = {&c, c != 0};
    const char *category = json_string_value(json_object_get(s->doc, "category"));
    mull_buf name = {0};
    s->score = c && mull__eq(pred, want);
    s->category = json_string(category ? category : "unknown");
    json_t *r = json_pack("{s:o, s:O, s:f, s:o, s:o}", "question_id", mull__doc_copy(s->doc, "question_id"), "category",
                          s->category, "score", s->score, "prediction", c ? mull__text_json(pred) : json_null(),
                          "ground_truth", mull__text_json(want));
    rc = mull_buf_printf(&name, "vstar_%s_acc", category ? category : "unknown");
    if (!rc) json_object_set(s->metrics, name.data, r);
    json_object_set_new(s->metrics, "vstar_overall_acc", r);
    mull_buf_fini(&name);
    return rc;
}

/* MMVU's judge is a paid service; the release has it commented out and scores everything 0. Ours compares: the letter,
 * or the whole open answer without case. */
int mull__score_mmvu(mull__scoring *s, mull__text reply) {
    mull__text answer, kind, path, pred = reply;
    if (mull__doc_text(s, "answer", &answer) || mull__doc_text(s, "question_type", &kind) ||
        mull__doc_text(s, "video_path", &path))
        return MULL_EARG;
    bool choice = mull__eq_ascii(kind, "multiple-choice");
    size_t end = mull__rfind_ascii(path, "/"), from = 0;
    if (end == MULL__NPOS && s->compat == MULL_COMPAT_RELEASE) return mull__raise(s, "IndexError");
    if (end != MULL__NPOS) {
        size_t before = mull__rfind_ascii(mull__sub(path, 0, end), "/");
        from = before == MULL__NPOS ? 0 : before + 1;
    } else
        end = 0;
    mull__text category = mull__sub(path, from, end);
    if (choice) {
        pred = mull__first_letter(reply, 'E', false);
        s->score = pred.c && mull__eq(pred, mull__strip(answer));
    } else
        s->score = mull__eq(mull__strip(mull__lower(s->a, reply)), mull__strip(mull__lower(s->a, answer)));
    if (s->compat == MULL_COMPAT_RELEASE) s->score = 0;
    mull_buf shown = {0};
    int rc = mull__text_utf8(!choice && pred.n > 100 ? mull__sub(pred, 0, 100) : pred, &shown);
    if (!rc && choice && !pred.c) rc = mull_buf_puts(&shown, "N/A");
    if (!rc && !choice && pred.n > 100) rc = mull_buf_puts(&shown, "...");
    json_t *r =
        json_pack("{s:o, s:o, s:o, s:o, s:i}", "question_id", mull__doc_copy(s->doc, "id"), "category",
                  mull__text_json(category), "pred_answer", json_stringn(shown.data ? shown.data : "", shown.len),
                  "answer", mull__text_json(answer), "correct", s->score > 0);
    json_object_set_new(s->metrics, "accuracy", r);
    s->category = mull__text_json(category);
    mull_buf_fini(&shown);
    return rc;
}

static mull__text without(mull__arena *a, mull__text t, const char *words) {
    size_t n = strlen(words), at = mull__find_ascii(t, 0, words), k = 0, i = 0;
    if (at == MULL__NPOS) return t;
    uint32_t *out = mull__alloc(a, t.n * sizeof *out);
    if (!out) return (mull__text){0};
    while (i < t.n) {
        if (i == at) {
            i += n;
            at = mull__find_ascii(t, i, words);
        } else
            out[k++] = t.c[i++];
    }
    return (mull__text){out, k};
}

static uint32_t mme_letter(mull__arena *a, mull__text t) {
    static const char *const PREFIXES[] = {"The best answer is", "The correct answer is", "The answer is",
                                           "The answer",         "The best option is",    "The correct option is",
                                           "Best answer:",       "Best option:"};
    t = mull__strip(t);
    for (size_t i = 0; i < sizeof PREFIXES / sizeof *PREFIXES; i++) t = without(a, t, PREFIXES[i]);
    for (size_t i = 0; i < t.n; i++)
        if (t.c[i] >= 'A' && t.c[i] <= 'E') return t.c[i];
    t = mull__lower(a, t);
    if (t.n > 3) return 0; /* what is left may be a piece of "(a)" to "(e)" */
    for (uint32_t c = 'a'; c <= 'e'; c++)
        if (mull__find((mull__text){(uint32_t[]){'(', c, ')'}, 3}, 0, t) != MULL__NPOS) return c - 32;
    return 0;
}

int mull__score_mme(mull__scoring *s, mull__text reply) {
    mull__text answer, category;
    if (mull__doc_text(s, "answer", &answer) || mull__doc_text(s, "category", &category)) return MULL_EARG;
    uint32_t c = mme_letter(s->a, reply);
    mull__text pred = {&c, c != 0}, low = mull__lower(s->a, answer), lc = mull__lower(s->a, category);
    bool perception = mull__find_ascii(lc, 0, "perception") != MULL__NPOS;
    size_t slash = mull__rfind_ascii(category, "/");
    mull__text sub = mull__sub(category, slash == MULL__NPOS ? 0 : slash + 1, category.n);
    s->score = mull__find(mull__lower(s->a, pred), 0, low) != MULL__NPOS;
    s->category = mull__text_json(sub);
    json_t *r = json_pack("{s:o, s:s, s:O, s:o, s:o, s:o}", "question_id", mull__doc_copy(s->doc, "index"), "category",
                          perception ? "Perception" : "Reasoning", "sub_category", s->category, "task_category",
                          mull__doc_copy(s->doc, "l2-category"), "pred_answer", mull__text_json(pred), "answer",
                          mull__text_json(answer));
    json_object_set_new(s->metrics, "mme_realworld_score", r);
    return MULL_OK;
}
