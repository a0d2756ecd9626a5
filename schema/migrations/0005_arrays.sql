-- Arrays: one record for up to a million tasks. A task gets a row of its own when it starts, or when somebody cancels or
-- holds it alone; from then on it is a job like any other (attempts, logs, retries), which knows its array. The record
-- is PENDING while it has tasks without a row, RUNNING until all have ended, then what they came to.
-- Cron: schedules that submit a job, each time at most once.

CREATE TABLE job_array (
    job bigint PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    range text NOT NULL,                     -- as it was submitted: 0-99:2,200%10
    los int[] NOT NULL,                      -- first index of each range
    steps int[] NOT NULL,
    starts int[] NOT NULL,                   -- how many indexes the ranges before it have
    total int NOT NULL CHECK (total BETWEEN 1 AND 1000000),
    lim int CHECK (lim > 0),                 -- tasks at once; NULL: any number
    made int NOT NULL DEFAULT 0,             -- tasks that have a row
    next_pos int NOT NULL DEFAULT 0,         -- every task below this position has one
    ended int NOT NULL DEFAULT 0,            -- rows in a terminal state
    not_completed int NOT NULL DEFAULT 0,    -- of these, in another than COMPLETED
    closed boolean NOT NULL DEFAULT false    -- cancelled: tasks without a row never get one
);
ALTER TABLE job
    ADD COLUMN array_job bigint REFERENCES job (id) ON DELETE CASCADE, -- of a task
    ADD COLUMN array_index int;
CREATE UNIQUE INDEX job_task ON job (array_job, array_index) WHERE array_job IS NOT NULL;
CREATE INDEX job_task_open ON job (array_job) WHERE array_job IS NOT NULL AND state IN ('PENDING', 'RUNNING');

CREATE TABLE cron (
    team text NOT NULL REFERENCES team (name) ON DELETE CASCADE,
    name text NOT NULL,
    "user" text NOT NULL REFERENCES app_user (name) ON DELETE CASCADE,
    schedule text NOT NULL,                  -- as it was given: 30 2 * * mon-fri
    tz text NOT NULL,
    fields jsonb NOT NULL,                   -- what it means: see mull__cron_next
    item jsonb NOT NULL,                     -- what mull_submit takes
    no_overlap boolean NOT NULL,             -- not while the last job of it has not ended
    next_at timestamptz,                     -- NULL: never again
    last_at timestamptz,
    last_job bigint,
    last_problem text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (team, name)
);
CREATE INDEX cron_next ON cron (next_at);

---------------------------------------------------------------------------------------------------------------------
-- Tasks of an array

-- The index at a position, 0 … total - 1.
CREATE FUNCTION mull__array_index(los int[], steps int[], starts int[], pos int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT los[k] + (pos - starts[k]) * steps[k]
      FROM (SELECT max(i) AS k FROM generate_subscripts(starts, 1) i WHERE starts[i] <= pos) r
$$;

-- The position of an index, NULL when the array has none such.
CREATE FUNCTION mull__array_pos(a job_array, idx int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT a.starts[i] + (idx - a.los[i]) / a.steps[i]
      FROM generate_subscripts(a.starts, 1) i
     WHERE idx >= a.los[i] AND (idx - a.los[i]) % a.steps[i] = 0
       AND a.starts[i] + (idx - a.los[i]) / a.steps[i] < COALESCE(a.starts[i + 1], a.total)
$$;

-- Gives tasks at these positions a row, PENDING. Everything of the record but its hold is theirs; in their spec the
-- words {array_index} become the index.
CREATE FUNCTION mull__array_rows(a job_array, p_pos int[]) RETURNS SETOF bigint LANGUAGE sql AS $$
    WITH pick AS (SELECT ord, mull__array_index(a.los, a.steps, a.starts, pos) AS idx
                    FROM unnest(p_pos) WITH ORDINALITY AS t(pos, ord)),
    made AS (
        INSERT INTO job (name, kind, team, "user", state, reason, priority, submitted_at, gpus, time_limit_s, preemptible,
                         min_run_s, array_job, array_index)
        SELECT p.name, p.kind, p.team, p."user", 'PENDING', 'Priority', p.priority, p.submitted_at, p.gpus,
               p.time_limit_s, p.preemptible, p.min_run_s, p.id, pick.idx
          FROM job p, pick WHERE p.id = a.job ORDER BY pick.ord
        RETURNING id, array_index),
    specs AS (
        INSERT INTO job_spec (job, spec)
        SELECT m.id, ((replace(s.spec, '{array_index}', m.array_index::text)::jsonb - 'array' - 'after' - 'key' - 'hold')
                      || jsonb_build_object('array_job', a.job::text, 'array_index', m.array_index))::text
          FROM made m JOIN job_spec s ON s.job = a.job)
    SELECT m.id FROM made m JOIN pick ON pick.idx = m.array_index ORDER BY pick.ord
$$;

-- The next tasks of an array that have no row, at most p_count and within its limit.
CREATE FUNCTION mull__array_make(p_array bigint, p_count int) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    a job_array%ROWTYPE;
    n int;
    pos int[];
BEGIN
    SELECT * INTO a FROM job_array WHERE job = p_array FOR UPDATE;
    IF NOT FOUND OR a.closed OR NOT EXISTS (SELECT 1 FROM job WHERE id = p_array AND state = 'PENDING' AND NOT hold) THEN
        RETURN;
    END IF;
    n := least(p_count, a.total - a.made,
               a.lim - (SELECT count(*) FROM job t WHERE t.array_job = p_array AND t.state IN ('PENDING', 'RUNNING')
                                                     AND NOT t.hold)::int);
    IF n <= 0 THEN RETURN; END IF;
    SELECT array_agg(p ORDER BY p) INTO pos
      FROM (SELECT p FROM generate_series(a.next_pos, least(a.total, a.made + n) - 1) p
             WHERE NOT EXISTS (SELECT 1 FROM job t WHERE t.array_job = p_array
                                  AND t.array_index = mull__array_index(a.los, a.steps, a.starts, p))
             ORDER BY p LIMIT n) s;
    UPDATE job_array SET made = made + cardinality(pos), next_pos = pos[cardinality(pos)] + 1 WHERE job = p_array;
    UPDATE job SET started_at = COALESCE(started_at, clock_timestamp()),
                   state = CASE WHEN a.made + cardinality(pos) = a.total THEN 'RUNNING' ELSE state END,
                   reason = CASE WHEN a.made + cardinality(pos) = a.total THEN '' ELSE reason END
     WHERE id = p_array;
    RETURN QUERY SELECT * FROM mull__array_rows(a, pos);
END $$;

-- What mull_dispatch takes, with arrays replaced by tasks of theirs; an array that has no more is left out.
CREATE FUNCTION mull__array_items(p_term bigint, p_items jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    out jsonb;
BEGIN
    PERFORM mull__check_term(p_term);
    WITH item AS (SELECT x, ord, (x->>'job')::bigint AS job, (x->>'array')::boolean AS is_array,
                         row_number() OVER (PARTITION BY x->>'job' ORDER BY ord) AS nth
                    FROM jsonb_array_elements(p_items) WITH ORDINALITY AS t(x, ord)),
    wanted AS MATERIALIZED (SELECT job, count(*)::int AS n FROM item WHERE is_array GROUP BY job ORDER BY job),
    made AS MATERIALIZED (SELECT w.job, t.id, t.nth FROM wanted w,
                          LATERAL mull__array_make(w.job, w.n) WITH ORDINALITY AS t(id, nth))
    SELECT jsonb_agg(CASE WHEN i.is_array THEN i.x || jsonb_build_object('job', m.id) ELSE i.x END ORDER BY i.ord) INTO out
      FROM item i LEFT JOIN made m ON i.is_array AND m.job = i.job AND m.nth = i.nth
     WHERE NOT COALESCE(i.is_array, false) OR m.id IS NOT NULL;
    RETURN COALESCE(out, '[]');
END $$;

-- Every task has ended: what the array came to.
CREATE FUNCTION mull__array_finish(p_array bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    a job_array%ROWTYPE;
BEGIN
    SELECT * INTO a FROM job_array WHERE job = p_array;
    IF a.ended < a.made OR (a.made < a.total AND NOT a.closed) THEN RETURN; END IF;
    UPDATE job SET state = CASE WHEN a.closed OR cancel_requested THEN 'CANCELLED'
                                WHEN a.not_completed = 0 THEN 'COMPLETED' ELSE 'FAILED' END,
                   reason = '', ended_at = clock_timestamp(), hold = false,
                   exit_code = CASE WHEN a.closed OR cancel_requested THEN NULL WHEN a.not_completed = 0 THEN 0 ELSE 1 END,
                   message = CASE WHEN a.closed OR cancel_requested THEN message
                                  WHEN a.not_completed = 0 THEN ''
                                  ELSE a.not_completed || ' of ' || a.total || ' tasks did not complete; see: mull ps --array '
                                       || p_array END
     WHERE id = p_array AND NOT mull__terminal(state);
END $$;

-- Whoever ends a task, or queues it again, need not know of arrays.
CREATE FUNCTION mull__task_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    d int := mull__terminal(NEW.state)::int - mull__terminal(OLD.state)::int;
    e int := (mull__terminal(NEW.state) AND NEW.state <> 'COMPLETED')::int
             - (mull__terminal(OLD.state) AND OLD.state <> 'COMPLETED')::int;
BEGIN
    IF d = 0 AND e = 0 THEN RETURN NULL; END IF;
    UPDATE job_array SET ended = ended + d, not_completed = not_completed + e WHERE job = NEW.array_job;
    IF d > 0 THEN
        PERFORM mull__array_finish(NEW.array_job);
    ELSIF d < 0 THEN
        UPDATE job j SET state = CASE WHEN a.made < a.total AND NOT a.closed THEN 'PENDING' ELSE 'RUNNING' END,
                         ended_at = NULL, exit_code = NULL, message = '', cancel_requested = false
          FROM job_array a WHERE j.id = NEW.array_job AND a.job = j.id AND mull__terminal(j.state);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER task_changed AFTER UPDATE OF state ON job FOR EACH ROW
    WHEN (NEW.array_job IS NOT NULL AND OLD.state <> NEW.state) EXECUTE FUNCTION mull__task_changed();

---------------------------------------------------------------------------------------------------------------------
-- Front door

-- An element may have "array": {"range","los","steps","starts","total","lim"}.
ALTER FUNCTION mull_submit(jsonb) RENAME TO mull__submit_jobs;
CREATE FUNCTION mull_submit(p_batch jsonb)
RETURNS TABLE (ord int, id bigint, state text, created boolean, problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r record;
    a jsonb;
BEGIN
    FOR r IN SELECT * FROM mull__submit_jobs(p_batch) LOOP
        a := p_batch->r.ord->'array';
        IF r.created AND jsonb_typeof(a) = 'object' THEN
            INSERT INTO job_array (job, range, los, steps, starts, total, lim)
            SELECT r.id, a->>'range', ARRAY(SELECT x::int FROM jsonb_array_elements_text(a->'los') x),
                   ARRAY(SELECT x::int FROM jsonb_array_elements_text(a->'steps') x),
                   ARRAY(SELECT x::int FROM jsonb_array_elements_text(a->'starts') x), (a->>'total')::int, (a->>'lim')::int;
        END IF;
        ord := r.ord; id := r.id; state := r.state; created := r.created; problem := r.problem;
        RETURN NEXT;
    END LOOP;
END $$;

-- The job of a task, NULL when it has no row (or there is no such array). p_team '' = any.
CREATE FUNCTION mull_task_id(p_array bigint, p_index int, p_team text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT t.id FROM job t WHERE t.array_job = p_array AND t.array_index = p_index AND (p_team = '' OR t.team = p_team)
$$;

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

ALTER FUNCTION mull_job_action(bigint, text, text, text) RENAME TO mull__job_action;
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

-- Of an array also what its tasks do, of a task whose it is.
ALTER FUNCTION mull__job_json(job) RENAME TO mull__job_json_plain;
CREATE FUNCTION mull__job_json(j job) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    a job_array%ROWTYPE;
    live bigint;
BEGIN
    IF j.array_job IS NOT NULL THEN
        RETURN mull__job_json_plain(j)::jsonb
               || jsonb_build_object('array_job', j.array_job::text, 'array_index', j.array_index);
    END IF;
    SELECT * INTO a FROM job_array WHERE job = j.id;
    IF NOT FOUND THEN RETURN mull__job_json_plain(j); END IF;
    SELECT count(*) INTO live FROM job t WHERE t.array_job = j.id AND t.state = 'RUNNING';
    RETURN mull__job_json_plain(j)::jsonb || jsonb_build_object(
        'array', jsonb_build_object('range', a.range, 'total', a.total, 'limit', a.lim,
            'waiting', CASE WHEN a.closed THEN 0 ELSE a.total - a.made END + a.made - a.ended - live, 'running', live,
            'completed', a.ended - a.not_completed, 'not_completed', a.not_completed,
            'cancelled', CASE WHEN a.closed THEN a.total - a.made ELSE 0 END),
        'progress', jsonb_build_object('done', a.ended, 'total', a.total, 'eta_s', NULL));
END $$;

-- Arrays are one row each; p_array <> 0: the tasks of that array instead, those that have a row.
DROP FUNCTION mull_job_list(text, text, bigint, int);
CREATE FUNCTION mull_job_list(p_state text, p_team text, p_array bigint, p_before bigint, p_limit int)
RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    jobs json;
    n bigint;
    least_id bigint;
BEGIN
    IF p_array = 0 THEN
        SELECT json_agg(mull__job_json(j) ORDER BY (j).id DESC), count(*), min((j).id) INTO jobs, n, least_id
          FROM (SELECT j FROM job j
                 WHERE (p_state = '' OR j.state = p_state) AND (p_team = '' OR j.team = p_team)
                   AND (p_before = 0 OR j.id < p_before) AND j.array_job IS NULL
                 ORDER BY j.id DESC LIMIT p_limit) page;
    ELSE
        SELECT json_agg(mull__job_json(j) ORDER BY (j).id DESC), count(*), min((j).id) INTO jobs, n, least_id
          FROM (SELECT j FROM job j
                 WHERE j.array_job = p_array AND (p_state = '' OR j.state = p_state) AND (p_team = '' OR j.team = p_team)
                   AND (p_before = 0 OR j.id < p_before)
                 ORDER BY j.id DESC LIMIT p_limit) page;
    END IF;
    RETURN json_build_object('jobs', COALESCE(jobs, '[]'), 'next_cursor', CASE WHEN n = p_limit THEN least_id::text END);
END $$;

---------------------------------------------------------------------------------------------------------------------
-- Leader

-- tasks: how many of an array may start now; of a task 0 while its array's limit is used up.
DROP FUNCTION mull_pending(bigint, bigint[], bigint, int);
CREATE FUNCTION mull__array_tasks(p_job bigint, p_array bigint) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE
    a job_array%ROWTYPE;
    busy int;
BEGIN
    SELECT * INTO a FROM job_array WHERE job = p_array;
    IF a.lim IS NULL THEN RETURN CASE WHEN p_job = p_array THEN a.total - a.made ELSE 1 END; END IF;
    IF p_job <> p_array THEN
        SELECT count(*) INTO busy FROM job t WHERE t.array_job = p_array AND t.state = 'RUNNING';
        RETURN (busy < a.lim)::int;
    END IF;
    SELECT count(*) INTO busy FROM job t WHERE t.array_job = p_array AND t.state IN ('PENDING', 'RUNNING') AND NOT t.hold;
    RETURN greatest(0, least(a.total - a.made, a.lim - busy));
END $$;
CREATE FUNCTION mull_pending(p_term bigint, p_ids bigint[], p_after bigint, p_limit int)
RETURNS TABLE (id bigint, priority int, gpus int, hold boolean, eligible_ms bigint, dep text, avoid_node text,
               reason text, team text, "user" text, time_limit_s bigint, tasks int, is_array boolean)
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
               CASE WHEN a.job IS NOT NULL THEN mull__array_tasks(j.id, a.job) ELSE 1 END, a.job IS NOT DISTINCT FROM j.id
          FROM job j LEFT JOIN job_array a ON a.job = COALESCE(j.array_job, j.id)
         WHERE j.state = 'PENDING' AND j.id > p_after ORDER BY j.id LIMIT p_limit;
    ELSE
        RETURN QUERY
        SELECT j.id, j.priority, j.gpus, j.hold,
               COALESCE(ceil(extract(epoch FROM greatest(j.begin_at, j.not_before)) * 1000), 0)::bigint,
               CASE WHEN j.depends = '' THEN 'met' ELSE mull__dependency(j.depends) END,
               CASE WHEN j.infra_failures > 0 THEN j.node END, j.reason, j.team,
               j."user", COALESCE(j.time_limit_s, 0)::bigint,
               CASE WHEN a.job IS NOT NULL THEN mull__array_tasks(j.id, a.job) ELSE 1 END, a.job IS NOT DISTINCT FROM j.id
          FROM job j LEFT JOIN job_array a ON a.job = COALESCE(j.array_job, j.id)
         WHERE j.id = ANY (p_ids) AND j.state = 'PENDING' ORDER BY j.id;
    END IF;
END $$;

-- As in 0003, but a row says to which item it belongs: an array's item came back as a task of it.
DROP FUNCTION mull_dispatch(bigint, jsonb);
CREATE FUNCTION mull_dispatch(p_term bigint, p_items jsonb)
RETURNS TABLE (job bigint, attempt int, fence bigint, time_limit_s bigint, spec text, preemptible boolean,
               min_run_s int, i int) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM mull__check_term(p_term);
    RETURN QUERY
    WITH item AS (
        SELECT (x->>'i')::int AS i, (x->>'job')::bigint AS job, x->>'node' AS node, x->>'boot' AS boot,
               x->'devices' AS devices
          FROM jsonb_array_elements(p_items) x),
    started AS (
        UPDATE job SET state = 'RUNNING', reason = '', attempt = job.attempt + 1, node = i.node,
                       started_at = COALESCE(job.started_at, clock_timestamp()), not_before = NULL
          FROM item i JOIN node n ON n.name = i.node AND n.boot = i.boot AND n.state = 'UP'
         WHERE job.id = i.job AND job.state = 'PENDING' AND NOT job.hold
        RETURNING job.id, job.attempt, job.submitted_at, COALESCE(job.time_limit_s, 0)::bigint AS limit_s, i.i, i.node,
                  i.boot, i.devices, job.preemptible, job.min_run_s),
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
                'created', floor(extract(epoch FROM s.submitted_at))::bigint))::text, s.preemptible, s.min_run_s, s.i
      FROM made m JOIN started s ON s.id = m.job JOIN job_spec js ON js.job = m.job
     ORDER BY s.i;
END $$;

---------------------------------------------------------------------------------------------------------------------
-- Cron

-- The first moment after p_after that a schedule names: f has "minute", "hour", "dom", "month", "dow" (0 Sunday), lists of
-- numbers, and "hour_any", "dom_any", "dow_any" where the field was a star. As in cron, a day must match both day
-- fields, but either when both are given. A time of day that summer time skips comes as much later, one that it repeats comes
-- once; schedules for every hour follow the clock on the wall and skip or repeat nothing. NULL: never in twelve years.
CREATE FUNCTION mull__cron_next(f jsonb, p_tz text, p_after timestamptz) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    d date := (p_after AT TIME ZONE p_tz)::date - 1;
    best timestamptz;
    on_dom boolean;
    on_dow boolean;
BEGIN
    FOR k IN 0 .. 4400 LOOP
        d := d + 1;
        CONTINUE WHEN NOT f->'month' @> to_jsonb(extract(month FROM d)::int);
        on_dom := f->'dom' @> to_jsonb(extract(day FROM d)::int);
        on_dow := f->'dow' @> to_jsonb(extract(dow FROM d)::int);
        CONTINUE WHEN NOT CASE WHEN (f->>'dom_any')::boolean OR (f->>'dow_any')::boolean THEN on_dom AND on_dow
                               ELSE on_dom OR on_dow END;
        SELECT min(t) INTO best
          FROM (SELECT d + make_interval(hours => h::int, mins => m::int) AS wall
                  FROM jsonb_array_elements_text(f->'hour') h, jsonb_array_elements_text(f->'minute') m) w,
               LATERAL (SELECT wall AT TIME ZONE p_tz + o AS t, o
                          FROM unnest('{0,-1 hour,1 hour,-30 min,30 min}'::interval[]) o) c
         WHERE t > p_after AND CASE WHEN (f->>'hour_any')::boolean THEN t AT TIME ZONE p_tz = wall ELSE o = '0' END;
        IF best IS NOT NULL THEN RETURN best; END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- Makes or changes a schedule. problem is NULL or says why not.
CREATE FUNCTION mull_cron_set(p_team text, p_name text, p_user text, p_schedule text, p_tz text, p_fields jsonb,
                              p_item jsonb, p_no_overlap boolean)
RETURNS TABLE (problem text, created boolean, next_at text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    at timestamptz;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_timezone_names WHERE lower(name) = lower(p_tz)) THEN
        problem := 'tz: there is no time zone ' || p_tz || '; give a name such as UTC or Europe/Berlin';
        RETURN NEXT; RETURN;
    END IF;
    at := mull__cron_next(p_fields, p_tz, clock_timestamp());
    IF at IS NULL THEN
        problem := 'schedule: no day of the coming years matches it';
        RETURN NEXT; RETURN;
    END IF;
    INSERT INTO app_user (name) VALUES (p_user) ON CONFLICT DO NOTHING;
    INSERT INTO team (name) VALUES (p_team) ON CONFLICT DO NOTHING;
    created := NOT EXISTS (SELECT 1 FROM cron WHERE team = p_team AND name = p_name);
    INSERT INTO cron AS c (team, name, "user", schedule, tz, fields, item, no_overlap, next_at)
    VALUES (p_team, p_name, p_user, p_schedule, p_tz, p_fields, p_item, p_no_overlap, at)
        ON CONFLICT (team, name) DO UPDATE SET "user" = EXCLUDED."user", schedule = EXCLUDED.schedule, tz = EXCLUDED.tz,
           fields = EXCLUDED.fields, item = EXCLUDED.item, no_overlap = EXCLUDED.no_overlap, next_at = EXCLUDED.next_at,
           last_problem = '';
    PERFORM mull__event(p_user, CASE WHEN created THEN 'cron_add' ELSE 'cron_set' END, NULL, NULL, NULL,
                        jsonb_build_object('team', p_team, 'name', p_name, 'schedule', p_schedule, 'tz', p_tz));
    next_at := mull__time(at);
    RETURN NEXT;
END $$;

-- p_team '' = all.
CREATE FUNCTION mull_cron_list(p_team text) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('cron', COALESCE(json_agg(json_build_object(
        'name', c.name, 'team', c.team, 'user', c."user", 'schedule', c.schedule, 'tz', c.tz, 'kind', c.item->>'kind',
        'no_overlap', c.no_overlap, 'next_at', mull__time(c.next_at), 'last_at', mull__time(c.last_at),
        'last_job', c.last_job::text, 'last_problem', c.last_problem) ORDER BY c.team, c.name), '[]'))
      FROM cron c WHERE p_team = '' OR c.team = p_team
$$;

CREATE FUNCTION mull_cron_rm(p_team text, p_name text, p_actor text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM cron WHERE team = p_team AND name = p_name;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM mull__event(p_actor, 'cron_rm', NULL, NULL, NULL, jsonb_build_object('team', p_team, 'name', p_name));
    RETURN true;
END $$;

-- Submits what is due and moves each schedule on, in one transaction under the term; the job's key names the moment,
-- so no moment has two jobs. Of several that were missed the first is made up for. The ids of the new jobs.
CREATE FUNCTION mull_cron_fire(p_term bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    c cron%ROWTYPE;
    r record;
BEGIN
    PERFORM mull__read_term(p_term);
    IF NOT EXISTS (SELECT 1 FROM cron WHERE next_at <= clock_timestamp()) THEN RETURN; END IF;
    PERFORM mull__check_term(p_term);
    FOR c IN SELECT * FROM cron WHERE next_at <= clock_timestamp() ORDER BY next_at, team, name FOR UPDATE LOOP
        UPDATE cron SET next_at = mull__cron_next(c.fields, c.tz, greatest(c.next_at, clock_timestamp())), last_at = c.next_at
         WHERE team = c.team AND name = c.name;
        IF c.no_overlap AND EXISTS (SELECT 1 FROM job WHERE id = c.last_job AND NOT mull__terminal(state)) THEN
            UPDATE cron SET last_problem = 'left out at ' || mull__time(c.next_at) || ': job ' || c.last_job
                                           || ' has not ended' WHERE team = c.team AND name = c.name;
            CONTINUE;
        END IF;
        SELECT * INTO r FROM mull_submit(jsonb_build_array(c.item || jsonb_build_object('key',
            'cron ' || c.name || ' ' || mull__time(c.next_at))));
        UPDATE cron SET last_job = COALESCE(r.id, last_job), last_problem = COALESCE(r.problem, '')
         WHERE team = c.team AND name = c.name;
        PERFORM mull__event('scheduler', 'cron_fire', r.id, NULL, NULL,
                            jsonb_build_object('team', c.team, 'name', c.name, 'at', mull__time(c.next_at)));
        IF r.created THEN RETURN NEXT r.id; END IF;
    END LOOP;
END $$;

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'mull_scheduler') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON job_array, cron TO mull_scheduler;
    END IF;
END $$;
