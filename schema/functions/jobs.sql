-- Jobs as they are shown: lists, one job, its log and samples.

-- The object of `mull ps --json`.
CREATE FUNCTION mull__job_json_plain(j job) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'id', j.id::text, 'name', j.name, 'kind', j.kind, 'team', j.team, 'user', j."user", 'state', j.state,
        'reason', j.reason, 'priority', j.priority, 'submitted_at', mull__time(j.submitted_at),
        'started_at', mull__time(j.started_at), 'ended_at', mull__time(j.ended_at), 'node', j.node,
        'attempt', j.attempt, 'exit', mull__exit(j.exit_code, j.exit_signal),
        'progress', (SELECT json_build_object('done', p.done, 'total', p.total, 'eta_s', p.eta_s)
                       FROM progress p WHERE p.job = j.id))
$$;

CREATE FUNCTION mull__job_json(j job) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    a job_array%ROWTYPE;
    live bigint;
BEGIN
    IF j.array_job IS NOT NULL THEN
        RETURN mull__job_json_plain(j)::jsonb
               || jsonb_build_object('array_job', j.array_job::text, 'array_index', j.array_index);
    END IF;
    SELECT * INTO a FROM job_array WHERE job = j.id;
    IF NOT FOUND THEN RETURN mull__job_json_plain(j); END IF;
    SELECT count(*) INTO live FROM job t WHERE t.array_job = j.id AND t.state = 'RUNNING';
    RETURN mull__job_json_plain(j)::jsonb || jsonb_build_object(
        'array', jsonb_build_object('range', a.range, 'total', a.total, 'limit', a.lim,
            'waiting', CASE WHEN a.closed THEN 0 ELSE a.total - a.made END + a.made - a.ended - live, 'running', live,
            'completed', a.ended - a.not_completed, 'not_completed', a.not_completed,
            'cancelled', CASE WHEN a.closed THEN a.total - a.made ELSE 0 END),
        'progress', jsonb_build_object('done', a.ended, 'total', a.total, 'eta_s', NULL));
END $$;

CREATE FUNCTION mull_job_list(p_state text, p_team text, p_array bigint, p_before bigint, p_limit int)
RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    jobs json;
    n bigint;
    least_id bigint;
BEGIN
    IF p_array = 0 THEN
        SELECT json_agg(mull__job_json(j) ORDER BY (j).id DESC), count(*), min((j).id) INTO jobs, n, least_id
          FROM (SELECT j FROM job j
                 WHERE (p_state = '' OR j.state = p_state) AND (p_team = '' OR j.team = p_team)
                   AND (p_before = 0 OR j.id < p_before) AND j.array_job IS NULL
                 ORDER BY j.id DESC LIMIT p_limit) page;
    ELSE
        SELECT json_agg(mull__job_json(j) ORDER BY (j).id DESC), count(*), min((j).id) INTO jobs, n, least_id
          FROM (SELECT j FROM job j
                 WHERE j.array_job = p_array AND (p_state = '' OR j.state = p_state) AND (p_team = '' OR j.team = p_team)
                   AND (p_before = 0 OR j.id < p_before)
                 ORDER BY j.id DESC LIMIT p_limit) page;
    END IF;
    RETURN json_build_object('jobs', COALESCE(jobs, '[]'), 'next_cursor', CASE WHEN n = p_limit THEN least_id::text END);
END $$;

CREATE FUNCTION mull_job_state(p_job bigint, p_team text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT state FROM job WHERE id = p_job AND (p_team = '' OR team = p_team)
$$;

-- Everything about one job, or NULL. p_team '' = any.
CREATE FUNCTION mull__job_show_base(p_job bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
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

CREATE FUNCTION mull__job_show_eval(p_job bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT mull__job_show_base(p_job, p_team) || jsonb_build_object('eval_results', COALESCE((
        SELECT jsonb_agg(jsonb_build_object('task', e.task) || e.result ORDER BY e.task)
          FROM eval_result e WHERE e.job = p_job AND e.sample = -1), '[]'))
$$;

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

-- A page of log lines behind (p_attempt, p_n), at most p_limit and about 8 MiB, each as one JSON text, with the job's state of the same moment: when that
-- is terminal and there is no line, the log is complete. Without a line one row of nulls carries the state; no row at
-- all means no such job.
CREATE FUNCTION mull_job_logs(p_job bigint, p_team text, p_attempt int, p_n bigint, p_limit int)
RETURNS TABLE (state text, attempt int, n bigint, line text) LANGUAGE sql STABLE AS $$
    SELECT j.state, l.attempt, l.n,
           CASE WHEN l.n IS NOT NULL THEN
               json_build_object('attempt', l.attempt, 'n', l.n, 'stream', l.stream, 'text', l.text)::text END
      FROM job j LEFT JOIN LATERAL (
               SELECT * FROM (SELECT b.*, sum(octet_length(b.text)) OVER (ORDER BY b.attempt, b.n) AS total
                                FROM (SELECT * FROM job_log l
                                       WHERE l.job = j.id AND (l.attempt, l.n) > (p_attempt, p_n)
                                       ORDER BY l.attempt, l.n LIMIT p_limit) b) c
                WHERE c.total - octet_length(c.text) < 8 * 1024 * 1024) l ON true
     WHERE j.id = p_job AND (p_team = '' OR j.team = p_team)
     ORDER BY l.attempt, l.n
$$;

-- Scores of an evaluation's rows, of one task ('' = all) behind row p_after (-1: from the first). NULL for no such job.
CREATE FUNCTION mull_job_samples(p_job bigint, p_team text, p_task text, p_after bigint, p_limit int)
RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('job', j.id::text, 'samples', COALESCE((
        SELECT json_agg(jsonb_build_object('task', s.task, 'id', s.sample) || s.result ORDER BY s.task, s.sample)
          FROM (SELECT e.task, e.sample, e.result FROM eval_result e
                 WHERE e.job = j.id AND (p_task = '' OR e.task = p_task) AND e.sample > greatest(p_after, -1)
                 ORDER BY e.task, e.sample LIMIT p_limit) s), '[]'))
      FROM job j WHERE j.id = p_job AND (p_team = '' OR j.team = p_team)
$$;

CREATE FUNCTION mull_queue() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'states', COALESCE((SELECT json_object_agg(state, c) FROM (SELECT state, count(*) c FROM job GROUP BY state
                             ORDER BY state) s), '{}'),
        'reasons', COALESCE((SELECT json_object_agg(CASE WHEN reason = '' THEN 'None' ELSE reason END, c)
                     FROM (SELECT reason, count(*) c FROM job WHERE state = 'PENDING' GROUP BY reason ORDER BY reason)
                     s), '{}'),
        'slots', (SELECT json_build_object('total', COALESCE(sum(jsonb_array_length(devices)), 0),
                    'busy', (SELECT COALESCE(sum(jsonb_array_length(a.devices)), 0) FROM attempt a
                              WHERE a.ended_at IS NULL)) FROM node WHERE state <> 'DOWN'),
        'leader', (SELECT json_build_object('holder', holder, 'term', term, 'alive', expires_at > clock_timestamp())
                     FROM leader WHERE id = 1))
$$;
