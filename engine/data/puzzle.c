/* Drawing of puzzles; see puzzle.h. Every number of a puzzle comes from Philox under (seed, index), so the test set is
 * simply a range of indices that training never draws. */
#include "engine/data/puzzle.h"

#include "engine/core/rng.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { SIDE = MULL_PUZZLE_WIDTH };

typedef struct colour {
    uint8_t r, g, b;
} colour;
static const colour WHITE = {250, 250, 250}, RED = {220, 40, 40}, BLUE = {40, 70, 220}, GREEN = {40, 170, 70},
                    DARK = {40, 40, 40};

typedef struct pen {
    mull_puzzle *p;
    uint8_t *paper; /* where it draws: the picture or the hint */
    uint64_t seed, index, drawn;
} pen;

/* A whole number from lo to hi, both in. */
static int pick(pen *d, int lo, int hi) {
    return lo + (int)(mull_uniform(d->seed, d->index, d->drawn++) * (hi - lo + 1));
}

static void dot(pen *d, int x, int y, colour c) {
    if (x < 0 || y < 0 || x >= SIDE || y >= SIDE) return;
    uint8_t *at = d->paper + (y * SIDE + x) * 3;
    at[0] = c.r;
    at[1] = c.g;
    at[2] = c.b;
}

static void box(pen *d, int x, int y, int w, int h, colour c) {
    for (int j = y; j < y + h; j++)
        for (int i = x; i < x + w; i++) dot(d, i, j, c);
}

static void disc(pen *d, int x, int y, int r, colour c) {
    for (int j = -r; j <= r; j++)
        for (int i = -r; i <= r; i++)
            if (i * i + j * j <= r * r) dot(d, x + i, y + j, c);
}

/* From here on the pen draws the hint. */
static void turn_over(pen *d) {
    d->paper = d->p->hint;
}

static void set_options(mull_puzzle *p, int n, const char *const *texts, int answer) {
    p->noptions = n;
    for (int i = 0; i < n; i++) p->options[i] = texts[i];
    p->answer = answer;
}

static const char *const SIDES[] = {"left", "right"};

/* The hint: both in the middle of their side. */
static void draw_side(pen *d) {
    mull_puzzle *p = d->p;
    int left = pick(d, 14, 36), right = pick(d, 76, 98), ly = pick(d, 14, 98), ry = pick(d, 14, 98),
        answer = pick(d, 0, 1);
    int r = pick(d, 8, 13), s = pick(d, 14, 24);
    disc(d, answer ? right : left, answer ? ry : ly, r, RED);
    box(d, (answer ? left : right) - s / 2, (answer ? ly : ry) - s / 2, s, s, BLUE);
    turn_over(d);
    disc(d, answer ? 84 : 28, 56, 20, RED);
    box(d, (answer ? 28 : 84) - 20, 36, 40, 40, BLUE);
    set_options(p, 2, SIDES, answer);
    snprintf(p->thought, sizeof p->thought, "The circle is on the %s and the square on the %s.", SIDES[answer],
             SIDES[!answer]);
}

/* The hint: the bigger one alone. */
static void draw_bigger(pen *d) {
    mull_puzzle *p = d->p;
    int small = pick(d, 6, 12), big = small + pick(d, 7, 12), answer = pick(d, 0, 1);
    colour c[2] = {pick(d, 0, 1) ? RED : GREEN, pick(d, 0, 1) ? BLUE : DARK};
    disc(d, pick(d, 26, 30), pick(d, 30, 82), answer ? small : big, c[0]);
    disc(d, pick(d, 82, 86), pick(d, 30, 82), answer ? big : small, c[1]);
    turn_over(d);
    disc(d, answer ? 84 : 28, 56, 26, c[answer]);
    set_options(p, 2, SIDES, answer);
    snprintf(p->thought, sizeof p->thought, "The %s circle is wider than the other.", SIDES[answer]);
}

/* Each circle has a cell of a 4 x 4 grid to itself, so none hides another. The hint: as many in a row. */
static void draw_count(pen *d) {
    static const char *const numbers[] = {"1", "2", "3", "4"};
    mull_puzzle *p = d->p;
    int answer = pick(d, 0, 3), cells[16];
    for (int i = 0; i < 16; i++) cells[i] = i;
    for (int i = 0; i <= answer; i++) {
        int k = pick(d, i, 15), t = cells[i];
        cells[i] = cells[k];
        cells[k] = t;
        int r = pick(d, 7, 10);
        disc(d, cells[i] % 4 * 28 + pick(d, 12, 15), cells[i] / 4 * 28 + pick(d, 12, 15), r,
             pick(d, 0, 1) ? RED : BLUE);
    }
    turn_over(d);
    for (int i = 0; i <= answer; i++) disc(d, 14 + 28 * i, 56, 10, DARK);
    set_options(p, 4, numbers, answer);
    snprintf(p->thought, sizeof p->thought, "I count them one by one up to %s.", numbers[answer]);
}

/* A 5 x 5 maze as a random spanning tree (so there is one way between any two cells) with the middle as the start and
 * one gate in the outer wall. The hint: the way there. */
enum { CELLS = 5, CELL = 20, EDGE = 6 };

typedef struct maze {
    bool open_right[CELLS][CELLS], open_down[CELLS][CELLS];
    bool seen[CELLS][CELLS];
    int from[CELLS][CELLS]; /* y * CELLS + x of the cell before, on the way from the middle */
} maze;

static void carve(pen *d, maze *m, int x, int y) {
    static const int DX[] = {0, 1, 0, -1}, DY[] = {-1, 0, 1, 0};
    int order[4] = {0, 1, 2, 3};
    m->seen[y][x] = true;
    for (int i = 0; i < 4; i++) {
        int k = pick(d, i, 3), t = order[i];
        order[i] = order[k];
        order[k] = t;
        int nx = x + DX[order[i]], ny = y + DY[order[i]];
        if (nx < 0 || ny < 0 || nx >= CELLS || ny >= CELLS || m->seen[ny][nx]) continue;
        if (order[i] == 0) m->open_down[ny][nx] = true;
        if (order[i] == 1) m->open_right[y][x] = true;
        if (order[i] == 2) m->open_down[y][x] = true;
        if (order[i] == 3) m->open_right[ny][nx] = true;
        m->from[ny][nx] = y * CELLS + x;
        carve(d, m, nx, ny);
    }
}

static void draw_walls(pen *d, const maze *m, int gate) {
    for (int y = 0; y < CELLS; y++)
        for (int x = 0; x < CELLS; x++) {
            int px = EDGE + x * CELL, py = EDGE + y * CELL;
            if (!m->open_right[y][x] && x + 1 < CELLS) box(d, px + CELL - 1, py, 2, CELL, DARK);
            if (!m->open_down[y][x] && y + 1 < CELLS) box(d, px, py + CELL - 1, CELL, 2, DARK);
        }
    int far = EDGE + CELLS * CELL, at = EDGE + CELLS / 2 * CELL + 3;
    box(d, EDGE - 1, EDGE - 1, CELLS * CELL + 2, 2, DARK);
    box(d, EDGE - 1, far - 1, CELLS * CELL + 2, 2, DARK);
    box(d, EDGE - 1, EDGE - 1, 2, CELLS * CELL + 2, DARK);
    box(d, far - 1, EDGE - 1, 2, CELLS * CELL + 2, DARK);
    if (gate == 0) box(d, at, EDGE - 1, CELL - 6, 2, WHITE);
    if (gate == 1) box(d, far - 1, at, 2, CELL - 6, WHITE);
    if (gate == 2) box(d, at, far - 1, CELL - 6, 2, WHITE);
    if (gate == 3) box(d, EDGE - 1, at, 2, CELL - 6, WHITE);
    box(d, at + 2, at + 2, CELL - 10, CELL - 10, GREEN);
}

static void draw_maze(pen *d) {
    static const char *const exits[] = {"top", "right", "bottom", "left"};
    mull_puzzle *p = d->p;
    maze m = {0};
    int answer = pick(d, 0, 3), mid = CELLS / 2;
    carve(d, &m, mid, mid);
    draw_walls(d, &m, answer);
    turn_over(d);
    draw_walls(d, &m, answer);
    int x = answer == 1 ? CELLS - 1 : answer == 3 ? 0 : mid, y = answer == 0 ? 0 : answer == 2 ? CELLS - 1 : mid;
    for (int at = y * CELLS + x, middle = mid * CELLS + mid;; at = m.from[at / CELLS][at % CELLS]) {
        box(d, EDGE + at % CELLS * CELL + 4, EDGE + at / CELLS * CELL + 4, CELL - 8, CELL - 8, GREEN);
        if (at == middle) break;
    }
    set_options(p, 4, exits, answer);
    snprintf(p->thought, sizeof p->thought, "The wall is open at the %s.", exits[answer]);
}

const char *mull_puzzle_name(mull_puzzle_kind k) {
#define X(symbol, name, question) name,
    static const char *const names[] = {MULL_PUZZLES(X)};
#undef X
    return names[k];
}

void mull_puzzle_draw(uint64_t seed, int64_t index, unsigned kinds, mull_puzzle *out) {
#define X(symbol, name, question) question,
    static const char *const questions[] = {MULL_PUZZLES(X)};
#undef X
    static void (*const draw[])(pen *) = {draw_side, draw_bigger, draw_count, draw_maze};
    pen d = {.p = out, .paper = out->hint, .seed = seed, .index = (uint64_t)index};
    int wanted[MULL_PUZZLE_KINDS], n = 0;
    memset(out, 0, sizeof *out);
    for (int k = 0; k < MULL_PUZZLE_KINDS; k++)
        if (kinds & 1u << k) wanted[n++] = k;
    out->kind = n ? (mull_puzzle_kind)wanted[index % n] : MULL_PUZZLE_SIDE;
    out->question = questions[out->kind];
    box(&d, 0, 0, SIDE, SIDE, WHITE);
    d.paper = out->rgb;
    box(&d, 0, 0, SIDE, SIDE, WHITE);
    draw[out->kind](&d);
}
