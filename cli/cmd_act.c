/* mull cancel, hold, release, requeue, wait: one call for each id. */
#include "cli/args.h"
#include "cli/jobs.h"

#include "schema/jobspec.h"

#include <string.h>

typedef struct opts {
    bool json, quiet;
    const char *timeout;
} opts;

static const mull_opt act_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "{\"id\",\"state\",\"message\"} a job"}, {0}};

static int act(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words, worst = MULL_EXIT_OK;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (!words) return mull_usage(cmd->name, "which job? give its id");
    for (int i = 1; i <= words; i++)
        if (mull_id_check(cmd->name, argv[i])) return MULL_EXIT_USAGE;
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    for (int i = 1; i <= words; i++) {
        char path[96];
        json_t *r;
        snprintf(path, sizeof path, "/v1/jobs/%.32s/%s", argv[i], cmd->name);
        int rc = mull_client_get(c, "POST", path, NULL, &r);
        if (rc) {
            worst = rc;
            continue;
        }
        const char *message = mull_text(r, "message");
        if (!o.json) fprintf(stderr, "job %s %s%s%s\n", argv[i], mull_text(r, "state"), *message ? ": " : "", message);
        if (o.json) mull_emit(json_incref(r));
        json_decref(r);
    }
    mull_client_close(c);
    return worst;
}

#define ACT(name, summary)                                                                                             \
    const mull_cmd mull_cmd_##name = {                                                                                 \
        #name, "ID... [--json]", summary, "examples:\n  mull " #name " 17 18\n", act_opts, act}
ACT(cancel, "cancel pending jobs, ask running ones to stop (what an annotate job has done stays)");
ACT(hold, "keep pending jobs from starting");
ACT(release, "let held jobs start");
ACT(requeue, "queue ended jobs again; an annotate job goes on where it was");

static const mull_opt wait_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "each job's last state as a JSON line"},
    {"--quiet", 'q', MULL_OPT_FLAG, offsetof(opts, quiet), NULL, NULL, "no progress"},
    {"--timeout", 't', MULL_OPT_TEXT, offsetof(opts, timeout), NULL, "TIME",
     "give up after D-HH:MM:SS or seconds (exit status 124)"},
    {0}};

static int run_wait(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words, status = MULL_EXIT_OK;
    int64_t limit = 0;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (!words) return mull_usage(cmd->name, "which job? give its id");
    for (int i = 1; i <= words; i++)
        if (mull_id_check(cmd->name, argv[i])) return MULL_EXIT_USAGE;
    if (o.timeout && mull_duration_parse(o.timeout, &limit))
        return mull_usage(cmd->name, "--timeout takes a time such as 90, 45:00 or 1-12:00:00, not '%s'", o.timeout);
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    double until = mull_now() + (double)limit;
    for (int i = 1; i <= words; i++) {
        double left = limit ? until - mull_now() : 0;
        json_t *job;
        int rc = mull_wait_job(c, argv[i], o.quiet, limit && left < 0.001 ? 0.001 : left, &job);
        if (!rc) {
            rc = mull_job_exit(job);
            if (o.json) json_object_del(job, "spec"), json_object_del(job, "events");
            if (o.json)
                mull_emit(json_incref(job));
            else
                mull_job_epilogue(job);
        }
        json_decref(job);
        if (rc && !status) status = rc;
        if (rc == MULL_WAIT_INTERRUPTED) break;
    }
    mull_client_close(c);
    return status;
}

const mull_cmd mull_cmd_wait = {
    "wait",
    "ID... [flags]",
    "wait for jobs to end and take the first bad exit status as one's own",
    "exit status: 0 COMPLETED; the job's own (1 if it has none) FAILED; 3 CANCELLED; 124 TIMEOUT, or --timeout\n"
    "passed; 4 NODE_FAIL, OUT_OF_MEMORY; 130 interrupted (the job goes on); 1 also when the queue cannot be reached\n"
    "examples:\n  mull wait 17 && echo good\n",
    wait_opts,
    run_wait};
