/* See regex.h. */
#include "engine/infer/regex.h"

#include "engine/text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH = 200, REPEAT_MAX = 1000, CP_MAX = 0x10ffff };
static const char *const WHAT = "cannot use the regular expression";

/* ---- the expression as a tree */

typedef enum kind { EMPTY, SET, CAT, ALT, REPEAT } kind;

typedef struct range {
    uint32_t lo, hi;
} range;

typedef struct node {
    kind kind;
    struct node *a, *b; /* CAT, ALT; REPEAT: a */
    int min, max;       /* max -1: no end */
    range *set;
    size_t nset;
    struct node *all; /* list of all nodes, to free them */
} node;

typedef struct parser {
    const char *whole, *at, *end;
    node *all;
    size_t count;
    int depth;
    mull_error *err;
    int rc;
} parser;

static node *fail(parser *p, const char *why) {
    if (!p->rc) {
        char where[40];
        snprintf(where, sizeof where, "byte %zu", (size_t)(p->at - p->whole) + 1);
        p->rc = mull_fail(p->err, MULL_EARG, WHAT, where, "see the syntax in engine/infer/regex.h", "%s", why);
    }
    return NULL;
}

static node *too_much(parser *p, int rc, const char *why) {
    if (!p->rc) p->rc = mull_fail(p->err, rc, WHAT, "", rc == MULL_ELIMIT ? "make it smaller" : "", "%s", why);
    return NULL;
}

static node *new_node(parser *p, kind k, node *a, node *b) {
    if (p->rc) return NULL;
    if (++p->count > MULL_REGEX_NODES) return too_much(p, MULL_ELIMIT, "it is too large");
    node *n = calloc(1, sizeof *n);
    if (!n) return too_much(p, MULL_ENOMEM, "out of memory");
    *n = (node){.kind = k, .a = a, .b = b, .all = p->all};
    p->all = n;
    return n;
}

static void free_nodes(node *n) {
    for (node *next; n; n = next) {
        next = n->all;
        free(n->set);
        free(n);
    }
}

static bool add_range(parser *p, node *n, uint32_t lo, uint32_t hi) {
    range *s = realloc(n->set, (n->nset + 1) * sizeof *s);
    if (!s) return too_much(p, MULL_ENOMEM, "out of memory"), false;
    n->set = s;
    s[n->nset++] = (range){lo, hi};
    return true;
}

static int by_lo(const void *a, const void *b) {
    const range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

/* Sorted, without overlaps; negated when asked. */
static void settle(parser *p, node *n, bool negate) {
    qsort(n->set, n->nset, sizeof *n->set, by_lo);
    size_t k = 0;
    for (size_t i = 0; i < n->nset; i++) {
        if (k && n->set[i].lo <= n->set[k - 1].hi + 1) {
            if (n->set[i].hi > n->set[k - 1].hi) n->set[k - 1].hi = n->set[i].hi;
        } else {
            n->set[k++] = n->set[i];
        }
    }
    n->nset = k;
    if (!negate) return;
    range *old = n->set;
    n->set = NULL;
    n->nset = 0;
    uint32_t from = 0;
    for (size_t i = 0; i < k; i++) {
        if (old[i].lo > from && !add_range(p, n, from, old[i].lo - 1)) break;
        from = old[i].hi + 1;
    }
    if (!p->rc && from <= CP_MAX) add_range(p, n, from, CP_MAX);
    free(old);
}

static uint32_t next_cp(parser *p) {
    const uint8_t *s = (const uint8_t *)p->at;
    int n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4; /* it is valid UTF-8 */
    uint32_t cp = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) cp = cp << 6 | (s[i] & 0x3fu);
    p->at += n;
    return cp;
}

static int hex(parser *p, int n, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < n; i++) {
        if (p->at == p->end || !strchr("0123456789abcdefABCDEF", *p->at) || !*p->at) return -1;
        char c = *p->at++;
        *out = *out * 16 + (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return 0;
}

/* Adds \d and the like; false when it is none of them. */
static bool add_class(parser *p, node *n, char c) {
    static const struct {
        char name;
        const char *ranges; /* pairs */
    } CLASSES[] = {{'d', "09"}, {'w', "09AZ__az"}, {'s', "\t\r  "}};
    for (size_t i = 0; i < 3; i++) {
        const char *r = CLASSES[i].ranges;
        if (CLASSES[i].name == (c | 32) && c != (c | 32)) {
            uint32_t from = 0; /* what is between the ranges */
            for (; *r; r += 2) {
                add_range(p, n, from, (uint32_t)(uint8_t)r[0] - 1);
                from = (uint32_t)(uint8_t)r[1] + 1;
            }
            return add_range(p, n, from, CP_MAX);
        }
        if (CLASSES[i].name == c) {
            for (; *r; r += 2) add_range(p, n, (uint8_t)r[0], (uint8_t)r[1]);
            return true;
        }
    }
    return false;
}

/* Behind a backslash: a class into n (returns 1) or one character (0); negative: refused. */
static int escape(parser *p, node *n, uint32_t *cp) {
    if (p->at == p->end) return fail(p, "a backslash ends it"), -1;
    char c = *p->at;
    static const char FROM[] = "ntrfv0", TO[] = "\n\t\r\f\v";
    const char *simple = strchr(FROM, c);
    if ((uint8_t)c >= 0x80 || (simple && c && c != '0')) {
        *cp = (uint8_t)c >= 0x80 ? next_cp(p) : (uint32_t)(uint8_t)TO[simple - FROM];
        if ((uint8_t)c < 0x80) p->at++;
        return 0;
    }
    p->at++;
    if (c == 'x' || c == 'u') {
        if (hex(p, c == 'x' ? 2 : 4, cp) || (*cp >= 0xd800 && *cp < 0xe000))
            return fail(p, "\\x takes two hexadecimal digits, \\u four of a character"), -1;
        return 0;
    }
    if (add_class(p, n, c)) return p->rc ? -1 : 1;
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
        return fail(p, "this escape is not supported"), -1;
    *cp = (uint8_t)c;
    return 0;
}

static node *bracket(parser *p) {
    node *n = new_node(p, SET, NULL, NULL);
    bool negate = p->at < p->end && *p->at == '^', first = true;
    if (!n) return NULL;
    p->at += negate;
    for (;; first = false) {
        if (p->at == p->end) return fail(p, "a [ is not closed");
        if (*p->at == ']' && !first) break;
        uint32_t lo = 0, hi;
        int k = 0;
        if (*p->at == '\\') {
            p->at++;
            k = escape(p, n, &lo);
        } else {
            lo = next_cp(p);
        }
        if (k < 0) return NULL;
        if (k == 1) continue;
        hi = lo;
        if (p->end - p->at >= 2 && p->at[0] == '-' && p->at[1] != ']') {
            p->at++;
            if (*p->at == '\\') {
                p->at++;
                if (escape(p, n, &hi) != 0) return p->rc ? NULL : fail(p, "a class cannot end a range");
            } else {
                hi = next_cp(p);
            }
        }
        if (hi < lo) return fail(p, "a range runs backwards");
        if (!add_range(p, n, lo, hi)) return NULL;
    }
    p->at++;
    settle(p, n, negate);
    return p->rc ? NULL : n;
}

static node *alternatives(parser *p);

static node *atom(parser *p) {
    char c = *p->at;
    uint32_t cp = 0;
    node *n;
    switch (c) {
    case '(':
        p->at++;
        if (p->at < p->end && *p->at == '?') {
            if (p->end - p->at < 2 || p->at[1] != ':') return fail(p, "groups with ? but (?: are not supported");
            p->at += 2;
        }
        if (++p->depth > DEPTH) return too_much(p, MULL_ELIMIT, "its groups are nested too deeply");
        n = alternatives(p);
        p->depth--;
        if (!n) return NULL;
        if (p->at == p->end) return fail(p, "a ( is not closed");
        p->at++;
        return n;
    case '[':
        p->at++;
        return bracket(p);
    case '.':
        p->at++;
        n = new_node(p, SET, NULL, NULL);
        if (n && add_range(p, n, '\n', '\n')) settle(p, n, true);
        return p->rc ? NULL : n;
    case '*':
    case '+':
    case '?':
    case '{':
        return fail(p, "there is nothing to repeat");
    case '^':
    case '$':
        return fail(p, "^ and $ are supported at its two ends only");
    case '\\':
        p->at++;
        n = new_node(p, SET, NULL, NULL);
        if (!n) return NULL;
        switch (escape(p, n, &cp)) {
        case 0:
            return add_range(p, n, cp, cp) ? n : NULL;
        case 1:
            settle(p, n, false);
            return p->rc ? NULL : n;
        default:
            return NULL;
        }
    default:
        n = new_node(p, SET, NULL, NULL);
        cp = next_cp(p);
        return n && add_range(p, n, cp, cp) ? n : NULL;
    }
}

static int number(parser *p) {
    int v = 0;
    if (p->at == p->end || *p->at < '0' || *p->at > '9') return -1;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9') {
        v = v * 10 + (*p->at++ - '0');
        if (v > REPEAT_MAX) return too_much(p, MULL_ELIMIT, "it repeats more than 1000 times"), -1;
    }
    return v;
}

static node *repeated(parser *p) {
    node *n = atom(p);
    while (n && p->at < p->end && *p->at && strchr("*+?{", *p->at)) {
        int min = 0, max = -1;
        char c = *p->at++;
        if (c == '+') {
            min = 1;
        } else if (c == '?') {
            max = 1;
        } else if (c == '{') {
            bool open = p->at < p->end && *p->at == ','; /* {,n} begins at none, as Python has it */
            min = max = open ? 0 : number(p);
            if (min < 0) return p->rc ? NULL : fail(p, "{ takes numbers; write \\{ for the character");
            if (p->at < p->end && *p->at == ',') {
                p->at++;
                max = p->at < p->end && *p->at == '}' ? -1 : number(p);
                if (p->rc) return NULL;
            }
            if (p->at == p->end || *p->at != '}') return fail(p, "a { is not closed");
            p->at++;
            if (max >= 0 && max < min) return fail(p, "{m,n} runs backwards");
        }
        if (p->at < p->end && *p->at == '?') p->at++; /* lazy: the same language */
        if (p->at < p->end && *p->at == '+') return fail(p, "possessive repeats are not supported");
        n = new_node(p, REPEAT, n, NULL);
        if (!n) return NULL;
        n->min = min;
        n->max = max;
    }
    return n;
}

static node *sequence(parser *p) {
    node *n = NULL;
    while (!p->rc && p->at < p->end && *p->at != '|' && *p->at != ')') {
        if (*p->at == '$' && p->at + 1 == p->end && p->depth == 0) {
            p->at++;
            break;
        }
        node *more = repeated(p);
        n = n && more ? new_node(p, CAT, n, more) : more;
    }
    return p->rc ? NULL : n ? n : new_node(p, EMPTY, NULL, NULL);
}

static node *alternatives(parser *p) {
    node *n = sequence(p);
    while (n && p->at < p->end && *p->at == '|') {
        p->at++;
        node *more = sequence(p);
        n = more ? new_node(p, ALT, n, more) : NULL;
    }
    return n;
}

/* ---- the NFA */

typedef struct state {
    uint8_t lo, hi;
    bool split, accept;
    int32_t a, b; /* BYTE: a; split: both */
} state;

typedef struct dstate {
    int32_t *set; /* NFA states that read a byte or accept, ascending */
    int32_t n;
    bool accept, ends;
    int32_t to[256]; /* -1: not known */
} dstate;

struct mull_regex {
    state *at;
    int32_t n, cap;
    dstate **d;
    int32_t nd, dcap;
    int32_t *table; /* hash of sets: index + 1 */
    int32_t table_size;
    int32_t *stack, *found; /* [n] working room */
    uint32_t *mark, turn;
};

static int32_t add(mull_regex *r, state s) {
    if (r->n == r->cap) {
        int32_t cap = r->cap ? r->cap * 2 : 256;
        state *at = r->n < MULL_REGEX_NODES ? realloc(r->at, (size_t)cap * sizeof *at) : NULL;
        if (!at) return -1;
        r->at = at;
        r->cap = cap;
    }
    r->at[r->n] = s;
    return r->n++;
}

static int32_t split(mull_regex *r, int32_t a, int32_t b) {
    return a < 0 || b < 0 ? -1 : add(r, (state){.split = true, .a = a, .b = b});
}

static int encode(uint32_t cp, uint8_t out[4]) {
    if (cp < 0x80) return out[0] = (uint8_t)cp, 1;
    int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, cp >>= 6) out[i] = (uint8_t)(0x80 | (cp & 0x3f));
    out[0] = (uint8_t)((0xf0u << (4 - n)) | cp);
    return n;
}

/* One range of code points of one length: as bytes, split where a byte's range is not the whole of its range. */
static int32_t emit_bytes(mull_regex *r, const uint8_t *lo, const uint8_t *hi, int n, int32_t next) {
    if (n == 1) return add(r, (state){.lo = lo[0], .hi = hi[0], .a = next});
    static const uint8_t LOW[3] = {0x80, 0x80, 0x80}, HIGH[3] = {0xbf, 0xbf, 0xbf};
    int32_t at;
    if (lo[0] == hi[0]) {
        at = emit_bytes(r, lo + 1, hi + 1, n - 1, next);
        return at < 0 ? -1 : add(r, (state){.lo = lo[0], .hi = lo[0], .a = at});
    }
    int32_t out = -2;
    uint8_t from = lo[0], to = hi[0];
    if (memcmp(lo + 1, LOW, (size_t)n - 1) != 0) {
        at = emit_bytes(r, lo + 1, HIGH, n - 1, next);
        out = at < 0 ? -1 : add(r, (state){.lo = from, .hi = from, .a = at});
        if (out < 0) return -1;
        from++;
    }
    if (memcmp(hi + 1, HIGH, (size_t)n - 1) != 0) {
        at = emit_bytes(r, LOW, hi + 1, n - 1, next);
        int32_t last = at < 0 ? -1 : add(r, (state){.lo = to, .hi = to, .a = at});
        if (last < 0) return -1;
        out = out == -2 ? last : split(r, out, last);
        if (out < 0) return -1;
        to--;
    }
    if (from > to) return out;
    at = emit_bytes(r, LOW, HIGH, n - 1, next);
    int32_t whole = at < 0 ? -1 : add(r, (state){.lo = from, .hi = to, .a = at});
    return whole < 0 ? -1 : out == -2 ? whole : split(r, out, whole);
}

static int32_t emit_set(mull_regex *r, const node *n, int32_t next) {
    static const range LENGTHS[] = {{0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, CP_MAX}};
    int32_t out = -2;
    for (size_t i = 0; i < n->nset; i++)
        for (size_t k = 0; k < 5; k++) {
            uint32_t lo = n->set[i].lo > LENGTHS[k].lo ? n->set[i].lo : LENGTHS[k].lo,
                     hi = n->set[i].hi < LENGTHS[k].hi ? n->set[i].hi : LENGTHS[k].hi;
            uint8_t a[4], b[4];
            if (lo > hi) continue;
            int bytes = encode(lo, a);
            encode(hi, b);
            int32_t at = emit_bytes(r, a, b, bytes, next);
            out = out == -2 ? at : split(r, out, at);
            if (out < 0) return -1;
        }
    /* A class of nothing: a state that no byte leaves. */
    return out == -2 ? add(r, (state){.lo = 1, .hi = 0, .a = next}) : out;
}

/* The start of n followed by next. The chains of CAT and ALT lean left, so the loops keep the recursion shallow. */
static int32_t emit(mull_regex *r, const node *n, int32_t next) {
    int32_t out = -2;
    while (next >= 0 && (n->kind == CAT || n->kind == ALT)) {
        if (n->kind == CAT) {
            if (out != -2) break; /* inside a chain of alternatives: as a whole */
            next = emit(r, n->b, next);
            n = n->a;
        } else {
            int32_t at = emit(r, n->b, next);
            out = out == -2 ? at : split(r, at, out);
            if (out < 0) return -1;
            n = n->a;
        }
    }
    if (next < 0) return -1;
    int32_t here;
    switch (n->kind) {
    case EMPTY:
        here = next;
        break;
    case SET:
        here = emit_set(r, n, next);
        break;
    case REPEAT:
        here = next;
        if (n->max < 0) {
            here = add(r, (state){.split = true, .a = 0, .b = next});
            int32_t body = here < 0 ? -1 : emit(r, n->a, here);
            if (body < 0) return -1;
            r->at[here].a = body;
        } else {
            for (int i = n->min; i < n->max && here >= 0; i++) {
                int32_t body = emit(r, n->a, here);
                here = split(r, body, next);
            }
        }
        for (int32_t i = 0, before = -1; i < n->min && here >= 0 && here != before; i++) { /* nothing, repeated */
            before = here;
            here = emit(r, n->a, here);
        }
        break;
    default: /* CAT below ALT */
        here = emit(r, n->a, emit(r, n->b, next));
        break;
    }
    return here < 0 ? -1 : out == -2 ? here : split(r, here, out);
}

/* ---- the DFA */

static uint32_t hash(const int32_t *set, int32_t n) {
    uint32_t h = 2166136261u;
    for (int32_t i = 0; i < n; i++) h = (h ^ (uint32_t)set[i]) * 16777619u;
    return h;
}

static int by_number(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

static int grow_table(mull_regex *r) {
    int32_t size = r->table_size ? r->table_size * 2 : 64;
    int32_t *t = calloc((size_t)size, sizeof *t);
    if (!t) return -1;
    for (int32_t i = 0; i < r->nd; i++) {
        uint32_t h = hash(r->d[i]->set, r->d[i]->n) & (uint32_t)(size - 1);
        while (t[h]) h = (h + 1) & (uint32_t)(size - 1);
        t[h] = i + 1;
    }
    free(r->table);
    r->table = t;
    r->table_size = size;
    return 0;
}

/* The state of a set that is sorted; makes it when new. */
static int32_t state_of(mull_regex *r, const int32_t *set, int32_t n) {
    uint32_t h = hash(set, n) & (uint32_t)(r->table_size - 1);
    for (; r->table[h]; h = (h + 1) & (uint32_t)(r->table_size - 1)) {
        const dstate *d = r->d[r->table[h] - 1];
        if (d->n == n && (!n || !memcmp(d->set, set, (size_t)n * sizeof *set))) return r->table[h] - 1;
    }
    if (r->nd >= MULL_REGEX_STATES) return -1;
    if (r->nd == r->dcap) {
        int32_t cap = r->dcap ? r->dcap * 2 : 64;
        dstate **p = realloc(r->d, (size_t)cap * sizeof *p);
        if (!p) return -1;
        r->d = p;
        r->dcap = cap;
    }
    dstate *d = malloc(sizeof *d);
    int32_t *copy = malloc((size_t)(n ? n : 1) * sizeof *copy);
    if (!d || !copy) {
        free(d);
        free(copy);
        return -1;
    }
    if (n) memcpy(copy, set, (size_t)n * sizeof *copy);
    *d = (dstate){.set = copy, .n = n, .ends = true};
    memset(d->to, 0xff, sizeof d->to);
    for (int32_t i = 0; i < n; i++) {
        const state *s = &r->at[set[i]];
        if (s->accept)
            d->accept = true;
        else if (s->lo <= s->hi)
            d->ends = false;
    }
    r->d[r->nd++] = d;
    if (r->nd * 2 > r->table_size) return grow_table(r) ? -1 : r->nd - 1;
    r->table[h] = r->nd;
    return r->nd - 1;
}

/* Follows splits from s; what reads or accepts joins found. */
static void close_over(mull_regex *r, int32_t s, int32_t *n) {
    int32_t top = 0;
    r->stack[top++] = s;
    while (top) {
        s = r->stack[--top];
        if (r->mark[s] == r->turn) continue;
        r->mark[s] = r->turn;
        if (!r->at[s].split) {
            r->found[(*n)++] = s;
            continue;
        }
        r->stack[top++] = r->at[s].a;
        r->stack[top++] = r->at[s].b;
    }
}

int32_t mull_regex_step(mull_regex *r, int32_t at, uint8_t byte) {
    dstate *d = r->d[at];
    if (d->to[byte] >= 0) return d->to[byte];
    int32_t n = 0;
    r->turn++;
    for (int32_t i = 0; i < d->n; i++) {
        const state *s = &r->at[d->set[i]];
        if (!s->accept && byte >= s->lo && byte <= s->hi) close_over(r, s->a, &n);
    }
    qsort(r->found, (size_t)n, sizeof *r->found, by_number);
    int32_t to = state_of(r, r->found, n);
    if (to >= 0) r->d[at]->to[byte] = to;
    return to;
}

bool mull_regex_accepts(const mull_regex *r, int32_t s) {
    return r->d[s]->accept;
}
bool mull_regex_ends(const mull_regex *r, int32_t s) {
    return r->d[s]->ends;
}
int32_t mull_regex_states(const mull_regex *r) {
    return r->nd;
}

/* Dead and start states. */
static int begin(mull_regex *r, int32_t first) {
    int32_t n = 0;
    size_t room = (size_t)r->n + 1;
    r->stack = malloc(2 * room * sizeof *r->stack); /* each state is expanded once and pushes two */
    r->found = malloc(room * sizeof *r->found);
    r->mark = calloc(room, sizeof *r->mark);
    if (!r->stack || !r->found || !r->mark || grow_table(r) || state_of(r, NULL, 0) != MULL_REGEX_DEAD) return -1;
    r->turn = 1;
    close_over(r, first, &n);
    qsort(r->found, (size_t)n, sizeof *r->found, by_number);
    return state_of(r, r->found, n) == MULL_REGEX_START ? 0 : -1;
}

int mull_regex_create(const char *text, size_t len, mull_regex **out, mull_error *err) {
    parser p = {.whole = text, .at = text, .end = text + len, .err = err};
    *out = NULL;
    if (len > MULL_REGEX_BYTES)
        return mull_fail(err, MULL_ELIMIT, WHAT, "", "make it smaller", "it has more than %d bytes", MULL_REGEX_BYTES);
    if (len && (!mull_utf8_valid(text, len) || memchr(text, 0, len)))
        return mull_fail(err, MULL_EARG, WHAT, "", "", "it is no UTF-8 text");
    if (len && *text == '^') p.at++;
    node *tree = alternatives(&p);
    if (!p.rc && p.at < p.end) fail(&p, "a ) closes nothing");
    mull_regex *r = p.rc ? NULL : calloc(1, sizeof *r);
    int rc = p.rc;
    if (!rc && !r) rc = mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    if (!rc) {
        int32_t accept = add(r, (state){.accept = true, .lo = 1}), first = accept < 0 ? -1 : emit(r, tree, accept);
        if (first < 0 || begin(r, first))
            rc = mull_fail(err, MULL_ELIMIT, WHAT, "", "make it smaller", "it is too large, or memory is short");
    }
    free_nodes(p.all);
    if (rc)
        mull_regex_destroy(r);
    else
        *out = r;
    return rc;
}

void mull_regex_destroy(mull_regex *r) {
    if (!r) return;
    for (int32_t i = 0; i < r->nd; i++) {
        free(r->d[i]->set);
        free(r->d[i]);
    }
    free(r->d);
    free(r->table);
    free(r->at);
    free(r->stack);
    free(r->found);
    free(r->mark);
    free(r);
}

int mull_regex_quote(const char *text, size_t len, mull_buf *out) {
    int rc = 0;
    for (size_t i = 0; i < len && !rc; i++) {
        if (text[i] && strchr("\\^$.|?*+()[]{}", text[i])) rc = mull_buf_add(out, "\\", 1);
        if (!rc) rc = mull_buf_add(out, text + i, 1);
    }
    return rc;
}

char *mull_choices_regex(const json_t *list) {
    mull_buf b = {0};
    size_t n = json_array_size(list), i;
    for (i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_string_length(v) || (i && mull_buf_puts(&b, "|")) ||
            mull_regex_quote(json_string_value(v), json_string_length(v), &b))
            break;
    }
    if (n && i == n) return b.data;
    mull_buf_fini(&b);
    return NULL;
}
