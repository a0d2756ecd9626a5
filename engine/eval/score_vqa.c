/* VQAv2: the answer of EvalAI's normalisation against ten people's. */
#include "engine/eval/patterns.h"
#include "engine/eval/task_internal.h"

#include <string.h>

/* Words without their apostrophe, sorted (the VQA evaluation's table; keys that lower-cased text cannot hold left
 * out). */
static const struct {
    const char *from, *to;
} CONTRACTIONS[] = {{"'ow'sat", "'ow's'at"},
                    {"'ows'at", "'ow's'at"},
                    {"aint", "ain't"},
                    {"arent", "aren't"},
                    {"cant", "can't"},
                    {"couldn'tve", "couldn't've"},
                    {"couldnt", "couldn't"},
                    {"couldnt've", "couldn't've"},
                    {"couldve", "could've"},
                    {"didnt", "didn't"},
                    {"doesnt", "doesn't"},
                    {"dont", "don't"},
                    {"hadn'tve", "hadn't've"},
                    {"hadnt", "hadn't"},
                    {"hadnt've", "hadn't've"},
                    {"hasnt", "hasn't"},
                    {"havent", "haven't"},
                    {"he'dve", "he'd've"},
                    {"hed", "he'd"},
                    {"hed've", "he'd've"},
                    {"hes", "he's"},
                    {"howd", "how'd"},
                    {"howll", "how'll"},
                    {"hows", "how's"},
                    {"isnt", "isn't"},
                    {"it'dve", "it'd've"},
                    {"itd", "it'd"},
                    {"itd've", "it'd've"},
                    {"itll", "it'll"},
                    {"maam", "ma'am"},
                    {"mightn'tve", "mightn't've"},
                    {"mightnt", "mightn't"},
                    {"mightnt've", "mightn't've"},
                    {"mightve", "might've"},
                    {"mustnt", "mustn't"},
                    {"mustve", "must've"},
                    {"neednt", "needn't"},
                    {"notve", "not've"},
                    {"oclock", "o'clock"},
                    {"oughtnt", "oughtn't"},
                    {"ow's'at", "'ow's'at"},
                    {"shant", "shan't"},
                    {"she'dve", "she'd've"},
                    {"shed've", "she'd've"},
                    {"shouldn'tve", "shouldn't've"},
                    {"shouldnt", "shouldn't"},
                    {"shouldnt've", "shouldn't've"},
                    {"shouldve", "should've"},
                    {"somebody'd", "somebodyd"},
                    {"somebody'dve", "somebody'd've"},
                    {"somebodyd've", "somebody'd've"},
                    {"somebodyll", "somebody'll"},
                    {"somebodys", "somebody's"},
                    {"someone'dve", "someone'd've"},
                    {"someoned", "someone'd"},
                    {"someoned've", "someone'd've"},
                    {"someonell", "someone'll"},
                    {"someones", "someone's"},
                    {"something'dve", "something'd've"},
                    {"somethingd", "something'd"},
                    {"somethingd've", "something'd've"},
                    {"somethingll", "something'll"},
                    {"thats", "that's"},
                    {"there'dve", "there'd've"},
                    {"thered", "there'd"},
                    {"thered've", "there'd've"},
                    {"therere", "there're"},
                    {"theres", "there's"},
                    {"they'dve", "they'd've"},
                    {"theyd", "they'd"},
                    {"theyd've", "they'd've"},
                    {"theyll", "they'll"},
                    {"theyre", "they're"},
                    {"theyve", "they've"},
                    {"twas", "'twas"},
                    {"wasnt", "wasn't"},
                    {"we'dve", "we'd've"},
                    {"wed've", "we'd've"},
                    {"werent", "weren't"},
                    {"weve", "we've"},
                    {"whatll", "what'll"},
                    {"whatre", "what're"},
                    {"whats", "what's"},
                    {"whatve", "what've"},
                    {"whens", "when's"},
                    {"whered", "where'd"},
                    {"wheres", "where's"},
                    {"whereve", "where've"},
                    {"who'dve", "who'd've"},
                    {"whod", "who'd"},
                    {"whod've", "who'd've"},
                    {"wholl", "who'll"},
                    {"whos", "who's"},
                    {"whove", "who've"},
                    {"whyll", "why'll"},
                    {"whyre", "why're"},
                    {"whys", "why's"},
                    {"wont", "won't"},
                    {"wouldn'tve", "wouldn't've"},
                    {"wouldnt", "wouldn't"},
                    {"wouldnt've", "wouldn't've"},
                    {"wouldve", "would've"},
                    {"y'all'dve", "y'all'd've"},
                    {"y'alld've", "y'all'd've"},
                    {"y'allll", "y'all'll"},
                    {"yall", "y'all"},
                    {"yall'd've", "y'all'd've"},
                    {"yall'll", "y'all'll"},
                    {"you'dve", "you'd've"},
                    {"youd", "you'd"},
                    {"youd've", "you'd've"},
                    {"youll", "you'll"},
                    {"youre", "you're"},
                    {"youve", "you've"}};

static const char *const DIGITS[] = {"zero", "one",   "two",   "three", "four", "five",
                                     "six",  "seven", "eight", "nine",  "ten"};

/* (?:phrases)\s*(.+?)(?:\.|$): from behind the phrase to the next full stop, or the end when no line ends before it.
 * *stop only moves forward, so many phrases before one far line end cost nothing more. */
static mull__text sentence(mull__text t, size_t behind, size_t *stop) {
    size_t from = behind;
    while (from < t.n && mull__is_space(t.c[from])) from++;
    if (from == t.n) /* spaces only: one of them, unless they are line ends, is taken for the answer */
        return from > behind && (t.c[from - 1] != '\n' || (from - 1 > behind && t.c[from - 2] != '\n'))
                   ? mull__sub(t, from, from)
                   : (mull__text){0};
    if (*stop < from + 1) *stop = from + 1;
    while (*stop < t.n && t.c[*stop] != '.' && t.c[*stop] != '\n') ++*stop;
    bool good = *stop == t.n || t.c[*stop] == '.' || *stop + 1 == t.n;
    if (good) return mull__sub(t, from, *stop);
    /* A full stop that comes first would be part of the answer; where no other follows, it ends one of the spaces. */
    bool blank = t.c[from] == '.' && from > behind && t.c[from - 1] != '\n';
    return blank ? mull__sub(t, from, from) : (mull__text){0};
}

static mull__text by_phrase(mull__text t, const char *const *phrases) {
    size_t stop = 0;
    for (size_t i = 0; i < t.n; i++)
        for (const char *const *p = phrases; *p; p++) {
            if (!mull__starts_fold(t, i, *p)) continue;
            mull__text g = sentence(t, i + strlen(*p), &stop);
            if (g.c) return g;
        }
    return (mull__text){0};
}

static mull__text answer_of(mull__text t) {
    static const char *const ANSWER[] = {"the answer is", "answer:", NULL}, *const FINAL[] = {"final answer:", NULL};
    mull__text g = mull__match_answer(t, MULL__TAG_NOCASE | MULL__TAG_LINES);
    if (!g.c) g = by_phrase(t, ANSWER);
    if (!g.c) g = by_phrase(t, FINAL);
    return mull__strip(g.c ? g : t);
}

static bool comma_in_number(mull__text t) {
    for (size_t i = 1; i < t.n; i++) {
        if (t.c[i] != ',' || mull__digit(t.c[i - 1]) < 0) continue;
        while (i < t.n && t.c[i] == ',') i++;
        if (i < t.n && mull__digit(t.c[i]) >= 0) return true;
    }
    return false;
}

/* Punctuation beside a space, or any of it once a number has a comma inside, is dropped, else it becomes a space; the
 * first 32 full stops with no digit behind them go (32 is Python's re.UNICODE given as a count). */
static mull__text without_punctuation(mull__arena *a, mull__text t) {
    static const char MARKS[] = ";/[]\"{}()=+\\_-><@`,?!";
    bool commas = comma_in_number(t), drop[128] = {false};
    uint32_t *out = mull__alloc(a, t.n * sizeof *out);
    size_t k = 0, n = 0, stops = 0;
    if (!out) return (mull__text){0};
    for (const char *m = MARKS; *m; m++)
        drop[(unsigned char)*m] = commas || mull__find_ascii(t, 0, (char[]){*m, ' ', 0}) != MULL__NPOS ||
                                  mull__find_ascii(t, 0, (char[]){' ', *m, 0}) != MULL__NPOS;
    for (size_t i = 0; i < t.n; i++) {
        bool mark = t.c[i] && t.c[i] < 128 && strchr(MARKS, (int)t.c[i]);
        if (!mark || !drop[t.c[i]]) out[n++] = mark ? ' ' : t.c[i];
    }
    for (size_t i = 0; i < n; i++)
        if (out[i] != '.' || (i + 1 < n && mull__digit(out[i + 1]) >= 0) || stops++ >= 32) out[k++] = out[i];
    return (mull__text){out, k};
}

static int put_word(mull__text w, mull_buf *out) {
    if (mull__eq_ascii(w, "a") || mull__eq_ascii(w, "an") || mull__eq_ascii(w, "the")) return MULL_OK;
    int rc = out->len ? mull_buf_add(out, " ", 1) : MULL_OK;
    if (rc) return rc;
    if (mull__eq_ascii(w, "none")) return mull_buf_puts(out, "0");
    for (int i = 0; i <= 10; i++)
        if (mull__eq_ascii(w, DIGITS[i])) return mull_buf_printf(out, "%d", i);
    for (size_t i = 0; i < sizeof CONTRACTIONS / sizeof *CONTRACTIONS; i++)
        if (mull__eq_ascii(w, CONTRACTIONS[i].from)) return mull_buf_puts(out, CONTRACTIONS[i].to);
    return mull__text_utf8(w, out);
}

static int normal(mull__arena *a, mull__text t, mull_buf *out) {
    mull__text word;
    t = mull__strip(mull__replace(a, mull__replace(a, t, '\n', ' '), '\t', ' '));
    t = mull__lower(a, without_punctuation(a, t));
    int rc = mull_buf_reserve(out, 1);
    while (!rc && mull__next_word(&t, &word)) rc = put_word(word, out);
    return rc;
}

/* Each person's answer is left out in turn; min(1, equal others / 3), averaged. Equal entries leave out each other. */
static int accuracy(mull__scoring *s, const json_t *answers, const mull_buf *reply) {
    size_t n = json_array_size(answers);
    json_t *copy = json_array();
    mull_buf b = {0};
    int rc = MULL_OK;
    double sum = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        const json_t *entry = json_array_get(answers, i),
                     *text = json_is_object(entry) ? json_object_get(entry, "answer") : entry;
        json_t *fresh = json_is_object(entry) ? json_deep_copy(entry) : json_pack("{s:I}", "place", (json_int_t)i);
        b.len = 0;
        rc = normal(s->a, mull__decode_json(s->a, text), &b);
        json_object_set_new(fresh, "answer", json_stringn(b.data ? b.data : "", b.len));
        json_array_append_new(copy, fresh);
    }
    for (size_t i = 0; i < n && !rc; i++) {
        int equal = 0;
        for (size_t j = 0; j < n; j++) {
            const json_t *other = json_array_get(copy, j), *text = json_object_get(other, "answer");
            equal += !json_equal(other, json_array_get(copy, i)) && json_string_length(text) == reply->len &&
                     !memcmp(json_string_value(text), reply->data, reply->len);
        }
        sum += equal >= 3 ? 1 : equal / 3.0;
    }
    s->score = n ? sum / (double)n : 0;
    json_decref(copy);
    mull_buf_fini(&b);
    return rc;
}

int mull__score_vqav2(mull__scoring *s, mull__text reply) {
    const json_t *answers = json_object_get(s->doc, "answers");
    mull__text pred = answer_of(reply);
    mull_buf b = {0};
    bool known = json_is_array(answers);
    int rc = known ? normal(s->a, pred, &b) : mull__text_utf8(pred, &b);
    if (!rc && known && json_array_size(answers) == 0 && s->compat == MULL_COMPAT_RELEASE) {
        mull_buf_fini(&b);
        return mull__raise(s, "StatisticsError");
    }
    if (!rc && known) rc = accuracy(s, answers, &b);
    if (!rc) {
        json_object_set_new(s->metrics, "vqav2_accuracy", json_real(s->score));
        json_object_set_new(s->metrics, "question_id", mull__doc_copy(s->doc, "question_id"));
        json_object_set_new(s->metrics, "prediction", json_stringn(b.data ? b.data : "", b.len));
        const json_t *kind = json_object_get(s->doc, "answer_type");
        s->category = json_is_string(kind) ? json_deep_copy(kind) : json_string("all");
    }
    mull_buf_fini(&b);
    return rc;
}
