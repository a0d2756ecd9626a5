/* The first reading of the whole input: counts rows, notes where shards begin, finds custom_ids that come twice (by
 * 128-bit digests, sorted outside memory), and tells how many rows are bad before any time is spent on good ones. */
#include "engine/annotate/extsort.h"
#include "engine/annotate/row.h"
#include "engine/annotate/source.h"
#include "engine/annotate/state.h"

#include <string.h>

enum { SHOWN = 3 };

typedef struct check {
    mull__annotation *a;
    mull__sha *file, *id;
    mull__sort *ids, *twice;
    mull__sink plan, out;
    mull_sampling base;
    int64_t bad, dup;
    uint8_t last[MULL_SORT_RECORD];
    bool any;
} check;

/* A bad row is only counted and shown here; its record is made when its turn comes. */
static void note_bad(check *c, int64_t line, const mull_error *why) {
    char text[sizeof(mull_error) + 64];
    if (c->bad++ >= SHOWN) return;
    mull_events_log(c->a->ev, "warning", "line %lld: %s", (long long)line, mull_error_line(why, text, sizeof text) + 7);
}

/* Record of the first sort: digest of the id, row, line. */
static int add_id(check *c, const char *id, int64_t row, int64_t line, mull_error *err) {
    uint8_t rec[MULL_SORT_RECORD], md[32];
    mull__sha_add(c->id, id, strlen(id));
    mull__sha_done(c->id, md);
    memcpy(rec, md, 16);
    mull__put64(rec + 16, (uint64_t)row);
    mull__put64(rec + 24, (uint64_t)line);
    return mull__sort_add(c->ids, rec, err);
}

static int check_row(check *c, const mull__line *l, int64_t row, mull_error *err) {
    mull_row r = {0};
    mull_row_code code;
    mull_error why = {0};
    int rc = MULL_OK;
    if (l->too_long) {
        mull_fail(&why, MULL_ELIMIT, MULL_ROW_WHAT, "", "", "it has more than %d bytes", MULL_ROW_BYTES_MAX);
        note_bad(c, l->number, &why);
        return MULL_OK;
    }
    int bad = mull_row_parse(l->data, l->len, &c->base, &r, &code, &why);
    for (size_t i = 0; !bad && i < r.nrefs; i++) bad = mull__roots_check(&c->a->roots, &r.refs[i], &why);
    if (l->problem) bad = mull_fail(&why, MULL_EARG, MULL_ROW_WHAT, "prompt", "", "%s", l->problem);
    if (bad) note_bad(c, l->number, &why);
    if (r.custom_id) rc = add_id(c, r.custom_id, row, l->number, err);
    mull_row_fini(&r);
    return rc;
}

static int read_rows(check *c, mull__source *in, mull_error *err) {
    mull__annotation *a = c->a;
    mull__line l;
    int rc;
    while ((rc = mull__source_next(in, &l, err)) > 0) {
        if (a->rows % a->shard_rows == 0) {
            uint8_t at[16];
            mull__put64(at, (uint64_t)l.offset);
            mull__put64(at + 8, (uint64_t)l.number);
            if ((rc = mull__sink_add(&c->plan, at, sizeof at, err))) return rc;
        }
        if ((rc = check_row(c, &l, a->rows++, err))) return rc;
        mull_events_beat(a->ev);
        if (mull_events_stopped(a->ev)) return mull__cancelled(err);
    }
    if (rc) return rc;
    if (a->rows == 0)
        return mull_fail(err, MULL_EARG, "cannot annotate", a->job->input,
                         "give a file with a row, or a folder with an image", "the input has no rows");
    if (!mull__source_unchanged(in))
        return mull_fail(err, MULL_EARG, "cannot annotate", a->job->input, "start it again when it is whole",
                         "the input changed while it was read");
    return MULL_OK;
}

/* Of equal ids the first row keeps it. Record of the second sort: row, line of the first. */
static int take_id(void *ctx, const uint8_t *rec, mull_error *err) {
    check *c = ctx;
    if (!c->any || memcmp(rec, c->last, 16)) {
        memcpy(c->last, rec, sizeof c->last);
        c->any = true;
        return MULL_OK;
    }
    uint8_t two[MULL_SORT_RECORD] = {0};
    memcpy(two, rec + 16, 8);
    memcpy(two + 8, c->last + 24, 8);
    c->dup++;
    return mull__sort_add(c->twice, two, err);
}

static int take_twice(void *ctx, const uint8_t *rec, mull_error *err) {
    return mull__sink_add(&((check *)ctx)->out, rec, 16, err);
}

static int run(check *c, mull__source *in, mull_error *err) {
    char hex[65];
    mull__annotation *a = c->a;
    int rc = read_rows(c, in, err);
    if (!rc) rc = mull__sort_finish(c->ids, take_id, c, err);
    if (!rc) rc = mull__sort_finish(c->twice, take_twice, c, err);
    if (!rc) rc = mull__sink_commit(&c->plan, hex, err);
    if (!rc) rc = mull__sink_commit(&c->out, hex, err);
    if (rc) return rc;
    a->shards = (a->rows + a->shard_rows - 1) / a->shard_rows;
    if (c->dup)
        mull_events_log(a->ev, "warning", "%lld rows repeat a custom_id; only the first of each is answered",
                        (long long)c->dup);
    if (c->bad > SHOWN)
        mull_events_log(a->ev, "warning", "%lld of %lld rows are bad; errors.jsonl will have them all",
                        (long long)c->bad, (long long)a->rows);
    mull_events_log(a->ev, "info", "%lld rows, %lld of them bad", (long long)a->rows, (long long)(c->bad + c->dup));
    return MULL_OK;
}

int mull__validate(mull__annotation *a, mull_error *err) {
    check c = {.a = a,
               .file = mull__sha_create(),
               .id = mull__sha_create(),
               .plan = {.fd = -1},
               .out = {.fd = -1},
               .base = {.max_new_tokens = 1, .top_p = 1, .repetition_penalty = 1}};
    mull__source *in = NULL;
    bool folder = a->input_hex[0] != 0;
    int rc = c.file && c.id ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot annotate", "", "", "out of memory");
    a->rows = 0;
    if (!rc) rc = mull__source_open(a->rows_path, a->job, c.file, &in, err);
    if (!rc) rc = mull__sort_create(a->work, 0, &c.ids, err);
    if (!rc) rc = mull__sort_create(a->work, 0, &c.twice, err);
    if (!rc) rc = mull__sink_open(&c.plan, a->work, "plan", err);
    if (!rc) rc = mull__sink_open(&c.out, a->work, "twice", err);
    if (!rc) rc = run(&c, in, err);
    if (!rc && !folder && !mull__source_hashes(in)) {
        rc = mull__digest_file(a, a->rows_path, a->input_hex, err);
    } else if (!rc && !folder) {
        uint8_t md[32];
        mull__sha_done(c.file, md);
        mull__hex(md, 32, a->input_hex);
    }
    mull__sink_fini(&c.plan);
    mull__sink_fini(&c.out);
    mull__sort_destroy(c.ids);
    mull__sort_destroy(c.twice);
    mull__source_close(in);
    mull__sha_destroy(c.file);
    mull__sha_destroy(c.id);
    return rc;
}
