-- Metric points: staged by COPY, taken with the events they came with, read back.

-- The stage of this connection, empty. Made by the recorder before its COPY.
CREATE FUNCTION mull_stage() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass('pg_temp.metric_stage') IS NULL THEN
        CREATE TEMPORARY TABLE metric_stage (i int NOT NULL, key text COLLATE "C" NOT NULL, step bigint NOT NULL,
                                             value float8 NOT NULL) ON COMMIT DELETE ROWS;
    END IF;
END $$;

-- Takes over what is staged for these events: [{"i","run","job","at"}].
CREATE FUNCTION mull__take_points(p_points jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO metric (run, job, key, step, value, at)
    SELECT a.run, a.job, s.key, s.step, s.value, a.at
      FROM jsonb_to_recordset(p_points) AS a(i int, run bigint, job bigint, at timestamptz)
      JOIN pg_temp.metric_stage s ON s.i = a.i
     ORDER BY a.run, s.key, s.step
        ON CONFLICT (run, key, step) DO NOTHING;
END $$;

-- Notes that a line's points are in metric_stage, and where they belong.
CREATE FUNCTION mull__staged(p_out jsonb, p_job bigint, p_at timestamptz, line jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_set(p_out, '{points}', jsonb_build_object('i', line->'staged', 'run', mull__run_of(p_job), 'job', p_job,
                                                           'at', p_at))
$$;

-- json, and figures that are kept as jsonb stay within what a double holds exactly.
CREATE FUNCTION mull__figures(m jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT COALESCE((SELECT jsonb_object_agg(f.key, f.value)
                       FROM jsonb_each(CASE WHEN jsonb_typeof(m) = 'object' THEN m ELSE '{}' END) f
                      WHERE jsonb_typeof(f.value) = 'number' AND abs((f.value #>> '{}')::numeric) < 1e15), '{}')
$$;

-- Points of one key (or all) behind step p_after, with the names of all keys; NULL for no such job. Keys are found by
-- going from each to the next one in the index.
CREATE FUNCTION mull_job_metrics(p_job bigint, p_team text, p_key text, p_after bigint, p_limit int)
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
