/* The release's texts: question templates, the tail by answer type, the assistant's turn by mode. The strings are data
 * that checkpoints were trained on and stand here to the letter. */
#include "engine/data/dataset_internal.h"

#include <stdlib.h>
#include <string.h>

static const char LATENT[] = "\nPlease think about this question deeply. It's encouraged to include self-reflection or "
                             "verification in the reasoning process. Provide your final answer between the <answer> "
                             "</answer> tags.";
static const char SFT[] = "\nProvide your final answer between the <answer> </answer> tags.";
static const char R1[] =
    "\nPlease think about this question as if you were a human pondering deeply. Engage in an internal dialogue using "
    "expressions such as 'let me think', 'wait', 'Hmm', 'oh, I see', 'let's break it down', etc, or other natural "
    "language thought expressions It's encouraged to include self-reflection or verification in the reasoning process. "
    "Provide your detailed reasoning between the <think> </think> tags, and then give your final answer between the "
    "<answer> </answer> tags.";

#define NUMBER " Please provide the numerical value (e.g., 42 or 3.14) within the <answer> </answer> tags."
static const char *const TYPES[][2] = {
    {"multiple choice",
     " Please provide only the single option letter (e.g., A, B, C, D, etc.) within the <answer> </answer> tags."},
    {"numerical", NUMBER},
    {"regression", NUMBER},
    {"OCR", " Please transcribe text from the image/video clearly and provide your text answer within the <answer> "
            "</answer> tags."},
    {"free-form", " Please provide your text answer within the <answer> </answer> tags."},
};
enum { NTYPES = sizeof TYPES / sizeof *TYPES };

const char *mull__problem_type(const char *s) {
    for (int i = 0; s && i < NTYPES; i++)
        if (!strcmp(s, TYPES[i][0])) return TYPES[i][0];
    return NULL;
}

/* ---- texts with special stretches */
int mull__text_add(mull_text *t, const char *s, size_t n) {
    return mull_buf_add(&t->s, s, n);
}

int mull__text_puts(mull_text *t, const char *s) {
    return mull_buf_puts(&t->s, s);
}

static int add_span(mull_text *t, size_t at, size_t len) {
    if (t->nspecial == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 32;
        mull_span *p = realloc(t->special, cap * sizeof *p);
        if (!p) return MULL_ENOMEM;
        t->special = p;
        t->cap = cap;
    }
    t->special[t->nspecial++] = (mull_span){at, len};
    return MULL_OK;
}

int mull__text_special(mull_text *t, const char *token, int64_t times) {
    size_t len = strlen(token);
    int rc = MULL_OK;
    for (int64_t i = 0; !rc && i < times; i++) {
        rc = add_span(t, t->s.len, len);
        if (!rc) rc = mull_buf_add(&t->s, token, len);
    }
    return rc;
}

int mull__text_append(mull_text *t, const mull_text *other) {
    size_t base = t->s.len;
    int rc = other->s.len ? mull_buf_add(&t->s, other->s.data, other->s.len) : MULL_OK;
    for (size_t i = 0; !rc && i < other->nspecial; i++)
        rc = add_span(t, base + other->special[i].at, other->special[i].len);
    return rc;
}

void mull__text_fini(mull_text *t) {
    mull_buf_fini(&t->s);
    free(t->special);
    memset(t, 0, sizeof *t);
}

int mull__without(const char *s, size_t n, const char *what, mull_buf *out) {
    size_t len = strlen(what);
    int rc = mull_buf_reserve(out, n);
    while (!rc && n) {
        const char *hit = memmem(s, n, what, len);
        size_t keep = hit ? (size_t)(hit - s) : n;
        rc = mull_buf_add(out, s, keep);
        keep += hit ? len : 0;
        s += keep;
        n -= keep;
    }
    return rc;
}

/* ---- question and answer */
static int question(const mull_recipe *r, const mull__row_text *t, mull_example *e) {
    mull_text *q = &e->question;
    bool latent = r->mmlatent_mode_stage1 || r->mmlatent_mode_stage2;
    int rc = mull__text_add(q, t->problem, t->problem_len);
    if (!strcmp(e->problem_type, "multiple choice") && t->options) {
        if (!rc) rc = mull__text_puts(q, "Options:\n");
        for (size_t i = 0; !rc && i < t->noptions; i++) {
            rc = mull__text_add(q, t->options[i].data ? t->options[i].data : "", t->options[i].len);
            if (!rc) rc = mull__text_puts(q, "\n");
        }
    }
    if (!rc) rc = mull__text_puts(q, latent ? LATENT : r->r1_mode ? R1 : SFT);
    for (int i = 0; !rc && i < NTYPES; i++)
        if (!strcmp(e->problem_type, TYPES[i][0])) return mull__text_puts(q, TYPES[i][1]);
    return rc;
}

static int answer(const mull_recipe *r, const mull__row_text *t, mull_example *e) {
    mull_text *a = &e->answer;
    bool latent = r->mmlatent_mode_stage1 || r->mmlatent_mode_stage2, grpo = r->kind == MULL_GRPO;
    int rc = mull__text_puts(a, ""); /* never NULL */
    if (rc || (!latent && r->r1_mode && grpo)) return rc;
    if (latent || r->r1_mode) {
        rc = mull__text_append(a, t->process);
        if (!rc) rc = mull__text_puts(a, "\n");
        if (grpo) return rc;
    }
    return rc ? rc : mull__text_add(a, t->solution, t->solution_len);
}

int mull__compose(const mull_recipe *r, const mull__row_text *t, mull_example *e) {
    e->solution = strndup(t->solution, t->solution_len);
    if (!e->solution) return MULL_ENOMEM;
    int rc = question(r, t, e);
    return rc ? rc : answer(r, t, e);
}
