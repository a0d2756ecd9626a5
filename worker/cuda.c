/* The CUDA driver, asked in a child process: a driver that hangs or crashes cannot take the worker with it, and the
 * worker holds no device open afterwards. */
#include "worker/devices.h"

#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ANSWER_MS = 30000 };

typedef struct answer {
    int count;
    char why[256];
} answer;

typedef struct driver {
    int (*init)(unsigned), (*count)(int *), (*get)(int *, int), (*name)(char *, int, int), (*memory)(size_t *, int);
    int (*uuid)(unsigned char[16], int);
} driver;

static bool load(driver *d, char *why, size_t cap) {
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (!lib) {
        snprintf(why, cap, "the NVIDIA driver's libcuda.so.1 is not installed");
        return false;
    }
    /* POSIX lets a void pointer of dlsym be a function; C needs the detour. */
    struct {
        void *to;
        const char *name;
    } symbols[] = {{&d->init, "cuInit"},          {&d->count, "cuDeviceGetCount"},     {&d->get, "cuDeviceGet"},
                   {&d->name, "cuDeviceGetName"}, {&d->memory, "cuDeviceTotalMem_v2"}, {&d->uuid, "cuDeviceGetUuid"}};
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *f = dlsym(lib, symbols[i].name);
        if (!f) {
            snprintf(why, cap, "the NVIDIA driver is too old: it has no %s", symbols[i].name);
            return false;
        }
        memcpy(symbols[i].to, &f, sizeof f);
    }
    return true;
}

static void uuid_text(const unsigned char u[16], char out[48]) {
    snprintf(out, 48, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2],
             u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

static int ask_driver(mull_node_device *out, int cap, char *why, size_t why_cap) {
    driver d;
    int n = 0, found = 0;
    if (!load(&d, why, why_cap)) return 0;
    int rc = d.init(0);
    if (rc == 0) rc = d.count(&n);
    if (rc != 0 || n == 0) snprintf(why, why_cap, rc ? "the driver answers error %d" : "the driver sees none", rc);
    for (int i = 0; rc == 0 && i < n && found < cap; i++) {
        mull_node_device *v = &out[found];
        unsigned char uuid[16];
        size_t memory;
        int dev;
        *v = (mull_node_device){.cuda = true, .index = i};
        if (d.get(&dev, i) || d.name(v->name, (int)sizeof v->name, dev) || d.memory(&memory, dev) || d.uuid(uuid, dev))
            continue;
        v->memory = (int64_t)memory;
        uuid_text(uuid, v->uuid);
        found++;
    }
    return found;
}

static bool read_all(int fd, void *out, size_t n) {
    for (size_t got = 0; got < n;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, ANSWER_MS) <= 0) return false;
        ssize_t k = read(fd, (char *)out + got, n - got);
        if (k <= 0) return false;
        got += (size_t)k;
    }
    return true;
}

int mull__cuda_list(mull_node_device *out, int cap, char *why, size_t why_cap) {
    int fd[2];
    answer a = {0};
    snprintf(why, why_cap, "the driver did not answer");
    if (pipe(fd) != 0) return 0;
    pid_t pid = fork();
    if (pid == 0) {
        a.count = ask_driver(out, cap, a.why, sizeof a.why);
        bool ok = write(fd[1], &a, sizeof a) == sizeof a &&
                  (a.count == 0 || write(fd[1], out, (size_t)a.count * sizeof *out) >= 0);
        _exit(!ok);
    }
    close(fd[1]);
    bool ok = pid > 0 && read_all(fd[0], &a, sizeof a) && a.count >= 0 && a.count <= cap &&
              read_all(fd[0], out, (size_t)a.count * sizeof *out);
    close(fd[0]);
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    if (!ok) return 0;
    snprintf(why, why_cap, "%s", a.why);
    return a.count;
}
