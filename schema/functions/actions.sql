-- What users do to jobs: cancel, hold, release, requeue.

-- The same as of a plain job for every task of an array, with or without a row.
CREATE FUNCTION mull__array_action(p_array bigint, p_op text, p_actor text)
RETURNS TABLE (known boolean, ok boolean, state text, message text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    a job_array%ROWTYPE;
    j job%ROWTYPE;
    t bigint;
    n int := 0;
    want text[] := CASE p_op WHEN 'cancel' THEN '{PENDING,RUNNING}' WHEN 'requeue' THEN
                   '{FAILED,CANCELLED,TIMEOUT,NODE_FAIL,OUT_OF_MEMORY}' ELSE '{PENDING}' END::text[];
BEGIN
    -- In the order in which the recorder takes them: tasks, the array, its record.
    PERFORM 1 FROM job WHERE array_job = p_array AND state = ANY (want) ORDER BY id FOR UPDATE;
    SELECT * INTO a FROM job_array WHERE job = p_array FOR UPDATE;
    SELECT * INTO j FROM job WHERE id = p_array FOR UPDATE;
    known := true;
    ok := false;
    state := j.state;
    IF p_op = 'cancel' AND mull__terminal(j.state) THEN
        message := 'the job has already ended';
        RETURN NEXT; RETURN;
    ELSIF p_op = 'cancel' THEN
        UPDATE job_array SET closed = made < total WHERE job = p_array;
        UPDATE job SET cancel_requested = true, hold = false, message = 'cancelled by ' || p_actor,
                       state = CASE WHEN state = 'PENDING' THEN 'RUNNING' ELSE state END, reason = ''
         WHERE id = p_array;
    ELSIF p_op = 'requeue' AND a.closed THEN
        n := a.total - a.made;
        UPDATE job_array SET closed = false WHERE job = p_array;
        UPDATE job SET state = 'PENDING', reason = 'Priority', ended_at = NULL, exit_code = NULL, message = '',
                       cancel_requested = false WHERE id = p_array;
    ELSIF p_op IN ('hold', 'release') AND j.state = 'PENDING' THEN
        n := a.total - a.made;
        UPDATE job SET hold = p_op = 'hold', reason = CASE p_op WHEN 'hold' THEN 'Held' ELSE 'Priority' END
         WHERE id = p_array;
    END IF;
    FOR t IN SELECT id FROM job WHERE array_job = p_array AND state = ANY (want)
                                  AND (p_op <> 'release' OR hold) ORDER BY id LOOP
        PERFORM mull__job_action(t, p_op, p_actor, '');
        n := n + 1;
    END LOOP;
    IF p_op = 'cancel' THEN
        PERFORM mull__array_finish(p_array);
    ELSIF n = 0 THEN
        message := CASE WHEN p_op = 'requeue' AND mull__terminal(j.state) THEN
                            'every task has completed; requeue single ones as ' || p_array || '_INDEX'
                        WHEN p_op = 'requeue' THEN 'no task has ended without completing'
                        ELSE 'no task of it is pending' END;
        RETURN NEXT; RETURN;
    END IF;
    SELECT job.state INTO state FROM job WHERE id = p_array;
    message := CASE p_op WHEN 'cancel' THEN CASE WHEN state = 'CANCELLED' THEN '' ELSE
                             'the running tasks were asked to stop' END
                         ELSE n || CASE WHEN n = 1 THEN ' task' ELSE ' tasks' END END;
    ok := true;
    PERFORM mull__event(p_actor, p_op, p_array, NULL, NULL, NULL);
    RETURN NEXT;
END $$;

-- cancel, hold, release or requeue asked by a user. known = the job exists; ok = it was possible; message says why
-- not. team '' = any.
CREATE FUNCTION mull__job_action(p_job bigint, p_op text, p_actor text, p_team text)
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

CREATE FUNCTION mull_job_action(p_job bigint, p_op text, p_actor text, p_team text)
RETURNS TABLE (known boolean, ok boolean, state text, message text) LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM job_array a JOIN job j ON j.id = a.job WHERE a.job = p_job AND (p_team = '' OR j.team = p_team))
    THEN
        RETURN QUERY SELECT * FROM mull__array_action(p_job, p_op, p_actor);
    ELSE
        RETURN QUERY SELECT * FROM mull__job_action(p_job, p_op, p_actor, p_team);
    END IF;
END $$;

-- Of one task, which gets a row if it has none.
CREATE FUNCTION mull_task_action(p_array bigint, p_index int, p_op text, p_actor text, p_team text)
RETURNS TABLE (known boolean, ok boolean, state text, message text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    a job_array%ROWTYPE;
    task bigint;
    pos int;
BEGIN
    SELECT x.* INTO a FROM job_array x JOIN job j ON j.id = x.job
     WHERE x.job = p_array AND (p_team = '' OR j.team = p_team) FOR UPDATE OF x;
    task := mull_task_id(p_array, p_index, p_team);
    pos := mull__array_pos(a, p_index);
    IF task IS NULL AND pos IS NOT NULL AND NOT a.closed AND p_op IN ('cancel', 'hold') THEN
        SELECT * INTO task FROM mull__array_rows(a, ARRAY[pos]);
        UPDATE job_array SET made = made + 1 WHERE job = p_array;
        UPDATE job SET state = 'RUNNING', reason = '' WHERE id = p_array AND state = 'PENDING' AND a.made + 1 = a.total;
    ELSIF task IS NULL THEN
        known := pos IS NOT NULL;
        ok := false;
        state := 'PENDING';
        message := 'the task has not begun';
        RETURN NEXT; RETURN;
    END IF;
    RETURN QUERY SELECT * FROM mull__job_action(task, p_op, p_actor, p_team);
END $$;
