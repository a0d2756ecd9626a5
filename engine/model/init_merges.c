/* Learning merges; see init_merges.h. The textbook way (Sennrich et al. 2016): the most frequent pair of neighbours
 * becomes a token, until every word of the text is one. The text is small, so counts are made anew each time. */
#include "engine/model/init_merges.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot write checkpoint";

/* What prompts say (method.md, section 3, and engine/eval/prompt.c) and what puzzles ask and answer. Words that a chain
 * of thought puts between latents stand alone, without a blank before them. */
static const char TEXT[] =
    "system\nYou are a helpful assistant.\nuser\nassistant\n"
    "Please think about this question deeply. It's encouraged to include self-reflection or verification in the "
    "reasoning process. Provide your final answer between the <answer> </answer> tags. "
    "Please provide only the single option letter (e.g., A, B, C, D, etc.) within the <answer> </answer> tags. "
    "Please provide your text answer within the <answer> </answer> tags. Choose from the following options: \n"
    "<think> </think>\n<answer> </answer>\nOptions:\n. left\n. right\n. top\n. bottom\n"
    "Is the red circle to the left or to the right of the blue square? "
    "Which circle is bigger, the left one or the right one? How many circles are in the picture? "
    "From the green square, which exit can be reached: top, right, bottom or left? "
    "The the circle square is are on and a wider bigger than other left right I count them one by up to see here "
    "wall open at way out leads top bottom red blue green picture look answer.";

enum { WORDS_MAX = 512, TOKENS_MAX = 1024, LETTERS_MAX = 24 };

typedef struct word {
    int n, id[LETTERS_MAX];
} word;

typedef struct learner {
    word words[WORDS_MAX];
    int nwords, ntokens;
    char text[TOKENS_MAX][LETTERS_MAX * 2 + 1];
    int count[TOKENS_MAX][TOKENS_MAX];
} learner;

static bool blank(char c) {
    return c == ' ' || c == '\n';
}

/* Length of the piece that the pre-tokenizer cuts off at s: letters with one other character before them, a digit, or a
 * run of signs with a blank before it. */
static int piece(const char *s) {
    int n = !isalpha((unsigned char)*s) && *s != '\n' && !isdigit((unsigned char)*s), k = n;
    while (isalpha((unsigned char)s[k])) k++;
    if (k > n) return k;
    k = *s == ' ';
    while (s[k] && !blank(s[k]) && !isalnum((unsigned char)s[k])) k++;
    return k > (*s == ' ') ? k : 1;
}

static void cut(learner *l) {
    for (const char *s = TEXT; *s && l->nwords < WORDS_MAX;) {
        int n = piece(s);
        word *w = &l->words[l->nwords];
        for (w->n = 0; w->n < n && w->n < LETTERS_MAX; w->n++) w->id[w->n] = (unsigned char)s[w->n];
        l->nwords += n > 1;
        s += n;
    }
}

/* The pair that occurs most often, the smallest of equals; false when no word has two tokens. */
static bool best_pair(learner *l, int *a, int *b) {
    int most = 0;
    for (int i = 0; i < l->ntokens; i++) memset(l->count[i], 0, (size_t)l->ntokens * sizeof **l->count);
    for (int w = 0; w < l->nwords; w++)
        for (int k = 0; k + 1 < l->words[w].n; k++) {
            int x = l->words[w].id[k], y = l->words[w].id[k + 1], n = ++l->count[x][y];
            if (n > most || (n == most && (x < *a || (x == *a && y < *b)))) {
                most = n;
                *a = x;
                *b = y;
            }
        }
    return most > 0;
}

static void join(learner *l, int a, int b, int into) {
    for (int w = 0; w < l->nwords; w++) {
        word *v = &l->words[w];
        int n = 0;
        for (int k = 0; k < v->n; k++) {
            bool pair = k + 1 < v->n && v->id[k] == a && v->id[k + 1] == b;
            v->id[n++] = pair ? into : v->id[k];
            k += pair;
        }
        v->n = n;
    }
}

int mull__init_merges(char alphabet[256][4], json_t *vocab, json_t *pairs, mull_buf *lines, mull_error *err) {
    learner *l = calloc(1, sizeof *l);
    int rc = l ? mull_buf_puts(lines, "#version: 0.2\n") : MULL_ENOMEM, a = 0, b = 0;
    for (int i = 0; l && i < 256; i++) snprintf(l->text[i], sizeof l->text[i], "%s", alphabet[i]);
    if (l) {
        l->ntokens = 256;
        cut(l);
    }
    while (!rc && l->ntokens < TOKENS_MAX && best_pair(l, &a, &b)) {
        int id = l->ntokens++;
        json_t *pair = json_sprintf("%s %s", l->text[a], l->text[b]);
        size_t n = strlen(l->text[a]), m = strlen(l->text[b]); /* a part of a word, so there is room */
        memcpy(l->text[id], l->text[a], n);
        memcpy(l->text[id] + n, l->text[b], m + 1);
        if (!pair || json_array_append(pairs, pair) || json_object_set_new(vocab, l->text[id], json_integer(id)))
            rc = MULL_ENOMEM;
        if (!rc) rc = mull_buf_printf(lines, "%s\n", json_string_value(pair));
        json_decref(pair);
        join(l, a, b, id);
    }
    free(l);
    return rc ? mull_fail(err, MULL_ENOMEM, WHAT, "tokenizer", NULL, "out of memory") : MULL_OK;
}
