/* See elastic.h. The rules:
 * - one pilot for every `devices` that waiting jobs want beyond pilots that are on their way;
 * - a pilot without a job for idle_s, when nothing waits, is drained first and stopped once it is seen drained and
 * empty, so that no job lands on it between the two;
 * - a pilot whose end is near is drained, so that what runs is saved there and nothing new begins; its allocation ends
 * it (its worker is told before by the system's own warning signal). */
#include "cli/elastic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int put(mull_elastic_step *steps, int n, mull_elastic_op op, const mull_pilot *p, const char *why) {
    mull_elastic_step *s = &steps[n];
    s->op = op;
    s->why = why;
    memcpy(s->name, p->name, sizeof s->name);
    memcpy(s->id, p->id, sizeof s->id);
    return n + 1;
}

static bool taken(const mull_pilot *pilots, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(pilots[i].name, name)) return true;
    return false;
}

int mull_elastic_plan(const mull_elastic_rules *r, const mull_pilot *pilots, int n, long long demand, double now,
                      mull_elastic_step *steps) {
    int count = 0, coming = 0, staying = 0;
    for (int i = 0; i < n; i++) {
        const mull_pilot *p = &pilots[i];
        bool ending = p->ends > 0 && p->ends - now < r->lead_s;
        if (!ending && !p->retiring) staying++;
        if (!p->up && !ending) coming++;
    }
    for (int i = 0; i < n; i++) {
        const mull_pilot *p = &pilots[i];
        bool ending = p->ends > 0 && p->ends - now < r->lead_s;
        bool waited = p->since > 0 && now - p->since >= r->idle_s;
        if (!p->up) {
            if (p->started && p->since > 0 && now - p->since >= r->boot_s)
                count = put(steps, count, MULL_ELASTIC_STOP, p, "its worker never came");
            else if (!p->started && demand == 0 && staying > r->min) {
                count = put(steps, count, MULL_ELASTIC_STOP, p, "nothing waits for it any more");
                staying--;
                coming--;
            }
        } else if (ending && !p->drained) {
            count = put(steps, count, MULL_ELASTIC_DRAIN, p, "its allocation ends soon");
        } else if (p->retiring && p->drained && !ending && demand > 0) {
            count = put(steps, count, MULL_ELASTIC_RESUME, p, "jobs wait again");
            demand -= demand < r->devices ? demand : r->devices;
            staying++;
        } else if (p->drained && p->running == 0 && (p->retiring || ending)) {
            count = put(steps, count, MULL_ELASTIC_STOP, p, ending ? "its allocation ends soon" : "nothing to do");
        } else if (!p->drained && p->running == 0 && waited && demand == 0 && staying > r->min) {
            count = put(steps, count, MULL_ELASTIC_DRAIN, p, "nothing to do");
            staying--;
        }
    }
    long long wanted = demand > 0 ? (demand + r->devices - 1) / r->devices - coming : 0;
    if (wanted < r->min - staying) wanted = r->min - staying;
    for (int k = 0, total = n; k < r->max && wanted > 0 && total < r->max && count < MULL_PILOTS_MAX; k++) {
        mull_pilot fresh = {0};
        snprintf(fresh.name, sizeof fresh.name, "%.40s-%d", r->prefix, k);
        if (taken(pilots, n, fresh.name)) continue;
        count = put(steps, count, MULL_ELASTIC_START, &fresh, "jobs wait");
        wanted--;
        total++;
    }
    return count;
}

static bool word_ok(const char *s) {
    size_t n = strlen(s);
    return n && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n && s[0] != '-';
}

int mull_pilot_parse(const char *line, mull_pilot *out) {
    char state[16], end[32], rest[2];
    *out = (mull_pilot){0};
    if (sscanf(line, "%63s %63s %15s %31s %1s", out->name, out->id, state, end, rest) != 4) return -1;
    if (!word_ok(out->name) || !word_ok(out->id)) return -1;
    out->started = !strcmp(state, "running");
    if (!out->started && strcmp(state, "pending") != 0) return -1;
    if (!strcmp(end, "-")) return 0;
    char *stop;
    out->ends = strtod(end, &stop);
    return *stop || !(out->ends > 0 && out->ends < 1e12) ? -1 : 0;
}

bool mull_pilot_named(const char *name, const char *prefix) {
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0 || name[n] != '-') return false;
    const char *digits = name + n + 1;
    return *digits && digits[strspn(digits, "0123456789")] == 0;
}

void mull_pilot_remember(mull_pilot *p, const mull_pilot *before, double now) {
    p->retiring = before ? before->retiring : p->drained;
    bool same = before && before->up == p->up && before->started == p->started;
    if (p->started && p->running == 0) p->since = same && before->since > 0 ? before->since : now;
}
