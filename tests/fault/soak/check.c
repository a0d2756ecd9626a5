/* What must hold after a round, whatever went wrong in it. Each rule is a statement that counts what breaks it. */
#include "tests/fault/soak/soak.h"

#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS "(regexp_match(s.spec::jsonb->>'prompt', 'steps (\\d+)'))[1]::int"
/* Jobs and tasks that completed, with the attempt that did it. */
#define COMPLETED                                                                                                      \
    "job j JOIN job_spec s ON s.job = j.id JOIN attempt a ON a.job = j.id AND a.attempt = j.attempt WHERE j.state = "  \
    "'COMPLETED'"
#define HELD                                                                                                           \
    "held AS (SELECT a.fence, COALESCE(d->>'node', a.node) AS node, d->>'kind' AS kind, d->>'index' AS idx, "          \
    "a.created_at, "                                                                                                   \
    "a.ended_at FROM attempt a, jsonb_array_elements(a.devices) d)"

static const struct {
    const char *rule, *sql;
} RULES[] = {
    {"a key has one job",
     "SELECT count(*) FROM (SELECT 1 FROM job WHERE client_key IS NOT NULL GROUP BY team, client_key "
     "HAVING count(*) > 1) x"},
    {"no attempt is left open", "SELECT (SELECT count(*) FROM attempt WHERE ended_at IS NULL) + (SELECT count(*) FROM "
                                "attempt_part WHERE ended_at IS NULL)"},
    {"fences grow with attempts",
     "SELECT count(*) FROM attempt a JOIN attempt b USING (job) WHERE a.attempt < b.attempt AND "
     "a.fence >= b.fence"},
    {"attempts are numbered without a gap",
     "SELECT count(*) FROM (SELECT 1 FROM attempt a JOIN job j ON j.id = a.job GROUP "
     "BY j.id, j.attempt HAVING count(*) <> j.attempt OR max(a.attempt) <> j.attempt) x"},
    {"a job has one attempt at a time",
     "SELECT count(*) FROM attempt a JOIN attempt b USING (job) WHERE a.attempt < b.attempt "
     "AND b.created_at < a.ended_at"},
    {"a device is one attempt's at a time",
     "WITH " HELD
     " SELECT count(*) FROM held x JOIN held y USING (node, kind, idx) WHERE x.fence < y.fence AND y.created_at "
     "< x.ended_at"},
    {"terms do not go back",
     "SELECT count(*) FROM attempt a JOIN attempt b ON a.fence < b.fence WHERE a.term > b.term"},
    {"an attempt ends once", "SELECT count(*) FROM attempt a WHERE (SELECT count(*) FROM event e WHERE e.kind = "
                             "'attempt_ended' AND e.fence = a.fence) <> 1"},
    {"a completed job has one completed attempt, the last",
     "SELECT count(*) FROM job j WHERE j.state = 'COMPLETED' AND NOT EXISTS (SELECT 1 FROM job_array r WHERE r.job = "
     "j.id) AND "
     "(SELECT count(*) FILTER (WHERE a.state = 'COMPLETED') * 1000 + max(a.attempt) FILTER (WHERE a.state = "
     "'COMPLETED') FROM "
     "attempt a WHERE a.job = j.id) IS DISTINCT FROM 1000 + j.attempt"},
    {"no metric is lost or doubled",
     "SELECT count(*) FROM " COMPLETED " AND (SELECT count(*) FROM metric m WHERE m.job = j.id "
     "AND m.key = 'v') <> " STEPS},
    {"no metric is of another step", "SELECT count(*) FROM metric WHERE key = 'v' AND value <> step"},
    {"no line of a log is lost, doubled or out of place",
     "SELECT count(*) FROM " COMPLETED
     " AND (SELECT string_agg(l.text, ',' ORDER BY l.n) FROM job_log l WHERE l.job = j.id AND "
     "l.attempt = a.attempt AND l.stream = 'stdout') IS DISTINCT FROM (SELECT string_agg('line ' || i, ',' ORDER BY i) "
     "FROM "
     "generate_series(1, " STEPS ") i)"},
    {"the result is of the attempt that completed",
     "SELECT count(*) FROM " COMPLETED
     " AND (SELECT (r.result->>'fence')::bigint FROM job_result r WHERE r.job = j.id AND "
     "r.attempt = a.attempt) IS DISTINCT FROM a.fence"},
    {"arrays have counted their tasks",
     "SELECT count(*) FROM job_array r WHERE made <> (SELECT count(*) FROM job t WHERE t.array_job = r.job) OR ended "
     "<> (SELECT "
     "count(*) FROM job t WHERE t.array_job = r.job AND t.state NOT IN ('PENDING', 'RUNNING')) OR not_completed <> "
     "(SELECT "
     "count(*) FROM job t WHERE t.array_job = r.job AND t.state NOT IN ('PENDING', 'RUNNING', 'COMPLETED'))"},
    {"an array is what its tasks came to",
     "SELECT count(*) FROM job_array r JOIN job j ON j.id = r.job WHERE j.state = 'COMPLETED' AND (made <> total OR "
     "not_completed > 0) OR j.state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')"},
    {"no array runs more tasks than its limit", "SELECT count(*) FROM attempt a JOIN job t ON t.id = a.job JOIN "
                                                "job_array r ON r.job = t.array_job WHERE (SELECT count(*) "
                                                "FROM attempt b JOIN job u ON u.id = b.job WHERE u.array_job = "
                                                "t.array_job AND b.created_at <= a.created_at AND b.ended_at "
                                                "> a.created_at) > r.lim"},
    {"what comes after others starts after their end",
     "SELECT count(*) FROM job j JOIN attempt a ON a.job = j.id WHERE j.depends LIKE 'afterany:%' AND a.created_at < "
     "(SELECT "
     "d.ended_at FROM job d WHERE d.id = split_part(j.depends, ':', 2)::bigint)"},
    {"a gang's parts are whole",
     "SELECT count(*) FROM attempt a WHERE a.boot = 'gang' AND (SELECT count(*) FROM attempt_part p "
     "WHERE p.fence = a.fence) < 2"},
    {"nothing was refused", "SELECT count(*) FROM event WHERE kind = 'event_refused'"},
};

static bool quiet; /* soak_check_blind expects what it provokes */

static int check_rules(const soak *k) {
    int bad = 0;
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++) {
        long long n = mull_sql_int(k->pg, RULES[i].sql);
        if (n == 0) continue;
        if (!quiet) fprintf(stderr, "soak: broken: %s (%lld)\n", RULES[i].rule, n);
        bad++;
    }
    return bad;
}

static int check_jobs(const soak *k) {
    int bad = 0;
    for (int i = 0; i < k->job_count; i++) {
        char sql[200];
        const soak_job *j = &k->jobs[i];
        if (!j->id) continue;
        snprintf(sql, sizeof sql,
                 "SELECT COALESCE((SELECT state FROM job WHERE id = %lld AND client_key = '%s'), 'lost')", j->id,
                 j->key);
        char *state = mull_sql(k->pg, sql);
        if (!strcmp(state, "lost") || !strcmp(state, "PENDING") || !strcmp(state, "RUNNING")) {
            fprintf(stderr, "soak: broken: job %lld (%s%s) was acknowledged and is %s\n", j->id, j->key, j->more,
                    state);
            bad++;
        }
        free(state);
    }
    return bad;
}

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* No fence started a rank twice. */
static int check_starts(const soak *k) {
    char path[128], *lines[65536];
    size_t n = 0;
    int bad = 0;
    snprintf(path, sizeof path, "%s/starts", k->out);
    char *text = mull_slurp(path, NULL);
    for (char *save, *l = text ? strtok_r(text, "\n", &save) : NULL; l && n < 65536; l = strtok_r(NULL, "\n", &save))
        lines[n++] = l;
    qsort(lines, n, sizeof *lines, compare);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(lines[i], lines[i - 1]) != 0) continue;
        fprintf(stderr, "soak: broken: fence and rank %s were started twice\n", lines[i]);
        bad++;
    }
    free(text);
    return bad;
}

/* Each completed job has its output, whole, of one of its own attempts. */
static int check_outputs(const soak *k) {
    int bad = 0;
    char *ids = mull_sql(
        k->pg, "SELECT string_agg(id::text, ' ') FROM job j WHERE state = 'COMPLETED' AND NOT EXISTS (SELECT 1 "
               "FROM job_array r WHERE r.job = j.id)");
    for (char *save, *id = strtok_r(ids, " ", &save); id; id = strtok_r(NULL, " ", &save)) {
        char path[200], sql[160];
        snprintf(path, sizeof path, "%s/%s", k->out, id);
        char *text = mull_slurp(path, NULL);
        snprintf(sql, sizeof sql, "SELECT count(*) FROM attempt WHERE job = %s AND fence = %lld", id,
                 text ? atoll(text) : 0);
        if (!text || !strchr(text, '\n') || mull_sql_int(k->pg, sql) != 1) {
            fprintf(stderr, "soak: broken: the output of job %s is %s\n", id, text ? text : "not there");
            bad++;
        }
        free(text);
    }
    free(ids);
    return bad;
}

int soak_check(soak *k) {
    return check_jobs(k) + check_rules(k) + check_starts(k) + check_outputs(k);
}

#define SOME(table, where)                                                                                             \
    "(SELECT x.ctid FROM " table " x JOIN job j ON j.id = x.job AND j.state = 'COMPLETED' WHERE " where                \
    " ORDER BY x.ctid LIMIT 1)"

int soak_check_blind(soak *k) {
    static const char *const damages[] = {
        "DELETE FROM metric WHERE ctid = " SOME("metric", "true"),
        "UPDATE metric SET value = value + 1 WHERE ctid = " SOME("metric", "true"),
        "DELETE FROM job_log WHERE ctid = " SOME("job_log", "x.stream = 'stdout' AND x.attempt = j.attempt"),
        "UPDATE job_result SET result = '{\"fence\": 0}' WHERE ctid = " SOME("job_result", "x.attempt = j.attempt"),
        "UPDATE attempt SET ended_at = ended_at + interval '1 day' WHERE fence = (SELECT min(fence) FROM attempt)",
        "UPDATE attempt SET ended_at = NULL WHERE fence = (SELECT max(fence) FROM attempt)"};
    int blind = 0;
    quiet = true;
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        int before = check_rules(k); /* what earlier ones broke stays broken: each breaks another rule */
        free(mull_sql(k->pg, damages[i]));
        if (check_rules(k) > before) continue;
        fprintf(stderr, "soak: blind: nothing notices: %s\n", damages[i]);
        blind++;
    }
    quiet = false;
    return blind;
}
