-- The role as which the front door runs the statements of a team's people, and of which team an event is: functions/policies.sql
-- says what that role may see. Roles belong to the whole server, so another database may have it already, or be making it now.
DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'mull_front') THEN
        CREATE ROLE mull_front NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'the role mull_front is missing and % may not create it: let an administrator run "CREATE ROLE mull_front NOLOGIN; GRANT mull_front TO %", and migrate again',
            current_user, COALESCE((SELECT rolname FROM pg_roles WHERE rolname = 'mull_scheduler'), current_user);
END $$;

-- Nobody says it: it is the team of the transaction, none where the scheduler itself or an admin acts.
ALTER TABLE event ADD COLUMN team text DEFAULT nullif(current_setting('mull.team', true), '');
