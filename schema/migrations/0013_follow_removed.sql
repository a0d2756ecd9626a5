-- A checkpoint that is taken away (a recipe's save_total_limit, mull ckpt rm) before its turn is not evaluated: what
-- still waits for it is cancelled, and the follower does not count it.

CREATE OR REPLACE FUNCTION mull__follow_settle(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    source job%ROWTYPE;
    n int;
    good int;
    busy int;
    gone int;
BEGIN
    SELECT s.* INTO source FROM job_follow f JOIN job s ON s.id = f.source JOIN job j ON j.id = f.job
     WHERE f.job = p_job AND j.state = 'PENDING' AND NOT j.hold;
    IF NOT FOUND OR NOT mull__terminal(source.state) THEN RETURN; END IF;
    SELECT count(*), count(*) FILTER (WHERE j.state = 'COMPLETED'), count(*) FILTER (WHERE NOT mull__terminal(j.state)),
           count(*) FILTER (WHERE j.state = 'CANCELLED' AND c.state = 'REMOVED' AND j.started_at IS NULL)
      INTO n, good, busy, gone
      FROM job_follow_child x JOIN job j ON j.id = x.job JOIN checkpoint c ON c.id = x.checkpoint WHERE x.follow = p_job;
    IF busy > 0 THEN RETURN; END IF;
    n := n - gone;
    UPDATE job SET state = CASE WHEN good = n AND n > 0 THEN 'COMPLETED' ELSE 'FAILED' END, reason = '',
                   ended_at = clock_timestamp(), exit_code = CASE WHEN good = n AND n > 0 THEN 0 ELSE 1 END,
                   message = CASE WHEN n = 0 THEN 'job ' || source.id || ' ended as ' || source.state || ' without a checkpoint to follow'
                                  ELSE good || ' of ' || n || ' jobs of its checkpoints completed' END
                             || CASE WHEN gone > 0 THEN '; ' || gone || ' removed before their turn' ELSE '' END
     WHERE id = p_job;
    PERFORM mull__event('scheduler', 'follow_ended', p_job, NULL, NULL,
                        jsonb_build_object('source', source.id, 'jobs', n, 'completed', good, 'removed', gone));
END $$;

CREATE FUNCTION mull__checkpoint_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull_job_action(x.job, 'cancel', 'scheduler: its checkpoint was removed', '')
       FROM job_follow_child x JOIN job j ON j.id = x.job
      WHERE x.checkpoint = NEW.id AND j.state = 'PENDING' AND j.started_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER checkpoint_gone AFTER UPDATE OF state ON checkpoint FOR EACH ROW
    WHEN (NEW.state = 'REMOVED' AND OLD.state <> 'REMOVED') EXECUTE FUNCTION mull__checkpoint_gone();
