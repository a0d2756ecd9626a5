-- What engines say: each of their lines becomes rows.

-- One line that the engine of a current attempt wrote to its descriptor 3.
CREATE FUNCTION mull__apply_engine_line(p_job bigint, p_attempt int, p_fence bigint, p_at timestamptz, line jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE line->>'ev'
    WHEN 'progress' THEN
        INSERT INTO progress AS p (job, done, total, unit, tokens, eta_s, errors, updated_at)
        VALUES (p_job, COALESCE((line->>'done')::numeric::bigint, 0), (line->>'total')::numeric::bigint,
                COALESCE(line->>'unit', ''), (line->>'tokens')::numeric::bigint, (line->>'eta_s')::float8,
                (line->>'errors')::numeric::bigint, p_at)
        ON CONFLICT (job) DO UPDATE SET done = EXCLUDED.done, total = EXCLUDED.total, unit = EXCLUDED.unit,
            tokens = EXCLUDED.tokens, eta_s = EXCLUDED.eta_s, errors = EXCLUDED.errors, updated_at = EXCLUDED.updated_at;
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
                mull__figures(line->'metrics'), 'PUBLISHED', p_at)
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

-- Evaluations that share their rows among the tasks of an array, and evaluations that follow a training job.

-- Figures and metrics of a sharded evaluation are the array's own: each task says the same.
CREATE FUNCTION mull__apply_engine(p_job bigint, p_attempt int, p_fence bigint, p_at timestamptz, line jsonb)
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

-- Lines are numbered by the attempt itself, so a batch costs one update and no search. What one attempt may fill is
-- bounded: 100,000 lines and 64 MiB, or what its team may (quotas.sql), a line at most 16,000 characters; one last line says
-- that the rest is dropped.
CREATE FUNCTION mull__apply_log(p_job bigint, p_attempt int, p_at timestamptz, p_stream text, p_lines jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    most constant bigint := 100000;
    most_bytes bigint := 64 * 1024 * 1024;
    quota record;
    have bigint;
    have_bytes bigint;
    new_lines bigint;
    new_bytes bigint;
BEGIN
    SELECT log_lines, log_bytes INTO have, have_bytes FROM attempt WHERE job = p_job AND attempt = p_attempt;
    SELECT t.name, t.max_log INTO quota FROM job j JOIN team t ON t.name = j.team WHERE j.id = p_job;
    most_bytes := least(most_bytes, quota.max_log);
    IF have IS NULL OR have > most OR have_bytes > most_bytes THEN RETURN; END IF;
    WITH given AS (
        SELECT l.ord, CASE WHEN length(l.value #>> '{}') > 16000 THEN left(l.value #>> '{}', 16000) || ' … (cut)'
                           ELSE COALESCE(l.value #>> '{}', '') END AS text
          FROM jsonb_array_elements(p_lines) WITH ORDINALITY AS l(value, ord)),
    counted AS (SELECT *, have_bytes + sum(octet_length(g.text)) OVER (ORDER BY ord) - octet_length(g.text) AS before FROM given g),
    added AS (
        INSERT INTO job_log (job, attempt, n, at, stream, text)
        SELECT p_job, p_attempt, have + l.ord, p_at, p_stream, l.text
          FROM counted l WHERE have + l.ord <= most AND l.before <= most_bytes
        RETURNING octet_length(text) AS size)
    SELECT count(*), COALESCE(sum(size), 0) INTO new_lines, new_bytes FROM added;
    have := have + new_lines;
    have_bytes := have_bytes + new_bytes;
    IF have >= most OR have_bytes > most_bytes THEN
        have := have + 1;
        have_bytes := most_bytes + 1;
        INSERT INTO job_log (job, attempt, n, at, stream, text)
        VALUES (p_job, p_attempt, have, p_at, 'mull', 'the log of this attempt is full'
                || CASE WHEN quota.max_log = most_bytes THEN ': team ' || quota.name || ' keeps ' || most_bytes || ' bytes of each, an '
                        || 'admin may raise it (mull quota set ' || quota.name || ' --log SIZE)' ELSE '' END
                || '; what follows is dropped');
        PERFORM mull__event('scheduler', 'log_cut', p_job, p_attempt, NULL,
                            jsonb_build_object('team', quota.name, 'bytes', most_bytes, 'quota', quota.max_log));
    END IF;
    UPDATE attempt SET log_lines = have, log_bytes = have_bytes WHERE job = p_job AND attempt = p_attempt;
END $$;

-- One eval line: {"task", "result"} is the whole task, {"task", "samples": [{"id", …}]} are its samples. An attempt that
-- goes on after a kill says everything again, so what is there is replaced.
CREATE FUNCTION mull__apply_eval(p_job bigint, line jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO eval_result (job, task, sample, result)
    SELECT p_job, line->>'task', r.sample, r.result
      FROM (SELECT -1::bigint AS sample, line->'result' AS result WHERE jsonb_typeof(line->'result') = 'object'
            UNION ALL
            SELECT (s->>'id')::bigint, s - 'id'
              FROM jsonb_array_elements(CASE WHEN jsonb_typeof(line->'samples') = 'array' THEN line->'samples' END) s) r
        ON CONFLICT (job, task, sample) DO UPDATE SET result = EXCLUDED.result
$$;

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
