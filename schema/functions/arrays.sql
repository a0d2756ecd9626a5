-- Arrays: one record; tasks get rows as they start.

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
                         min_run_s, array_job, array_index, slots, labels)
        SELECT p.name, p.kind, p.team, p."user", 'PENDING', 'Priority', p.priority, p.submitted_at, p.gpus,
               p.time_limit_s, p.preemptible, p.min_run_s, p.id, pick.idx, p.slots, p.labels
          FROM job p, pick WHERE p.id = a.job ORDER BY pick.ord
        RETURNING id, array_index),
    specs AS (
        INSERT INTO job_spec (job, spec)
        SELECT m.id, ((replace(s.spec, '{array_index}', m.array_index::text)::jsonb - 'array' - 'after' - 'key' - 'hold')
                      || jsonb_build_object('array_job', a.job::text, 'array_index', m.array_index))::text
          FROM made m JOIN job_spec s ON s.job = a.job)
    SELECT m.id FROM made m JOIN pick ON pick.idx = m.array_index ORDER BY pick.ord
$$;

-- Positions of an array's tasks that have no row and whose partners have completed, the first p_count.
CREATE FUNCTION mull__corr_ready(a job_array, p_count int) RETURNS SETOF int LANGUAGE sql STABLE AS $$
    SELECT mull__array_pos(a, t.array_index) AS pos
      FROM job t
     WHERE t.array_job = a.corr AND t.state = 'COMPLETED' AND mull__array_pos(a, t.array_index) IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM job u WHERE u.array_job = a.job AND u.array_index = t.array_index)
     ORDER BY t.array_index LIMIT p_count
$$;

-- A new array that comes after another: the pair is noted.
CREATE FUNCTION mull__array_corr() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    other bigint;
BEGIN
    SELECT split_part(depends, ':', 2)::bigint INTO other FROM job WHERE id = NEW.job AND depends LIKE 'aftercorr:%';
    IF other IS NOT NULL AND EXISTS (SELECT 1 FROM job_array WHERE job = other) THEN
        NEW.corr := other;
        UPDATE job SET depends = 'aftercorr:' || other || ':' || NEW.job WHERE id = NEW.job;
    END IF;
    RETURN NEW;
END $$;

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
    IF a.corr IS NULL THEN
        SELECT array_agg(p ORDER BY p) INTO pos
          FROM (SELECT p FROM generate_series(a.next_pos, least(a.total, a.made + n) - 1) p
                 WHERE NOT EXISTS (SELECT 1 FROM job t WHERE t.array_job = p_array
                                      AND t.array_index = mull__array_index(a.los, a.steps, a.starts, p))
                 ORDER BY p LIMIT n) s;
    ELSE
        SELECT array_agg(p ORDER BY p) INTO pos FROM mull__corr_ready(a, n) p;
    END IF;
    IF pos IS NULL THEN RETURN; END IF;
    UPDATE job_array SET made = made + cardinality(pos),
                         next_pos = CASE WHEN a.corr IS NULL THEN pos[cardinality(pos)] + 1 ELSE next_pos END
     WHERE job = p_array;
    UPDATE job SET started_at = COALESCE(started_at, clock_timestamp()),
                   state = CASE WHEN a.made + cardinality(pos) = a.total THEN 'RUNNING' ELSE state END,
                   reason = CASE WHEN a.made + cardinality(pos) = a.total THEN '' ELSE reason END
     WHERE id = p_array;
    RETURN QUERY SELECT * FROM mull__array_rows(a, pos);
END $$;

-- An array's task gets its row only where it can start: an item whose node has another boot by now, or takes no jobs, is
-- left out before, instead of leaving behind a task that nobody knows until the next reconcile.
CREATE FUNCTION mull__array_items(p_term bigint, p_items jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    out jsonb;
BEGIN
    PERFORM mull__check_term(p_term);
    WITH given AS (SELECT x, ord, (x->>'job')::bigint AS job, COALESCE((x->>'array')::boolean, false) AS is_array
                     FROM jsonb_array_elements(p_items) WITH ORDINALITY AS t(x, ord)),
    item AS (SELECT g.*, row_number() OVER (PARTITION BY job ORDER BY ord) AS nth
               FROM given g
              WHERE NOT is_array
                 OR NOT EXISTS (SELECT 1 FROM jsonb_array_elements(COALESCE(x->'parts', jsonb_build_array(x))) p
                                 WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.name = p->>'node' AND n.boot = p->>'boot'
                                                      AND n.state = 'UP'))),
    wanted AS MATERIALIZED (SELECT job, count(*)::int AS n FROM item WHERE is_array GROUP BY job ORDER BY job),
    made AS MATERIALIZED (SELECT w.job, t.id, t.nth FROM wanted w,
                          LATERAL mull__array_make(w.job, w.n) WITH ORDINALITY AS t(id, nth))
    SELECT jsonb_agg(CASE WHEN i.is_array THEN i.x || jsonb_build_object('job', m.id) ELSE i.x END ORDER BY i.ord) INTO out
      FROM item i LEFT JOIN made m ON i.is_array AND m.job = i.job AND m.nth = i.nth
     WHERE NOT i.is_array OR m.id IS NOT NULL;
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

-- The job of a task, NULL when it has no row (or there is no such array). p_team '' = any.
CREATE FUNCTION mull_task_id(p_array bigint, p_index int, p_team text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT t.id FROM job t WHERE t.array_job = p_array AND t.array_index = p_index AND (p_team = '' OR t.team = p_team)
$$;

CREATE FUNCTION mull__array_tasks(p_job bigint, p_array bigint) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE
    a job_array%ROWTYPE;
    busy int := 0;
    most int;
BEGIN
    SELECT * INTO a FROM job_array WHERE job = p_array;
    IF p_job <> p_array THEN
        IF a.lim IS NULL THEN RETURN 1; END IF;
        SELECT count(*) INTO busy FROM job t WHERE t.array_job = p_array AND t.state = 'RUNNING';
        RETURN (busy < a.lim)::int;
    END IF;
    most := a.total - a.made;
    IF a.lim IS NOT NULL THEN
        SELECT count(*) INTO busy FROM job t WHERE t.array_job = p_array AND t.state IN ('PENDING', 'RUNNING') AND NOT t.hold;
        most := greatest(0, least(most, a.lim - busy));
    END IF;
    -- Nobody starts more at once than one statement takes.
    IF a.corr IS NOT NULL AND most > 0 THEN SELECT count(*) INTO most FROM mull__corr_ready(a, least(most, 512)); END IF;
    RETURN most;
END $$;
