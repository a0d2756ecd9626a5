/* What an elastic provider's list says, line by line, and what is then decided from it: a program of the user's wrote
 * it from what another system said. */
#include "cli/elastic.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void name_ok(const char *name, size_t cap) {
    static const char most[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strnlen(name, cap);
    if (n == 0 || n == cap || strspn(name, most) != n) abort(); /* they become words of a command */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mull_pilot pilots[MULL_PILOTS_MAX];
    static mull_elastic_step steps[MULL_PILOTS_MAX];
    mull_elastic_rules rules = {"pilot", 0, 4, 1, 60, 600, 300};
    int n = 0;
    if (size < 4) return 0;
    rules.max = 1 + data[0] % MULL_PILOTS_MAX;
    rules.min = data[1] % (rules.max + 1);
    long long demand = data[2];
    unsigned seen = data[3];
    for (const uint8_t *at = data + 4, *end = data + size; at < end && n < MULL_PILOTS_MAX;) {
        const uint8_t *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        char *line = strndup((const char *)at, (size_t)(stop - at));
        mull_pilot p;
        if (!line) return 0;
        memset(&p, 0xee, sizeof p);
        if (mull_pilot_parse(line, &p) == 0) {
            name_ok(p.name, sizeof p.name);
            name_ok(p.id, sizeof p.id);
            if (!isfinite(p.ends) || p.ends < 0) abort();
            p.up = seen & 1;
            p.drained = seen & 2;
            p.running = (int)(seen >> 2 & 1);
            p.retiring = seen & 8;
            p.since = seen & 16 ? 1 : 0;
            seen = seen * 5 + 1;
            pilots[n++] = p;
        }
        free(line);
        at = stop + 1;
    }
    int count = mull_elastic_plan(&rules, pilots, n, demand, 1000, steps);
    if (count < 0 || count > MULL_PILOTS_MAX) abort();
    int starts = 0;
    for (int i = 0; i < count; i++) {
        name_ok(steps[i].name, sizeof steps[i].name);
        starts += steps[i].op == MULL_ELASTIC_START;
        if (steps[i].op != MULL_ELASTIC_START && steps[i].op != MULL_ELASTIC_STOP) continue;
        if (steps[i].op == MULL_ELASTIC_STOP) name_ok(steps[i].id, sizeof steps[i].id);
        for (int k = 0; k < n && steps[i].op == MULL_ELASTIC_START; k++)
            if (!strcmp(pilots[k].name, steps[i].name)) abort(); /* two workers would have one name */
    }
    if (starts > rules.max || (starts > 0 && starts + n > rules.max)) abort();
    return 0;
}
