-- Teams: their shares, quotas and decayed use, and what they have used.

-- An average that was p_used at p_at and has had nothing to add since.
CREATE FUNCTION mull__decayed(p_used float8, p_at timestamptz, p_half_life_s float8) RETURNS float8 LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN p_at IS NULL THEN 0
                ELSE p_used * power(2, -least(1000, greatest(0, extract(epoch FROM clock_timestamp() - p_at))
                                                    / p_half_life_s)) END
$$;

-- {"teams":[…]}: what teams are promised and what they use now. p_team '' = all.
CREATE FUNCTION mull_teams(p_team text) RETURNS json LANGUAGE sql STABLE AS $$
    WITH now_running AS (
        SELECT j.team, COALESCE(sum(d.gpus), 0) AS gpus, COALESCE(sum(d.slots), 0) AS slots
          FROM attempt a JOIN job j ON j.id = a.job
          CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE x->>'kind' = 'cuda') AS gpus,
                                     count(*) FILTER (WHERE x->>'kind' <> 'cuda') AS slots
                                FROM jsonb_array_elements(a.devices) x) d
         WHERE a.ended_at IS NULL GROUP BY j.team),
    waiting AS (SELECT team, count(*) AS n FROM job WHERE state = 'PENDING' GROUP BY team),
    use AS (SELECT name, mull__decayed(used, used_at, 604800) AS used FROM team),
    -- A parent's use contains its children's: shares are of what the teams at the top used.
    whole AS (SELECT sum(u.used) AS used FROM use u JOIN team t USING (name) WHERE t.parent IS NULL)
    SELECT json_build_object('teams', COALESCE(json_agg(mull__quota_json(t) || jsonb_build_object(
        'name', t.name, 'parent', t.parent, 'weight', t.weight, 'nominal', t.nominal, 'borrow', t.borrow, 'lend', t.lend,
        'used', round(u.used::numeric, 6), 'used_share', CASE WHEN w.used > 0 THEN round((u.used / w.used)::numeric, 6) ELSE 0 END,
        'running_gpus', COALESCE(r.gpus, 0), 'running_slots', COALESCE(r.slots, 0), 'pending', COALESCE(q.n, 0),
        'borrowed', CASE WHEN t.nominal IS NULL THEN 0 ELSE greatest(COALESCE(r.gpus, 0) - t.nominal, 0) END)
        ORDER BY t.name), '[]'))
      FROM team t JOIN use u USING (name) CROSS JOIN whole w LEFT JOIN now_running r ON r.team = t.name
      LEFT JOIN waiting q ON q.team = t.name
     WHERE p_team = '' OR t.name = p_team
$$;

-- Creates a team or changes the given members of it: {"weight","nominal","borrow","lend","parent"}; null takes a limit
-- (or the parent) away. problem is NULL or says why not. The tree has at most 8 levels and no circle.
CREATE FUNCTION mull_team_set(p_name text, p_set jsonb, p_actor text)
RETURNS TABLE (problem text, created boolean) LANGUAGE plpgsql AS $$
DECLARE
    above text := p_set->>'parent';
    height int;
    levels int := 1;
BEGIN
    -- Two changes at once could make a circle that neither of them sees.
    PERFORM pg_advisory_xact_lock(hashtext('mull team tree'));
    created := NOT EXISTS (SELECT 1 FROM team WHERE name = p_name);
    IF above IS NOT NULL THEN
        IF NOT EXISTS (SELECT 1 FROM team WHERE name = above) THEN
            problem := 'parent: no team ' || above;
            RETURN NEXT; RETURN;
        END IF;
        WITH RECURSIVE below AS (
            SELECT p_name AS name, 1 AS depth
            UNION ALL SELECT t.name, b.depth + 1 FROM team t JOIN below b ON t.parent = b.name WHERE b.depth < 20)
        SELECT max(depth) INTO height FROM below;
        WHILE above IS NOT NULL AND levels < 20 LOOP
            IF above = p_name THEN
                problem := 'parent: ' || p_name || ' would be its own ancestor';
                RETURN NEXT; RETURN;
            END IF;
            levels := levels + 1;
            SELECT t.parent INTO above FROM team t WHERE t.name = above;
        END LOOP;
        IF levels + height - 1 > 8 THEN
            problem := 'parent: the tree of teams may have 8 levels';
            RETURN NEXT; RETURN;
        END IF;
    END IF;
    INSERT INTO team (name) VALUES (p_name) ON CONFLICT DO NOTHING;
    UPDATE team SET
        weight = CASE WHEN p_set ? 'weight' THEN COALESCE((p_set->>'weight')::float8, 1) ELSE weight END,
        nominal = CASE WHEN p_set ? 'nominal' THEN (p_set->>'nominal')::int ELSE nominal END,
        borrow = CASE WHEN p_set ? 'borrow' THEN (p_set->>'borrow')::int ELSE borrow END,
        lend = CASE WHEN p_set ? 'lend' THEN (p_set->>'lend')::int ELSE lend END,
        parent = CASE WHEN p_set ? 'parent' THEN p_set->>'parent' ELSE parent END,
        max_pending = CASE WHEN p_set ? 'max_pending' THEN (p_set->>'max_pending')::bigint ELSE max_pending END,
        max_spec = CASE WHEN p_set ? 'max_spec_bytes' THEN (p_set->>'max_spec_bytes')::bigint ELSE max_spec END,
        max_log = CASE WHEN p_set ? 'max_log_bytes' THEN (p_set->>'max_log_bytes')::bigint ELSE max_log END,
        max_stored = CASE WHEN p_set ? 'max_stored_bytes' THEN (p_set->>'max_stored_bytes')::bigint ELSE max_stored END
     WHERE name = p_name;
    PERFORM mull__event(p_actor, CASE WHEN created THEN 'team_add' ELSE 'team_set' END, NULL, NULL, NULL,
                        p_set || jsonb_build_object('team', p_name));
    RETURN NEXT;
END $$;

-- {"teams":[{"name","parent","weight","nominal","borrow","lend","used"}],"users":[{"team","user","used"}]}: users only
-- where p_usage asks for them, at the start of a lead.
CREATE FUNCTION mull_leader_teams(p_term bigint, p_half_life_s float8, p_usage boolean) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull__read_term(p_term);
    RETURN (SELECT json_build_object(
        'teams', COALESCE((SELECT json_agg(json_build_object('name', t.name, 'parent', t.parent, 'weight', t.weight,
             'nominal', COALESCE(t.nominal, -1), 'borrow', COALESCE(t.borrow, -1), 'lend', COALESCE(t.lend, -1),
             'used', mull__decayed(t.used, t.used_at, p_half_life_s)) ORDER BY t.name) FROM team t), '[]'),
        'users', CASE WHEN p_usage THEN COALESCE((SELECT json_agg(json_build_object('team', u.team, 'user', u."user",
             'used', mull__decayed(u.used, u.used_at, p_half_life_s))) FROM user_usage u), '[]') ELSE '[]' END));
END $$;

-- {"teams":[{"name","used"}],"users":[{"team","user","used"}]}, as of now. Whom it does not name keeps what he had.
CREATE FUNCTION mull_save_usage(p_term bigint, p_usage jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull__check_term(p_term);
    UPDATE team SET used = (x->>'used')::float8, used_at = clock_timestamp()
      FROM jsonb_array_elements(p_usage->'teams') x WHERE team.name = x->>'name';
    INSERT INTO user_usage (team, "user", used, used_at)
    SELECT x->>'team', x->>'user', (x->>'used')::float8, clock_timestamp()
      FROM jsonb_array_elements(p_usage->'users') x
        ON CONFLICT (team, "user") DO UPDATE SET used = EXCLUDED.used, used_at = EXCLUDED.used_at;
END $$;

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
