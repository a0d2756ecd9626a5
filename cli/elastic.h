/* Workers that come and go: pure decisions from what was seen, and the provider that carries them out.
 *
 * A pilot is an allocation of another system (a Slurm job, a Kubernetes Job) that runs mull-worker. A provider is a
 * program with three actions, so that a new system needs a script and nothing compiled:
 *   PROVIDER start NAME    asks for one pilot whose worker is the node NAME; prints its id
 *   PROVIDER list          a line for each pilot: NAME ID pending|running END; END: unix seconds, or - when unknown
 *   PROVIDER stop NAME ID  ends it: a worker is asked to leave, one that has not begun is taken from the queue
 * What already queues and places there keeps doing so; this decides only how many pilots are asked for. */
#ifndef MULL_CLI_ELASTIC_H
#define MULL_CLI_ELASTIC_H

#include <stdbool.h>
#include <stddef.h>

enum { MULL_PILOTS_MAX = 256, MULL_PILOT_NAME = 64, MULL_PILOT_ID = 64 };

typedef struct mull_pilot {
    char name[MULL_PILOT_NAME], id[MULL_PILOT_ID];
    bool started;  /* the allocation runs */
    double ends;   /* unix seconds, 0: unknown */
    bool up;       /* its worker is a node that is UP or DRAINED */
    bool drained;  /* takes no jobs */
    int running;   /* attempts on it */
    double since;  /* unix seconds: when it was first seen running without a node, or idle; 0: neither */
    bool retiring; /* we drained it; one seen drained for the first time counts as ours (mull_pilot_remember) */
} mull_pilot;

typedef struct mull_elastic_rules {
    const char *prefix; /* names are PREFIX-0, PREFIX-1, … */
    int min, max;       /* pilots, at most MULL_PILOTS_MAX */
    int devices;        /* each offers */
    double idle_s;      /* without a job for so long: it goes */
    double lead_s;      /* so long before its end it takes no more jobs */
    double boot_s;      /* running for so long without a node: it is given up */
} mull_elastic_rules;

typedef enum mull_elastic_op {
    MULL_ELASTIC_START,
    MULL_ELASTIC_DRAIN,
    MULL_ELASTIC_RESUME,
    MULL_ELASTIC_STOP
} mull_elastic_op;

typedef struct mull_elastic_step {
    mull_elastic_op op;
    char name[MULL_PILOT_NAME], id[MULL_PILOT_ID]; /* id "" for START */
    const char *why;
} mull_elastic_step;

/* What to do now. demand: devices that waiting jobs want and nodes do not have. steps holds MULL_PILOTS_MAX. Returns
 * how many; reads no clock, asks nobody, changes nothing. */
int mull_elastic_plan(const mull_elastic_rules *r, const mull_pilot *pilots, int n, long long demand, double now,
                      mull_elastic_step *steps);

/* One line of `PROVIDER list`. 0, or -1 when it is none. Names and ids are letters, digits, '.', '_' and '-'. */
int mull_pilot_parse(const char *line, mull_pilot *out);

/* Whether name is PREFIX-0, PREFIX-1, …: another provider's prefix may begin with ours. */
bool mull_pilot_named(const char *name, const char *prefix);

/* What the last look knew of p goes on: that it is retiring, and since when it has been idle or booting. before is the
 * same pilot then, NULL when it is seen for the first time: one that is already drained was drained by us before we
 * were started again, as nobody else has a use for an empty allocation. */
void mull_pilot_remember(mull_pilot *p, const mull_pilot *before, double now);

#endif
