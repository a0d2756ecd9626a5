/* The audit as somebody meets it who wants to hide a change: what the serving role may do, what the tables' owner may
 * do, and what is left to see when even the triggers are taken away. */
#include "tests/attack/attack.h"
#include "tests/scheduler/flow.h"

#include <sys/wait.h>

enum { WRITERS = 6, EACH = 15 };

static flow f;

static int start(void **state) {
    (void)state;
    flow_start(&f, 0);
    char server[128];
    snprintf(server, sizeof server, "unix:%s", f.sock);
    return setenv("MULL_SERVER", server, 1);
}

static int stop(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

static long long count(const char *sql) {
    return mull_sql_int(f.pg, sql);
}

static void run_sql(const char *sql) {
    free(mull_sql(f.pg, sql));
}

/* Runs mull audit verify; words (NULL: it must be good) must be in what it says. head is NULL or the flag's value. */
static void verify(const char *head, const char *words, char head_out[96]) {
    mull_run r =
        mull_run_command((const char *const[]){MULL, "audit", "verify", head ? "--head" : NULL, head, NULL}, LIMIT_S);
    if (words ? r.status != 1 || !strstr(r.err, words) : r.status != 0)
        fail_msg("verify: status %d, wanted '%s': %s%s", r.status, words ? words : "good", r.out, r.err);
    const char *at = strstr(r.out, "head ");
    if (head_out && at) snprintf(head_out, 96, "%.*s", (int)strcspn(at + 5, "\n"), at + 5);
    mull_run_fini(&r);
}

/* Makes a change to the tables as an owner who has taken the triggers away, tries verify, and undoes it. */
static void tampered(const char *change, const char *undo, const char *words) {
    run_sql("ALTER TABLE event DISABLE TRIGGER USER");
    run_sql("ALTER TABLE audit_chain DISABLE TRIGGER USER");
    run_sql("SELECT mull_audit_seal(1000)");
    run_sql(change);
    verify(NULL, words, NULL);
    run_sql(undo);
    run_sql("ALTER TABLE event ENABLE TRIGGER USER");
    run_sql("ALTER TABLE audit_chain ENABLE TRIGGER USER");
    verify(NULL, NULL, NULL);
}

static void many_at_once_are_one_chain(void **state) {
    (void)state;
    verify(NULL, NULL, NULL);
    pid_t pid[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        if ((pid[i] = fork()) != 0) continue;
        for (int k = 0; k < EACH; k++) {
            long long id = flow_submit(&f, ",\"hold\":true");
            if (k % 3 == 0 && flow_act(&f, id, "cancel") != 200) _exit(1);
        }
        _exit(0);
    }
    for (int i = 0; i < WRITERS; i++) {
        int status;
        waitpid(pid[i], &status, 0);
        assert_int_equal(status, 0);
    }
    verify(NULL, NULL, NULL);
    assert_true(count("SELECT count(*) FROM audit_chain") >= WRITERS * EACH * 4 / 3);
    assert_int_equal(count("SELECT count(*) FROM audit_pending"), 0);
    assert_int_equal(count("SELECT count(*) FROM event e LEFT JOIN audit_chain c ON c.event = e.id WHERE "
                           "mull__audited(kind) <> (c.n IS NOT NULL)"),
                     0);
    /* It goes on by itself. */
    flow_submit(&f, ",\"hold\":true");
    for (int i = 0; i < 200 && count("SELECT count(*) FROM audit_pending"); i++) mull_sleep_ms(100);
    assert_int_equal(count("SELECT count(*) FROM audit_pending"), 0);
}

static void nobody_changes_what_is_written(void **state) {
    (void)state;
    static const char *const tries[] = {
        "UPDATE event SET actor = 'somebody else'", "DELETE FROM event WHERE kind = 'cancel'", "TRUNCATE event",
        "UPDATE audit_chain SET hash = ''",         "DELETE FROM audit_chain WHERE n = 1",
    };
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        char text[200];
        snprintf(text, sizeof text, "SET ROLE mull_scheduler; %s", tries[i]);
        char *as_server = mull_sql_error(f.pg, text), *as_owner = mull_sql_error(f.pg, tries[i]);
        assert_non_null(strstr(as_server, "permission denied"));
        assert_non_null(strstr(as_owner, "only ever added to"));
        free(as_server);
        free(as_owner);
    }
    char *disabled = mull_sql_error(f.pg, "SET ROLE mull_scheduler; ALTER TABLE event DISABLE TRIGGER USER");
    assert_non_null(strstr(disabled, "must be owner"));
    free(disabled);
    verify(NULL, NULL, NULL);
}

static void what_was_changed_is_named(void **state) {
    (void)state;
    run_sql("CREATE TABLE kept AS SELECT * FROM event; CREATE TABLE kept_chain AS SELECT * FROM audit_chain");
    tampered("UPDATE event SET actor = actor || 'x' WHERE id = (SELECT event FROM audit_chain WHERE n = 7)",
             "UPDATE event e SET actor = k.actor FROM kept k WHERE k.id = e.id", "entry 7, event ");
    tampered(
        "UPDATE event SET at = at - interval '1 microsecond' WHERE id = (SELECT event FROM audit_chain WHERE n = 5)",
        "UPDATE event e SET at = k.at FROM kept k WHERE k.id = e.id", "entry 5, event ");
    tampered("DELETE FROM event WHERE id = (SELECT event FROM audit_chain WHERE n = 3)",
             "INSERT INTO event OVERRIDING SYSTEM VALUE SELECT * FROM kept ON CONFLICT DO NOTHING", "entry 3, event ");
    tampered("DELETE FROM audit_chain WHERE n = 4", "INSERT INTO audit_chain SELECT * FROM kept_chain WHERE n = 4",
             "entry 5, event ");
    tampered("INSERT INTO event (at, actor, kind) VALUES (now(), 'nobody', 'token_create')",
             "DELETE FROM event WHERE actor = 'nobody'", "it is in no entry of the chain");
    /* A rewrite that recomputes one hash breaks the next. */
    tampered("UPDATE event SET actor = 'eve' WHERE id = (SELECT event FROM audit_chain WHERE n = 6); "
             "UPDATE audit_chain c SET hash = sha256((SELECT hash FROM audit_chain WHERE n = 5) || "
             "convert_to(mull__audit_text(6, e), 'UTF8')) FROM event e WHERE c.n = 6 AND e.id = c.event",
             "UPDATE event e SET actor = k.actor FROM kept k WHERE k.id = e.id; "
             "UPDATE audit_chain c SET hash = k.hash FROM kept_chain k WHERE k.n = c.n",
             "entry 7, event ");
    run_sql("DROP TABLE kept, kept_chain");
}

static void a_kept_head_shows_what_was_cut_off(void **state) {
    (void)state;
    char head[96] = "";
    verify(NULL, NULL, head);
    assert_true(strlen(head) > 66);
    flow_submit(&f, ",\"hold\":true"); /* what comes later does not hurt */
    verify(head, NULL, NULL);
    run_sql("ALTER TABLE event DISABLE TRIGGER USER; ALTER TABLE audit_chain DISABLE TRIGGER USER");
    run_sql("DELETE FROM event WHERE id IN (SELECT event FROM audit_chain ORDER BY n DESC LIMIT 2)");
    run_sql("DELETE FROM audit_chain WHERE n > (SELECT max(n) - 2 FROM audit_chain)");
    run_sql("ALTER TABLE event ENABLE TRIGGER USER; ALTER TABLE audit_chain ENABLE TRIGGER USER");
    verify(NULL, NULL, NULL); /* what is left fits */
    verify(head, "its end was cut off", NULL);
    flow_submit(&f, ",\"hold\":true");
    verify(head, "its end was cut off", NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_at_once_are_one_chain),
        cmocka_unit_test(nobody_changes_what_is_written),
        cmocka_unit_test(what_was_changed_is_named),
        cmocka_unit_test(a_kept_head_shows_what_was_cut_off),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
