/* mull down: stops what `mull up` has started, in order; the data stays. The supervisor does it when there is one;
 * when it was killed, this process takes the lock and does the same. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/local.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TIMEOUT_S = 90, FORCE_S = 10 };

typedef struct options {
    const char *state;
    long timeout;
    bool json;
} options;

static const mull_opt opts[] = {
    {"--state", 0, MULL_OPT_TEXT, offsetof(options, state), NULL, "DIR", "the state folder (else MULL_STATE)"},
    {"--timeout", 0, MULL_OPT_INT, offsetof(options, timeout), NULL, "SECONDS",
     "after so long, stop by force; default 90"},
    {"--json", 0, MULL_OPT_FLAG, offsetof(options, json), NULL, NULL, "print what was stopped as JSON"},
    {0}};

static json_t *running(const mull_local *l) {
    json_t *list = json_array();
    mull_proc p;
    for (int s = 0; s < MULL_SERVICES; s++)
        if (mull_local_running(l, mull_service_name(s), &p))
            json_array_append_new(list, json_string(mull_service_name(s)));
    return list;
}

/* True once nobody runs: the supervisor's work, or ours. */
static bool stop(const mull_local *l, double timeout, mull_err *err) {
    mull_proc p, asked = {0};
    bool forced = false;
    for (double until = mull_clock() + timeout; mull_clock() < until + FORCE_S; mull_pause(0.03)) {
        int lock = mull_local_lock(l, err);
        if (lock == -2) return false;
        if (lock >= 0) {
            mull_local_write(l, "stopping");
            double left = until - mull_clock();
            bool all = mull_local_stop(l, left > 1 ? left / 2 : 1);
            unlink(mull_local_record(l, "supervisor"));
            mull_local_write(l, "stopped");
            close(lock);
            if (!all)
                mull_fail(err, MULL_ERR_BUSY, "cannot stop everything", l->dir.root, "look at it with: mull doctor",
                          "a process does not end even by force");
            return all;
        }
        if (!mull_local_running(l, "supervisor", &p)) continue;
        if (p.pid != asked.pid || p.start != asked.start) {
            mull_proc_signal(&p, SIGTERM);
            mull_proc_signal(&p, SIGCONT);
            asked = p;
        }
        if (mull_clock() >= until && !forced) {
            mull_proc_signal(&p, SIGKILL);
            forced = true;
        }
    }
    mull_fail(err, MULL_ERR_BUSY, "cannot stop mull", l->dir.root, "try again, or look at it with: mull doctor",
              "another mull up or down holds the state folder");
    return false;
}

static int run(const mull_cmd *cmd, int argc, char **argv) {
    options o = {.timeout = TIMEOUT_S};
    int words;
    mull_local l;
    mull_err err;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "'%s' is one word too many", argv[1]);
    if (o.timeout < 0) return mull_usage(cmd->name, "--timeout is a number of seconds");
    if (mull_local_find(&l, o.state, &err)) {
        mull_err_print(stderr, &err);
        return MULL_EXIT_FAILED;
    }
    json_t *list = running(&l);
    bool known = access(mull_local_path(&l, "mull.lock", ""), F_OK) == 0;
    if (known && !stop(&l, (double)o.timeout, &err)) {
        mull_err_print(stderr, &err);
        json_decref(list);
        return MULL_EXIT_FAILED;
    }
    if (o.json) {
        mull_emit(json_pack("{s:s, s:o}", "state_dir", l.dir.root, "stopped", list));
        return MULL_EXIT_OK;
    }
    if (json_array_size(list))
        fprintf(stderr, "mull is down; its data stays in %s\n", l.dir.root);
    else
        fprintf(stderr, "nothing was running in %s\n", l.dir.root);
    json_decref(list);
    return MULL_EXIT_OK;
}

const mull_cmd mull_cmd_down = {"down",
                                "[--state DIR] [--timeout SECONDS] [--json]",
                                "stop what mull up has started; the data stays",
                                "Running jobs are asked to stop and go on after the next mull up.\n",
                                opts,
                                run};
