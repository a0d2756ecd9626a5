/* The kernel's calls that an engine has no business with, forbidden for it and all it starts (seccomp): another
 * process's memory, mounts, namespaces, modules, the clock, and the parts of the kernel in which holes are found (bpf,
 * io_uring, userfaultfd, keyrings, perf). A deny list: an allow list would have to know what CUDA, NCCL and the
 * programs of reward commands call, and would break with each of their versions. */
#ifndef MULL_WORKER_SECCOMP_H
#define MULL_WORKER_SECCOMP_H

#include <stdbool.h>

/* Without network only unix sockets can be made. Needs no_new_privs. 0 or errno. */
int mull_seccomp_enter(bool network);
/* Whether this kernel can do it. */
bool mull_seccomp_possible(void);

#endif
