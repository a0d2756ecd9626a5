/* Folders, programs, the lock and mull.json; see local.h. */
#include "cli/local.h"

#include "cli/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const NAMES[MULL_SERVICES] = {"redis", "postgres", "scheduler", "worker"};

const char *mull_service_name(mull_service s) {
    return NAMES[s];
}

static __attribute__((format(printf, 3, 4))) void join(char *out, size_t cap, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, cap, fmt, ap);
    va_end(ap);
}

const char *mull_local_path(const mull_local *l, const char *folder, const char *file) {
    static char ring[6][4096];
    static int next;
    char *out = ring[next++ % 6];
    join(out, sizeof ring[0], "%s/%s%s%s", l->dir.root, folder, *file ? "/" : "", file);
    return out;
}

const char *mull_local_log(const mull_local *l, const char *name) {
    char file[64];
    snprintf(file, sizeof file, "%s.log", name);
    return mull_local_path(l, "log", file);
}

const char *mull_local_record(const mull_local *l, const char *name) {
    return mull_local_path(l, "pid", name);
}

bool mull_local_running(const mull_local *l, const char *name, mull_proc *p) {
    return mull_proc_recorded(mull_local_record(l, name), p);
}

int mull_local_find(mull_local *l, const char *given, mull_err *err) {
    *l = (mull_local){0};
    int rc = mull_paths_find(given, &l->dir, err);
    if (rc) return rc;
    if (strlen(l->dir.root) > 2000)
        return mull_fail(err, MULL_ERR_LIMIT, "cannot use the state folder", NULL, "choose a shorter path",
                         "its path has %zu bytes", strlen(l->dir.root));
    for (const char *p = l->dir.root; *p; p++)
        if ((unsigned char)*p < 0x20)
            return mull_fail(err, MULL_ERR_ARG, "cannot use the state folder", NULL, "choose another name",
                             "its path holds a control character");
    char host[65] = "";
    gethostname(host, sizeof host - 1);
    size_t n = 0;
    for (const char *p = host; *p; p++)
        if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("-._", *p))
            l->node[n++] = *p;
    if (n == 0) snprintf(l->node, sizeof l->node, "localhost");
    return 0;
}

/* ---- folders */
static const char CANNOT_USE[] = "cannot use the state folder";

static int make_folder(const char *path, mode_t mode, bool parents, mull_err *err) {
    char part[4096];
    struct stat st;
    for (const char *p = path + 1; parents && (p = strchr(p, '/')); p++) {
        join(part, sizeof part, "%.*s", (int)(p - path), path);
        if (mkdir(part, 0755) != 0 && errno != EEXIST && stat(part, &st) != 0)
            return mull_fail_errno(err, errno, CANNOT_USE, part, "choose another folder with --state or MULL_STATE");
    }
    if (mkdir(path, mode) == 0) return 0;
    if (errno != EEXIST) {
        int e = errno;
        return mull_fail_errno(err, e, CANNOT_USE, path,
                               e == ENOSPC ? "free some space" : "choose another folder with --state or MULL_STATE");
    }
    if (stat(path, &st) != 0) return mull_fail_errno(err, errno, CANNOT_USE, path, NULL);
    if (!S_ISDIR(st.st_mode))
        return mull_fail(err, MULL_ERR_ARG, CANNOT_USE, path, "choose another folder with --state or MULL_STATE",
                         "it is a file");
    if (st.st_uid != geteuid()) {
        struct passwd *pw = getpwuid(st.st_uid);
        return mull_fail(err, MULL_ERR_ARG, CANNOT_USE, path,
                         "choose another folder with --state or MULL_STATE, or run as its owner",
                         "it belongs to %s (uid %u)", pw ? pw->pw_name : "another user", (unsigned)st.st_uid);
    }
    return 0;
}

/* A private folder of ours: not a link, nobody else's, nobody else can enter it. */
static bool is_private(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 077) == 0;
}

static int make_short_run(const char *link, mull_err *err) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    const char *bases[] = {geteuid() == 0 ? "/run" : runtime, "/tmp", "/var/tmp"};
    char path[512];
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        if (!bases[i] || bases[i][0] != '/') continue;
        join(path, sizeof path, "%.400s/mull-XXXXXX", bases[i]);
        if (!mull_paths_fit(path) || !mkdtemp(path)) continue;
        if (symlink(path, link) == 0) return 0;
        int e = errno;
        rmdir(path);
        return mull_fail_errno(err, e, CANNOT_USE, link, "check the folder and the disk");
    }
    return mull_fail(err, MULL_ERR_IO, CANNOT_USE, link, "choose a state folder with a shorter path",
                     "its path is too long for sockets, and no short folder can be made in /run or /tmp");
}

/* ROOT/run: a folder, or a link to a short one when its own path is too long for sockets. */
static int prepare_run(mull_local *l, mull_err *err) {
    char run[3300], target[512];
    struct stat st;
    join(run, sizeof run, "%s/run", l->dir.root);
    bool fits = mull_paths_fit(run);
    ssize_t n = readlink(run, target, sizeof target - 1);
    if (n > 0) {
        target[n] = 0;
        if (fits || !is_private(target)) unlink(run); /* moved, or the machine has been started anew */
    } else if (!fits && lstat(run, &st) == 0 && rmdir(run) != 0 && errno != ENOENT) {
        return mull_fail(err, MULL_ERR_ARG, CANNOT_USE, run, "move it away",
                         "its path is too long for sockets, and it is not empty");
    }
    int rc = 0;
    if (fits)
        rc = make_folder(run, 0700, false, err);
    else if (lstat(run, &st) != 0)
        rc = make_short_run(run, err);
    if (rc) return rc;
    if (fits) chmod(run, 0700);
    char root[sizeof l->dir.root];
    join(root, sizeof root, "%s", l->dir.root);
    rc = mull_paths_find(root, &l->dir, err);
    if (rc) return rc;
    /* Given to PostgreSQL's user when it starts. */
    if (mkdir(l->dir.pg_socket, 0700) != 0 && errno != EEXIST)
        return mull_fail_errno(err, errno, CANNOT_USE, l->dir.pg_socket, "check the folder and the disk");
    return 0;
}

int mull_local_prepare(mull_local *l, mull_err *err) {
    static const char *const folders[] = {"pid", "log", "redis", "worker", "files", "models"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        int rc = make_folder(mull_local_path(l, folders[i], ""), 0700, false, err);
        if (rc) return rc;
    }
    return prepare_run(l, err);
}

int mull_local_lock(const mull_local *l, mull_err *err) {
    if (make_folder(l->dir.root, 0700, true, err)) return -2;
    const char *path = mull_local_path(l, "mull.lock", "");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        mull_fail_errno(err, errno, CANNOT_USE, path,
                        errno == ENOSPC ? "free some space" : "check the folder's permissions");
        return -2;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    int e = errno;
    close(fd);
    if (e == EWOULDBLOCK) return -1;
    mull_fail_errno(err, e, CANNOT_USE, path, "choose a folder on a local file system");
    return -2;
}

/* ---- programs */
static bool executable(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* Looks in PATH and the usual folders. */
static bool search(const char *name, char *out, size_t cap) {
    const char *path = getenv("PATH");
    char all[8192];
    join(all, sizeof all, "%s:/usr/bin:/usr/local/bin:/usr/sbin", path ? path : "");
    for (char *save = NULL, *dir = strtok_r(all, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
        if (dir[0] != '/') continue;
        join(out, cap, "%s/%s", dir, name);
        if (executable(out)) return true;
    }
    *out = 0;
    return false;
}

int mull_local_pg_version(const mull_local *l) {
    FILE *f = fopen(mull_local_path(l, "postgres", "PG_VERSION"), "re");
    int version = 0;
    if (f && fscanf(f, "%d", &version) != 1) version = -1;
    if (f) fclose(f);
    return version;
}

static bool pg_bin_at(const char *dir, char *out, size_t cap) {
    char file[2200];
    static const char *const needed[] = {"postgres", "initdb"};
    for (size_t i = 0; i < 2; i++) {
        join(file, sizeof file, "%s/%s", dir, needed[i]);
        if (!executable(file)) return false;
    }
    join(out, cap, "%s", dir);
    return true;
}

/* Debian keeps every version's programs apart; the newest is taken, or the one that the data is of. */
static int find_postgres(mull_local *l, mull_err *err) {
    static const char what[] = "cannot start PostgreSQL";
    int have = mull_local_pg_version(l), best = 0;
    glob_t g;
    char found[2048] = "";
    if (glob("/usr/lib/postgresql/*/bin", 0, NULL, &g) == 0) {
        for (size_t i = 0; i < g.gl_pathc; i++) {
            int version = atoi(g.gl_pathv[i] + strlen("/usr/lib/postgresql/"));
            bool wanted = have > 0 ? version == have : version > best;
            if (wanted && pg_bin_at(g.gl_pathv[i], found, sizeof found)) best = version;
        }
        globfree(&g);
    }
    if (!*found && have <= 0 && search("initdb", found, sizeof found)) {
        *strrchr(found, '/') = 0;
        if (!pg_bin_at(found, found, sizeof found)) *found = 0;
    }
    if (!*found && have > 0)
        return mull_fail(err, MULL_ERR_MISSING, what, mull_local_path(l, "postgres", ""),
                         "install that version, or keep this folder and use another --state",
                         "its data is of version %d, whose programs are not in /usr/lib/postgresql", have);
    if (!*found)
        return mull_fail(err, MULL_ERR_MISSING, what, "/usr/lib/postgresql",
                         "install it: ops/deps, or apt-get install postgresql", "PostgreSQL is not installed");
    join(l->pg_bin, sizeof l->pg_bin, "%s", found);
    return 0;
}

static int choose_pg_user(mull_local *l, mull_err *err) {
    struct stat st;
    struct passwd *pw = NULL;
    l->pg_drop = geteuid() == 0;
    if (!l->pg_drop) return 0;
    bool there = stat(mull_local_path(l, "postgres", ""), &st) == 0;
    if (there && st.st_uid == 0)
        return mull_fail(err, MULL_ERR_ARG, "cannot start PostgreSQL", mull_local_path(l, "postgres", ""),
                         "give the folder back: chown -R postgres",
                         "its data belongs to root, as whom it refuses to run");
    if (there) {
        l->pg_uid = st.st_uid;
        l->pg_gid = st.st_gid;
        return 0;
    }
    pw = getpwnam("postgres");
    if (!pw || pw->pw_uid == 0) pw = getpwnam("nobody");
    if (!pw || pw->pw_uid == 0)
        return mull_fail(err, MULL_ERR_MISSING, "cannot start PostgreSQL", "root", "create a user named postgres",
                         "it refuses to run as root, and there is neither a user postgres nor nobody");
    l->pg_uid = pw->pw_uid;
    l->pg_gid = pw->pw_gid;
    return 0;
}

int mull_local_programs(mull_local *l, mull_err *err) {
    static const char *const own[] = {"mull-scheduler", "mull-worker", "mull-engine"};
    char file[2200];
    ssize_t n = readlink("/proc/self/exe", l->bin_dir, sizeof l->bin_dir - 1);
    if (n <= 0) return mull_fail(err, MULL_ERR_MISSING, "cannot start", "/proc", "mount /proc", "/proc is not there");
    l->bin_dir[n] = 0;
    *strrchr(l->bin_dir, '/') = 0;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        join(file, sizeof file, "%s/%s", l->bin_dir, own[i]);
        if (!executable(file))
            return mull_fail(err, MULL_ERR_MISSING, "cannot start", file, "build it: cmake --build --preset release",
                             "the program is missing");
    }
    if (!search("redis-server", l->redis_bin, sizeof l->redis_bin))
        return mull_fail(err, MULL_ERR_MISSING, "cannot start Redis", "redis-server",
                         "install it: ops/deps, or apt-get install redis-server", "it is not installed");
    int rc = find_postgres(l, err);
    return rc ? rc : choose_pg_user(l, err);
}

/* ---- mull.json */
json_t *mull_local_read(const mull_local *l) {
    json_t *j = json_load_file(l->dir.file, 0, NULL);
    if (j && !json_is_object(j)) {
        json_decref(j);
        j = NULL;
    }
    return j;
}

json_t *mull_local_json(const mull_local *l) {
    json_t *pids = json_object();
    mull_proc p;
    for (int s = 0; s < MULL_SERVICES; s++)
        json_object_set_new(pids, NAMES[s], mull_local_running(l, NAMES[s], &p) ? json_integer(p.pid) : json_null());
    char server[3400];
    join(server, sizeof server, "unix:%s", l->dir.socket);
    json_t *supervisor = mull_local_running(l, "supervisor", &p) ? json_integer(p.pid) : json_null();
    return json_pack("{s:s, s:s, s:o, s:o}", "state_dir", l->dir.root, "server", server, "pids", pids, "supervisor",
                     supervisor);
}

void mull_local_write(const mull_local *l, const char *phase) {
    json_t *j = mull_local_json(l);
    json_object_set_new(j, "phase", json_string(phase));
    json_object_set_new(j, "devices", json_string(l->devices));
    json_object_set_new(j, "listen", json_string(l->listen));
    json_object_set_new(j, "workers", json_string(l->workers));
    json_object_set_new(j, "node", json_string(l->node));
    char tmp[3300];
    join(tmp, sizeof tmp, "%s.new", l->dir.file);
    if (!j || json_dump_file(j, tmp, JSON_INDENT(2)) != 0 || rename(tmp, l->dir.file) != 0) unlink(tmp);
    json_decref(j);
}
