-- Why a job waits.

-- Who is ahead, what is missing, and when it may start as far as time limits and progress tell. NULL = no such job.
CREATE FUNCTION mull__job_why_place(p_job bigint, p_team text) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    j job%ROWTYPE;
    kind text;
    need int;
    total int;
    best int;
    free int;
    ahead_count bigint := 0;
    ahead json := '[]';
    soonest timestamptz;
    estimate timestamptz;
    reason text;
    words text;
BEGIN
    SELECT * INTO j FROM job WHERE id = p_job AND (p_team = '' OR team = p_team);
    IF NOT FOUND THEN RETURN NULL; END IF;
    kind := CASE WHEN j.gpus > 0 THEN 'cuda' ELSE 'cpu' END;
    need := greatest(j.gpus, 1);
    SELECT COALESCE(sum(d.total), 0), COALESCE(max(d.total), 0), COALESCE(sum(d.total - d.busy), 0)
      INTO total, best, free
      FROM (SELECT (SELECT count(*) FROM jsonb_array_elements(n.devices) x WHERE x->>'kind' = kind) AS total,
                   (SELECT count(*) FROM attempt a, jsonb_array_elements(a.devices) x
                     WHERE a.node = n.name AND a.ended_at IS NULL AND x->>'kind' = kind) AS busy
              FROM node n WHERE n.state = 'UP') d;
    reason := j.reason;
    IF j.state <> 'PENDING' THEN
        reason := '';
        words := CASE WHEN j.state = 'RUNNING' THEN 'running on ' || COALESCE(j.node, '?') || ' as attempt ' || j.attempt
                      ELSE 'ended as ' || j.state || CASE WHEN j.message <> '' THEN ': ' || j.message ELSE '' END END;
    ELSIF j.hold THEN
        reason := 'Held';
        words := 'held; release it with: mull release ' || j.id;
    ELSIF mull__dependency(j.depends) <> 'met' THEN
        reason := 'Dependency';
        SELECT 'waits for ' || string_agg('job ' || d.id || ' (' || d.state || ')', ', ' ORDER BY d.id) || ' by '
               || split_part(j.depends, ':', 1)
          INTO words FROM job d WHERE d.id IN (SELECT x::bigint FROM unnest((string_to_array(j.depends, ':'))[2:]) x);
    ELSIF greatest(j.begin_at, j.not_before) > clock_timestamp() THEN
        reason := 'BeginTime';
        estimate := greatest(j.begin_at, j.not_before);
        words := CASE WHEN j.begin_at IS NOT NULL AND j.begin_at = estimate THEN 'begins not before '
                      ELSE 'starts again after a back-off, not before ' END || mull__time(estimate);
    ELSE
        SELECT count(*) INTO ahead_count FROM job o
         WHERE o.state = 'PENDING' AND o.id <> j.id AND (o.priority > j.priority OR o.priority = j.priority AND o.id < j.id)
           AND NOT o.hold AND (o.gpus > 0) = (j.gpus > 0)
           AND COALESCE(greatest(o.begin_at, o.not_before) <= clock_timestamp(), true)
           AND mull__dependency(o.depends) = 'met';
        SELECT COALESCE(json_agg(json_build_object('id', o.id::text, 'name', o.name, 'user', o."user", 'priority',
                 o.priority, 'gpus', o.gpus, 'time_limit_s', o.time_limit_s)), '[]') INTO ahead
          FROM (SELECT * FROM job o
                 WHERE o.state = 'PENDING' AND o.id <> j.id AND (o.priority > j.priority OR o.priority = j.priority AND o.id < j.id)
                   AND NOT o.hold AND (o.gpus > 0) = (j.gpus > 0)
                   AND COALESCE(greatest(o.begin_at, o.not_before) <= clock_timestamp(), true)
                   AND mull__dependency(o.depends) = 'met'
                 ORDER BY o.priority DESC, o.id LIMIT 10) o;
        -- The first running job of this kind to end, by the smaller of its time limit and its own estimate.
        SELECT min(least(r.started_at + make_interval(secs => r.time_limit_s),
                         p.updated_at + make_interval(secs => p.eta_s))) INTO soonest
          FROM job r LEFT JOIN progress p ON p.job = r.id
         WHERE r.state = 'RUNNING' AND (r.gpus > 0) = (j.gpus > 0);
        IF best < need THEN
            reason := 'Resources';
            words := CASE WHEN total = 0 THEN 'no node that is up offers any ' || kind || ' slot'
                          ELSE 'needs ' || need || ' ' || kind || ' slots on one node; the largest node has ' || best END;
        ELSIF ahead_count > 0 THEN
            reason := 'Priority';
            words := ahead_count || CASE WHEN ahead_count = 1 THEN ' job is' ELSE ' jobs are' END || ' ahead';
            IF ahead_count < total THEN estimate := soonest; END IF;
        ELSIF free >= need THEN
            reason := '';
            words := 'about to start';
            estimate := clock_timestamp();
        ELSE
            reason := 'Resources';
            words := 'next in line; needs ' || need || ' ' || kind || CASE WHEN need = 1 THEN ' slot, ' ELSE ' slots, ' END
                     || free || ' of ' || total || ' free';
            estimate := soonest;
        END IF;
    END IF;
    RETURN json_build_object('id', j.id::text, 'state', j.state, 'reason', reason, 'message', words,
        'ahead_count', ahead_count, 'ahead', ahead,
        'needs', json_build_object('kind', kind, 'count', need, 'free', free, 'total', total,
                                   'missing', greatest(need - free, 0)),
        'estimated_start', mull__time(estimate));
END $$;

CREATE FUNCTION mull_job_why(p_job bigint, p_team text) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    w jsonb := mull__job_why_place(p_job, p_team)::jsonb;
    j job%ROWTYPE;
    t team%ROWTYPE;
    last attempt%ROWTYPE;
    used bigint;
    lent bigint;
BEGIN
    IF w IS NULL OR w->>'state' <> 'PENDING' THEN RETURN w; END IF;
    SELECT * INTO j FROM job WHERE id = p_job;
    SELECT * INTO t FROM team WHERE name = j.team;
    IF j.reason = 'Quota' AND w->>'reason' IN ('Resources', 'Priority', '') AND t.nominal IS NOT NULL THEN
        SELECT COALESCE(sum(o.gpus), 0) INTO used FROM job o WHERE o.state = 'RUNNING' AND o.team = j.team;
        SELECT COALESCE(sum(o.gpus), 0) INTO lent
          FROM job o JOIN team x ON x.name = o.team AND x.nominal IS NOT NULL WHERE o.state = 'RUNNING' AND o.team <> j.team;
        w := w || jsonb_build_object('reason', 'Quota', 'message',
            'team ' || j.team || ' uses ' || used || ' of its ' || t.nominal || ' GPUs, may borrow '
            || COALESCE(t.borrow::text, 'any number that others leave idle') || '; this job needs ' || j.gpus
            || ', the other teams with quotas use ' || lent || ' of ' || (SELECT COALESCE(sum(nominal), 0) FROM team WHERE name <> j.team),
            'quota', jsonb_build_object('team', j.team, 'nominal', t.nominal, 'borrow', t.borrow, 'lend', t.lend, 'used', used));
    ELSIF j.reason = 'DrainedNodes' AND w->>'reason' IN ('Resources', 'Priority', '') THEN
        w := w || jsonb_build_object('reason', 'DrainedNodes', 'message',
            'the nodes that could run it are drained or down; see: mull node ls');
    END IF;
    SELECT * INTO last FROM attempt a WHERE a.job = p_job ORDER BY a.attempt DESC LIMIT 1;
    IF last.preempted_by IS NOT NULL AND last.state = 'PREEMPTED' THEN
        w := w || jsonb_build_object('message', w->>'message' || '; its last attempt was preempted by job '
                                                || last.preempted_by || ' (' || last.preempt_reason || ')',
                                     'preempted_by', last.preempted_by::text);
    END IF;
    RETURN w;
END $$;
