-- Evaluations that share their rows among the tasks of an array, and evaluations that follow a training job.

-- Figures and metrics of a sharded evaluation are the array's own: each task says the same.
CREATE OR REPLACE FUNCTION mull__apply_engine(p_job bigint, p_attempt int, p_fence bigint, p_at timestamptz, line jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    whole bigint;
BEGIN
    IF line->>'ev' IN ('eval', 'metric') THEN
        SELECT j.array_job INTO whole FROM job j JOIN job_spec s ON s.job = j.id
         WHERE j.id = p_job AND j.kind = 'eval' AND j.array_job IS NOT NULL AND s.spec::jsonb ? 'shards';
        whole := COALESCE(whole, p_job);
    END IF;
    IF line->>'ev' = 'eval' THEN
        PERFORM mull__apply_eval(whole, line);
        PERFORM mull__follow_result(whole, p_at, line);
    ELSE
        PERFORM mull__apply_engine_line(COALESCE(whole, p_job), p_attempt, p_fence, p_at, line);
    END IF;
END $$;

-- A job that follows another: it never runs itself, but a job is made from its item for each checkpoint of the source.
-- It is PENDING until the source and all that was made have ended.
CREATE TABLE job_follow (
    job bigint PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    source bigint NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    every bigint NOT NULL CHECK (every > 0), -- only steps that it divides
    item jsonb NOT NULL                      -- what mull_submit takes
);
CREATE INDEX job_follow_source ON job_follow (source);
CREATE TABLE job_follow_child (
    job bigint PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    follow bigint NOT NULL REFERENCES job_follow (job) ON DELETE CASCADE,
    checkpoint bigint NOT NULL REFERENCES checkpoint (id) ON DELETE CASCADE,
    UNIQUE (follow, checkpoint)
);

-- Makes the jobs that are missing, in the caller's transaction: the one that publishes a checkpoint, submits the
-- follower, or releases it. Twice is as good as once: a key of its own stands for each pair.
CREATE FUNCTION mull__follow_make(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
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
            false, 'begin_ms', NULL, 'spec', spec::text))) s;
        INSERT INTO job_follow_child (job, follow, checkpoint) VALUES (child, p_job, c.id) ON CONFLICT DO NOTHING;
    END LOOP;
END $$;

-- Ends a follower whose source and jobs have all ended.
CREATE FUNCTION mull__follow_settle(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    source job%ROWTYPE;
    n int;
    good int;
    busy int;
BEGIN
    SELECT s.* INTO source FROM job_follow f JOIN job s ON s.id = f.source JOIN job j ON j.id = f.job
     WHERE f.job = p_job AND j.state = 'PENDING' AND NOT j.hold;
    IF NOT FOUND OR NOT mull__terminal(source.state) THEN RETURN; END IF;
    SELECT count(*), count(*) FILTER (WHERE j.state = 'COMPLETED'), count(*) FILTER (WHERE NOT mull__terminal(j.state))
      INTO n, good, busy FROM job_follow_child x JOIN job j ON j.id = x.job WHERE x.follow = p_job;
    IF busy > 0 THEN RETURN; END IF;
    UPDATE job SET state = CASE WHEN good = n AND n > 0 THEN 'COMPLETED' ELSE 'FAILED' END, reason = '',
                   ended_at = clock_timestamp(), exit_code = CASE WHEN good = n AND n > 0 THEN 0 ELSE 1 END,
                   message = CASE WHEN n = 0 THEN 'job ' || source.id || ' ended as ' || source.state || ' without a checkpoint to follow'
                                  ELSE good || ' of ' || n || ' jobs of its checkpoints completed' END
     WHERE id = p_job;
    PERFORM mull__event('scheduler', 'follow_ended', p_job, NULL, NULL,
                        jsonb_build_object('source', source.id, 'jobs', n, 'completed', good));
END $$;

CREATE FUNCTION mull__checkpoint_followed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull__follow_make(f.job) FROM job_follow f WHERE f.source = NEW.job ORDER BY f.job;
    RETURN NULL;
END $$;
CREATE TRIGGER checkpoint_followed AFTER INSERT OR UPDATE OF state ON checkpoint FOR EACH ROW
    WHEN (NEW.state = 'PUBLISHED') EXECUTE FUNCTION mull__checkpoint_followed();

CREATE FUNCTION mull__job_followed() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER job_followed AFTER UPDATE OF state, hold ON job FOR EACH ROW
    WHEN (NEW.kind IN ('train', 'eval') AND (OLD.state <> NEW.state OR OLD.hold <> NEW.hold))
    EXECUTE FUNCTION mull__job_followed();

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

-- Followers wait for ever; what ends them is above.
ALTER FUNCTION mull__dependency(text) RENAME TO mull__dependency_jobs;
CREATE FUNCTION mull__dependency(p_depends text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_depends LIKE 'checkpoint:%' THEN 'wait' ELSE mull__dependency_jobs(p_depends) END
$$;

-- An item with follow = {"source", "every"} becomes a follower.
ALTER FUNCTION mull_submit(jsonb) RENAME TO mull__submit_arrays;
CREATE FUNCTION mull_submit(p_batch jsonb)
RETURNS TABLE (ord int, id bigint, state text, created boolean, problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    item jsonb;
    r record;
    n int := 0;
    source bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM jsonb_array_elements(p_batch) x WHERE x ? 'follow') THEN
        RETURN QUERY SELECT * FROM mull__submit_arrays(p_batch);
        RETURN;
    END IF;
    FOR item IN SELECT * FROM jsonb_array_elements(p_batch) LOOP
        source := (item->'follow'->>'source')::bigint;
        IF source IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM job j WHERE j.id = source AND j.kind = 'train'
                                  AND (j.team = item->>'team' OR (item->>'any_team')::boolean)) THEN
            ord := n; id := NULL; state := NULL; created := false;
            problem := 'after: no training job ' || source;
        ELSE
            SELECT * INTO r FROM mull__submit_arrays(jsonb_build_array(
                CASE WHEN source IS NULL THEN item ELSE (item - 'array') || '{"depends": ""}' END));
            ord := n; id := r.id; state := r.state; created := r.created; problem := r.problem;
            IF source IS NOT NULL AND r.created THEN
                INSERT INTO job_follow (job, source, every, item)
                VALUES (r.id, source, (item->'follow'->>'every')::bigint, item - 'follow');
                UPDATE job SET depends = 'checkpoint:' || source || ':' || (item->'follow'->>'every'),
                               reason = CASE WHEN hold THEN 'Held' ELSE 'Dependency' END WHERE job.id = r.id;
                PERFORM mull__follow_make(r.id);
                PERFORM mull__follow_settle(r.id);
            END IF;
        END IF;
        n := n + 1;
        RETURN NEXT;
    END LOOP;
END $$;

-- follow: of a follower, with what was made; of what was made, whom it belongs to.
ALTER FUNCTION mull_job_show(bigint, text) RENAME TO mull__job_show_eval;
CREATE FUNCTION mull_job_show(p_job bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT mull__job_show_eval(p_job, p_team)
        || COALESCE((SELECT jsonb_build_object('follow', jsonb_build_object('source', f.source::text, 'every', f.every,
               'jobs', COALESCE((SELECT jsonb_agg(jsonb_build_object('id', j.id::text, 'step', c.step, 'checkpoint', c.path,
                   'state', j.state, 'eval_results', COALESCE((
                       SELECT jsonb_agg(jsonb_build_object('task', e.task) || e.result ORDER BY e.task)
                         FROM eval_result e WHERE e.job = j.id AND e.sample = -1), '[]')) ORDER BY c.step, j.id)
                   FROM job_follow_child x JOIN job j ON j.id = x.job JOIN checkpoint c ON c.id = x.checkpoint
                  WHERE x.follow = f.job), '[]')))
             FROM job_follow f WHERE f.job = p_job), '{}')
        || COALESCE((SELECT jsonb_build_object('followed', jsonb_build_object('id', x.follow::text, 'step', c.step,
                                                                              'source', c.job::text))
             FROM job_follow_child x JOIN checkpoint c ON c.id = x.checkpoint WHERE x.job = p_job), '{}')
$$;

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'mull_scheduler') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON job_follow, job_follow_child TO mull_scheduler;
    END IF;
END $$;
