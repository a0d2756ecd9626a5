/* The private PostgreSQL of a state folder; see local.h.
 *
 * PostgreSQL refuses to run as root, so root's runs as another user, who may not be able to reach the state folder
 * (below /root, say). Its data and socket folders are therefore opened before the change of user and given to it as
 * descriptors: /proc/self/fd/N leads into an open folder without passing its parents. The same is done for everyone,
 * so that there is one way and it is the tested one.
 *
 * Who may connect is decided by the file system: the socket's folder is open to PostgreSQL's user alone (and to root),
 * the same who owns the data files, so a password would protect nothing. Nothing listens on a network. */
#include "cli/local.h"

#include <errno.h>
#include <dirent.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DATA_FD "/proc/self/fd/8"
#define SOCKET_FD "/proc/self/fd/9"
_Static_assert(MULL_SPAWN_FD == 8, "DATA_FD names it");

enum { SPACE_FOR_NEW_MIB = 200 };
static const char CANNOT_CREATE[] = "cannot create the database";

void mull_postgres_conninfo(const mull_local *l, const char *role, char *out, size_t cap) {
    size_t n = (size_t)snprintf(out, cap, "dbname=mull port=5432 user=%s host='", role);
    for (const char *p = l->dir.pg_socket; *p && n + 4 < cap; p++) {
        if (*p == '\'' || *p == '\\') out[n++] = '\\';
        out[n++] = *p;
    }
    snprintf(out + n, cap - n, "'");
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static mull_spawn spawn_of(const mull_local *l, const char *const *argv, const char *data) {
    return (mull_spawn){.argv = argv,
                        .log = mull_local_log(l, "postgres"),
                        .drop = l->pg_drop,
                        .uid = l->pg_uid,
                        .gid = l->pg_gid,
                        .folders = {data, l->dir.pg_socket}};
}

static int give(const mull_local *l, const char *folder, mull_err *err) {
    if (l->pg_drop && chown(folder, l->pg_uid, l->pg_gid) != 0)
        return mull_fail_errno(err, errno, "cannot start PostgreSQL", folder, "check the folder and the disk");
    return 0;
}

/* Built beside and renamed when whole: a database folder that is there is complete. */
int mull_postgres_init(const mull_local *l, mull_err *err) {
    if (mull_local_pg_version(l)) return 0;
    char fresh[4096], initdb[2200], postgres[2200];
    struct statvfs vfs;
    snprintf(fresh, sizeof fresh, "%s", mull_local_path(l, "postgres.new", ""));
    snprintf(initdb, sizeof initdb, "%s/initdb", l->pg_bin);
    snprintf(postgres, sizeof postgres, "%s/postgres", l->pg_bin);
    if (statvfs(l->dir.root, &vfs) == 0 && vfs.f_bavail * vfs.f_frsize / (1 << 20) < SPACE_FOR_NEW_MIB)
        return mull_fail(err, MULL_ERR_NOSPACE, CANNOT_CREATE, l->dir.root,
                         "free some space or choose another folder with --state", "the disk is full (%llu MiB left)",
                         (unsigned long long)(vfs.f_bavail * vfs.f_frsize / (1 << 20)));
    nftw(fresh, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (mkdir(fresh, 0700) != 0)
        return mull_fail_errno(err, errno, CANNOT_CREATE, fresh, "check the folder and the disk");
    int rc = give(l, fresh, err);
    const char *init_argv[] = {initdb, "-D",   DATA_FD,    "-U",      "mull_admin",        "-A", "trust",
                               "-E",   "UTF8", "--locale", "C.UTF-8", "--no-instructions", NULL};
    mull_spawn s = spawn_of(l, init_argv, fresh);
    if (!rc) rc = mull_spawn_run(&s, CANNOT_CREATE, err);
    const char *create_argv[] = {postgres, "--single", "-D", DATA_FD, "postgres", NULL};
    s = spawn_of(l, create_argv, fresh);
    s.input = "CREATE DATABASE mull\n";
    if (!rc) rc = mull_spawn_run(&s, CANNOT_CREATE, err);
    if (!rc && rename(fresh, mull_local_path(l, "postgres", "")) != 0)
        rc = mull_fail_errno(err, errno, CANNOT_CREATE, fresh, "move away what is in its place");
    if (rc) nftw(fresh, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return rc;
}

/* Whether any process works in the data folder: each of PostgreSQL's does. */
static bool in_use(const char *data) {
    struct stat want, st;
    char path[300];
    DIR *d = opendir("/proc");
    bool used = false;
    if (!d || stat(data, &want) != 0) used = true; /* not known: leave things as they are */
    for (struct dirent *e; !used && (e = readdir(d));) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9') continue;
        snprintf(path, sizeof path, "/proc/%s/cwd", e->d_name);
        used = stat(path, &st) == 0 && st.st_dev == want.st_dev && st.st_ino == want.st_ino;
    }
    if (d) closedir(d);
    return used;
}

int mull_postgres_start(const mull_local *l, mull_err *err) {
    char data[4096], postgres[2200];
    snprintf(data, sizeof data, "%s", mull_local_path(l, "postgres", ""));
    snprintf(postgres, sizeof postgres, "%s/postgres", l->pg_bin);
    int rc = give(l, l->dir.pg_socket, err);
    if (rc) return rc;
    /* After a power cut or in a restarted container the number in postmaster.pid may be a stranger's by now, and
     * PostgreSQL would refuse to start. Nobody works in the folder, so the file is stale. */
    if (!in_use(data)) unlink(mull_local_path(l, "postgres", "postmaster.pid"));
    const char *argv[] = {postgres,
                          "-D",
                          DATA_FD,
                          "-k",
                          SOCKET_FD,
                          "-p",
                          "5432",
                          "-c",
                          "listen_addresses=",
                          "-c",
                          "unix_socket_permissions=0700",
                          "-c",
                          "max_connections=64",
                          "-c",
                          "shared_buffers=128MB",
                          "-c",
                          "jit=off",
                          "-c",
                          "logging_collector=off",
                          "-c",
                          "log_destination=stderr",
                          "-c",
                          "log_line_prefix=%m [%p] ",
                          "-c",
                          "log_checkpoints=off",
                          "-c",
                          "cluster_name=mull",
                          NULL};
    mull_spawn s = spawn_of(l, argv, data);
    s.record = mull_local_record(l, "postgres");
    return mull_spawn_start(&s, err);
}

/* The eighth line of postmaster.pid says how far it is; the first is whose word that is. */
bool mull_postgres_ready(const mull_local *l) {
    mull_proc p;
    char line[4200];
    int pid = 0;
    bool ready = false;
    if (!mull_local_running(l, "postgres", &p)) return false;
    FILE *f = fopen(mull_local_path(l, "postgres", "postmaster.pid"), "re");
    for (int n = 1; f && fgets(line, sizeof line, f); n++) {
        if (n == 1) pid = atoi(line);
        if (n == 8) ready = !strncmp(line, "ready", 5);
    }
    if (f) fclose(f);
    return ready && pid == p.pid;
}
