/* Whether workers of this machine can limit what engines take. Where they cannot, engines run all the same. */
#include "cli/doctor.h"
#include "schema/cgroup.h"

void mull_doctor_cgroups(mull_doctor *d) {
    char own[2600];
    mull_err err;
    if (mull_cgroup_own(own, sizeof own, &err) == 0)
        mull_doctor_say(d, "cgroups", MULL_FINDING_OK, NULL,
                        "%s may have groups below it: a worker alone there limits memory, processes and processor time",
                        own);
    else
        mull_doctor_say(d, "cgroups", MULL_FINDING_OK, NULL,
                        "not to be had from here (%s: %s): engines have no limits of memory and processes", err.where,
                        err.why);
}
