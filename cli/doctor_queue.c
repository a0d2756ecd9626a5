/* See doctor.h: what the queue says of itself, here or at MULL_SERVER. */
#include "cli/doctor.h"

#include "cli/client.h"
#include "cli/jobs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MANY_WAITING = 1000, LIST_MAX = 500 };

/* A 200's JSON (a new reference), or NULL: not for us, or gone meanwhile. */
static json_t *ask(mull_client *c, const char *path, int *status) {
    mull_reply r = {0};
    mull_err err;
    *status = 0;
    if (mull_client_call(c, "GET", path, NULL, &r, &err)) return NULL;
    *status = r.status;
    if (r.status == 200) return r.json;
    json_decref(r.json);
    return NULL;
}

static void add(char *list, const char *name) {
    size_t n = strlen(list);
    if (n + 80 < LIST_MAX) snprintf(list + n, LIST_MAX - n, "%s%.60s", n ? ", " : "", name);
}

static void leader(mull_doctor *d, mull_client *c) {
    int status;
    json_t *q = ask(c, "/v1/queue", &status);
    const json_t *l = json_object_get(q, "leader");
    if (!q) return;
    if (json_is_true(json_object_get(l, "alive")))
        mull_doctor_say(d, "leader", MULL_FINDING_OK, NULL, "%.100s, term %lld", mull_text(l, "holder"),
                        (long long)json_integer_value(json_object_get(l, "term")));
    else
        mull_doctor_say(d, "leader", MULL_FINDING_FAIL,
                        "look at the schedulers' logs; one takes over within 10 s if it "
                        "reaches PostgreSQL",
                        "%.100s has not renewed its lease, and nobody has taken over", mull_text(l, "holder"));
    json_decref(q);
}

static void machines(mull_doctor *d, mull_client *c) {
    char quarantined[LIST_MAX] = "", drained[LIST_MAX] = "", down[LIST_MAX] = "", other[LIST_MAX] = "";
    int status;
    size_t i, up = 0;
    const json_t *n;
    json_t *r = ask(c, "/v1/nodes", &status);
    if (!r) return;
    json_array_foreach(json_object_get(r, "nodes"), i, n) {
        const char *name = mull_text(n, "name"), *state = mull_text(n, "state"), *version = mull_text(n, "version");
        if (*mull_text(n, "quarantine"))
            add(quarantined, name);
        else if (!strcmp(state, "DRAINED") && !json_array_size(json_object_get(n, "maintenance")))
            add(drained, name);
        if (!strcmp(state, "DOWN")) add(down, name);
        if (strcmp(state, "DOWN") != 0 && *version && strcmp(version, MULL_VERSION) != 0) add(other, name);
        up += !strcmp(state, "UP");
    }
    if (*quarantined)
        mull_doctor_say(d, "quarantine", MULL_FINDING_WARN,
                        "mend the machine (mull node ls says why), then: mull node resume NAME",
                        "attempts kept failing there: %s", quarantined);
    if (*drained)
        mull_doctor_say(d, "drained", MULL_FINDING_WARN, "when that is over: mull node resume NAME",
                        "take no jobs, and no maintenance is planned: %s", drained);
    if (*down)
        mull_doctor_say(d, "down", MULL_FINDING_WARN, "start mull-worker there, or look whether it reaches Redis",
                        "not heard of: %s", down);
    if (*other)
        mull_doctor_say(d, "versions", MULL_FINDING_WARN, "install this version there and restart mull-worker",
                        "another version than %s runs on: %s", MULL_VERSION, other);
    if (!up && json_array_size(json_object_get(r, "nodes")))
        mull_doctor_say(d, "capacity", MULL_FINDING_FAIL, "mull node ls; start workers", "no node takes jobs");
    json_decref(r);
}

static void webhooks(mull_doctor *d, mull_client *c) {
    int status;
    size_t i, good = 0;
    const json_t *w;
    json_t *r = ask(c, "/v1/webhooks", &status); /* for admins; others are not told, and need not be */
    json_array_foreach(json_object_get(r, "webhooks"), i, w) {
        long long waiting = (long long)json_integer_value(json_object_get(w, "waiting"));
        char name[80];
        snprintf(name, sizeof name, "webhook %.20s", mull_text(w, "id"));
        if (*mull_text(w, "disabled_at"))
            mull_doctor_say(d, name, MULL_FINDING_WARN, "mull webhook rm, and add the right URL",
                            "it is off: the receiver answered 410 Gone");
        else if (*mull_text(w, "last_error") || waiting > MANY_WAITING)
            mull_doctor_say(d, name, MULL_FINDING_WARN, "mend the receiver; mull webhook log shows what it answered",
                            "%lld deliveries wait; the last attempt: %.200s", waiting, mull_text(w, "last_error"));
        else
            good++;
    }
    if (good) mull_doctor_say(d, "webhooks", MULL_FINDING_OK, NULL, "%zu deliver", good);
    json_decref(r);
}

void mull_doctor_queue(mull_doctor *d, bool must) {
    mull_err err;
    int status;
    mull_client *c = mull_client_open(&err);
    json_t *r = c ? ask(c, "/v1/whoami", &status) : NULL;
    if (!r) {
        if (must && c && status == 401)
            mull_doctor_say(d, "server", MULL_FINDING_FAIL, "set MULL_TOKEN to a valid token (mull token create)",
                            "%s does not know this token", mull_client_server(c));
        else if (must)
            mull_doctor_say(d, "server", MULL_FINDING_FAIL, "check MULL_SERVER and MULL_CACERT, and that it runs",
                            "%s does not answer", c ? mull_client_server(c) : "it");
        mull_client_close(c);
        return;
    }
    if (must)
        mull_doctor_say(d, "server", MULL_FINDING_OK, NULL, "%s answers; you are %.60s, team %.60s, %.20s",
                        mull_client_server(c), mull_text(r, "user"),
                        *mull_text(r, "team") ? mull_text(r, "team") : "(all)", mull_text(r, "role"));
    json_decref(r);
    leader(d, c);
    machines(d, c);
    webhooks(d, c);
    mull_client_close(c);
}
