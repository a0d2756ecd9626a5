-- Row-level security: what the role mull_front sees and may change. The front door runs every statement that a token of a
-- team asks for in a transaction that first takes this role and sets mull.team (store_pg.h), so a statement that forgets
-- its team shows and changes nothing of another's. Forced: it holds for the owner of the tables too, who like
-- mull_scheduler has a policy that lets everything through (an owner that bypasses row security needs none).
--
-- Every table is listed, with what mull_front may do and which rows are a team's; one that is not listed fails the
-- migration. Rows below a job are those of a job that is seen: the policy of job applies inside the others. Only
-- built-in functions in the conditions: ours are dropped and made again. A table whose rule is as it was, by the comment
-- of its policy, is not touched: changing one shuts the table to everybody for a moment.

DO $$
DECLARE
    mine CONSTANT text := $c$ team = current_setting('mull.team', true) $c$;
    of_job CONSTANT text := $c$ EXISTS (SELECT 1 FROM job j WHERE j.id = %I.job) $c$;
    r record;
    p record;
    trusted text;
    missing text;
BEGIN
    SELECT string_agg(format('%I', rolname), ', ') INTO trusted FROM pg_roles
     WHERE rolname = 'mull_scheduler' OR rolname = current_user AND NOT rolsuper AND NOT rolbypassrls;
    CREATE TEMPORARY TABLE mull_rule (name text, may text, which text) ON COMMIT DROP;
    INSERT INTO mull_rule VALUES
        ('job', 'SELECT, INSERT, UPDATE', mine),
        ('job_spec', 'SELECT, INSERT', of_job),
        ('job_array', 'SELECT, INSERT, UPDATE', of_job),
        ('job_result', 'SELECT', of_job),
        ('progress', 'SELECT', of_job),
        ('attempt', 'SELECT', of_job),
        ('attempt_part', 'SELECT', $c$ EXISTS (SELECT 1 FROM attempt a WHERE a.fence = attempt_part.fence) $c$),
        ('job_log', 'SELECT', of_job),
        ('run', 'SELECT', of_job),
        ('metric', 'SELECT', of_job),
        ('checkpoint', 'SELECT, UPDATE', of_job),
        ('artifact', 'SELECT', of_job),
        ('eval_result', 'SELECT', of_job),
        ('job_follow', 'SELECT, INSERT', of_job),
        ('job_follow_child', 'SELECT, INSERT', of_job),
        ('api_batch', 'SELECT, INSERT, UPDATE', of_job),
        ('api_file', 'SELECT, INSERT, UPDATE, DELETE', mine),
        ('cron', 'SELECT, INSERT, UPDATE, DELETE', mine),
        ('event', 'SELECT, INSERT', mine || 'OR' || of_job),
        ('team', 'SELECT, INSERT', $c$ name = current_setting('mull.team', true) $c$),
        ('token', 'SELECT, UPDATE', mine || $c$ AND "user" = current_setting('mull.user', true) $c$),
        -- A team's, but of no use to its people.
        ('user_usage', '', mine),
        ('webhook', '', mine),
        ('webhook_delivery', '', 'false'),
        -- Nobody's in particular. Names and numbers may be added, none can be read.
        ('app_user', 'INSERT', 'true'),
        ('audit_pending', 'INSERT', 'true'),
        -- The cluster's own.
        ('audit_chain', NULL, NULL), ('device', NULL, NULL), ('leader', NULL, NULL), ('maintenance', NULL, NULL),
        ('node', NULL, NULL), ('node_boot', NULL, NULL), ('node_credential', NULL, NULL), ('node_token', NULL, NULL),
        ('schema_functions', NULL, NULL), ('schema_migration', NULL, NULL), ('stream_cursor', NULL, NULL);
    SELECT string_agg(c.relname, ', ') INTO missing FROM pg_class c
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname NOT IN (SELECT name FROM mull_rule);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'functions/policies.sql does not say whose the rows of % are', missing;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA public FROM mull_front;
    FOR r IN SELECT *, md5(concat_ws('|', which, trusted)) AS sum FROM mull_rule WHERE may IS NOT NULL ORDER BY name LOOP
        IF r.may <> '' THEN EXECUTE format('GRANT %s ON %I TO mull_front', r.may, r.name); END IF;
        CONTINUE WHEN EXISTS (SELECT 1 FROM pg_class c JOIN pg_policy o ON o.polrelid = c.oid AND o.polname = 'team'
                               WHERE c.oid = r.name::regclass AND c.relrowsecurity AND c.relforcerowsecurity
                                 AND obj_description(o.oid, 'pg_policy') = r.sum);
        FOR p IN SELECT polname FROM pg_policy WHERE polrelid = r.name::regclass LOOP
            EXECUTE format('DROP POLICY %I ON %I', p.polname, r.name);
        END LOOP;
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', r.name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', r.name);
        EXECUTE format('CREATE POLICY team ON %I TO mull_front USING (%s)', r.name, replace(r.which, '%I', quote_ident(r.name)));
        IF trusted IS NOT NULL THEN
            EXECUTE format('CREATE POLICY cluster ON %I TO %s USING (true)', r.name, trusted);
        END IF;
        EXECUTE format('COMMENT ON POLICY team ON %I IS %L', r.name, r.sum);
    END LOOP;
    DROP TABLE mull_rule;
END $$;

-- Who serves takes the role: mull_scheduler, or where there is none the owner.
DO $$
DECLARE
    server text := COALESCE((SELECT rolname FROM pg_roles WHERE rolname = 'mull_scheduler'), current_user);
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['mull_scheduler', current_user] LOOP
        CONTINUE WHEN NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = r) OR pg_has_role(r, 'mull_front', 'MEMBER');
        BEGIN
            EXECUTE format('GRANT mull_front TO %I', r);
        EXCEPTION WHEN insufficient_privilege THEN
            IF r = server THEN
                RAISE EXCEPTION 'the role mull_front is not given to %: let an administrator run "GRANT mull_front TO %", and migrate again', r, r;
            END IF;
        END;
    END LOOP;
END $$;
GRANT USAGE ON SCHEMA public TO mull_front;
