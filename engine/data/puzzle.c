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
    uint64_t seed, index, drawn;
} pen;

/* A whole number from lo to hi, both in. */
static int pick(pen *d, int lo, int hi) {
    return lo + (int)(mull_uniform(d->seed, d->index, d->drawn++) * (hi - lo + 1));
}

static void dot(mull_puzzle *p, int x, int y, colour c) {
    if (x < 0 || y < 0 || x >= SIDE || y >= SIDE) return;
    uint8_t *at = p->rgb + (y * SIDE + x) * 3;
    at[0] = c.r;
    at[1] = c.g;
    at[2] = c.b;
}

static void box(mull_puzzle *p, int x, int y, int w, int h, colour c) {
    for (int j = y; j < y + h; j++)
        for (int i = x; i < x + w; i++) dot(p, i, j, c);
}

static void disc(mull_puzzle *p, int x, int y, int r, colour c) {
    for (int j = -r; j <= r; j++)
        for (int i = -r; i <= r; i++)
            if (i * i + j * j <= r * r) dot(p, x + i, y + j, c);
}

static void set_options(mull_puzzle *p, int n, const char *const *texts, int answer) {
    p->noptions = n;
    for (int i = 0; i < n; i++) p->options[i] = texts[i];
    p->answer = answer;
}

static const char *const SIDES[] = {"left", "right"};

static void draw_side(pen *d) {
    mull_puzzle *p = d->p;
    int left = pick(d, 14, 36), right = pick(d, 76, 98), ly = pick(d, 14, 98), ry = pick(d, 14, 98),
        answer = pick(d, 0, 1);
    int r = pick(d, 8, 13), s = pick(d, 14, 24);
    disc(p, answer ? right : left, answer ? ry : ly, r, RED);
    box(p, (answer ? left : right) - s / 2, (answer ? ly : ry) - s / 2, s, s, BLUE);
    set_options(p, 2, SIDES, answer);
    snprintf(p->thought, sizeof p->thought, "The circle is on the %s and the square on the %s.", SIDES[answer],
             SIDES[!answer]);
}

static void draw_bigger(pen *d) {
    mull_puzzle *p = d->p;
    int small = pick(d, 6, 12), big = small + pick(d, 7, 12), answer = pick(d, 0, 1);
    colour c[2] = {pick(d, 0, 1) ? RED : GREEN, pick(d, 0, 1) ? BLUE : DARK};
    disc(p, pick(d, 26, 30), pick(d, 30, 82), answer ? small : big, c[0]);
    disc(p, pick(d, 82, 86), pick(d, 30, 82), answer ? big : small, c[1]);
    set_options(p, 2, SIDES, answer);
    snprintf(p->thought, sizeof p->thought, "The %s circle is wider than the other.", SIDES[answer]);
}

/* Each circle has a cell of a 4 x 4 grid to itself, so none hides another. */
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
        disc(p, cells[i] % 4 * 28 + pick(d, 12, 15), cells[i] / 4 * 28 + pick(d, 12, 15), r,
             pick(d, 0, 1) ? RED : BLUE);
    }
    set_options(p, 4, numbers, answer);
    snprintf(p->thought, sizeof p->thought, "I count them one by one up to %s.", numbers[answer]);
}

/* A 5 x 5 maze as a random spanning tree (so there is one way between any two cells) with the middle as the start. All
 * four exits are drawn; walls close the way to three of them. */
enum { CELLS = 5, CELL = 20, EDGE = 6 };

typedef struct maze {
    bool open_right[CELLS][CELLS], open_down[CELLS][CELLS];
    bool seen[CELLS][CELLS];
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
        carve(d, m, nx, ny);
    }
}

static void draw_maze(pen *d) {
    static const char *const exits[] = {"top", "right", "bottom", "left"};
    mull_puzzle *p = d->p;
    maze m = {0};
    int answer = pick(d, 0, 3), mid = CELLS / 2;
    carve(d, &m, mid, mid);
    for (int y = 0; y < CELLS; y++)
        for (int x = 0; x < CELLS; x++) {
            int px = EDGE + x * CELL, py = EDGE + y * CELL;
            if (!m.open_right[y][x] && x + 1 < CELLS) box(p, px + CELL - 1, py, 2, CELL, DARK);
            if (!m.open_down[y][x] && y + 1 < CELLS) box(p, px, py + CELL - 1, CELL, 2, DARK);
        }
    int far = EDGE + CELLS * CELL;
    box(p, EDGE - 1, EDGE - 1, CELLS * CELL + 2, 2, DARK);
    box(p, EDGE - 1, far - 1, CELLS * CELL + 2, 2, DARK);
    box(p, EDGE - 1, EDGE - 1, 2, CELLS * CELL + 2, DARK);
    box(p, far - 1, EDGE - 1, 2, CELLS * CELL + 2, DARK);
    int gate = EDGE + mid * CELL + 3;
    if (answer == 0) box(p, gate, EDGE - 1, CELL - 6, 2, WHITE);
    if (answer == 1) box(p, far - 1, gate, 2, CELL - 6, WHITE);
    if (answer == 2) box(p, gate, far - 1, CELL - 6, 2, WHITE);
    if (answer == 3) box(p, EDGE - 1, gate, 2, CELL - 6, WHITE);
    box(p, gate + 2, gate + 2, CELL - 10, CELL - 10, GREEN);
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
    pen d = {out, seed, (uint64_t)index, 0};
    int wanted[MULL_PUZZLE_KINDS], n = 0;
    memset(out, 0, sizeof *out);
    for (int k = 0; k < MULL_PUZZLE_KINDS; k++)
        if (kinds & 1u << k) wanted[n++] = k;
    out->kind = n ? (mull_puzzle_kind)wanted[index % n] : MULL_PUZZLE_SIDE;
    out->question = questions[out->kind];
    box(out, 0, 0, SIDE, SIDE, WHITE);
    draw[out->kind](&d);
}
