/* mull elastic: keeps as many pilots as waiting jobs want, through a provider (elastic.h). It holds no state that
 * matters: what there is, the provider and the queue say, so it may be killed and started again at any time, and a
 * second one on the same prefix does harm to nobody but itself.
 *
 * It is a client of the front door with an admin's token, not a part of the scheduler: that one places jobs on the
 * nodes there are, whoever pays for them. */
#include "cli/args.h"
#include "cli/capture.h"
#include "cli/elastic.h"
#include "cli/jobs.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANSWER_MAX = 1 << 20, PROVIDER_S = 120, PAGE = 200 };

typedef struct opts {
    const char *provider, *prefix;
    long min, max, devices, idle, lead, boot, every;
    bool gpus, once, dry_run;
} opts;

#define NUMBER(flag, member, word, help)                                                                               \
    { flag, 0, MULL_OPT_INT, offsetof(opts, member), NULL, word, help }
static const mull_opt elastic_opts[] = {
    {"--provider", 'p', MULL_OPT_TEXT, offsetof(opts, provider), NULL, "FILE",
     "the program that starts, lists and stops"},
    NUMBER("--devices", devices, "N", "slots or GPUs that each pilot's worker offers (default 1)"),
    {"--gpus", 0, MULL_OPT_FLAG, offsetof(opts, gpus), NULL, NULL, "they are GPUs: jobs that want some count"},
    NUMBER("--min", min, "N", "pilots that are always there (default 0)"),
    NUMBER("--max", max, "N", "pilots at most (default 4)"),
    NUMBER("--idle", idle, "SECONDS", "without a job for so long a pilot goes (default 300)"),
    NUMBER("--lead", lead, "SECONDS", "so long before its end a pilot takes no more jobs (default 180)"),
    NUMBER("--boot", boot, "SECONDS", "a pilot that runs without a node for so long is given up (default 300)"),
    NUMBER("--every", every, "SECONDS", "between two looks (default 5)"),
    {"--prefix", 0, MULL_OPT_TEXT, offsetof(opts, prefix), NULL, "NAME", "nodes are NAME-0, NAME-1, … (default pilot)"},
    {"--once", 0, MULL_OPT_FLAG, offsetof(opts, once), NULL, NULL, "look once, act, end"},
    {"--dry-run", 0, MULL_OPT_FLAG, offsetof(opts, dry_run), NULL, NULL, "say what would be done, once"},
    {0}};

static volatile sig_atomic_t ending;
static void on_end(int sig) {
    ending = sig;
}

/* Runs the provider and reads what it prints (the caller's; NULL after saying why). Its words go to our stderr. */
static char *provide(const opts *o, const char *action, const char *name, const char *id) {
    char *text = malloc(ANSWER_MAX);
    int status = text ? mull_capture((const char *const[]){o->provider, action, name, id, NULL}, false, PROVIDER_S,
                                     text, ANSWER_MAX)
                      : -1;
    if (status == 0) return text;
    mull_complain("the provider failed", o->provider, "run it by hand: PROVIDER list", "%s %s ended with status %d",
                  action, name ? name : "", status);
    free(text);
    return NULL;
}

/* Pilots of ours into out; their number, or -1. */
static int list_pilots(const opts *o, mull_pilot *out) {
    char *text = provide(o, "list", NULL, NULL);
    int n = 0;
    if (!text) return -1;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (n == MULL_PILOTS_MAX) break;
        if (mull_pilot_parse(line, &out[n])) {
            mull_complain("the provider's list is wrong", o->provider, "a line is NAME ID pending|running END",
                          "%.200s", line);
            free(text);
            return -1;
        }
        if (mull_pilot_named(out[n].name, o->prefix)) n++;
    }
    free(text);
    return n;
}

/* What the queue knows of them, and what we remember from the last look (old). */
static int join_nodes(mull_client *c, mull_pilot *pilots, int n, const mull_pilot *old, int nold, double now) {
    json_t *r;
    size_t k;
    const json_t *node;
    int rc = mull_client_get(c, "GET", "/v1/nodes", NULL, &r);
    if (rc) return rc;
    for (int i = 0; i < n; i++) {
        mull_pilot *p = &pilots[i];
        const mull_pilot *before = NULL;
        for (int j = 0; j < nold; j++)
            if (!strcmp(old[j].name, p->name) && !strcmp(old[j].id, p->id)) before = &old[j];
        json_array_foreach(json_object_get(r, "nodes"), k, node) {
            const char *state = mull_text(node, "state");
            if (strcmp(mull_text(node, "name"), p->name) != 0 || !p->started) continue;
            p->up = !strcmp(state, "UP") || !strcmp(state, "DRAINED");
            p->drained = !strcmp(state, "DRAINED");
            p->running = (int)json_array_size(json_object_get(node, "running"));
        }
        mull_pilot_remember(p, before, now);
    }
    json_decref(r);
    return 0;
}

static long long wanted_by(mull_client *c, const json_t *job, bool gpus) {
    char path[64];
    json_t *r;
    snprintf(path, sizeof path, "/v1/jobs/%.20s", mull_text(job, "id"));
    if (mull_client_get(c, "GET", path, NULL, &r)) return 0;
    const json_t *spec = json_object_get(r, "spec"), *array = json_object_get(job, "array");
    long long of_gpus = json_integer_value(json_object_get(spec, "gpus")),
              slots = json_integer_value(json_object_get(spec, "slots"));
    long long each = gpus ? of_gpus : of_gpus ? 0 : slots ? slots : 1, tasks = 1;
    if (json_is_object(array)) {
        long long waiting = json_integer_value(json_object_get(array, "waiting")),
                  limit = json_integer_value(json_object_get(array, "limit"));
        tasks = limit && limit < waiting ? limit : waiting;
    }
    json_decref(r);
    return each * tasks;
}

/* Devices that pending jobs want and could have if there were more; counted up to most. Negative: the queue did not
 * say. */
static long long demand_of(mull_client *c, const opts *o, long long most) {
    char cursor[32] = "", path[160];
    long long sum = 0;
    do {
        json_t *r;
        size_t i;
        const json_t *j;
        snprintf(path, sizeof path, "/v1/jobs?state=PENDING&limit=%d%s%s", PAGE, *cursor ? "&cursor=" : "", cursor);
        if (mull_client_get(c, "GET", path, NULL, &r)) return -1;
        json_array_foreach(json_object_get(r, "jobs"), i, j) {
            const char *reason = mull_text(j, "reason");
            bool room = !strcmp(reason, "Resources") || !strcmp(reason, "Priority") || !strcmp(reason, "DrainedNodes");
            if (room && sum < most) sum += wanted_by(c, j, o->gpus);
        }
        snprintf(cursor, sizeof cursor, "%s", mull_text(r, "next_cursor"));
        json_decref(r);
    } while (*cursor && sum < most);
    return sum;
}

static int set_node(mull_client *c, const char *name, const char *verb, bool quiet) {
    char path[128];
    mull_reply r = {0};
    mull_err err;
    snprintf(path, sizeof path, "/v1/nodes/%.63s/%s", name, verb);
    int rc = mull_client_call(c, "POST", path, NULL, &r, &err);
    if (rc && !quiet) mull_err_print(stderr, &err);
    bool good = !rc && r.status == 200;
    if (!rc && !good && !quiet) mull_client_refused(&r, NULL, NULL);
    json_decref(r.json);
    return good ? 0 : -1;
}

static void act(mull_client *c, const opts *o, const mull_elastic_step *s, mull_pilot *pilots, int n) {
    static const char *const words[] = {"start", "drain", "resume", "stop"};
    printf("%s %s%s%s: %s\n", words[s->op], s->name, *s->id ? " " : "", s->id, s->why);
    fflush(stdout);
    if (o->dry_run) return;
    char *text = NULL;
    switch (s->op) {
    case MULL_ELASTIC_START:
        set_node(c, s->name, "resume", true); /* an earlier pilot of this name may have left it drained */
        text = provide(o, "start", s->name, NULL);
        break;
    case MULL_ELASTIC_STOP:
        text = provide(o, "stop", s->name, s->id);
        break;
    case MULL_ELASTIC_DRAIN:
    case MULL_ELASTIC_RESUME:
        if (set_node(c, s->name, words[s->op], false)) return;
        for (int i = 0; i < n; i++)
            if (!strcmp(pilots[i].name, s->name)) pilots[i].retiring = s->op == MULL_ELASTIC_DRAIN;
        break;
    }
    free(text);
}

static int look(mull_client *c, const opts *o, mull_pilot *old, int *nold) {
    static mull_pilot pilots[MULL_PILOTS_MAX];
    static mull_elastic_step steps[MULL_PILOTS_MAX];
    mull_elastic_rules rules = {.prefix = o->prefix,
                                .min = (int)o->min,
                                .max = (int)o->max,
                                .devices = (int)o->devices,
                                .idle_s = (double)o->idle,
                                .lead_s = (double)o->lead,
                                .boot_s = (double)o->boot};
    double now = mull_now();
    int n = list_pilots(o, pilots);
    if (n < 0 || join_nodes(c, pilots, n, old, *nold, now)) return MULL_EXIT_FAILED;
    long long demand = demand_of(c, o, (long long)o->max * o->devices);
    if (demand < 0) return MULL_EXIT_FAILED;
    int count = mull_elastic_plan(&rules, pilots, n, demand, now, steps);
    for (int i = 0; i < count && !ending; i++) act(c, o, &steps[i], pilots, n);
    memcpy(old, pilots, (size_t)n * sizeof *pilots);
    *nold = n;
    return MULL_EXIT_OK;
}

static int run_elastic(const mull_cmd *cmd, int argc, char **argv) {
    static mull_pilot old[MULL_PILOTS_MAX];
    opts o = {.prefix = "pilot", .max = 4, .devices = 1, .idle = 300, .lead = 180, .boot = 300, .every = 5};
    int words, nold = 0, rc;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "unexpected word '%s'", argv[1]);
    if (!o.provider) return mull_usage(cmd->name, "give the provider's program with --provider");
    if (o.min < 0 || o.max < 1 || o.max > MULL_PILOTS_MAX || o.min > o.max)
        return mull_usage(cmd->name, "--min and --max take numbers up to %d, --min at most --max", MULL_PILOTS_MAX);
    if (o.devices < 1 || o.devices > 4096 || o.idle < 1 || o.lead < 0 || o.boot < 1 || o.every < 1)
        return mull_usage(cmd->name, "--devices, --idle, --lead, --boot and --every take numbers from 1");
    mull_pilot probe;
    char line[160];
    snprintf(line, sizeof line, "%.40s-0 1 pending -", o.prefix);
    if (strlen(o.prefix) > 40 || mull_pilot_parse(line, &probe))
        return mull_usage(cmd->name, "--prefix takes up to 40 letters, digits, '.', '_' and '-'");
    if (access(o.provider, X_OK))
        return mull_complain("no provider", o.provider, "give a program that can be executed", "%s", strerror(errno));
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    struct sigaction sa = {.sa_handler = on_end};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    do {
        rc = look(c, &o, old, &nold);
        if (o.once || o.dry_run) break;
        if (!ending) mull_pause((double)o.every); /* a queue or provider that is away is asked again */
    } while (!ending);
    mull_client_close(c);
    return o.once || o.dry_run ? rc : MULL_EXIT_OK;
}

const mull_cmd mull_cmd_elastic = {
    "elastic",
    "--provider FILE [flags]",
    "start and stop workers in another system (Slurm, Kubernetes) as jobs need them",
    "Runs until it is stopped; pilots go on without it. ops/elastic.md says what a provider is.\n"
    "example:\n  mull elastic --provider /usr/share/mull/elastic/slurm --devices 8 --gpus --max 16\n",
    elastic_opts,
    run_elastic};
