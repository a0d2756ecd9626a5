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
