-- Every effect that touches more than one row is one call of one of these functions, so one statement is one
-- transaction. Functions of the leader take its term first and raise SQLSTATE ML001 when that term is no longer
-- current: a paused old leader that wakes up can change nothing. They run with the caller's rights.
--
-- Naming: mull_X is called by the scheduler, mull__X only by other functions.

---------------------------------------------------------------------------------------------------------------------
-- Small helpers

CREATE FUNCTION mull__time(t timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

CREATE FUNCTION mull__terminal(state text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state NOT IN ('PENDING', 'RUNNING')
$$;

-- 0 for success, the status of the process, or 128 + signal.
CREATE FUNCTION mull__exit(code int, signal int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT COALESCE(code, 128 + signal)
$$;

CREATE FUNCTION mull__event(actor text, kind text, job bigint, attempt int, fence bigint, detail jsonb)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO event (at, actor, kind, job, attempt, fence, detail)
    VALUES (clock_timestamp(), $1, $2, $3, $4, $5, COALESCE($6, '{}'))
$$;

-- 'met', 'wait' or 'never' for a dependency such as afterok:3:4. A job it names always exists (submit checks).
CREATE FUNCTION mull__dependency(p_depends text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    want text;
    waits boolean;
    never boolean;
BEGIN
    IF p_depends IS NULL OR p_depends = '' THEN RETURN 'met'; END IF;
    want := split_part(p_depends, ':', 1);
    SELECT bool_or(NOT mull__terminal(j.state)),
           bool_or(mull__terminal(j.state) AND (want = 'afterok' AND j.state <> 'COMPLETED'
                                             OR want = 'afterfail' AND j.state = 'COMPLETED'))
      INTO waits, never
      FROM job j WHERE j.id IN (SELECT x::bigint FROM unnest((string_to_array(p_depends, ':'))[2:]) x);
    IF never THEN RETURN 'never'; END IF;
    RETURN CASE WHEN waits THEN 'wait' ELSE 'met' END;
END $$;

---------------------------------------------------------------------------------------------------------------------
-- Leader

-- Takes the lead when nobody holds it, the holder's time is over, or (own) the holder of that name is this very
-- process's predecessor. Returns the new term, or 0.
CREATE FUNCTION mull_leader_take(p_holder text, p_ttl_ms int, p_own boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    new_term bigint;
BEGIN
    INSERT INTO leader (id, term, holder, expires_at) VALUES (1, 0, '', '-infinity') ON CONFLICT DO NOTHING;
    UPDATE leader SET term = term + 1, holder = p_holder,
                      expires_at = clock_timestamp() + make_interval(secs => p_ttl_ms / 1000.0)
     WHERE id = 1 AND (expires_at <= clock_timestamp() OR (p_own AND holder = p_holder))
    RETURNING term INTO new_term;
    IF new_term IS NULL THEN RETURN 0; END IF;
    PERFORM mull__event(p_holder, 'leader', NULL, NULL, NULL, jsonb_build_object('term', new_term));
    RETURN new_term;
END $$;

CREATE FUNCTION mull_leader_renew(p_term bigint, p_ttl_ms int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE leader SET expires_at = clock_timestamp() + make_interval(secs => p_ttl_ms / 1000.0)
     WHERE id = 1 AND term = p_term;
    RETURN FOUND;
END $$;

-- An orderly stop hands the lead over at once.
CREATE FUNCTION mull_leader_release(p_term bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE leader SET expires_at = '-infinity' WHERE id = 1 AND term = $1
$$;

-- The share lock keeps a take-over waiting until the caller's transaction has ended.
CREATE FUNCTION mull__check_term(p_term bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM leader WHERE id = 1 AND term = p_term FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'term % is not current', p_term USING ERRCODE = 'ML001';
    END IF;
END $$;

-- The same for statements that only read: no lock, so nothing is written and there is no commit to wait for.
CREATE FUNCTION mull__read_term(p_term bigint) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM 1 FROM leader WHERE id = 1 AND term = p_term;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'term % is not current', p_term USING ERRCODE = 'ML001';
    END IF;
END $$;

---------------------------------------------------------------------------------------------------------------------
-- Front door (any replica, no term)

-- Records a batch of submitted jobs in one transaction. Each element: {"user","team","name","kind","priority","gpus",
-- "time_limit_s","begin_ms","hold","key","depends","any_team","spec"}; spec is JSON text; any_team lets depends name jobs
-- of other teams. One row comes back for each element:
-- problem is NULL, or says why this one was not recorded (the others are).
CREATE FUNCTION mull_submit(p_batch jsonb)
RETURNS TABLE (ord int, id bigint, state text, created boolean, problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    item jsonb;
    n int := 0;
    missing text;
BEGIN
    FOR item IN SELECT * FROM jsonb_array_elements(p_batch) LOOP
        ord := n;
        n := n + 1;
        id := NULL; state := NULL; created := false; problem := NULL;
        IF item->>'depends' <> '' THEN
            SELECT string_agg(x, ', ') INTO missing
              FROM unnest((string_to_array(item->>'depends', ':'))[2:]) x
             WHERE NOT EXISTS (SELECT 1 FROM job j WHERE j.id = x::bigint
                                  AND (j.team = item->>'team' OR (item->>'any_team')::boolean));
            IF missing IS NOT NULL THEN
                problem := 'after: no job ' || missing;
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        INSERT INTO app_user (name) VALUES (item->>'user') ON CONFLICT DO NOTHING;
        INSERT INTO team (name) VALUES (item->>'team') ON CONFLICT DO NOTHING;
        INSERT INTO job (name, kind, team, "user", state, reason, priority, submitted_at, begin_at, hold, client_key,
                         depends, gpus, time_limit_s)
        VALUES (item->>'name', item->>'kind', item->>'team', item->>'user', 'PENDING',
                -- What is true before anybody has looked: the leader writes only what it finds to be otherwise.
                CASE WHEN (item->>'hold')::boolean THEN 'Held' WHEN item->>'depends' <> '' THEN 'Dependency'
                     WHEN item->>'begin_ms' IS NOT NULL THEN 'BeginTime' ELSE 'Priority' END, (item->>'priority')::int,
                clock_timestamp(), to_timestamp((item->>'begin_ms')::bigint / 1000.0), (item->>'hold')::boolean,
                item->>'key', COALESCE(item->>'depends', ''), (item->>'gpus')::int, (item->>'time_limit_s')::bigint)
        ON CONFLICT (team, client_key) DO NOTHING
        RETURNING job.id, job.state INTO id, state;
        IF id IS NULL THEN
            SELECT j.id, j.state INTO id, state FROM job j
             WHERE j.team = item->>'team' AND j.client_key = item->>'key';
        ELSE
            created := true;
            INSERT INTO job_spec (job, spec) VALUES (id, item->>'spec');
            PERFORM mull__event(item->>'user', 'submit', id, NULL, NULL, NULL);
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

-- cancel, hold, release or requeue asked by a user. known = the job exists; ok = it was possible; message says why
-- not. team '' = any.
CREATE FUNCTION mull_job_action(p_job bigint, p_op text, p_actor text, p_team text)
RETURNS TABLE (known boolean, ok boolean, state text, message text) LANGUAGE plpgsql AS $$
DECLARE
    j job%ROWTYPE;
BEGIN
    SELECT * INTO j FROM job WHERE job.id = p_job FOR UPDATE;
    known := j.id IS NOT NULL AND (p_team = '' OR j.team = p_team);
    ok := false;
    IF NOT known THEN RETURN NEXT; RETURN; END IF;
    state := j.state;
    ok := true;
    IF p_op = 'cancel' AND j.state = 'PENDING' THEN
        UPDATE job SET state = 'CANCELLED', reason = '', ended_at = clock_timestamp(), message = 'cancelled by ' || p_actor
         WHERE job.id = p_job;
        state := 'CANCELLED';
    ELSIF p_op = 'cancel' AND j.state = 'RUNNING' THEN
        UPDATE job SET cancel_requested = true WHERE job.id = p_job;
        message := 'the running attempt was asked to stop';
    ELSIF p_op = 'cancel' THEN
        message := 'the job has already ended';
        RETURN NEXT; RETURN;
    ELSIF p_op = 'hold' AND j.state = 'PENDING' THEN
        UPDATE job SET hold = true, reason = 'Held' WHERE job.id = p_job;
    ELSIF p_op = 'release' AND j.state = 'PENDING' THEN
        UPDATE job SET hold = false, reason = 'Priority' WHERE job.id = p_job;
    ELSIF p_op = 'requeue' AND mull__terminal(j.state) THEN
        UPDATE job SET state = 'PENDING', reason = 'Priority', ended_at = NULL, started_at = NULL, exit_code = NULL,
                       exit_signal = NULL, message = '', cancel_requested = false, infra_failures = 0,
                       not_before = NULL, node = NULL
         WHERE job.id = p_job;
        state := 'PENDING';
    ELSE
        ok := false;
        message := CASE WHEN p_op = 'requeue' THEN 'only a job that has ended can be requeued; cancel it first'
                        ELSE 'only a pending job can be ' || CASE p_op WHEN 'hold' THEN 'held' ELSE 'released' END
                   END;
        RETURN NEXT; RETURN;
    END IF;
    PERFORM mull__event(p_actor, p_op, p_job, NULL, NULL, NULL);
    RETURN NEXT;
END $$;

-- The object of `mull ps --json`.
CREATE FUNCTION mull__job_json(j job) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'id', j.id::text, 'name', j.name, 'kind', j.kind, 'team', j.team, 'user', j."user", 'state', j.state,
        'reason', j.reason, 'priority', j.priority, 'submitted_at', mull__time(j.submitted_at),
        'started_at', mull__time(j.started_at), 'ended_at', mull__time(j.ended_at), 'node', j.node,
        'attempt', j.attempt, 'exit', mull__exit(j.exit_code, j.exit_signal),
        'progress', (SELECT json_build_object('done', p.done, 'total', p.total, 'eta_s', p.eta_s)
                       FROM progress p WHERE p.job = j.id))
$$;

-- One page, newest first: ids below p_before (0 = from the top).
CREATE FUNCTION mull_job_list(p_state text, p_team text, p_before bigint, p_limit int)
RETURNS json LANGUAGE sql STABLE AS $$
    WITH page AS (
        SELECT j FROM job j
         WHERE (p_state = '' OR j.state = p_state) AND (p_team = '' OR j.team = p_team)
           AND (p_before = 0 OR j.id < p_before)
         ORDER BY j.id DESC LIMIT p_limit)
    SELECT json_build_object(
        'jobs', COALESCE((SELECT json_agg(mull__job_json(j) ORDER BY (j).id DESC) FROM page), '[]'),
        'next_cursor', (SELECT CASE WHEN count(*) = p_limit THEN min((j).id)::text END FROM page))
$$;

-- Everything about one job, or NULL. p_team '' = any.
CREATE FUNCTION mull_job_show(p_job bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT mull__job_json(j)::jsonb || jsonb_build_object(
        'spec', (SELECT s.spec::jsonb FROM job_spec s WHERE s.job = j.id),
        'message', j.message,
        'attempts', COALESCE((SELECT jsonb_agg(jsonb_build_object(
                'attempt', a.attempt, 'fence', a.fence, 'node', a.node, 'state', a.state, 'class', a.class,
                'started_at', mull__time(a.started_at), 'ended_at', mull__time(a.ended_at),
                'exit', mull__exit(a.exit_code, a.exit_signal), 'message', a.message) ORDER BY a.attempt)
            FROM attempt a WHERE a.job = j.id), '[]'),
        'run', (SELECT jsonb_build_object('id', r.id::text, 'created_at', mull__time(r.created_at), 'config', r.config)
                  FROM run r WHERE r.job = j.id ORDER BY r.id DESC LIMIT 1),
        -- A result is published by the end of its attempt: before that it is not shown.
        'result', (SELECT r.result FROM job_result r JOIN attempt a USING (job, attempt)
                    WHERE r.job = j.id AND a.state = 'COMPLETED' ORDER BY r.attempt DESC LIMIT 1),
        'checkpoints', COALESCE((SELECT jsonb_agg(to_jsonb(c) - 'job' ORDER BY c.id) FROM checkpoint c
                                  WHERE c.job = j.id), '[]'),
        'artifacts', COALESCE((SELECT jsonb_agg(jsonb_build_object('attempt', f.attempt, 'path', f.path, 'bytes',
                f.bytes, 'sha256', f.sha256) ORDER BY f.attempt, f.path) FROM artifact f WHERE f.job = j.id), '[]'),
        'events', COALESCE((SELECT jsonb_agg(jsonb_build_object('at', mull__time(e.at), 'kind', e.kind, 'actor',
                e.actor, 'detail', e.detail) ORDER BY e.id)
            FROM (SELECT * FROM event WHERE job = j.id ORDER BY id DESC LIMIT 200) e), '[]'))
      FROM job j WHERE j.id = p_job AND (p_team = '' OR j.team = p_team)
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

-- Points of one key (or all) behind step p_after, NULL for no such job.
CREATE FUNCTION mull_job_metrics(p_job bigint, p_team text, p_key text, p_after bigint, p_limit int)
RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('job', j.id::text, 'points', COALESCE((
        SELECT json_agg(json_build_object('key', m.key, 'step', m.step, 'value', m.value, 'at', mull__time(m.at))
                        ORDER BY m.key, m.step)
          FROM (SELECT m.* FROM run r JOIN metric m ON m.run = r.id
                 WHERE r.job = j.id AND (p_key = '' OR m.key = p_key) AND (p_after = 0 OR m.step > p_after)
                 ORDER BY m.key, m.step LIMIT p_limit) m), '[]'))
      FROM job j WHERE j.id = p_job AND (p_team = '' OR j.team = p_team)
$$;

-- Whom a token (its SHA-256 in hexadecimal) speaks for; no row when it is unknown, expired or revoked.
CREATE FUNCTION mull_auth(p_hash text) RETURNS TABLE ("user" text, team text, role text) LANGUAGE sql STABLE AS $$
    SELECT t."user", t.team, t.role FROM token t
     WHERE t.hash = p_hash AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())
$$;

CREATE FUNCTION mull_job_state(p_job bigint, p_team text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT state FROM job WHERE id = p_job AND (p_team = '' OR team = p_team)
$$;

CREATE FUNCTION mull_nodes() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('nodes', COALESCE(json_agg(json_build_object(
        'name', n.name, 'state', n.state, 'boot', n.boot, 'address', n.address, 'version', n.version,
        'last_seen', mull__time(n.last_seen), 'devices', n.devices,
        'running', (SELECT COALESCE(json_agg(json_build_object('job', a.job::text, 'attempt', a.attempt, 'devices',
                    a.devices) ORDER BY a.fence), '[]')
                      FROM attempt a WHERE a.node = n.name AND a.ended_at IS NULL)) ORDER BY n.name), '[]'))
      FROM node n
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

-- Who is ahead, what is missing, and when it may start as far as time limits and progress tell. NULL = no such job.
CREATE FUNCTION mull_job_why(p_job bigint, p_team text) RETURNS json LANGUAGE plpgsql STABLE AS $$
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

---------------------------------------------------------------------------------------------------------------------
-- Leader: reading

-- Pending jobs for the leader's memory: the given ids, or (p_ids NULL) a slice of ids above p_after.
CREATE FUNCTION mull_pending(p_term bigint, p_ids bigint[], p_after bigint, p_limit int)
RETURNS TABLE (id bigint, priority int, gpus int, hold boolean, eligible_ms bigint, dep text, avoid_node text,
               reason text)
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
               CASE WHEN j.infra_failures > 0 THEN j.node END, j.reason
          FROM job j WHERE j.state = 'PENDING' AND j.id > p_after ORDER BY j.id LIMIT p_limit;
    ELSE
        RETURN QUERY
        SELECT j.id, j.priority, j.gpus, j.hold,
               COALESCE(ceil(extract(epoch FROM greatest(j.begin_at, j.not_before)) * 1000), 0)::bigint,
               CASE WHEN j.depends = '' THEN 'met' ELSE mull__dependency(j.depends) END,
               CASE WHEN j.infra_failures > 0 THEN j.node END, j.reason
          FROM job j WHERE j.id = ANY (p_ids) AND j.state = 'PENDING' ORDER BY j.id;
    END IF;
END $$;

CREATE FUNCTION mull_cancel_unmeetable(p_term bigint, p_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
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

-- The engine's spec: what was submitted plus who runs it.
CREATE FUNCTION mull__start_spec(p_job bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT (s.spec::jsonb || jsonb_build_object('job', j.id::text,
            'created', floor(extract(epoch FROM j.submitted_at))::bigint))::text
      FROM job j JOIN job_spec s ON s.job = j.id WHERE j.id = p_job
$$;

-- Attempts under way. spec only for those that have not acknowledged their start, to send it again.
CREATE FUNCTION mull_live_attempts(p_term bigint)
RETURNS TABLE (fence bigint, job bigint, attempt int, node text, boot text, started boolean, cancel_requested boolean,
               time_limit_s bigint, deadline_ms bigint, devices jsonb, spec text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM mull__read_term(p_term);
    RETURN QUERY
        SELECT a.fence, a.job, a.attempt, a.node, a.boot, a.started_at IS NOT NULL, j.cancel_requested,
               COALESCE(j.time_limit_s, 0)::bigint,
               COALESCE(floor(extract(epoch FROM a.started_at + make_interval(secs => j.time_limit_s)) * 1000), 0)::bigint,
               a.devices, CASE WHEN a.started_at IS NULL THEN mull__start_spec(a.job) END
          FROM attempt a JOIN job j ON j.id = a.job WHERE a.ended_at IS NULL ORDER BY a.fence;
END $$;

-- Running attempts that a user asked to stop.
CREATE FUNCTION mull_cancels(p_term bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull__read_term(p_term);
    RETURN QUERY SELECT a.fence FROM attempt a JOIN job j ON j.id = a.job
                  WHERE a.ended_at IS NULL AND j.cancel_requested;
END $$;

CREATE FUNCTION mull_leader_nodes(p_term bigint)
RETURNS TABLE (name text, boot text, state text, devices jsonb) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM mull__read_term(p_term);
    RETURN QUERY SELECT n.name, n.boot, n.state, n.devices FROM node n ORDER BY n.name;
END $$;

CREATE FUNCTION mull_cursor(p_name text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT last_id FROM stream_cursor WHERE name = p_name), '0-0')
$$;

---------------------------------------------------------------------------------------------------------------------
-- Leader: dispatch

-- Starts jobs: {"job","node","boot","devices"} each. A job that is no longer pending (cancelled, held meanwhile) or
-- whose node has another boot by now is left out of the answer.
-- One statement for the whole batch; the rows come in the order of the items.
CREATE FUNCTION mull_dispatch(p_term bigint, p_items jsonb)
RETURNS TABLE (job bigint, attempt int, fence bigint, time_limit_s bigint, spec text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM mull__check_term(p_term);
    RETURN QUERY
    WITH item AS (
        SELECT ord, (x->>'job')::bigint AS job, x->>'node' AS node, x->>'boot' AS boot, x->'devices' AS devices
          FROM jsonb_array_elements(p_items) WITH ORDINALITY AS t(x, ord)),
    started AS (
        UPDATE job SET state = 'RUNNING', reason = '', attempt = job.attempt + 1, node = i.node,
                       started_at = COALESCE(job.started_at, clock_timestamp()), not_before = NULL
          FROM item i JOIN node n ON n.name = i.node AND n.boot = i.boot AND n.state = 'UP'
         WHERE job.id = i.job AND job.state = 'PENDING' AND NOT job.hold
        RETURNING job.id, job.attempt, job.submitted_at, COALESCE(job.time_limit_s, 0)::bigint AS limit_s, i.ord, i.node,
                  i.boot, i.devices),
    made AS (
        INSERT INTO attempt (job, attempt, fence, node, boot, state, term, created_at, devices, progress_before)
        SELECT s.id, s.attempt, nextval('fence_seq'), s.node, s.boot, 'STARTING', p_term, clock_timestamp(), s.devices,
               COALESCE((SELECT p.done FROM progress p WHERE p.job = s.id), 0)
          FROM started s
        RETURNING attempt.job, attempt.attempt, attempt.fence, attempt.node),
    audit AS (
        INSERT INTO event (at, actor, kind, job, attempt, fence, detail)
        SELECT clock_timestamp(), 'scheduler', 'dispatch', m.job, m.attempt, m.fence, jsonb_build_object('node', m.node)
          FROM made m)
    SELECT m.job, m.attempt, m.fence, s.limit_s,
           (js.spec::jsonb || jsonb_build_object('job', m.job::text,
                'created', floor(extract(epoch FROM s.submitted_at))::bigint))::text
      FROM made m JOIN started s ON s.id = m.job JOIN job_spec js ON js.job = m.job
     ORDER BY s.ord;
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

---------------------------------------------------------------------------------------------------------------------
-- Leader: recording

-- Ends an attempt and decides what becomes of its job, in the caller's transaction. The one place where failure
-- classes turn into states. False when the attempt had already ended.
CREATE FUNCTION mull__end_attempt(p_fence bigint, p_code int, p_signal int, p_class text, p_message text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    a attempt%ROWTYPE;
    j job%ROWTYPE;
    retries int;
    done bigint;
    failures int;
    outcome text;    -- of the attempt
    next_state text; -- of the job
    wait interval;
BEGIN
    SELECT * INTO a FROM attempt WHERE fence = p_fence AND ended_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN RETURN false; END IF;
    SELECT * INTO j FROM job WHERE id = a.job FOR UPDATE;
    outcome := CASE
        WHEN p_code = 0 AND p_class NOT IN ('infra', 'timeout', 'cancelled') THEN 'COMPLETED'
        WHEN p_class = 'timeout' THEN 'TIMEOUT'
        WHEN p_class = 'cancelled' OR j.cancel_requested THEN 'CANCELLED'
        WHEN p_class = 'oom' THEN 'OUT_OF_MEMORY'
        WHEN p_class = 'requeue' THEN 'PREEMPTED'
        WHEN p_class = 'infra' THEN 'NODE_FAIL'
        ELSE 'FAILED' END;
    UPDATE attempt SET ended_at = clock_timestamp(), state = outcome, exit_code = p_code, exit_signal = p_signal,
                       class = p_class, message = p_message WHERE fence = p_fence;
    PERFORM mull__event('scheduler', 'attempt_ended', a.job, a.attempt, p_fence,
                        jsonb_build_object('class', p_class, 'exit_code', p_code, 'exit_signal', p_signal));
    failures := j.infra_failures;
    next_state := outcome;
    IF outcome = 'PREEMPTED' THEN
        next_state := 'PENDING';
    ELSIF outcome = 'NODE_FAIL' THEN
        SELECT COALESCE((s.spec::jsonb->>'retries')::int, 3) INTO retries FROM job_spec s WHERE s.job = j.id;
        SELECT p.done INTO done FROM progress p WHERE p.job = j.id;
        failures := CASE WHEN COALESCE(done, 0) > a.progress_before THEN 1 ELSE failures + 1 END;
        next_state := CASE WHEN retries = 0 THEN 'NODE_FAIL' WHEN failures > retries THEN 'FAILED' ELSE 'PENDING' END;
        -- 0.5 s doubled for each failure in a row, at most 30 s, spread over half to one and a half times that.
        wait := make_interval(secs => least(30, 0.5 * power(2, least(failures - 1, 10))) * (0.5 + random()));
    END IF;
    IF next_state = 'PENDING' THEN
        UPDATE job SET state = 'PENDING', reason = CASE WHEN wait IS NULL THEN 'Priority' ELSE 'BeginTime' END,
                       not_before = clock_timestamp() + wait, infra_failures = failures, exit_code = NULL,
                       exit_signal = NULL,
                       message = COALESCE(NULLIF(p_message, ''), message)
         WHERE id = j.id;
    ELSE
        UPDATE job SET state = next_state, reason = '', ended_at = clock_timestamp(), exit_code = p_code,
                       exit_signal = p_signal, infra_failures = failures,
                       message = CASE WHEN outcome = 'NODE_FAIL'
                                      THEN failures || ' infrastructure failures in a row, the last: ' || p_message
                                      ELSE p_message END
         WHERE id = j.id;
    END IF;
    RETURN true;
END $$;

-- Ends attempts whose worker, node or process is lost. Returns the fences that were still open.
CREATE FUNCTION mull_attempts_lost(p_term bigint, p_fences bigint[], p_message text) RETURNS SETOF bigint
LANGUAGE plpgsql AS $$
DECLARE
    f bigint;
BEGIN
    PERFORM mull__check_term(p_term);
    FOREACH f IN ARRAY p_fences LOOP
        IF mull__end_attempt(f, NULL, NULL, 'infra', p_message) THEN RETURN NEXT f; END IF;
    END LOOP;
END $$;

-- Ends attempts on boots that are gone: one that was dispatched in the very moment in which its worker started again or
-- its node was declared down is seen by neither of the two transactions. Returns the fences that ended.
CREATE FUNCTION mull_orphans(p_term bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    f bigint;
BEGIN
    PERFORM mull__read_term(p_term);
    IF NOT EXISTS (SELECT 1 FROM attempt a JOIN node n ON n.name = a.node
                    WHERE a.ended_at IS NULL AND (a.boot <> n.boot OR n.state = 'DOWN')) THEN
        RETURN;
    END IF;
    PERFORM mull__check_term(p_term);
    FOR f IN SELECT a.fence FROM attempt a JOIN node n ON n.name = a.node
              WHERE a.ended_at IS NULL AND (a.boot <> n.boot OR n.state = 'DOWN') ORDER BY a.fence LOOP
        IF mull__end_attempt(f, NULL, NULL, 'infra', 'the worker that had it is gone') THEN RETURN NEXT f; END IF;
    END LOOP;
END $$;

-- No sign of life from this boot of a node: it takes no jobs until it speaks again. Returns the fences that ended.
CREATE FUNCTION mull_node_down(p_term bigint, p_node text, p_boot text) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    f bigint;
BEGIN
    PERFORM mull__check_term(p_term);
    UPDATE node SET state = 'DOWN' WHERE name = p_node AND boot = p_boot AND state <> 'DOWN';
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM mull__event('scheduler', 'node_down', NULL, NULL, NULL, jsonb_build_object('node', p_node, 'boot', p_boot));
    FOR f IN SELECT fence FROM attempt WHERE node = p_node AND boot = p_boot AND ended_at IS NULL ORDER BY fence LOOP
        IF mull__end_attempt(f, NULL, NULL, 'infra', 'node ' || p_node || ' gave no sign of life') THEN
            RETURN NEXT f;
        END IF;
    END LOOP;
END $$;

-- One line that the engine of a current attempt wrote to its descriptor 3.
CREATE FUNCTION mull__apply_engine(p_job bigint, p_attempt int, p_fence bigint, p_at timestamptz, line jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r bigint;
BEGIN
    CASE line->>'ev'
    WHEN 'progress' THEN
        INSERT INTO progress AS p (job, done, total, unit, tokens, eta_s, updated_at)
        VALUES (p_job, COALESCE((line->>'done')::numeric::bigint, 0), (line->>'total')::numeric::bigint,
                COALESCE(line->>'unit', ''), (line->>'tokens')::numeric::bigint, (line->>'eta_s')::float8, p_at)
        ON CONFLICT (job) DO UPDATE SET done = EXCLUDED.done, total = EXCLUDED.total, unit = EXCLUDED.unit,
            tokens = EXCLUDED.tokens, eta_s = EXCLUDED.eta_s, updated_at = EXCLUDED.updated_at;
    WHEN 'metric' THEN
        SELECT id INTO r FROM run WHERE job = p_job ORDER BY id DESC LIMIT 1;
        IF r IS NULL THEN
            INSERT INTO run (job, config) SELECT p_job, s.spec::jsonb FROM job_spec s WHERE s.job = p_job
            RETURNING id INTO r;
        END IF;
        INSERT INTO metric (run, job, key, step, value, at)
        SELECT r, p_job, m.key, COALESCE((line->>'step')::numeric::bigint, 0), (m.value #>> '{}')::float8, p_at
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
        INSERT INTO checkpoint (job, attempt, path, step, bytes, sha256, state, created_at)
        VALUES (p_job, p_attempt, line->>'path', COALESCE((line->>'step')::numeric::bigint, 0), (line->>'bytes')::numeric::bigint,
                line->>'sha256', 'PUBLISHED', p_at)
        ON CONFLICT DO NOTHING;
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

-- Lines are numbered by the attempt itself, so a batch costs one update and no search. What one attempt may fill is
-- bounded: 100,000 lines and 64 MiB, a line at most 16,000 characters; one last line says that the rest is dropped.
CREATE FUNCTION mull__apply_log(p_job bigint, p_attempt int, p_at timestamptz, p_stream text, p_lines jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    most constant bigint := 100000;
    most_bytes constant bigint := 64 * 1024 * 1024;
    have bigint;
    have_bytes bigint;
    new_lines bigint;
    new_bytes bigint;
BEGIN
    SELECT log_lines, log_bytes INTO have, have_bytes FROM attempt WHERE job = p_job AND attempt = p_attempt;
    IF have IS NULL OR have > most OR have_bytes > most_bytes THEN RETURN; END IF;
    WITH added AS (
        INSERT INTO job_log (job, attempt, n, at, stream, text)
        SELECT p_job, p_attempt, have + l.ord, p_at, p_stream,
               CASE WHEN length(l.value #>> '{}') > 16000 THEN left(l.value #>> '{}', 16000) || ' … (cut)'
                    ELSE COALESCE(l.value #>> '{}', '') END
          FROM jsonb_array_elements(p_lines) WITH ORDINALITY AS l(value, ord)
         WHERE have + l.ord <= most
        RETURNING octet_length(text) AS size)
    SELECT count(*), COALESCE(sum(size), 0) INTO new_lines, new_bytes FROM added;
    have := have + new_lines;
    have_bytes := have_bytes + new_bytes;
    IF have >= most OR have_bytes > most_bytes THEN
        have := have + 1;
        have_bytes := most_bytes + 1;
        INSERT INTO job_log (job, attempt, n, at, stream, text)
        VALUES (p_job, p_attempt, have, p_at, 'mull', 'the log of this attempt is full; what follows is dropped');
    END IF;
    UPDATE attempt SET log_lines = have, log_bytes = have_bytes WHERE job = p_job AND attempt = p_attempt;
END $$;

-- One event of a worker whose sequence number was the next one. Adds what the leader must know to p_out.
CREATE FUNCTION mull__apply_event(e jsonb, p_out jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    f bigint := (e->>'fence')::bigint;
    a attempt%ROWTYPE;
    ts timestamptz := to_timestamp((e->>'at')::numeric / 1000);
    lost bigint;
BEGIN
    IF e->>'type' = 'invalid' THEN -- the scheduler could not read it; its place in the sequence counts
        PERFORM mull__event(e->>'node', 'event_refused', NULL, NULL, NULL, e - 'v');
        RETURN jsonb_set(p_out, '{refused}', to_jsonb((p_out->>'refused')::int + 1));
    END IF;
    IF e->>'type' = 'node_hello' THEN
        INSERT INTO node_boot (boot, node) VALUES (e->>'boot', e->>'node') ON CONFLICT DO NOTHING;
        INSERT INTO node AS n (name, boot, state, devices, hw_seq, last_seen, version, address)
        VALUES (e->>'node', e->>'boot', 'UP', COALESCE(e->'devices', '[]'), 0, clock_timestamp(),
                COALESCE(e->>'version', ''), COALESCE(e->>'address', ''))
        ON CONFLICT (name) DO UPDATE SET boot = EXCLUDED.boot, devices = EXCLUDED.devices, hw_seq = 0,
            state = CASE WHEN n.state = 'DOWN' THEN 'UP' ELSE n.state END, last_seen = EXCLUDED.last_seen,
            version = EXCLUDED.version, address = EXCLUDED.address;
        INSERT INTO device (node, kind, idx, memory_bytes)
        SELECT e->>'node', COALESCE(d->>'kind', 'cpu'), COALESCE((d->>'index')::int, 0), (d->>'memory_bytes')::bigint
          FROM jsonb_array_elements(COALESCE(e->'devices', '[]')) d
            ON CONFLICT (node, kind, idx) DO UPDATE SET memory_bytes = EXCLUDED.memory_bytes;
        DELETE FROM device x WHERE x.node = e->>'node' AND NOT EXISTS (
            SELECT 1 FROM jsonb_array_elements(COALESCE(e->'devices', '[]')) d
             WHERE COALESCE(d->>'kind', 'cpu') = x.kind AND COALESCE((d->>'index')::int, 0) = x.idx);
        FOR lost IN SELECT fence FROM attempt WHERE node = e->>'node' AND boot <> e->>'boot' AND ended_at IS NULL LOOP
            PERFORM mull__end_attempt(lost, NULL, NULL, 'infra', 'the worker of node ' || (e->>'node') || ' was started again');
            p_out := jsonb_insert(p_out, '{ended,-1}', to_jsonb(lost), true);
        END LOOP;
        PERFORM mull__event(e->>'node', 'node_up', NULL, NULL, NULL, e - 'v' - 'seq');
        RETURN jsonb_set(p_out, '{nodes}', 'true');
    END IF;
    SELECT * INTO a FROM attempt WHERE fence = f AND job = (e->>'job')::bigint AND ended_at IS NULL;
    IF NOT FOUND OR a.boot <> e->>'boot' THEN
        PERFORM mull__event(e->>'node', 'stale_fence', (e->>'job')::bigint, (e->>'attempt')::int, f,
                            jsonb_build_object('type', e->>'type', 'boot', e->>'boot'));
        RETURN jsonb_set(p_out, '{stale}', to_jsonb((p_out->>'stale')::int + 1));
    END IF;
    CASE e->>'type'
    WHEN 'attempt_started' THEN
        UPDATE attempt SET state = 'RUNNING', started_at = COALESCE(started_at, clock_timestamp()),
                           pid = (e->>'pid')::int WHERE fence = f;
        p_out := jsonb_insert(p_out, '{started,-1}', to_jsonb(f), true);
    WHEN 'engine' THEN
        PERFORM mull__apply_engine(a.job, a.attempt, f, ts, e->'line');
    WHEN 'log' THEN
        PERFORM mull__apply_log(a.job, a.attempt, ts, COALESCE(e->>'stream', 'stdout'), e->'lines');
        p_out := jsonb_insert(p_out, '{logs,-1}', to_jsonb(a.job), true);
    WHEN 'attempt_ended' THEN
        PERFORM mull__end_attempt(f, (e->>'exit_code')::int, (e->>'exit_signal')::int, COALESCE(e->>'class', ''),
                                  COALESCE(e->>'message', ''));
        p_out := jsonb_insert(p_out, '{ended,-1}', to_jsonb(f), true);
        p_out := jsonb_insert(p_out, '{logs,-1}', to_jsonb(a.job), true);
    ELSE NULL; -- kinds of later versions
    END CASE;
    RETURN p_out;
END $$;

-- Applies a batch of event lines in stream order, exactly once each, together with the stream's cursor.
-- Per boot exactly seq = high water + 1 is applied; lower is a duplicate; higher is a gap: it asks for a resync and is
-- dropped. p_careful runs each event in a subtransaction and notes one that PostgreSQL refuses (foreign nonsense) in
-- the audit instead of failing the batch; the caller uses it after a plain call failed.
-- Returns {"acks":{boot:hw}, "resync":{boot:hw+1}, "ended":[fence], "started":[fence], "logs":[job],
--          "heartbeats":[{"node","boot","attempts"}], "nodes":bool, "stale":n, "refused":n}.
CREATE FUNCTION mull_record(p_term bigint, p_stream text, p_cursor text, p_events jsonb, p_careful boolean)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    res jsonb := '{"acks":{},"resync":{},"ended":[],"started":[],"logs":[],"heartbeats":[],"nodes":false,"stale":0,"refused":0,"duplicates":0}';
    e jsonb;
    boot_ text;
    seq bigint;
    hw bigint;
BEGIN
    PERFORM mull__check_term(p_term);
    FOR e IN SELECT * FROM jsonb_array_elements(p_events) LOOP
        boot_ := e->>'boot';
        seq := (e->>'seq')::bigint;
        IF e->>'type' = 'node_heartbeat' THEN
            UPDATE node SET last_seen = clock_timestamp() WHERE name = e->>'node' AND boot = boot_ RETURNING hw_seq INTO hw;
            IF FOUND THEN
                UPDATE node SET state = 'UP' WHERE name = e->>'node' AND state = 'DOWN';
                IF FOUND THEN res := jsonb_set(res, '{nodes}', 'true'); END IF;
                res := jsonb_insert(res, '{heartbeats,-1}', jsonb_build_object('node', e->>'node', 'boot', boot_,
                                 'attempts', e->'attempts'), true);
            ELSIF NOT EXISTS (SELECT 1 FROM node_boot b WHERE b.boot = boot_) THEN
                -- Its hello was lost (a flushed Redis): ask for everything.
                res := jsonb_set(res, ARRAY['resync', boot_], '1');
            END IF;
            CONTINUE;
        END IF;
        -- Boots of this batch are in acks; their node rows are written once, at the end: a row that is updated for each
        -- event grows a chain of dead versions that every later look has to walk.
        hw := (res #>> ARRAY['acks', boot_])::bigint;
        IF hw IS NULL THEN
            SELECT n.hw_seq INTO hw FROM node n WHERE n.name = e->>'node' AND n.boot = boot_;
            IF NOT FOUND THEN
                hw := 0;
                -- A boot that another one has replaced has nothing more to say.
                IF EXISTS (SELECT 1 FROM node_boot b WHERE b.boot = boot_) THEN
                    res := jsonb_set(res, '{stale}', to_jsonb((res->>'stale')::int + 1));
                    CONTINUE;
                END IF;
            END IF;
        END IF;
        IF seq <= hw THEN
            res := jsonb_set(res, '{duplicates}', to_jsonb((res->>'duplicates')::int + 1));
            res := jsonb_set(res, ARRAY['acks', boot_], to_jsonb(hw));
            CONTINUE;
        ELSIF seq > hw + 1 OR (hw = 0 AND e->>'type' <> 'node_hello') THEN
            res := jsonb_set(res, ARRAY['resync', boot_], to_jsonb(hw + 1));
            CONTINUE;
        END IF;
        IF p_careful THEN
            BEGIN
                res := mull__apply_event(e, res);
            EXCEPTION WHEN OTHERS THEN
                -- Resources, deadlocks, shutdowns and a lost term are no fault of this event: the whole batch waits.
                IF left(SQLSTATE, 2) IN ('40', '53', '55', '57', '58', 'XX', 'ML') THEN RAISE; END IF;
                PERFORM mull__event(COALESCE(e->>'node', ''), 'event_refused', NULL, NULL, NULL,
                                    jsonb_build_object('boot', boot_, 'seq', seq, 'type', e->>'type', 'why', SQLERRM));
                res := jsonb_set(res, '{refused}', to_jsonb((res->>'refused')::int + 1));
            END;
        ELSE
            res := mull__apply_event(e, res);
        END IF;
        res := jsonb_set(res, ARRAY['acks', boot_], to_jsonb(seq));
        IF res->'resync' ? boot_ THEN res := res #- ARRAY['resync', boot_]; END IF;
    END LOOP;
    UPDATE node SET hw_seq = a.value::bigint, last_seen = clock_timestamp()
      FROM jsonb_each_text(res->'acks') a WHERE node.boot = a.key AND node.hw_seq < a.value::bigint;
    INSERT INTO stream_cursor (name, last_id) VALUES (p_stream, p_cursor)
    ON CONFLICT (name) DO UPDATE SET last_id = EXCLUDED.last_id;
    RETURN res;
END $$;

---------------------------------------------------------------------------------------------------------------------
-- Rights of the role that serves: rows of all tables, nothing of their shape. The list of migrations is not its own.

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'mull_scheduler') THEN
        GRANT USAGE ON SCHEMA public TO mull_scheduler;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO mull_scheduler;
        REVOKE INSERT, UPDATE, DELETE ON schema_migration FROM mull_scheduler;
        GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO mull_scheduler;
    END IF;
END $$;
