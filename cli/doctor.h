/* The parts of `mull doctor`. Each adds findings {"check","status":"ok|warn|fail","detail","todo"}. */
#ifndef MULL_CLI_DOCTOR_H
#define MULL_CLI_DOCTOR_H

#include "cli/local.h"

typedef struct mull_doctor {
    mull_local *local;
    json_t *findings;
    int failed;
} mull_doctor;

typedef enum mull_finding { MULL_FINDING_OK, MULL_FINDING_WARN, MULL_FINDING_FAIL } mull_finding;
/* todo may be NULL. */
void mull_doctor_say(mull_doctor *d, const char *check, mull_finding f, const char *todo, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

void mull_doctor_programs(mull_doctor *d); /* ours and the servers': there, of one version */
void mull_doctor_machine(mull_doctor *d);  /* folder, disk, limits, GPUs */
void mull_doctor_cgroups(mull_doctor *d);  /* whether engines can be limited */
/* The queue through the front door: leader, nodes, webhooks. must: it is to answer (MULL_SERVER names it). */
void mull_doctor_queue(mull_doctor *d, bool must);
void mull_doctor_services(mull_doctor *d); /* what runs, and whether it answers */

#endif
