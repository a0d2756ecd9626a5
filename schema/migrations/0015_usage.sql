-- What teams asked of models and how long they held devices: tokens of answered requests, device hours of attempts.

-- Jobs that ended in the last p_days. The tasks of an array that share one piece of work (the same annotation) say its
-- totals each: they count once.
CREATE FUNCTION mull_usage(p_team text, p_days int) RETURNS json LANGUAGE sql STABLE AS $$
    WITH ended AS (
        SELECT j.id, j.team, j.kind, j.array_job, j.attempt, s.spec::jsonb->>'out' AS out
          FROM job j LEFT JOIN job_spec s ON s.job = COALESCE(j.array_job, j.id)
         WHERE j.ended_at > clock_timestamp() - make_interval(days => p_days) AND (p_team = '' OR j.team = p_team)),
    said AS (
        SELECT DISTINCT ON (CASE WHEN e.kind = 'annotate' AND e.out NOT LIKE '%{array_index}%'
                                 THEN COALESCE(e.array_job, e.id) ELSE e.id END)
               e.team,
               COALESCE((r.result->>'prompt_tokens')::bigint, (r.result#>>'{usage,prompt_tokens}')::bigint, 0) AS prompt,
               COALESCE((r.result->>'output_tokens')::bigint, (r.result#>>'{usage,completion_tokens}')::bigint, 0) AS output
          FROM ended e JOIN job_result r ON r.job = e.id AND r.attempt = e.attempt
         WHERE jsonb_typeof(r.result) = 'object'),
    held AS (
        SELECT j.team, sum(extract(epoch FROM a.ended_at - a.started_at) / 3600 * d.cpu) AS cpu,
               sum(extract(epoch FROM a.ended_at - a.started_at) / 3600 * d.gpu) AS gpu
          FROM attempt a JOIN job j ON j.id = a.job
          CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE x->>'kind' = 'cuda') AS gpu,
                                     count(*) FILTER (WHERE x->>'kind' <> 'cuda') AS cpu
                                FROM jsonb_array_elements(a.devices) x) d
         WHERE a.ended_at > clock_timestamp() - make_interval(days => p_days) AND (p_team = '' OR j.team = p_team)
         GROUP BY j.team),
    tokens AS (SELECT team, sum(prompt) AS prompt, sum(output) AS output FROM said GROUP BY team),
    jobs AS (SELECT team, count(*) AS n FROM ended GROUP BY team)
    SELECT json_build_object('days', p_days, 'teams', COALESCE(json_agg(json_build_object(
        'team', n.team, 'jobs', n.n, 'prompt_tokens', COALESCE(t.prompt, 0), 'output_tokens', COALESCE(t.output, 0),
        'slot_hours', round(COALESCE(h.cpu, 0)::numeric, 4), 'gpu_hours', round(COALESCE(h.gpu, 0)::numeric, 4))
        ORDER BY n.team), '[]'))
      FROM jobs n LEFT JOIN tokens t USING (team) LEFT JOIN held h USING (team)
$$;
