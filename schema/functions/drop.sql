-- First, so that what is no longer defined here is gone and a changed signature needs no care: the triggers that call our
-- functions, then the functions. Nothing else may depend on one (a default, an index, a view): the drop would fail.
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
              WHERE NOT t.tgisinternal AND p.pronamespace = 'public'::regnamespace AND p.proname LIKE 'mull\_%'
              ORDER BY 2, 1 LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', r.tgname, r.relation);
    END LOOP;
    FOR r IN SELECT oid::regprocedure AS signature FROM pg_proc
              WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'mull\_%' LOOP
        EXECUTE format('DROP FUNCTION %s', r.signature);
    END LOOP;
END $$;
