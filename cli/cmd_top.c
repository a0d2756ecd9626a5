/* mull top: the cluster on one screen, drawn again every few seconds and at each key: jobs by state, each node's
 * devices in use, and the jobs themselves. Where it is no terminal it prints once and ends, for scripts and watch(1).
 */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/screen.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINES_MAX = 600, JOBS_MAX = 400 };

typedef struct opts {
    bool json, once;
    long every;
    const char *team;
} opts;

static const mull_opt top_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "once, as one JSON object: queue, nodes, jobs"},
    {"--once", '1', MULL_OPT_FLAG, offsetof(opts, once), NULL, NULL, "print once and end, also on a terminal"},
    {"--delay", 'd', MULL_OPT_INT, offsetof(opts, every), NULL, "SECONDS", "between two looks (default 2)"},
    {"--team", 0, MULL_OPT_TEXT, offsetof(opts, team), NULL, "TEAM", "only jobs of this team"},
    {0}};

/* What is looked at: keys change it. */
typedef struct view {
    char filter; /* 'a'll that has not ended, 'r'unning, 'p'ending, 'e'nded */
    int first;   /* job line at the top of the list */
} view;

/* What one look saw; members may be NULL. */
typedef struct seen {
    json_t *queue, *nodes, *jobs;
    char trouble[600];
} seen;

static void seen_fini(seen *s) {
    json_decref(s->queue);
    json_decref(s->nodes);
    json_decref(s->jobs);
    *s = (seen){0};
}

/* One answer, or what is wrong in s->trouble. */
static json_t *ask(mull_client *c, const char *path, seen *s) {
    mull_reply r = {0};
    mull_err err;
    if (mull_client_call(c, "GET", path, NULL, &r, &err)) {
        snprintf(s->trouble, sizeof s->trouble, "%.100s: %.480s", err.what, err.why);
        return NULL;
    }
    if (r.status == 200 && r.json) return r.json;
    const char *message = mull_text(json_object_get(r.json, "error"), "message");
    snprintf(s->trouble, sizeof s->trouble, "the queue answers %d: %.400s", r.status, message);
    json_decref(r.json);
    return NULL;
}

static void look(mull_client *c, const opts *o, char filter, seen *s) {
    static const char *const running[] = {"RUNNING", NULL}, *const pending[] = {"PENDING", NULL},
                             *const both[] = {"RUNNING", "PENDING", NULL}, *const any[] = {"", NULL};
    const char *const *states = filter == 'r' ? running : filter == 'p' ? pending : filter == 'e' ? any : both;
    char team[400] = "", path[700];
    *s = (seen){.jobs = json_array()};
    s->queue = ask(c, "/v1/queue", s);
    if (!s->queue) return;
    s->nodes = ask(c, "/v1/nodes", s);
    if (o->team) mull_query_encode(o->team, team, sizeof team);
    for (; *states; states++) {
        snprintf(path, sizeof path, "/v1/jobs?limit=%d%s%s%s%s", JOBS_MAX, **states ? "&state=" : "", *states,
                 *team ? "&team=" : "", team);
        json_t *r = ask(c, path, s);
        json_array_extend(s->jobs, json_object_get(r, "jobs"));
        json_decref(r);
    }
}

static long long number(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}

/* "3 running, 12 pending, 1 failed": lower case, states that have any. */
static void write_counts(FILE *f, const json_t *states) {
    const char *key;
    json_t *v;
    bool any = false;
    json_object_foreach((json_t *)(uintptr_t)states, key, v) {
        if (!json_integer_value(v)) continue;
        fprintf(f, "%s%lld ", any ? ", " : "", (long long)json_integer_value(v));
        for (const char *p = key; *p; p++) fputc(*p == '_' ? ' ' : tolower((unsigned char)*p), f);
        any = true;
    }
    if (!any) fputs("no jobs", f);
}

/* [####----] 4/8 */
static void write_bar(FILE *f, long long used, long long total, int width, bool color) {
    int full = total > 0 ? (int)(used * width / total) : 0;
    if (full > width) full = width;
    fputc('[', f);
    if (color) fputs("\033[34m", f);
    for (int i = 0; i < width; i++) {
        if (i == full && color) fputs("\033[0m", f);
        fputc(i < full ? '#' : '-', f);
    }
    fprintf(f, "%s] %lld/%lld", color ? "\033[0m" : "", used, total);
}

static void write_nodes(FILE *f, const json_t *nodes, int width, int most, bool color) {
    size_t i, k;
    const json_t *n, *a;
    int shown = 0;
    json_array_foreach(nodes, i, n) {
        if (shown == most) {
            fprintf(f, "  and %zu nodes more\n", json_array_size(nodes) - i);
            break;
        }
        long long total = (long long)json_array_size(json_object_get(n, "devices")), used = 0;
        json_array_foreach(json_object_get(n, "running"), k, a) {
            size_t d = json_array_size(json_object_get(a, "devices"));
            used += d ? (long long)d : 1;
        }
        char name[64], state[40];
        mull_text_clean(mull_text(n, "name"), 20, name, sizeof name);
        snprintf(state, sizeof state, "%.30s", mull_text(n, "state"));
        fprintf(f, "  %-20s %s%-8s%s ", name, mull_state_color(state, color), state, mull_color_reset(color));
        write_bar(f, used, total, width > 100 ? 40 : width > 60 ? 20 : 8, color);
        if (*mull_text(n, "quarantine") && width > 80) fputs("  quarantined", f);
        fputc('\n', f);
        shown++;
    }
}

/* Text in, its lines out (pointers into it), NUL-ended. */
static int split(char *text, char **lines) {
    int n = 0;
    while (*text && n < LINES_MAX) {
        lines[n++] = text;
        char *end = strchr(text, '\n');
        if (!end) break;
        *end = 0;
        text = end + 1;
    }
    return n;
}

/* The whole picture as text. width 0: nothing is cut. */
static void compose(FILE *f, const seen *s, const view *v, int width, int node_lines, bool color) {
    const json_t *slots = json_object_get(s->queue, "slots"), *leader = json_object_get(s->queue, "leader");
    char when[40];
    time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof when, "%H:%M:%S", localtime_r(&now, &tm));
    fprintf(f, "mull top  %s  ", when);
    write_counts(f, json_object_get(s->queue, "states"));
    fputs("\nslots ", f);
    write_bar(f, number(slots, "busy"), number(slots, "total"), width > 60 || !width ? 20 : 8, color);
    fprintf(f, "  leader %.40s, term %lld%s\n", mull_text(leader, "holder"), number(leader, "term"),
            json_is_true(json_object_get(leader, "alive")) ? "" : " (not renewed)");
    write_nodes(f, json_object_get(s->nodes, "nodes"), width ? width : 80, node_lines, color);
    fputc('\n', f);
    if (json_array_size(s->jobs))
        mull_jobs_write(s->jobs, width > 120 || !width, f, width, color);
    else
        fprintf(f, "%s\n",
                v->filter == 'r'   ? "nothing runs"
                : v->filter == 'p' ? "nothing waits"
                                   : "no jobs to show; e shows those that have ended");
}

static int print_once(mull_client *c, const opts *o) {
    seen s;
    view v = {.filter = 'a'};
    look(c, o, v.filter, &s);
    int rc = *s.trouble ? mull_complain("cannot look", "mull top", "mull doctor says more", "%s", s.trouble) : 0;
    if (!rc && o->json)
        mull_emit(
            json_pack("{s:O, s:O, s:O}", "queue", s.queue, "nodes", json_object_get(s.nodes, "nodes"), "jobs", s.jobs));
    else if (!rc)
        compose(stdout, &s, &v, mull_term_width(stdout), 1000, mull_term_color(stdout));
    seen_fini(&s);
    return rc;
}

/* Cuts the picture to the screen: head and table's title stay, the jobs scroll, the last line says which keys there
 * are.
 */
static void draw(const seen *s, view *v) {
    static char foot[] = "q quit  a all  r running  p pending  e every state  arrows scroll  space look again";
    int rows, columns, head = 0;
    char *text = NULL, *lines[LINES_MAX + 1], *shown[LINES_MAX + 1];
    size_t len = 0;
    mull_screen_size(&rows, &columns);
    if (rows > LINES_MAX) rows = LINES_MAX;
    FILE *f = open_memstream(&text, &len);
    if (!f) return;
    bool color = mull_term_color(stdout);
    if (*s->trouble) {
        char clean[600];
        mull_text_clean(s->trouble, columns, clean, sizeof clean);
        fprintf(f, "mull top\n\n%s\n", clean);
    } else {
        compose(f, s, v, columns, rows > 40 ? 12 : rows > 20 ? 4 : 1, color);
    }
    fclose(f);
    int n = split(text, lines), out = 0;
    while (head < n && *lines[head]) head++; /* up to the empty line before the table */
    head += head < n;                        /* the line itself */
    head += head < n;                        /* and the table's title */
    int room = rows - 1 - head, most = n - head > room ? n - head - room : 0;
    if (v->first > most) v->first = most;
    if (v->first < 0) v->first = 0;
    for (int i = 0; i < n && out < rows - 1; i++)
        if (i < head || i >= head + v->first) shown[out++] = lines[i];
    static char blank[] = "";
    while (out < rows - 1) shown[out++] = blank;
    char keys[sizeof foot + 8];
    mull_text_clean(foot, columns - 1, keys, sizeof keys);
    shown[out++] = keys;
    mull_screen_draw(shown, out);
    free(text);
}

/* False when it is time to end. */
static bool obey(view *v, int key, int page) {
    switch (key) {
    case 'q':
    case 'Q':
    case -1:
        return false;
    case 'a':
    case 'r':
    case 'p':
    case 'e':
        v->filter = (char)key;
        v->first = 0;
        break;
    case 'j':
    case MULL_KEY_DOWN:
        v->first++;
        break;
    case 'k':
    case MULL_KEY_UP:
        v->first--;
        break;
    case MULL_KEY_PAGE_DOWN:
        v->first += page;
        break;
    case MULL_KEY_PAGE_UP:
        v->first -= page;
        break;
    case 'g':
        v->first = 0;
        break;
    }
    return true;
}

static int live(mull_client *c, const opts *o) {
    view v = {.filter = 'a'};
    seen s = {0};
    double next = 0;
    int rows, columns, key;
    if (mull_screen_open()) return print_once(c, o);
    do {
        if (mull_now() >= next) {
            seen_fini(&s);
            look(c, o, v.filter, &s);
            next = mull_now() + (double)o->every;
        }
        draw(&s, &v);
        mull_screen_size(&rows, &columns);
        double left = next - mull_now();
        char filter = v.filter;
        key = mull_screen_key(left > 0.01 ? left : 0.01);
        if (!obey(&v, key, rows / 2)) break;
        if (key == ' ' || filter != v.filter) next = 0;
    } while (true);
    mull_screen_close();
    seen_fini(&s);
    return MULL_EXIT_OK;
}

static int run_top(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {.every = 2};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "unexpected word '%s'", argv[1]);
    if (o.every < 1 || o.every > 3600) return mull_usage(cmd->name, "--delay takes a number of seconds from 1 to 3600");
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    bool screen = !o.json && !o.once && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    int rc = screen ? live(c, &o) : print_once(c, &o);
    mull_client_close(c);
    return rc;
}

const mull_cmd mull_cmd_top = {"top",
                               "[flags]",
                               "the cluster on one screen: jobs by state, nodes in use, what runs and waits",
                               "keys: q quit; a all that has not ended, r running, p pending, e every state; arrows, "
                               "page keys, j, k and g scroll;\n"
                               "space looks again\nexamples:\n  mull top\n  mull top --once\n",
                               top_opts,
                               run_top};
