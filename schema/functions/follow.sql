-- Evaluations that follow a training job's checkpoints.

-- Makes the jobs that are missing, in the caller's transaction: the one that publishes a checkpoint, submits the
-- follower, or releases it. Twice is as good as once: a key of its own stands for each pair.
CREATE FUNCTION mull__follow_make_seen(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    f job_follow%ROWTYPE;
    c checkpoint%ROWTYPE;
    spec jsonb;
    child bigint;
BEGIN
    SELECT x.* INTO f FROM job_follow x JOIN job j ON j.id = x.job
     WHERE x.job = p_job AND j.state = 'PENDING' AND NOT j.hold;
    IF NOT FOUND THEN RETURN; END IF;
    FOR c IN SELECT * FROM checkpoint k
              WHERE k.job = f.source AND k.state = 'PUBLISHED' AND k.step % f.every = 0
                AND NOT EXISTS (SELECT 1 FROM job_follow_child x WHERE x.follow = p_job AND x.checkpoint = k.id)
              ORDER BY k.step, k.id LOOP
        spec := (f.item->>'spec')::jsonb;
        spec := (spec - 'after' - 'key' - 'hold')
                || jsonb_build_object('model', c.path, 'step', c.step, 'out', (spec->>'out') || '/step-' || c.step,
                                      'name', (f.item->>'name') || '@' || c.step);
        SELECT s.id INTO child FROM mull_submit(jsonb_build_array(f.item || jsonb_build_object(
            'name', (f.item->>'name') || '@' || c.step, 'key', 'follow:' || p_job || ':' || c.id, 'depends', '', 'hold',
            false, 'no_quota', true, 'begin_ms', NULL, 'spec', spec::text))) s;
        INSERT INTO job_follow_child (job, follow, checkpoint) VALUES (child, p_job, c.id) ON CONFLICT DO NOTHING;
    END LOOP;
END $$;

CREATE FUNCTION mull__follow_make(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM job s WHERE s.id = (SELECT f.source FROM job_follow f WHERE f.job = p_job) FOR NO KEY UPDATE;
    PERFORM mull__follow_make_seen(p_job);
END $$;

-- A checkpoint that is taken away (a recipe's save_total_limit, mull ckpt rm) before its turn is not evaluated: what
-- still waits for it is cancelled, and the follower does not count it.
CREATE FUNCTION mull__follow_settle_seen(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
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

CREATE FUNCTION mull__follow_settle(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM job_follow f JOIN job s ON s.id = f.source WHERE f.job = p_job AND mull__terminal(s.state)) THEN
        PERFORM mull__follow_make(p_job);
        PERFORM mull__follow_settle_seen(p_job);
    END IF;
END $$;

-- A checkpoint that is published in the very moment in which its follower is submitted or released was seen by neither of
-- the two transactions. Both now take the training job's row first, so that the later one sees what the earlier did; and
-- a follower looks once more when the training job has ended.
CREATE FUNCTION mull__checkpoint_followed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM job WHERE id = NEW.job FOR NO KEY UPDATE;
    PERFORM mull__follow_make(f.job) FROM job_follow f WHERE f.source = NEW.job ORDER BY f.job;
    RETURN NULL;
END $$;

CREATE FUNCTION mull__job_followed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    IF mull__terminal(NEW.state) THEN
        PERFORM mull__follow_settle(f.job) FROM job_follow f WHERE f.source = NEW.id;
        PERFORM mull__follow_settle(x.follow) FROM job_follow_child x WHERE x.job = NEW.id;
        IF NEW.state = 'CANCELLED' THEN
            PERFORM mull_job_action(x.job, 'cancel', 'scheduler', '')
               FROM job_follow_child x JOIN job j ON j.id = x.job
              WHERE x.follow = NEW.id AND NOT mull__terminal(j.state);
        END IF;
    ELSIF NEW.state = 'PENDING' AND NOT NEW.hold AND EXISTS (SELECT 1 FROM job_follow f WHERE f.job = NEW.id) THEN
        PERFORM mull__follow_make(NEW.id); -- it was released or queued again
        PERFORM mull__follow_settle(NEW.id);
    END IF;
    RETURN NULL;
END $$;

-- A figure of a followed checkpoint is a metric of the run that made it: eval/TASK/METRIC at its step.
CREATE FUNCTION mull__follow_result(p_job bigint, p_at timestamptz, line jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    source bigint;
    step bigint;
BEGIN
    IF jsonb_typeof(line->'result'->'value') IS DISTINCT FROM 'number' THEN RETURN; END IF;
    SELECT c.job, c.step INTO source, step
      FROM job_follow_child x JOIN checkpoint c ON c.id = x.checkpoint WHERE x.job = p_job;
    IF source IS NULL THEN RETURN; END IF;
    PERFORM mull__apply_engine(source, 0, 0, p_at, jsonb_build_object('ev', 'metric', 'step', step, 'values',
        jsonb_build_object('eval/' || (line->>'task') || '/' || COALESCE(line->'result'->>'metric', 'score'),
                           line->'result'->'value')));
END $$;
