-- What the leader reads and writes in a pass: pending jobs in, starts, preemptions and reasons out.

-- The engine's spec: what was submitted plus who runs it.
CREATE FUNCTION mull__start_spec(p_job bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT (s.spec::jsonb || jsonb_build_object('job', j.id::text,
            'created', floor(extract(epoch FROM j.submitted_at))::bigint))::text
      FROM job j JOIN job_spec s ON s.job = j.id WHERE j.id = p_job
$$;

CREATE FUNCTION mull_pending(p_term bigint, p_ids bigint[], p_after bigint, p_limit int)
RETURNS TABLE (id bigint, priority int, gpus int, hold boolean, eligible_ms bigint, dep text, avoid_node text,
               reason text, team text, "user" text, time_limit_s bigint, tasks int, is_array boolean, slots int,
               labels text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM mull__read_term(p_term);
    -- Two statements: one condition for both would be planned for neither, and read the whole table for a handful of ids.
    IF p_ids IS NULL THEN
        RETURN QUERY
        SELECT j.id, j.priority, j.gpus, j.hold,
               COALESCE(ceil(extract(epoch FROM greatest(j.begin_at, j.not_before)) * 1000), 0)::bigint,
               CASE WHEN j.depends = '' THEN 'met' ELSE mull__dependency(j.depends) END,
               CASE WHEN j.infra_failures > 0 THEN j.node END, j.reason, j.team,
               j."user", COALESCE(j.time_limit_s, 0)::bigint,
               CASE WHEN a.job IS NOT NULL THEN mull__array_tasks(j.id, a.job) ELSE 1 END, a.job IS NOT DISTINCT FROM j.id,
               j.slots, array_to_string(j.labels, E'\n')
          FROM job j LEFT JOIN job_array a ON a.job = COALESCE(j.array_job, j.id)
         WHERE j.state = 'PENDING' AND j.id > p_after ORDER BY j.id LIMIT p_limit;
    ELSE
        RETURN QUERY
        SELECT j.id, j.priority, j.gpus, j.hold,
               COALESCE(ceil(extract(epoch FROM greatest(j.begin_at, j.not_before)) * 1000), 0)::bigint,
               CASE WHEN j.depends = '' THEN 'met' ELSE mull__dependency(j.depends) END,
               CASE WHEN j.infra_failures > 0 THEN j.node END, j.reason, j.team,
               j."user", COALESCE(j.time_limit_s, 0)::bigint,
               CASE WHEN a.job IS NOT NULL THEN mull__array_tasks(j.id, a.job) ELSE 1 END, a.job IS NOT DISTINCT FROM j.id,
               j.slots, array_to_string(j.labels, E'\n')
          FROM job j LEFT JOIN job_array a ON a.job = COALESCE(j.array_job, j.id)
         WHERE j.id = ANY (p_ids) AND j.state = 'PENDING' ORDER BY j.id;
    END IF;
END $$;

CREATE FUNCTION mull_live_attempts(p_term bigint)
RETURNS TABLE (fence bigint, job bigint, attempt int, node text, boot text, started boolean, cancel_requested boolean,
               time_limit_s bigint, deadline_ms bigint, devices jsonb, spec text, team text, "user" text, priority int,
               started_ms bigint, saved_ms bigint, preemptible boolean, min_run_s int, preempt_reason text, parts jsonb,
               gang_stop boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM mull__read_term(p_term);
    RETURN QUERY
        SELECT a.fence, a.job, a.attempt, a.node, a.boot, a.started_at IS NOT NULL, j.cancel_requested,
               COALESCE(j.time_limit_s, 0)::bigint,
               COALESCE(floor(extract(epoch FROM a.started_at + make_interval(secs => j.time_limit_s)) * 1000), 0)::bigint,
               a.devices, CASE WHEN a.started_at IS NULL THEN mull__start_spec(a.job) END, j.team, j."user",
               j.priority, mull__ms(a.started_at), mull__ms(greatest(a.started_at,
                   (SELECT max(c.created_at) FROM checkpoint c WHERE c.job = a.job AND c.attempt = a.attempt),
                   -- Rows of annotate are on disk before they are counted.
                   CASE WHEN j.kind = 'annotate' THEN (SELECT p.updated_at FROM progress p WHERE p.job = a.job) END)),
               j.preemptible, j.min_run_s, a.preempt_reason,
               CASE WHEN a.boot = 'gang' THEN (SELECT jsonb_agg(jsonb_build_object('node', p.node, 'boot', p.boot,
                        'started', p.started_at IS NOT NULL, 'ended', p.ended_at IS NOT NULL, 'devices', p.devices)
                        ORDER BY p.part) FROM attempt_part p WHERE p.fence = a.fence) END,
               a.gang_stop
          FROM attempt a JOIN job j ON j.id = a.job WHERE a.ended_at IS NULL ORDER BY a.fence;
END $$;

-- An item over several nodes has "parts": [{"node","boot","devices"}], "node" with the list of names and "boot" gang.
CREATE FUNCTION mull_dispatch(p_term bigint, p_items jsonb)
RETURNS TABLE (job bigint, attempt int, fence bigint, time_limit_s bigint, spec text, preemptible boolean,
               min_run_s int, i int) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM mull__check_term(p_term);
    RETURN QUERY
    WITH item AS (
        SELECT (x->>'i')::int AS i, (x->>'job')::bigint AS job, x->>'node' AS node, x->>'boot' AS boot,
               x->'devices' AS devices, x->'parts' AS parts
          FROM jsonb_array_elements(p_items) x),
    started AS (
        UPDATE job SET state = 'RUNNING', reason = '', attempt = job.attempt + 1, node = i.node,
                       started_at = COALESCE(job.started_at, clock_timestamp()), not_before = NULL
          FROM item i
         WHERE job.id = i.job AND job.state = 'PENDING' AND NOT job.hold
           AND CASE WHEN i.parts IS NULL
                    THEN EXISTS (SELECT 1 FROM node n WHERE n.name = i.node AND n.boot = i.boot AND n.state = 'UP')
                    ELSE NOT EXISTS (SELECT 1 FROM jsonb_array_elements(i.parts) p
                                      WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.name = p->>'node'
                                                           AND n.boot = p->>'boot' AND n.state = 'UP')) END
        RETURNING job.id, job.attempt, job.submitted_at, COALESCE(job.time_limit_s, 0)::bigint AS limit_s, i.i, i.node,
                  i.boot, i.devices, i.parts, job.preemptible, job.min_run_s),
    made AS (
        INSERT INTO attempt (job, attempt, fence, node, boot, state, term, created_at, devices, progress_before)
        SELECT s.id, s.attempt, nextval('fence_seq'), s.node, s.boot, 'STARTING', p_term, clock_timestamp(), s.devices,
               COALESCE((SELECT p.done FROM progress p WHERE p.job = s.id), 0)
          FROM started s
        RETURNING attempt.job, attempt.attempt, attempt.fence, attempt.node),
    parts AS (
        INSERT INTO attempt_part (fence, part, node, boot, devices)
        SELECT m.fence, p.ord - 1, p.x->>'node', p.x->>'boot', p.x->'devices'
          FROM made m JOIN started s ON s.id = m.job,
               jsonb_array_elements(s.parts) WITH ORDINALITY AS p(x, ord)
         WHERE s.parts IS NOT NULL),
    audit AS (
        INSERT INTO event (at, actor, kind, job, attempt, fence, detail)
        SELECT clock_timestamp(), 'scheduler', 'dispatch', m.job, m.attempt, m.fence, jsonb_build_object('node', m.node)
          FROM made m)
    SELECT m.job, m.attempt, m.fence, s.limit_s,
           (js.spec::jsonb || jsonb_build_object('job', m.job::text,
                'created', floor(extract(epoch FROM s.submitted_at))::bigint))::text, s.preemptible, s.min_run_s, s.i
      FROM made m JOIN started s ON s.id = m.job JOIN job_spec js ON js.job = m.job
     ORDER BY s.i;
END $$;

-- Notes that attempts are told to stop so that another job can start: {"fence","by","reason"} each. The fences that had
-- neither ended nor been told before: only these are to be told.
CREATE FUNCTION mull_preempt(p_term bigint, p_items jsonb) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    item jsonb;
    a attempt%ROWTYPE;
    preemptor job%ROWTYPE;
BEGIN
    PERFORM mull__check_term(p_term);
    FOR item IN SELECT * FROM jsonb_array_elements(p_items) LOOP
        SELECT * INTO preemptor FROM job WHERE id = (item->>'by')::bigint AND state = 'PENDING' AND NOT hold;
        CONTINUE WHEN NOT FOUND;
        UPDATE attempt SET preempted_by = preemptor.id, preempt_reason = item->>'reason'
         WHERE fence = (item->>'fence')::bigint AND ended_at IS NULL AND preempted_by IS NULL
        RETURNING * INTO a;
        CONTINUE WHEN NOT FOUND;
        PERFORM mull__event('scheduler', 'preempted', a.job, a.attempt, a.fence,
            jsonb_build_object('by', preemptor.id::text, 'by_name', preemptor.name, 'by_team', preemptor.team,
                               'reason', a.preempt_reason));
        PERFORM mull__apply_log(a.job, a.attempt, clock_timestamp(), 'mull', jsonb_build_array(
            'preempted by job ' || preemptor.id || ' (' || preemptor.name || ', team ' || preemptor.team || '): '
            || CASE a.preempt_reason WHEN 'reclaim' THEN 'its team takes back GPUs of its quota'
                                     ELSE 'it has a higher priority' END));
        RETURN NEXT a.fence;
    END LOOP;
END $$;

-- Running attempts that a user asked to stop.
CREATE FUNCTION mull_cancels(p_term bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull__read_term(p_term);
    RETURN QUERY SELECT a.fence FROM attempt a JOIN job j ON j.id = a.job
                  WHERE a.ended_at IS NULL AND j.cancel_requested;
END $$;

-- Reasons of pending jobs, in two arrays of equal length.
CREATE FUNCTION mull_set_reasons(p_term bigint, p_ids bigint[], p_reasons text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull__check_term(p_term);
    -- A row that somebody is just changing gets a reason of its own soon: waiting for it could deadlock with a dispatch.
    UPDATE job SET reason = r.reason
      FROM unnest(p_ids, p_reasons) AS r(id, reason)
      JOIN (SELECT id FROM job WHERE id = ANY (p_ids) AND state = 'PENDING' FOR UPDATE SKIP LOCKED) mine USING (id)
     WHERE job.id = r.id AND job.reason <> r.reason;
END $$;

CREATE FUNCTION mull__cancel_unmeetable(p_term bigint, p_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    cancelled bigint;
BEGIN
    PERFORM mull__check_term(p_term);
    FOR cancelled IN
        UPDATE job SET state = 'CANCELLED', reason = '', ended_at = clock_timestamp(),
                       message = 'its dependency ' || depends || ' can no longer be met'
         WHERE id = ANY (p_ids) AND state = 'PENDING' AND mull__dependency(depends) = 'never'
        RETURNING id LOOP
        PERFORM mull__event('scheduler', 'cancel', cancelled, NULL, NULL, '{"why": "dependency can never be met"}');
    END LOOP;
END $$;

CREATE FUNCTION mull_cancel_unmeetable(p_term bigint, p_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    b bigint;
    plain bigint[];
BEGIN
    PERFORM mull__check_term(p_term);
    FOR b IN SELECT r.job FROM job_array r JOIN job j ON j.id = r.job
              WHERE r.job = ANY (p_ids) AND r.corr IS NOT NULL AND r.made > 0 AND j.state = 'PENDING'
                AND mull__dependency(j.depends) = 'never' ORDER BY r.job LOOP
        UPDATE job_array SET closed = true WHERE job = b;
        UPDATE job SET state = 'RUNNING', reason = '',
                       message = 'tasks whose partners in job ' || split_part(depends, ':', 2) || ' did not complete were left out'
         WHERE id = b;
        PERFORM mull__event('scheduler', 'cancel', b, NULL, NULL, '{"why": "the rest of its partners did not complete"}');
        PERFORM mull__array_finish(b);
    END LOOP;
    SELECT array_agg(x) INTO plain FROM unnest(p_ids) x
     WHERE NOT EXISTS (SELECT 1 FROM job_array r WHERE r.job = x AND r.corr IS NOT NULL AND r.made > 0);
    IF plain IS NOT NULL THEN PERFORM mull__cancel_unmeetable(p_term, plain); END IF;
END $$;
