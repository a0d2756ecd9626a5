-- Runs and checkpoints: what a run follows from, what its checkpoints are made of, and looking at both. A run is called
-- by its job's id everywhere outside the database. The functions that are replaced here differ from 0002 in what the
-- engine's lines run, checkpoint and checkpoint_removed do.

ALTER TABLE run
    ADD COLUMN attempt int,                       -- the last one that described it
    ADD COLUMN parent_path text,                  -- folder of the first weights; parent_checkpoint when it is one of ours
    ADD COLUMN resumed_path text;                 -- what that attempt went on from
ALTER TABLE checkpoint
    ADD COLUMN files jsonb NOT NULL DEFAULT '[]', -- [{"name","bytes","sha256"}], all but SHA256SUMS
    ADD COLUMN metrics jsonb NOT NULL DEFAULT '{}', -- of the step it was made at
    ADD COLUMN removed_at timestamptz,
    ADD COLUMN removed_by text;
CREATE INDEX checkpoint_path ON checkpoint (path);
CREATE INDEX run_parent ON run (parent_checkpoint) WHERE parent_checkpoint IS NOT NULL;

---------------------------------------------------------------------------------------------------------------------
-- What the engine tells

-- The run of a job, made by whichever of its lines comes first.
CREATE FUNCTION mull__run_of(p_job bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    r bigint;
BEGIN
    SELECT id INTO r FROM run WHERE job = p_job;
    IF r IS NULL THEN
        INSERT INTO run (job, config)
        VALUES (p_job, COALESCE((SELECT s.spec::jsonb FROM job_spec s WHERE s.job = p_job), '{}')) RETURNING id INTO r;
    END IF;
    RETURN r;
END $$;

-- A later attempt's description replaces an earlier one's; when it follows from something else, the audit says from what.
CREATE FUNCTION mull__apply_run(p_job bigint, p_attempt int, p_fence bigint, line jsonb) RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
    r bigint := mull__run_of(p_job);
    before jsonb;
    parent bigint;
BEGIN
    SELECT hashes INTO before FROM run WHERE id = r;
    IF before <> '{}' AND before <> line->'hashes' THEN
        PERFORM mull__event('engine', 'run_changed', p_job, p_attempt, p_fence,
                            jsonb_build_object('before', before, 'after', line->'hashes'));
    END IF;
    SELECT c.id INTO parent FROM checkpoint c WHERE c.path = line->>'parent' AND c.job <> p_job
     ORDER BY c.id DESC LIMIT 1;
    UPDATE run SET config = line->'config', hashes = line->'hashes', seed = (line->>'seed')::numeric::bigint,
                   attempt = p_attempt, parent_path = line->>'parent', parent_checkpoint = parent,
                   resumed_path = line->>'resumed'
     WHERE id = r;
END $$;

CREATE OR REPLACE FUNCTION mull__apply_engine_line(p_job bigint, p_attempt int, p_fence bigint, p_at timestamptz, line jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE line->>'ev'
    WHEN 'progress' THEN
        INSERT INTO progress AS p (job, done, total, unit, tokens, eta_s, updated_at)
        VALUES (p_job, COALESCE((line->>'done')::numeric::bigint, 0), (line->>'total')::numeric::bigint,
                COALESCE(line->>'unit', ''), (line->>'tokens')::numeric::bigint, (line->>'eta_s')::float8, p_at)
        ON CONFLICT (job) DO UPDATE SET done = EXCLUDED.done, total = EXCLUDED.total, unit = EXCLUDED.unit,
            tokens = EXCLUDED.tokens, eta_s = EXCLUDED.eta_s, updated_at = EXCLUDED.updated_at;
    WHEN 'run' THEN
        PERFORM mull__apply_run(p_job, p_attempt, p_fence, line);
    WHEN 'metric' THEN
        INSERT INTO metric (run, job, key, step, value, at)
        SELECT mull__run_of(p_job), p_job, m.key, COALESCE((line->>'step')::numeric::bigint, 0),
               (m.value #>> '{}')::float8, p_at
          FROM jsonb_each(line->'values') m WHERE jsonb_typeof(m.value) = 'number'
        ON CONFLICT (run, key, step) DO NOTHING;
    WHEN 'result' THEN
        INSERT INTO job_result (job, attempt, result) VALUES (p_job, p_attempt, line->'result')
        ON CONFLICT (job, attempt) DO UPDATE SET result = EXCLUDED.result;
    WHEN 'artifact' THEN
        INSERT INTO artifact (job, attempt, path, bytes, sha256)
        VALUES (p_job, p_attempt, line->>'path', (line->>'bytes')::numeric::bigint, line->>'sha256')
        ON CONFLICT DO NOTHING;
    WHEN 'checkpoint' THEN
        -- The same folder again: an attempt that went on from before it has written it anew.
        INSERT INTO checkpoint AS c (job, attempt, path, step, bytes, sha256, files, metrics, state, created_at)
        VALUES (p_job, p_attempt, line->>'path', COALESCE((line->>'step')::numeric::bigint, 0),
                (line->>'bytes')::numeric::bigint, line->>'sha256', COALESCE(line->'files', '[]'),
                COALESCE(line->'metrics', '{}'), 'PUBLISHED', p_at)
        ON CONFLICT (job, path) DO UPDATE SET attempt = EXCLUDED.attempt, step = EXCLUDED.step, bytes = EXCLUDED.bytes,
            sha256 = EXCLUDED.sha256, files = EXCLUDED.files, metrics = EXCLUDED.metrics, state = 'PUBLISHED',
            created_at = EXCLUDED.created_at, removed_at = NULL, removed_by = NULL;
    WHEN 'checkpoint_removed' THEN
        UPDATE checkpoint SET state = 'REMOVED', removed_at = p_at, removed_by = 'retention'
         WHERE job = p_job AND path = line->>'path' AND state = 'PUBLISHED';
    WHEN 'log' THEN
        PERFORM mull__apply_log(p_job, p_attempt, p_at, 'engine',
                                jsonb_build_array(COALESCE(line->>'level' || ': ', '') || COALESCE(line->>'text', '')));
    WHEN 'error' THEN
        PERFORM mull__event('engine', 'error', p_job, p_attempt, p_fence, line - 'ev');
    WHEN 'hello' THEN
        PERFORM mull__event('engine', 'hello', p_job, p_attempt, p_fence, line - 'ev');
    ELSE NULL; -- heartbeats, and kinds of later versions
    END CASE;
END $$;

---------------------------------------------------------------------------------------------------------------------
-- Checkpoints

CREATE FUNCTION mull__checkpoint_json(c checkpoint) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'id', c.id::text, 'job', c.job::text, 'attempt', c.attempt, 'path', c.path, 'step', c.step, 'bytes', c.bytes,
        'sha256', c.sha256, 'state', c.state, 'pinned', c.pinned,
        -- Evaluations of it are metrics of the run at its step.
        'metrics', c.metrics || COALESCE((
            SELECT jsonb_object_agg(m.key, m.value) FROM run r JOIN metric m ON m.run = r.id
             WHERE r.job = c.job AND m.key >= 'eval/' AND m.key < 'eval0' AND m.step = c.step), '{}'),
        'created_at', mull__time(c.created_at), 'removed_at', mull__time(c.removed_at), 'removed_by', c.removed_by)
$$;

-- Newest first: ids below p_before (0 = from the top). p_job 0, p_team '' and p_state '' = any.
CREATE FUNCTION mull_checkpoints(p_team text, p_job bigint, p_state text, p_before bigint, p_limit int)
RETURNS json LANGUAGE sql STABLE AS $$
    WITH page AS (
        SELECT c FROM checkpoint c JOIN job j ON j.id = c.job
         WHERE (p_team = '' OR j.team = p_team) AND (p_job = 0 OR c.job = p_job) AND (p_state = '' OR c.state = p_state)
           AND (p_before = 0 OR c.id < p_before)
         ORDER BY c.id DESC LIMIT p_limit)
    SELECT json_build_object(
        'checkpoints', COALESCE((SELECT json_agg(mull__checkpoint_json(c) ORDER BY (c).id DESC) FROM page), '[]'),
        'next_cursor', (SELECT CASE WHEN count(*) = p_limit THEN min((c).id)::text END FROM page))
$$;

CREATE FUNCTION mull_checkpoint_show(p_id bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT mull__checkpoint_json(c) || jsonb_build_object(
        'files', c.files, 'name', j.name, 'kind', j.kind, 'team', j.team, 'user', j."user",
        'hashes', (SELECT r.hashes FROM run r WHERE r.job = c.job),
        -- What began with it.
        'runs', COALESCE((SELECT jsonb_agg(r.job::text ORDER BY r.job) FROM run r WHERE r.parent_checkpoint = c.id), '[]'))
      FROM checkpoint c JOIN job j ON j.id = c.job WHERE c.id = p_id AND (p_team = '' OR j.team = p_team)
$$;

-- Why this checkpoint should stay, NULL when nothing speaks for it.
CREATE FUNCTION mull__checkpoint_needed(c checkpoint) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    other text;
    best text;
BEGIN
    IF c.pinned THEN RETURN 'it is pinned'; END IF;
    SELECT string_agg(r.job::text, ', ' ORDER BY r.job) INTO other
      FROM run r JOIN job j ON j.id = r.job WHERE r.parent_checkpoint = c.id AND NOT mull__terminal(j.state);
    IF other IS NOT NULL THEN RETURN 'a job that has not ended began with it: ' || other; END IF;
    SELECT string_agg(j.id::text, ', ' ORDER BY j.id) INTO other
      FROM job_follow_child x JOIN job j ON j.id = x.job WHERE x.checkpoint = c.id AND NOT mull__terminal(j.state);
    IF other IS NOT NULL THEN RETURN 'a job that evaluates it has not ended: ' || other; END IF;
    IF NOT EXISTS (SELECT 1 FROM checkpoint o WHERE o.job = c.job AND o.id <> c.id AND o.state = 'PUBLISHED') THEN
        RETURN 'it is the only one that job ' || c.job || ' has';
    END IF;
    IF EXISTS (SELECT 1 FROM job j WHERE j.id = c.job AND NOT mull__terminal(j.state))
       AND NOT EXISTS (SELECT 1 FROM checkpoint o WHERE o.job = c.job AND o.state = 'PUBLISHED' AND o.step > c.step) THEN
        RETURN 'job ' || c.job || ' would go on from it';
    END IF;
    SELECT r.config->>'metric_for_best_model' INTO best FROM run r WHERE r.job = c.job;
    IF best = 'loss' AND c.metrics ? 'loss_mean' AND NOT EXISTS (
        SELECT 1 FROM checkpoint o WHERE o.job = c.job AND o.id <> c.id AND o.state = 'PUBLISHED'
           AND (o.metrics->>'loss_mean')::float8 < (c.metrics->>'loss_mean')::float8) THEN
        RETURN 'it is the best one of job ' || c.job || ' (metric_for_best_model: loss)';
    END IF;
    RETURN NULL;
END $$;

-- remove, pin or unpin asked by a user. Removing says that the files may go; whoever asked takes them away.
CREATE FUNCTION mull_checkpoint_action(p_id bigint, p_op text, p_team text, p_actor text, p_force boolean)
RETURNS TABLE (known boolean, ok boolean, state text, path text, message text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    c checkpoint%ROWTYPE;
BEGIN
    SELECT x.* INTO c FROM checkpoint x JOIN job j ON j.id = x.job
     WHERE x.id = p_id AND (p_team = '' OR j.team = p_team) FOR UPDATE OF x;
    known := c.id IS NOT NULL;
    ok := false;
    IF NOT known THEN RETURN NEXT; RETURN; END IF;
    state := c.state;
    path := c.path;
    IF p_op = 'remove' THEN
        -- Two removals at once must not each see the other's checkpoint stay.
        PERFORM 1 FROM checkpoint x WHERE x.job = c.job ORDER BY x.id FOR UPDATE;
        IF c.state = 'REMOVED' THEN
            ok := true;
            message := 'it was removed before';
            RETURN NEXT; RETURN;
        END IF;
        message := mull__checkpoint_needed(c);
        IF message IS NOT NULL AND NOT p_force THEN RETURN NEXT; RETURN; END IF;
        UPDATE checkpoint SET state = 'REMOVED', removed_at = clock_timestamp(), removed_by = p_actor WHERE id = p_id;
        state := 'REMOVED';
    ELSIF c.state = 'REMOVED' THEN
        message := 'it was removed';
        RETURN NEXT; RETURN;
    ELSE
        UPDATE checkpoint SET pinned = (p_op = 'pin') WHERE id = p_id;
    END IF;
    ok := true;
    PERFORM mull__event(p_actor, 'checkpoint_' || p_op, c.job, NULL, NULL,
                        jsonb_build_object('checkpoint', c.id, 'path', c.path, 'force', p_force));
    RETURN NEXT;
END $$;

---------------------------------------------------------------------------------------------------------------------
-- Runs

CREATE FUNCTION mull__run_json(r run, j job) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'id', j.id::text, 'name', j.name, 'kind', j.kind, 'team', j.team, 'user', j."user", 'state', j.state,
        'attempt', r.attempt, 'seed', r.seed, 'hashes', r.hashes, 'created_at', mull__time(r.created_at),
        'started_at', mull__time(j.started_at), 'ended_at', mull__time(j.ended_at),
        'parent', CASE WHEN r.parent_path IS NOT NULL THEN jsonb_build_object('path', r.parent_path,
            'checkpoint', r.parent_checkpoint::text,
            'run', (SELECT c.job::text FROM checkpoint c WHERE c.id = r.parent_checkpoint)) END,
        'resumed', r.resumed_path,
        'progress', (SELECT jsonb_build_object('done', p.done, 'total', p.total, 'eta_s', p.eta_s)
                       FROM progress p WHERE p.job = j.id),
        'loss', (SELECT m.value FROM metric m WHERE m.run = r.id AND m.key = 'loss' ORDER BY m.step DESC LIMIT 1),
        'checkpoints', (SELECT count(*) FROM checkpoint c WHERE c.job = j.id AND c.state = 'PUBLISHED'))
$$;

-- Newest first; '' = any. p_name matches a part of the job's name.
CREATE FUNCTION mull_runs(p_team text, p_kind text, p_name text, p_before bigint, p_limit int)
RETURNS json LANGUAGE sql STABLE AS $$
    WITH page AS (
        SELECT r, j FROM run r JOIN job j ON j.id = r.job
         WHERE (p_team = '' OR j.team = p_team) AND (p_kind = '' OR j.kind = p_kind)
           AND (p_name = '' OR strpos(lower(j.name), lower(p_name)) > 0) AND (p_before = 0 OR j.id < p_before)
         ORDER BY j.id DESC LIMIT p_limit)
    SELECT json_build_object(
        'runs', COALESCE((SELECT json_agg(mull__run_json(r, j) ORDER BY (j).id DESC) FROM page), '[]'),
        'next_cursor', (SELECT CASE WHEN count(*) = p_limit THEN min((j).id)::text END FROM page))
$$;

-- Everything about a job's run, or NULL: with its configuration, checkpoints, and of each metric the last, least and
-- greatest value and how many points there are.
CREATE FUNCTION mull_run_show(p_job bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT mull__run_json(r, j) || jsonb_build_object(
        'config', r.config,
        'metrics', COALESCE((
            SELECT jsonb_object_agg(k.key, jsonb_build_object(
                       'points', k.n, 'last', l.value, 'step', l.step, 'min', k.lo, 'min_step',
                       (SELECT m.step FROM metric m WHERE m.run = r.id AND m.key = k.key AND m.value = k.lo
                         ORDER BY m.step LIMIT 1),
                       'max', k.hi, 'max_step',
                       (SELECT m.step FROM metric m WHERE m.run = r.id AND m.key = k.key AND m.value = k.hi
                         ORDER BY m.step LIMIT 1)))
              FROM (SELECT m.key, count(*) AS n, min(m.value) AS lo, max(m.value) AS hi
                      FROM metric m WHERE m.run = r.id GROUP BY m.key) k
              CROSS JOIN LATERAL (SELECT m.value, m.step FROM metric m WHERE m.run = r.id AND m.key = k.key
                                   ORDER BY m.step DESC LIMIT 1) l), '{}'),
        'checkpoints', COALESCE((SELECT jsonb_agg(mull__checkpoint_json(c) ORDER BY c.step) FROM checkpoint c
                                  WHERE c.job = j.id), '[]'))
      FROM run r JOIN job j ON j.id = r.job WHERE j.id = p_job AND (p_team = '' OR j.team = p_team)
$$;

-- Points of one key (or all) behind step p_after, with the names of all keys; NULL for no such job. Keys are found by
-- going from each to the next one in the index.
CREATE OR REPLACE FUNCTION mull_job_metrics(p_job bigint, p_team text, p_key text, p_after bigint, p_limit int)
RETURNS json LANGUAGE sql STABLE AS $$
    WITH RECURSIVE r AS (SELECT id FROM run WHERE job = p_job),
    k AS (SELECT (SELECT min(m.key) FROM metric m WHERE m.run = r.id) AS key, r.id FROM r
          UNION ALL
          SELECT (SELECT min(m.key) FROM metric m WHERE m.run = k.id AND m.key > k.key), k.id FROM k
           WHERE k.key IS NOT NULL)
    SELECT json_build_object(
        'job', j.id::text, 'keys', COALESCE((SELECT json_agg(k.key ORDER BY k.key) FROM k WHERE k.key IS NOT NULL), '[]'),
        'points', COALESCE((
        SELECT json_agg(json_build_object('key', m.key, 'step', m.step, 'value', m.value, 'at', mull__time(m.at))
                        ORDER BY m.key, m.step)
          FROM (SELECT m.* FROM r JOIN metric m ON m.run = r.id
                 WHERE (p_key = '' OR m.key = p_key) AND (p_after = 0 OR m.step > p_after)
                 ORDER BY m.key, m.step LIMIT p_limit) m), '[]'))
      FROM job j WHERE j.id = p_job AND (p_team = '' OR j.team = p_team)
$$;

CREATE OR REPLACE FUNCTION mull__job_show_base(p_job bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT mull__job_json(j)::jsonb || jsonb_build_object(
        'spec', (SELECT s.spec::jsonb FROM job_spec s WHERE s.job = j.id),
        'message', j.message,
        'attempts', COALESCE((SELECT jsonb_agg(jsonb_build_object(
                'attempt', a.attempt, 'fence', a.fence, 'node', a.node, 'state', a.state, 'class', a.class,
                'started_at', mull__time(a.started_at), 'ended_at', mull__time(a.ended_at),
                'exit', mull__exit(a.exit_code, a.exit_signal), 'message', a.message) ORDER BY a.attempt)
            FROM attempt a WHERE a.job = j.id), '[]'),
        'run', (SELECT jsonb_build_object('id', j.id::text, 'created_at', mull__time(r.created_at), 'config', r.config,
                       'hashes', r.hashes, 'seed', r.seed, 'parent', r.parent_path)
                  FROM run r WHERE r.job = j.id),
        -- A result is published by the end of its attempt: before that it is not shown.
        'result', (SELECT r.result FROM job_result r JOIN attempt a USING (job, attempt)
                    WHERE r.job = j.id AND a.state = 'COMPLETED' ORDER BY r.attempt DESC LIMIT 1),
        'checkpoints', COALESCE((SELECT jsonb_agg(mull__checkpoint_json(c) ORDER BY c.id) FROM checkpoint c
                                  WHERE c.job = j.id), '[]'),
        'artifacts', COALESCE((SELECT jsonb_agg(jsonb_build_object('attempt', f.attempt, 'path', f.path, 'bytes',
                f.bytes, 'sha256', f.sha256) ORDER BY f.attempt, f.path) FROM artifact f WHERE f.job = j.id), '[]'),
        'events', COALESCE((SELECT jsonb_agg(jsonb_build_object('at', mull__time(e.at), 'kind', e.kind, 'actor',
                e.actor, 'detail', e.detail) ORDER BY e.id)
            FROM (SELECT * FROM event WHERE job = j.id ORDER BY id DESC LIMIT 200) e), '[]'))
      FROM job j WHERE j.id = p_job AND (p_team = '' OR j.team = p_team)
$$;
