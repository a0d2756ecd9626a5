-- Runs as they are shown.

CREATE FUNCTION mull__run_json(r run, j job) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'id', j.id::text, 'name', j.name, 'kind', j.kind, 'team', j.team, 'user', j."user", 'state', j.state,
        'attempt', r.attempt, 'seed', r.seed, 'hashes', r.hashes, 'created_at', mull__time(r.created_at),
        'started_at', mull__time(j.started_at), 'ended_at', mull__time(j.ended_at),
        'parent', CASE WHEN r.parent_path IS NOT NULL THEN json_build_object('path', r.parent_path,
            'checkpoint', r.parent_checkpoint::text,
            'run', (SELECT c.job::text FROM checkpoint c WHERE c.id = r.parent_checkpoint)) END,
        'resumed', r.resumed_path,
        'progress', (SELECT json_build_object('done', p.done, 'total', p.total, 'eta_s', p.eta_s)
                       FROM progress p WHERE p.job = j.id),
        'loss', (SELECT m.value FROM metric m WHERE m.run = r.id AND m.key = 'loss' ORDER BY m.step DESC LIMIT 1),
        'checkpoint_count', (SELECT count(*) FROM checkpoint c WHERE c.job = j.id AND c.state = 'PUBLISHED'))
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

CREATE FUNCTION mull_run_show(p_job bigint, p_team text) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT mull__json_join(mull__run_json(r, j), json_build_object(
        'config', r.config,
        'metrics', COALESCE((
            SELECT json_object_agg(k.key, json_build_object(
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
        'checkpoints', COALESCE((SELECT json_agg(mull__checkpoint_json(c) ORDER BY c.step) FROM checkpoint c
                                  WHERE c.job = j.id), '[]')))
      FROM run r JOIN job j ON j.id = r.job WHERE j.id = p_job AND (p_team = '' OR j.team = p_team)
$$;

CREATE FUNCTION mull__run_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM metric WHERE run = OLD.id;
    RETURN NULL;
END $$;
