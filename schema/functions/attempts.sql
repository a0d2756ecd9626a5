-- Attempts and how they end: parts of gangs, lost workers, jobs that keep failing.

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

-- Ends one part. With the last one the attempt ends; a bad end before that stops the others. Adds to p_out as
-- mull__apply_event does.
CREATE FUNCTION mull__part_ended(p_fence bigint, p_part int, p_code int, p_signal int, p_class text, p_message text, p_out jsonb)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    a attempt%ROWTYPE;
    w attempt_part%ROWTYPE;
BEGIN
    SELECT * INTO a FROM attempt WHERE fence = p_fence FOR UPDATE; -- parts of two nodes may end at once
    UPDATE attempt_part SET ended_at = clock_timestamp(), exit_code = p_code, exit_signal = p_signal, class = p_class,
                            message = p_message
     WHERE fence = p_fence AND part = p_part AND ended_at IS NULL;
    IF NOT FOUND OR a.ended_at IS NOT NULL THEN RETURN p_out; END IF;
    IF p_class <> 'ok' THEN
        UPDATE attempt SET gang_stop = true WHERE fence = p_fence;
        p_out := jsonb_set(p_out, '{gang}', COALESCE(p_out->'gang', '[]') || to_jsonb(p_fence));
    END IF;
    IF EXISTS (SELECT 1 FROM attempt_part WHERE fence = p_fence AND ended_at IS NULL) THEN RETURN p_out; END IF;
    SELECT * INTO w FROM attempt_part WHERE fence = p_fence ORDER BY mull__severity(class) DESC, ended_at LIMIT 1;
    PERFORM mull__end_attempt(p_fence, w.exit_code, w.exit_signal, w.class,
                              CASE WHEN w.class = 'ok' THEN '' ELSE 'node ' || w.node || ': ' || w.message END);
    -- The next attempt avoids the node that failed.
    IF w.class = 'infra' THEN UPDATE job SET node = w.node WHERE id = a.job AND state = 'PENDING'; END IF;
    RETURN jsonb_set(jsonb_set(p_out, '{ended}', COALESCE(p_out->'ended', '[]') || to_jsonb(p_fence)),
                     '{logs}', COALESCE(p_out->'logs', '[]') || to_jsonb(a.job));
END $$;

-- Parts on this node, of another boot than p_boot or (p_same) of this one: lost.
CREATE FUNCTION mull__parts_lost(p_node text, p_boot text, p_same boolean, p_message text, p_out jsonb)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    p attempt_part%ROWTYPE;
BEGIN
    FOR p IN SELECT * FROM attempt_part WHERE node = p_node AND (boot = p_boot) = p_same AND ended_at IS NULL ORDER BY fence LOOP
        p_out := mull__part_ended(p.fence, p.part, NULL, NULL, 'infra', p_message, p_out);
    END LOOP;
    RETURN p_out;
END $$;

-- When an attempt ends otherwise (cancelled before it began, lost as a whole) its parts have nothing more to say.
CREATE FUNCTION mull__gang_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE attempt_part SET ended_at = clock_timestamp(), class = NEW.class, message = NEW.message
     WHERE fence = NEW.fence AND ended_at IS NULL;
    RETURN NULL;
END $$;

-- Ends attempts on boots that are gone: one that was dispatched in the very moment in which its worker started again or
-- its node was declared down is seen by neither of the two transactions. Returns the fences that ended.
CREATE FUNCTION mull__orphans_plain(p_term bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
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

CREATE FUNCTION mull_orphans(p_term bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    p attempt_part%ROWTYPE;
    res jsonb := '{}';
BEGIN
    RETURN QUERY SELECT * FROM mull__orphans_plain(p_term);
    IF NOT EXISTS (SELECT 1 FROM attempt_part q JOIN node n ON n.name = q.node
                    WHERE q.ended_at IS NULL AND (q.boot <> n.boot OR n.state = 'DOWN')) THEN
        RETURN;
    END IF;
    PERFORM mull__check_term(p_term);
    FOR p IN SELECT q.* FROM attempt_part q JOIN node n ON n.name = q.node
              WHERE q.ended_at IS NULL AND (q.boot <> n.boot OR n.state = 'DOWN') ORDER BY q.fence LOOP
        res := mull__part_ended(p.fence, p.part, NULL, NULL, 'infra', 'the worker that had it is gone', res);
    END LOOP;
    RETURN QUERY SELECT x::bigint FROM jsonb_array_elements_text(res->'ended') x;
END $$;

-- A job that is to be tried again though the last three workers that ran it were lost within ten minutes is taken for
-- their loss: whatever its retries say, no fourth one is put at risk.
CREATE FUNCTION mull__job_poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM (SELECT * FROM attempt a WHERE a.job = NEW.id ORDER BY a.attempt DESC LIMIT 3) l
         WHERE l.class = 'infra' AND mull__worker_lost(l.message)
           AND l.ended_at - COALESCE(l.started_at, l.created_at) < interval '10 minutes') < 3 THEN
        RETURN NULL;
    END IF;
    UPDATE job SET state = 'FAILED', reason = '', ended_at = clock_timestamp(), not_before = NULL,
                   message = 'three workers in a row were lost soon after they had started it: it is not tried again'
     WHERE id = NEW.id AND state = 'PENDING';
    PERFORM mull__event('scheduler', 'poison', NEW.id, NEW.attempt, NULL, NULL);
    RETURN NULL;
END $$;
