/* The queue for a scheduler that follows, so that any front door can say when a job would start.
 *
 * It is read from PostgreSQL anew for each question rather than asked of the leader: a leader has no address that the
 * others know and can reach, and its door would have to trust them in the name of who asks. What loads a lead
 * (sharing.c, reconcile.c) loads a view too: a mull_leader that begins under the term of whoever leads, where every
 * statement only reads, and stops before it would act. It lacks what the leader has not written down: use of the last
 * half minute, and for whom others are being stopped.
 *
 * One load runs at a time. A question that comes during a load waits for the next, so that it sees what was committed
 * before it was asked. The copy is dropped when its questions have been answered. */
#include "scheduler/leader_internal.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct question {
    struct question *next;
    mull_leader_view_cb cb;
    void *arg;
} question;

typedef struct mull_view {
    mull_leader lead; /* first: what the loading functions are given */
    question *asked;  /* of the load under way */
    question *later;
} mull_view;

static void begin(mull_view *v);

/* Answers the questions of the load that ended; then the next one begins. */
static void finish(mull_view *v, mull_leader *source) {
    question *q = v->asked, *next;
    v->asked = NULL;
    for (; q; q = next) {
        next = q->next;
        q->cb(source, q->arg);
        free(q);
    }
    v->lead.state = MULL_FOLLOWING;
    v->lead.epoch++;
    v->lead.reconciling = false;
    mull_queue_fini(&v->lead.queue);
    v->lead.teams_answered = v->lead.teams_asked;
    if (v->later) begin(v);
}

void mull__view_loaded(mull_leader *l) {
    l->state = MULL_VIEWING;
    finish((mull_view *)l, l);
}

void mull__view_failed(mull_leader *l, const char *why) {
    mull_log(MULL_LOG_WARN, "the queue could not be read for an estimate: %s", why);
    finish((mull_view *)l, NULL);
}

static void on_term(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data) || mull__lead_failed(l, r, "reading the leader's term")) return;
    if (PQgetisnull(r->res, 0, 0)) {
        mull__view_failed(l, "no scheduler has led yet");
        return;
    }
    snprintf(l->term_text, sizeof l->term_text, "%s", PQgetvalue(r->res, 0, 0));
    mull__load(l);
}

static void begin(mull_view *v) {
    v->asked = v->later;
    v->later = NULL;
    v->lead.state = MULL_LOADING;
    mull__lead_query(&v->lead, "SELECT mull_leader_term()", 0, NULL, on_term, NULL);
}

void mull_leader_view(mull_leader *l, mull_leader_view_cb cb, void *arg) {
    if (l->state == MULL_LEADING) {
        cb(l, arg);
        return;
    }
    question *q = l->closing ? NULL : malloc(sizeof *q);
    if (q && !l->view && (l->view = calloc(1, sizeof *l->view))) {
        l->view->lead.cfg = l->cfg;
        l->view->lead.viewing = true;
    }
    if (!q || !l->view) {
        free(q);
        cb(NULL, arg);
        return;
    }
    *q = (question){l->view->later, cb, arg};
    l->view->later = q;
    if (l->view->lead.state == MULL_FOLLOWING) begin(l->view);
}

void mull__view_close(mull_view *v) {
    if (!v) return;
    v->lead.closing = true; /* answers that still come are thrown away */
    while (v->asked || v->later) {
        if (!v->asked) {
            v->asked = v->later;
            v->later = NULL;
        }
        question *later = v->later;
        v->later = NULL; /* no load begins any more */
        finish(v, NULL);
        v->later = later;
    }
}

void mull__view_destroy(mull_view *v) {
    if (v) mull_queue_fini(&v->lead.queue);
    free(v);
}
