/* See seccomp.h. Forbidden calls fail with EPERM, so that a program that can do without goes on; clone3, whose flags
 * lie in memory where a filter cannot see them, is said not to exist, and callers take clone. */
#include "worker/seccomp.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static const int DENIED[] = {
#if !defined(__SANITIZE_ADDRESS__) /* its search for leaks stops the other threads by ptrace */
    SCMP_SYS(ptrace),
#endif
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(kcmp),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(move_mount),
    SCMP_SYS(open_tree),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount),
    SCMP_SYS(fspick),
    SCMP_SYS(mount_setattr),
    SCMP_SYS(setns),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(quotactl),
    SCMP_SYS(acct),
    SCMP_SYS(reboot),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(keyctl),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(adjtimex),
    SCMP_SYS(clock_adjtime),
    SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(syslog),
    SCMP_SYS(vhangup),
    SCMP_SYS(personality),
    SCMP_SYS(fanotify_init)};

/* Namespaces: a new user namespace makes anybody root over much of the kernel. A reward command's process may leave the
 * network that way, and nothing else (unshare with NEWUSER and NEWNET). */
static const int NAMESPACES[] = {CLONE_NEWNS,     CLONE_NEWPID,  CLONE_NEWIPC,  CLONE_NEWUTS,
                                 CLONE_NEWCGROUP, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWNET};
enum { NOT_BY_UNSHARE = 6 }; /* the first of NAMESPACES */

static int deny_namespaces(scmp_filter_ctx ctx) {
    int rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    for (size_t i = 0; i < sizeof NAMESPACES / sizeof *NAMESPACES && rc == 0; i++) {
        scmp_datum_t bit = (scmp_datum_t)NAMESPACES[i];
        rc = NAMESPACES[i] == CLONE_NEWTIME /* for clone this bit is part of the exit signal */
                 ? 0
                 : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                    SCMP_A0(SCMP_CMP_MASKED_EQ, bit, bit));
        if (rc == 0 && i < NOT_BY_UNSHARE)
            rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, bit, bit));
    }
    return rc;
}

/* Families other than unix, and with network those of the Internet and what names their interfaces. */
static int deny_sockets(scmp_filter_ctx ctx, bool network) {
    int rc = 0;
    for (int family = 0; family < AF_MAX && rc == 0; family++) {
        if (family == AF_UNIX || (network && (family == AF_INET || family == AF_INET6 || family == AF_NETLINK)))
            continue;
        rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socket), 1,
                              SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)family));
    }
    return rc ? rc
              : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socket), 1,
                                 SCMP_A0(SCMP_CMP_GE, (scmp_datum_t)AF_MAX));
}

static int fill(scmp_filter_ctx ctx, bool network) {
    int rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0); /* it is set already */
    for (size_t i = 0; i < sizeof DENIED / sizeof *DENIED && rc == 0; i++)
        rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), DENIED[i], 0);
    /* Writing into the terminal that somebody else reads. */
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                              SCMP_A1(SCMP_CMP_MASKED_EQ, 0xFFFFFFFF, TIOCSTI));
    if (rc == 0) rc = deny_namespaces(ctx);
    return rc ? rc : deny_sockets(ctx, network);
}

int mull_seccomp_enter(bool network) {
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
    if (!ctx) return ENOMEM;
    int rc = fill(ctx, network);
    if (rc == 0) rc = seccomp_load(ctx);
    seccomp_release(ctx);
    return -rc;
}

bool mull_seccomp_possible(void) {
    return seccomp_api_get() >= 1;
}
