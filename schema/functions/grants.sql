-- What the role that serves queries may do, after everything else. Roles belong to the whole server; without this one
-- serve runs as the owner.
DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'mull_scheduler') THEN
        GRANT USAGE ON SCHEMA public TO mull_scheduler;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO mull_scheduler;
        REVOKE INSERT, UPDATE, DELETE ON schema_migration, schema_functions FROM mull_scheduler;
        REVOKE UPDATE, DELETE, TRUNCATE ON event, audit_chain FROM mull_scheduler;
        GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO mull_scheduler;
    END IF;
END $$;
