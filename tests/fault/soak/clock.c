/* Loaded into the schedulers and workers of a soak: the wall clock is off by as many seconds as the file that
 * MULL_SOAK_CLOCK names holds (a 64-bit number, mapped, so that a jump is seen at once). The monotonic clock is left.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    static volatile const int64_t *offset;
    static int looked;
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (!looked) {
        const char *path = getenv("MULL_SOAK_CLOCK");
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *at = fd >= 0 ? mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
        if (fd >= 0) close(fd);
        if (at != MAP_FAILED) offset = at;
        looked = 1;
    }
    int rc = real(id, t);
    if (rc == 0 && id == CLOCK_REALTIME && offset) t->tv_sec += (time_t)*offset;
    return rc;
}
