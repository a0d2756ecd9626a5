/* Scorers of the multiple-choice tasks that share the release's phrase patterns (BLINK, SAT, ERQA, STARE) or look for
 * letters in tags and marks (MMSI-Bench, SITE-Bench). */
#include "engine/eval/patterns.h"
#include "engine/eval/task_internal.h"

#include <string.h>

static mull__text letter_of(mull__text t, mull__phrases which) {
    bool matched, capital;
    mull__text g = mull__extract_match(t, which, &matched, &capital);
    return matched && g.n ? g : mull__last_capital(t);
}

/* answer.replace("(", "").replace(")", "") */
static mull__text bare(mull__arena *a, mull__text t) {
    return mull__replace(a, mull__replace(a, t, '(', 0), ')', 0);
}

static int record(mull__scoring *s, const char *metric, mull__text pred, const char *task_column, const char *extra,
                  mull__text answer) {
    const json_t *task = mull__doc_need(s->doc, task_column, s->err);
    if (!task) return MULL_EARG;
    json_t *r = json_object();
    json_object_set_new(r, "pred", mull__text_json(pred));
    json_object_set_new(r, "task", json_deep_copy(task));
    if (extra) json_object_set_new(r, extra, mull__doc_copy(s->doc, extra));
    json_object_set_new(r, "answer", mull__text_json(answer));
    json_object_set_new(s->metrics, metric, r);
    s->category = json_deep_copy(task);
    return MULL_OK;
}

static double equal_folded(mull__arena *a, mull__text x, mull__text y) {
    return mull__eq(mull__strip(mull__lower(a, x)), mull__strip(mull__lower(a, y)));
}

int mull__score_blink(mull__scoring *s, mull__text reply) {
    mull__text answer;
    int rc = mull__doc_text(s, "answer", &answer);
    if (rc) return rc;
    answer = bare(s->a, answer);
    mull__text pred = letter_of(reply, MULL__PHRASES_REWARD);
    s->score = equal_folded(s->a, pred, answer);
    return record(s, "blink_score_overall", pred, "sub_task", "idx", answer);
}

static int letter_by_type(mull__scoring *s, mull__text reply, const char *metric) {
    mull__text answer;
    int rc = mull__doc_text(s, "answer", &answer);
    if (rc) return rc;
    answer = bare(s->a, answer);
    mull__text pred = letter_of(reply, MULL__PHRASES_SAT);
    s->score = equal_folded(s->a, pred, answer);
    return record(s, metric, pred, "question_type", NULL, answer);
}

int mull__score_erqa(mull__scoring *s, mull__text reply) {
    return letter_by_type(s, reply, "erqa_score_overall");
}

int mull__score_puzzles(mull__scoring *s, mull__text reply) {
    return letter_by_type(s, reply, "puzzles_score_overall");
}

int mull__score_stare(mull__scoring *s, mull__text reply) {
    mull__text answer;
    int rc = mull__doc_text(s, "answer", &answer);
    if (rc) return rc;
    answer = bare(s->a, answer);
    mull__text pred = letter_of(reply, MULL__PHRASES_STARE);
    s->score = mull__eq(pred, answer); /* case counts here */
    return record(s, "stare_score_overall", pred, "category", NULL, answer);
}

int mull__score_sat(mull__scoring *s, mull__text reply) {
    const json_t *right = mull__doc_need(s->doc, "correct_answer", s->err),
                 *answers = right ? mull__doc_need(s->doc, "answers", s->err) : NULL;
    if (!answers) return MULL_EARG;
    size_t at = 0, n = json_array_size(answers);
    while (at < n && !json_equal(json_array_get(answers, at), right)) at++;
    if (at == n || at > 25) {
        if (s->compat == MULL_COMPAT_RELEASE) return mull__raise(s, at == n ? "ValueError" : "KeyError");
        return mull_fail(s->err, MULL_EARG, "cannot score a reply", "correct_answer", "repair the row",
                         "it is none of the answers");
    }
    if (at > 2 && s->compat == MULL_COMPAT_RELEASE) return mull__raise(s, "KeyError");
    uint32_t letter = 'A' + (uint32_t)at;
    mull__text pred = letter_of(reply, MULL__PHRASES_SAT), answer = {&letter, 1};
    s->score = equal_folded(s->a, pred, answer);
    return record(s, "sat_score_overall", pred, "question_type", NULL, answer);
}

/* The content of the first ``..`` (ticks 2), or `..` (ticks 1). */
static mull__text ticked(mull__text t, size_t ticks) {
    for (size_t i = 0; i < t.n; i++) {
        size_t from = i;
        while (from < i + ticks && from < t.n && t.c[from] == '`') from++;
        if (from < i + ticks) continue;
        size_t to = from;
        while (to < t.n && t.c[to] != '`') to++;
        if (to < t.n && (ticks == 1 || (to + 1 < t.n && t.c[to + 1] == '`'))) return mull__sub(t, from, to);
    }
    return (mull__text){0};
}

static mull__text braced(mull__text t) {
    size_t from = mull__find_ascii(t, 0, "{"), to = from == MULL__NPOS ? from : mull__find_ascii(t, from + 1, "}");
    return to == MULL__NPOS ? (mull__text){0} : mull__sub(t, from + 1, to);
}

/* \b([A-D])\b(?!\s[a-zA-Z]) */
static mull__text letter_not_article(mull__text t) {
    for (size_t from = 0;;) {
        mull__text l = mull__first_letter(mull__sub(t, from, t.n), 'D', false);
        if (!l.c) return l;
        size_t i = (size_t)(l.c - t.c);
        bool cut = from > 0 && i == from && mull__is_word(t.c[i - 1]); /* the view hides what stands before */
        bool word = i + 2 < t.n && mull__is_space(t.c[i + 1]) && t.c[i + 2] < 0x80 && t.c[i + 2] != '_' &&
                    mull__is_word(t.c[i + 2]) && mull__digit(t.c[i + 2]) < 0;
        if (!cut && !word) return l;
        from = i + 1;
    }
}

int mull__score_mmsi(mull__scoring *s, mull__text reply) {
    mull__text answer, letter = {0}, in[4];
    int rc = mull__doc_text(s, "answer", &answer);
    const json_t *category = mull__doc_need(s->doc, "question_type", s->err);
    if (rc || !category) return MULL_EARG;
    in[0] = mull__match_answer(reply, MULL__TAG_NOCASE | MULL__TAG_LINES);
    in[1] = ticked(reply, 2);
    in[2] = ticked(reply, 1);
    in[3] = braced(reply);
    for (int i = 0; i < 4 && !letter.c; i++) letter = mull__first_letter(in[i], 'D', true);
    if (!letter.c) letter = letter_not_article(reply);
    s->score = letter.c && mull__eq(mull__upper(s->a, letter), mull__upper(s->a, mull__strip(answer)));
    json_t *r = json_pack("{s:o, s:o, s:f}", "question_id", mull__doc_copy(s->doc, "id"), "l2_category",
                          json_deep_copy(category), "score", s->score);
    if (json_is_string(category)) json_object_set(s->metrics, json_string_value(category), r);
    json_object_set_new(s->metrics, "average", r);
    s->category = json_deep_copy(category);
    return MULL_OK;
}

/* The letters of the choices for which probe holds, as a bit set. */
typedef bool (*probe_fn)(mull__text t, char choice);

static bool in_brackets(mull__text t, char c) {
    return mull__find_ascii(t, 0, (char[]){'(', c, ')', 0}) != MULL__NPOS;
}
static bool spaced(mull__text t, char c) {
    return mull__find_ascii(t, 0, (char[]){' ', c, ' ', 0}) != MULL__NPOS;
}
static bool dotted(mull__text t, char c) {
    return mull__find_ascii(t, 0, (char[]){c, '.', 0}) != MULL__NPOS;
}
static bool with_colon(mull__text t, char c) {
    return mull__find_ascii(t, 0, (char[]){c, ':', 0}) != MULL__NPOS ||
           mull__find_ascii(t, 0, (char[]){':', c, 0}) != MULL__NPOS ||
           mull__find_ascii(t, 0, (char[]){':', ' ', c, 0}) != MULL__NPOS;
}

/* The choice that the reply names: of several the one that stands last between spaces, and the first of those that
 * never do. 0: none. */
static char named_choice(mull__text t, size_t choices) {
    static const probe_fn PROBES[] = {in_brackets, spaced, dotted, with_colon};
    for (size_t p = 0; p < sizeof PROBES / sizeof *PROBES; p++) {
        char best = 0;
        size_t at = 0; /* 1 + the place, 0: nowhere */
        for (size_t i = 0; i < choices; i++) {
            char c = (char)('A' + i);
            if (!PROBES[p](t, c)) continue;
            size_t k = mull__rfind_ascii(t, (char[]){' ', c, ' ', 0});
            k = k == MULL__NPOS ? 0 : k + 1;
            if (best && k <= at) continue;
            best = c;
            at = k;
        }
        if (best) return best;
    }
    return 0;
}

static char site_letter(mull__arena *a, mull__text reply, size_t choices) {
    mull__text in = mull__match_answer(reply, MULL__TAG_NOCASE | MULL__TAG_LINES);
    if (in.c) {
        in = mull__upper(a, in);
        for (size_t i = 0; i < choices; i++)
            if (mull__find_ascii(in, 0, (char[]){(char)('A' + i), 0}) != MULL__NPOS) return (char)('A' + i);
    }
    uint32_t *c = mull__alloc(a, (reply.n + 2) * sizeof *c);
    if (!c) return 0;
    c[0] = c[reply.n + 1] = ' ';
    if (reply.n) memcpy(c + 1, reply.c, reply.n * sizeof *c);
    return named_choice((mull__text){c, reply.n + 2}, choices);
}

int mull__score_sitebench(mull__scoring *s, mull__text reply) {
    const json_t *options = mull__doc_need(s->doc, "options", s->err),
                 *category = options ? mull__doc_need(s->doc, "category", s->err) : NULL,
                 *dataset = category ? mull__doc_need(s->doc, "dataset", s->err) : NULL;
    mull__text answer;
    if (!dataset || mull__doc_text(s, "answer", &answer)) return MULL_EARG;
    size_t n = json_array_size(options) < 26 ? json_array_size(options) : 26;
    char c = site_letter(s->a, mull__strip(reply), n);
    s->random = !c;
    if (!c && s->compat == MULL_COMPAT_RELEASE) {
        if (!n) return mull__raise(s, "IndexError");
        c = (char)('A' + n - 1);
    }
    s->score = c && mull__eq_ascii(answer, (char[]){c, 0});
    json_t *r = json_object();
    json_object_set_new(r, "overall", json_real(s->score));
    if (json_is_string(category)) json_object_set_new(r, json_string_value(category), json_real(s->score));
    if (json_is_string(dataset)) json_object_set_new(r, json_string_value(dataset), json_real(s->score));
    json_object_set_new(r, "total", json_integer(1));
    json_object_set_new(s->metrics, "accuracy", r);
    s->category = json_deep_copy(category);
    return MULL_OK;
}
