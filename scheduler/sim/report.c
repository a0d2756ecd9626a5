/* What a simulated cluster did, in words, numbers and two pictures; see sim.h. */
#include "scheduler/sim/sim.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int32_t SIZES[] = {1, 2, 4, 8, 16, 64, INT32_MAX}; /* classes: up to this many GPUs */
enum { CLASSES = sizeof SIZES / sizeof *SIZES };
static const char *const CLASS_NAMES[CLASSES] = {"1", "2", "3-4", "5-8", "9-16", "17-64", "65+"};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Waits in seconds of the jobs that keep() wants; sorted. */
typedef struct waits {
    double *s;
    size_t n;
} waits;

typedef bool (*keep_fn)(const mull_trace *t, size_t job, int arg);

static waits collect(const mull_trace *t, const mull_sim_result *r, keep_fn keep, int arg) {
    waits w = {malloc((t->n + 1) * sizeof(double)), 0};
    for (size_t i = 0; w.s && i < t->n; i++)
        if (r->jobs[i].start_ms >= 0 && keep(t, i, arg))
            w.s[w.n++] = (double)(r->jobs[i].start_ms - t->jobs[i].submit_ms) / 1e3;
    if (w.s) qsort(w.s, w.n, sizeof *w.s, by_value);
    return w;
}

static double quantile(const waits *w, double q) {
    return w->n ? w->s[(size_t)fmin((double)w->n - 1, q * (double)w->n)] : NAN;
}

static bool of_class(const mull_trace *t, size_t job, int c) {
    int32_t g = t->jobs[job].gpus;
    return g <= SIZES[c] && (c == 0 || g > SIZES[c - 1]);
}
static bool of_team(const mull_trace *t, size_t job, int team) {
    return t->users[t->jobs[job].user].team == team;
}
static bool everybody(const mull_trace *t, size_t job, int arg) {
    (void)t;
    (void)job;
    (void)arg;
    return true;
}

static void wait_row(FILE *f, const char *name, const waits *w) {
    fprintf(f, "  %-10s %9zu", name, w->n);
    static const double q[] = {.5, .9, .99, 1};
    for (int i = 0; i < 4; i++) fprintf(f, " %10.1f", quantile(w, q[i]) / 60);
    fputc('\n', f);
}

/* Jain's index of what each team got over the smaller of what it asked for and what its weight entitles it to, where
 * what some leave unasked is dealt to the others by weight (max-min fairness). 1 = everybody got their due. */
static double fairness(const mull_trace *t, const mull_sim_result *r, double capacity, double *due) {
    double *asked = calloc(t->team_count, sizeof *asked), left = capacity, sum = 0, squares = 0;
    size_t n = 0;
    if (!asked) return NAN;
    for (size_t i = 0; i < t->n; i++)
        asked[t->users[t->jobs[i].user].team] += (double)t->jobs[i].gpus * (double)t->jobs[i].run_ms;
    for (size_t k = 0; k < t->team_count; k++) due[k] = 0;
    for (int round = 0; round < 100 && left > capacity * 1e-9; round++) {
        double weights = 0, given = 0;
        for (size_t k = 0; k < t->team_count; k++)
            if (due[k] < asked[k]) weights += t->teams[k].weight;
        if (weights == 0) break;
        for (size_t k = 0; k < t->team_count; k++) {
            if (due[k] >= asked[k]) continue;
            double more = fmin(left * t->teams[k].weight / weights, asked[k] - due[k]);
            due[k] += more;
            given += more;
        }
        left -= given;
    }
    for (size_t k = 0; k < t->team_count; k++) {
        if (due[k] <= 0) continue;
        double x = fmin(r->team_gpu_ms[k] / due[k], 1);
        sum += x;
        squares += x * x;
        n++;
    }
    free(asked);
    return n && squares > 0 ? sum * sum / ((double)n * squares) : NAN;
}

static int by_float(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report_passes(const mull_sim_result *r, FILE *f) {
    float *p = malloc((r->passes + 1) * sizeof *p);
    double sum = 0;
    if (!p || !r->passes) {
        free(p);
        return;
    }
    memcpy(p, r->pass_ms, r->passes * sizeof *p);
    qsort(p, r->passes, sizeof *p, by_float);
    for (size_t i = 0; i < r->passes; i++) sum += (double)p[i];
    fprintf(f, "passes      %zu, mean %.2f ms, median %.2f ms, p99 %.2f ms, longest %.2f ms (wall time here)\n",
            r->passes, sum / (double)r->passes, (double)p[r->passes / 2], (double)p[r->passes * 99 / 100],
            (double)p[r->passes - 1]);
    free(p);
}

void mull_sim_report(const mull_trace *t, const mull_sim_config *c, const mull_sim_result *r, FILE *f) {
    double gpus = (double)c->nodes * c->gpus_per_node, capacity = gpus * (double)t->span_ms, hour = 3600e3;
    double *due = calloc(t->team_count + 1, sizeof *due);
    if (!due) return;
    double jain = fairness(t, r, capacity, due);
    fprintf(f, "cluster     %d nodes of %d GPUs, %d nodes a switch\n", c->nodes, c->gpus_per_node, c->nodes_per_switch);
    fprintf(f, "trace       %zu jobs of %zu teams over %.1f days\n", t->n, t->team_count, (double)t->span_ms / 86400e3);
    fprintf(f, "finished    %zu; never started %zu; double-booked places %zu\n", r->finished, t->n - r->finished,
            r->double_booked);
    fprintf(f, "utilisation %.2f %% of GPU time up to the last submission, %.2f %% without work done twice\n",
            r->busy_gpu_ms / capacity * 100, (r->busy_gpu_ms - r->lost_gpu_ms) / capacity * 100);
    fprintf(f, "preempted   %zu times (%zu to give quota back), %.1f GPU hours lost (%.3f %%)\n", r->preemptions,
            r->reclaims, r->lost_gpu_ms / hour, r->lost_gpu_ms / (r->busy_gpu_ms > 0 ? r->busy_gpu_ms : 1) * 100);
    fprintf(f, "fairness    %.4f (Jain's index of GPU time over what each team was due; 1 is best)\n", jain);
    report_passes(r, f);
    fprintf(f, "\nwaits in minutes by GPUs\n  %-10s %9s %10s %10s %10s %10s\n", "GPUs", "jobs", "median", "p90", "p99",
            "longest");
    for (int k = 0; k <= CLASSES; k++) {
        waits w = k < CLASSES ? collect(t, r, of_class, k) : collect(t, r, everybody, 0);
        if (w.n) wait_row(f, k < CLASSES ? CLASS_NAMES[k] : "all", &w);
        free(w.s);
    }
    fprintf(f, "\nby team\n  %-10s %9s %10s %10s %10s %10s %8s %11s %8s\n", "team", "jobs", "median", "p90", "p99",
            "longest", "weight", "GPU hours", "of due");
    for (size_t k = 0; k < t->team_count; k++) {
        waits w = collect(t, r, of_team, (int)k);
        fprintf(f, "  %-10zu %9zu %10.1f %10.1f %10.1f %10.1f %8.0f %11.0f %7.1f%%\n", k, w.n, quantile(&w, .5) / 60,
                quantile(&w, .9) / 60, quantile(&w, .99) / 60, quantile(&w, 1) / 60, t->teams[k].weight,
                r->team_gpu_ms[k] / hour, due[k] > 0 ? r->team_gpu_ms[k] / due[k] * 100 : NAN);
        free(w.s);
    }
    free(due);
}

/* ---- pictures ---- */

enum { WIDTH = 900, HEIGHT = 320, LEFT = 70, RIGHT = 20, TOP = 40, BOTTOM = 40 };

static const char *const COLOURS[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#7f7f7f"};

static FILE *open_svg(const char *folder, const char *name, const char *title) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "we");
    if (!f) {
        fprintf(stderr, "error: cannot write a picture (%s): %s; give a folder that is there\n", path, strerror(errno));
        return NULL;
    }
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"%d\" y=\"20\" "
            "font-size=\"14\">%s</text>\n",
            WIDTH, HEIGHT, LEFT, title);
    return f;
}

static double x_of(double share) {
    return LEFT + share * (WIDTH - LEFT - RIGHT);
}
static double y_of(double share) {
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
}

static void axis(FILE *f, double share, const char *label, bool vertical) {
    double x = x_of(share), y = y_of(share);
    if (vertical)
        fprintf(f,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">%s</text>\n",
                LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, label);
    else
        fprintf(f,
                "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%d\" "
                "text-anchor=\"middle\">%s</text>\n",
                x, x, TOP, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 16, label);
}

static int finish(FILE *f) {
    fputs("</svg>\n", f);
    bool bad = ferror(f) != 0;
    if (fclose(f) != 0 || bad) {
        fprintf(stderr, "error: cannot write a picture: %s; free some space\n", strerror(errno));
        return -1;
    }
    return 0;
}

static int plot_use(const mull_trace *t, const mull_sim_config *c, const mull_sim_result *r, const char *folder) {
    FILE *f = open_svg(folder, "utilisation.svg", "GPUs in use (blue) and asked for by waiting jobs (red), of all");
    double gpus = (double)c->nodes * c->gpus_per_node, most = 1;
    if (!f) return -1;
    for (size_t i = 0; i < r->nsamples; i++) most = fmax(most, (double)r->samples[i].pending_gpus / gpus);
    for (int k = 0; k <= 4; k++) {
        char label[32];
        snprintf(label, sizeof label, "%.0f %%", most * k / 4 * 100);
        axis(f, k / 4.0, label, true);
    }
    int days = (int)(t->span_ms / 86400000), step = days / 7 > 0 ? days / 7 : 1;
    for (int d = 0; d <= days; d += step) {
        char label[32];
        snprintf(label, sizeof label, "day %d", d);
        axis(f, days ? (double)d / days : 0, label, false);
    }
    for (int what = 1; what >= 0; what--) {
        fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" points=\"", COLOURS[what]);
        for (size_t i = 0; i < r->nsamples; i++) {
            const mull_sim_sample *s = &r->samples[i];
            fprintf(f, "%.1f,%.1f ", x_of((double)s->at_ms / (double)(t->span_ms ? t->span_ms : 1)),
                    y_of((double)(what ? s->pending_gpus : s->busy) / gpus / most));
        }
        fputs("\"/>\n", f);
    }
    return finish(f);
}

static int plot_waits(const mull_trace *t, const mull_sim_result *r, const char *folder) {
    FILE *f = open_svg(folder, "waits.svg", "share of jobs that waited at most so long, by GPUs");
    static const struct {
        double s;
        const char *label;
    } ticks[] = {{10, "10 s"}, {60, "1 min"}, {600, "10 min"}, {3600, "1 h"}, {36000, "10 h"}, {360000, "100 h"}};
    double low = log(1), high = log(360000);
    if (!f) return -1;
    for (int k = 0; k <= 4; k++) {
        char label[32];
        snprintf(label, sizeof label, "%d %%", k * 25);
        axis(f, k / 4.0, label, true);
    }
    for (size_t k = 0; k < sizeof ticks / sizeof *ticks; k++)
        axis(f, (log(ticks[k].s) - low) / (high - low), ticks[k].label, false);
    for (int k = 0; k < CLASSES; k++) {
        waits w = collect(t, r, of_class, k);
        if (w.n) {
            fprintf(f, "<text x=\"%d\" y=\"%d\" fill=\"%s\">%s</text>\n<polyline fill=\"none\" stroke=\"%s\" points=\"",
                    WIDTH - RIGHT - 60, HEIGHT - BOTTOM - 20 - 14 * (CLASSES - k), COLOURS[k], CLASS_NAMES[k],
                    COLOURS[k]);
            for (int q = 0; q <= 200; q++) {
                double s = fmax(quantile(&w, q / 200.0), 1);
                fprintf(f, "%.1f,%.1f ", x_of(fmin((log(s) - low) / (high - low), 1)), y_of(q / 200.0));
            }
            fputs("\"/>\n", f);
        }
        free(w.s);
    }
    return finish(f);
}

int mull_sim_plot(const mull_trace *t, const mull_sim_config *c, const mull_sim_result *r, const char *folder) {
    return plot_use(t, c, r, folder) || plot_waits(t, r, folder) ? -1 : 0;
}
