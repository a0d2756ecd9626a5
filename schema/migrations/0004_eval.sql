-- Evaluations: the engine's eval lines become rows of eval_result, and show lists them.

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

ALTER FUNCTION mull__apply_engine(bigint, int, bigint, timestamptz, jsonb) RENAME TO mull__apply_engine_line;
CREATE FUNCTION mull__apply_engine(p_job bigint, p_attempt int, p_fence bigint, p_at timestamptz, line jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF line->>'ev' = 'eval' THEN
        PERFORM mull__apply_eval(p_job, line);
    ELSE
        PERFORM mull__apply_engine_line(p_job, p_attempt, p_fence, p_at, line);
    END IF;
END $$;

ALTER FUNCTION mull_job_show(bigint, text) RENAME TO mull__job_show_base;
CREATE FUNCTION mull_job_show(p_job bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT mull__job_show_base(p_job, p_team) || jsonb_build_object('eval_results', COALESCE((
        SELECT jsonb_agg(jsonb_build_object('task', e.task) || e.result ORDER BY e.task)
          FROM eval_result e WHERE e.job = p_job AND e.sample = -1), '[]'))
$$;
