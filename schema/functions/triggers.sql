-- Triggers, after all functions.

CREATE TRIGGER node_stays_drained BEFORE UPDATE ON node FOR EACH ROW
    WHEN (NEW.drained AND NEW.state = 'UP') EXECUTE FUNCTION mull__node_stays_drained();

CREATE TRIGGER task_changed AFTER UPDATE OF state ON job FOR EACH ROW
    WHEN (NEW.array_job IS NOT NULL AND OLD.state <> NEW.state) EXECUTE FUNCTION mull__task_changed();

CREATE TRIGGER checkpoint_followed AFTER INSERT OR UPDATE OF state ON checkpoint FOR EACH ROW
    WHEN (NEW.state = 'PUBLISHED') EXECUTE FUNCTION mull__checkpoint_followed();

CREATE TRIGGER job_followed AFTER UPDATE OF state, hold ON job FOR EACH ROW
    WHEN (NEW.kind IN ('train', 'eval') AND (OLD.state <> NEW.state OR OLD.hold <> NEW.hold))
    EXECUTE FUNCTION mull__job_followed();

CREATE TRIGGER gang_closed AFTER UPDATE OF ended_at ON attempt FOR EACH ROW
    WHEN (NEW.boot = 'gang' AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION mull__gang_closed();

CREATE TRIGGER attempt_struck AFTER UPDATE OF ended_at ON attempt FOR EACH ROW
    WHEN (NEW.class = 'infra' AND OLD.ended_at IS NULL AND NEW.boot <> 'gang') EXECUTE FUNCTION mull__attempt_struck();

CREATE TRIGGER part_struck AFTER UPDATE OF ended_at ON attempt_part FOR EACH ROW
    WHEN (NEW.class = 'infra' AND OLD.ended_at IS NULL) EXECUTE FUNCTION mull__attempt_struck();

CREATE TRIGGER job_poison AFTER UPDATE OF state ON job FOR EACH ROW
    WHEN (OLD.state = 'RUNNING' AND NEW.state = 'PENDING' AND NEW.infra_failures > 0) EXECUTE FUNCTION mull__job_poison();

CREATE TRIGGER run_deleted AFTER DELETE ON run FOR EACH ROW EXECUTE FUNCTION mull__run_deleted();

CREATE TRIGGER checkpoint_gone AFTER UPDATE OF state ON checkpoint FOR EACH ROW
    WHEN (NEW.state = 'REMOVED' AND OLD.state <> 'REMOVED') EXECUTE FUNCTION mull__checkpoint_gone();

CREATE TRIGGER array_corr BEFORE INSERT ON job_array FOR EACH ROW EXECUTE FUNCTION mull__array_corr();

CREATE TRIGGER job_webhook AFTER UPDATE OF state ON job FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state AND NEW.array_job IS NULL) EXECUTE FUNCTION mull__webhook_note();

-- The audit is only added to.
CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION mull__append_only();

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION mull__append_only();
