/* See devices.h. A CPU slot is a share of the CPUs that this process may use: its threads are told to the engine, not
 * pinned, so that the kernel stays free to place them. cpu:1 gives one job at a time the whole machine. */
#include "worker/devices.h"

#include "schema/log.h"

#include <ctype.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char WHAT[] = "cannot use the devices",
                  TODO[] = "give cpu:N, cuda:all or cuda:0,1, joined by + if several";

/* Digits only, up to most; -1 otherwise. */
static int number(const char *s, size_t n, int most) {
    int v = 0;
    if (n == 0 || n > 6) return -1;
    for (size_t i = 0; i < n; i++) {
        if (!isdigit((unsigned char)s[i])) return -1;
        v = v * 10 + (s[i] - '0');
    }
    return v <= most ? v : -1;
}

static int compare_ints(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

static const char *parse_cuda(const char *s, size_t n, mull_device_ask *ask) {
    if (n == 3 && !memcmp(s, "all", 3)) {
        ask->cuda_all = true;
        return NULL;
    }
    for (size_t at = 0; at <= n;) {
        const char *comma = memchr(s + at, ',', n - at);
        size_t len = comma ? (size_t)(comma - s) - at : n - at;
        int v = number(s + at, len, 1023);
        if (v < 0) return "cuda: takes all or device numbers";
        for (int i = 0; i < ask->cuda_count; i++)
            if (ask->cuda[i] == v) return "a CUDA device is named twice";
        if (ask->cuda_count == MULL_DEVICES_MAX) return "too many devices";
        ask->cuda[ask->cuda_count++] = v;
        at += len + 1;
    }
    qsort(ask->cuda, (size_t)ask->cuda_count, sizeof(int), compare_ints);
    return NULL;
}

int mull_devices_parse(const char *text, mull_device_ask *ask, mull_err *err) {
    *ask = (mull_device_ask){0};
    const char *why = NULL;
    for (const char *s = text; s && !why;) {
        const char *plus = strchr(s, '+');
        size_t n = plus ? (size_t)(plus - s) : strlen(s);
        if (n > 4 && !memcmp(s, "cpu:", 4)) {
            int v = number(s + 4, n - 4, MULL_DEVICES_MAX);
            if (ask->cpu || v < 1) why = "cpu: takes one number of slots, 1 to 256, once";
            ask->cpu = v;
        } else if (n > 5 && !memcmp(s, "cuda:", 5) && !ask->cuda_all && !ask->cuda_count) {
            why = parse_cuda(s + 5, n - 5, ask);
        } else {
            why = "it is neither cpu:N nor cuda:LIST, or given twice";
        }
        s = plus ? plus + 1 : NULL;
    }
    return why ? mull_fail(err, MULL_ERR_ARG, WHAT, text, TODO, "%s", why) : 0;
}

static int usable_cpus(void) {
    enum { MOST = 8192 };
    cpu_set_t *set = CPU_ALLOC(MOST);
    size_t size = CPU_ALLOC_SIZE(MOST);
    int n = 1;
    if (set && sched_getaffinity(0, size, set) == 0) n = CPU_COUNT_S(size, set);
    CPU_FREE(set);
    return n < 1 ? 1 : n;
}

static void add_cpu(mull_devices *out, int slots, int cpus) {
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / slots;
    for (int i = 0; i < slots && out->count < MULL_DEVICES_MAX; i++) {
        int threads = (i + 1) * cpus / slots - i * cpus / slots;
        out->at[out->count++] =
            (mull_node_device){.index = i, .memory = memory, .threads = threads < 1 ? 1 : threads, .name = "CPU slot"};
    }
}

static bool asked(const mull_device_ask *ask, int index) {
    if (ask->cuda_all) return true;
    for (int i = 0; i < ask->cuda_count; i++)
        if (ask->cuda[i] == index) return true;
    return false;
}

static int add_cuda(const mull_device_ask *ask, mull_devices *out, int cpus, mull_err *err) {
    static mull_node_device all[MULL_DEVICES_MAX];
    char why[256] = "";
    int n = mull__cuda_list(all, MULL_DEVICES_MAX, why, sizeof why), used = 0;
    for (int i = 0; i < ask->cuda_count; i++)
        if (ask->cuda[i] >= n) {
            if (n == 0)
                return mull_fail(err, MULL_ERR_MISSING, WHAT, "cuda", "give cpu:N", "there are no CUDA devices: %s",
                                 why);
            return mull_fail(err, MULL_ERR_MISSING, WHAT, "cuda", "choose another",
                             "there is no device %d; there are %d", ask->cuda[i], n);
        }
    for (int i = 0; i < n; i++) used += asked(ask, all[i].index);
    for (int i = 0; i < n && out->count < MULL_DEVICES_MAX; i++) {
        if (!asked(ask, all[i].index)) continue;
        all[i].threads = cpus / used < 1 ? 1 : cpus / used;
        out->at[out->count++] = all[i];
    }
    if (used == 0) mull_log(MULL_LOG_WARN, "no CUDA devices: %s", why);
    return 0;
}

int mull_devices_find(const mull_device_ask *ask, mull_devices *out, mull_err *err) {
    int cpus = usable_cpus();
    out->count = 0;
    if (ask->cpu) add_cpu(out, ask->cpu, cpus);
    return ask->cuda_all || ask->cuda_count ? add_cuda(ask, out, cpus, err) : 0;
}

const mull_node_device *mull_devices_get(const mull_devices *d, bool cuda, int index) {
    for (int i = 0; i < d->count; i++)
        if (d->at[i].cuda == cuda && d->at[i].index == index) return &d->at[i];
    return NULL;
}

json_t *mull_devices_json(const mull_devices *d) {
    json_t *list = json_array();
    for (int i = 0; i < d->count; i++) {
        const mull_node_device *v = &d->at[i];
        json_t *o = json_pack("{s:s, s:i, s:s, s:I, s:i}", "kind", v->cuda ? "cuda" : "cpu", "index", v->index, "name",
                              v->name, "memory_bytes", (json_int_t)v->memory, "threads", v->threads);
        if (v->uuid[0]) json_object_set_new(o, "uuid", json_string(v->uuid));
        json_array_append_new(list, o);
    }
    return list;
}
