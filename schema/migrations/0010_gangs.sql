-- Attempts over several nodes, labels of nodes, maintenance windows, quarantine, poison jobs.
--
-- A gang is one attempt with one fence and a part a node. Its parts start together or not at all; the first that ends
-- badly stops the others; the attempt ends when all have ended, by the worst of their ends, so that what a part saves
-- while it is stopped still counts. attempt.node is then a list of names, which is no node's name, and attempt.boot is
-- 'gang': what asks for the attempts of one node asks attempt_part too.

CREATE TABLE attempt_part (
    fence bigint NOT NULL REFERENCES attempt (fence) ON DELETE CASCADE,
    part int NOT NULL,                       -- 0: has rank 0
    node text NOT NULL,
    boot text NOT NULL,
    devices jsonb NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    exit_code int,
    exit_signal int,
    class text,
    message text NOT NULL DEFAULT '',
    PRIMARY KEY (fence, part)
);
CREATE INDEX attempt_part_open ON attempt_part (node, boot) WHERE ended_at IS NULL;
ALTER TABLE attempt ADD COLUMN gang_stop boolean NOT NULL DEFAULT false; -- a part has ended badly: the others are told

ALTER TABLE job
    ADD COLUMN slots int NOT NULL DEFAULT 1 CHECK (slots >= 1), -- CPU slots of a job without GPUs
    ADD COLUMN labels text[] NOT NULL DEFAULT '{}';             -- a node must have all of them
ALTER TABLE node
    ADD COLUMN labels text[] NOT NULL DEFAULT '{}',             -- by admins; switch=NAME says which nodes are near
    ADD COLUMN quarantine text NOT NULL DEFAULT '',             -- why it was taken out, '' = it was not
    ADD COLUMN resumed_at timestamptz;
CREATE INDEX attempt_by_node ON attempt (node, ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE maintenance (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    nodes text[] NOT NULL,                   -- empty: all
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
    reason text NOT NULL DEFAULT '',
    "user" text NOT NULL
);

---------------------------------------------------------------------------------------------------------------------
-- Parts

CREATE FUNCTION mull__severity(class text) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT COALESCE(array_position('{requeue,infra,user,oom,timeout,cancelled}', class), CASE class WHEN 'ok' THEN 0 ELSE 3 END)
$$;

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

ALTER FUNCTION mull__apply_event(jsonb, jsonb) RENAME TO mull__apply_event_plain;
CREATE FUNCTION mull__apply_event(e jsonb, p_out jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    p attempt_part%ROWTYPE;
    a attempt%ROWTYPE;
BEGIN
    IF e->>'type' = 'node_hello' THEN
        p_out := mull__parts_lost(e->>'node', e->>'boot', false, 'the worker of node ' || (e->>'node') || ' was started again', p_out);
    ELSIF e ? 'fence' THEN
        SELECT * INTO p FROM attempt_part
         WHERE fence = (e->>'fence')::bigint AND node = e->>'node' AND boot = e->>'boot' AND ended_at IS NULL;
        IF FOUND THEN
            SELECT * INTO a FROM attempt WHERE fence = p.fence AND ended_at IS NULL;
        END IF;
    END IF;
    IF a.fence IS NULL THEN RETURN mull__apply_event_plain(e, p_out); END IF;
    CASE e->>'type'
    WHEN 'attempt_started' THEN
        UPDATE attempt_part SET started_at = COALESCE(started_at, clock_timestamp()) WHERE fence = p.fence AND part = p.part;
        IF NOT EXISTS (SELECT 1 FROM attempt_part WHERE fence = p.fence AND started_at IS NULL) THEN
            UPDATE attempt SET state = 'RUNNING', started_at = COALESCE(started_at, clock_timestamp()),
                               pid = (e->>'pid')::int WHERE fence = p.fence;
            p_out := jsonb_set(p_out, '{started}', COALESCE(p_out->'started', '[]') || to_jsonb(p.fence));
        END IF;
    WHEN 'engine' THEN
        PERFORM mull__apply_engine(a.job, a.attempt, a.fence, to_timestamp((e->>'at')::numeric / 1000), e->'line');
    WHEN 'log' THEN
        PERFORM mull__apply_log(a.job, a.attempt, to_timestamp((e->>'at')::numeric / 1000),
                                COALESCE(e->>'stream', 'stdout'), e->'lines');
        p_out := jsonb_set(p_out, '{logs}', COALESCE(p_out->'logs', '[]') || to_jsonb(a.job));
    WHEN 'attempt_ended' THEN
        p_out := mull__part_ended(p.fence, p.part, (e->>'exit_code')::int, (e->>'exit_signal')::int,
                                  COALESCE(e->>'class', ''), COALESCE(e->>'message', ''), p_out);
    ELSE NULL;
    END CASE;
    RETURN p_out;
END $$;

ALTER FUNCTION mull_orphans(bigint) RENAME TO mull__orphans_plain;
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

ALTER FUNCTION mull_node_down(bigint, text, text) RENAME TO mull__node_down_plain;
CREATE FUNCTION mull_node_down(p_term bigint, p_node text, p_boot text) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT * FROM mull__node_down_plain(p_term, p_node, p_boot);
    IF EXISTS (SELECT 1 FROM node WHERE name = p_node AND boot = p_boot AND state = 'DOWN') THEN
        RETURN QUERY SELECT x::bigint FROM jsonb_array_elements_text(mull__parts_lost(p_node, p_boot, true,
                                'node ' || p_node || ' gave no sign of life', '{}')->'ended') x;
    END IF;
END $$;

-- When an attempt ends otherwise (cancelled before it began, lost as a whole) its parts have nothing more to say.
CREATE FUNCTION mull__gang_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE attempt_part SET ended_at = clock_timestamp(), class = NEW.class, message = NEW.message
     WHERE fence = NEW.fence AND ended_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER gang_closed AFTER UPDATE OF ended_at ON attempt FOR EACH ROW
    WHEN (NEW.boot = 'gang' AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION mull__gang_closed();

---------------------------------------------------------------------------------------------------------------------
-- Leader

-- An item over several nodes has "parts": [{"node","boot","devices"}], "node" with the list of names and "boot" gang.
CREATE OR REPLACE FUNCTION mull_dispatch(p_term bigint, p_items jsonb)
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

-- As in 0003, with the parts of gangs: [{"node","boot","started","ended","devices"}] in their order, NULL for others.
DROP FUNCTION mull_live_attempts(bigint);
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

-- labels: an admin's and what the devices say of themselves. closes_ms: the next maintenance window; a node inside of one
-- is DRAINED here, whatever its row says.
DROP FUNCTION mull_leader_nodes(bigint);
CREATE FUNCTION mull_leader_nodes(p_term bigint)
RETURNS TABLE (name text, boot text, state text, devices jsonb, address text, labels jsonb, closes_ms bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM mull__read_term(p_term);
    RETURN QUERY
    SELECT n.name, n.boot,
           CASE WHEN n.state = 'UP' AND EXISTS (SELECT 1 FROM maintenance m WHERE (m.nodes = '{}' OR n.name = ANY (m.nodes))
                     AND m.starts_at <= clock_timestamp() AND m.ends_at > clock_timestamp()) THEN 'DRAINED' ELSE n.state END,
           n.devices, n.address,
           to_jsonb(n.labels) || COALESCE((SELECT jsonb_agg(DISTINCT 'gpu=' || (d->>'name'))
               FROM jsonb_array_elements(n.devices) d WHERE d->>'kind' = 'cuda' AND d->>'name' <> ''), '[]'),
           COALESCE((SELECT mull__ms(min(m.starts_at)) FROM maintenance m
                      WHERE (m.nodes = '{}' OR n.name = ANY (m.nodes)) AND m.starts_at > clock_timestamp()), 0)
      FROM node n ORDER BY n.name;
END $$;

DROP FUNCTION mull_pending(bigint, bigint[], bigint, int);
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

---------------------------------------------------------------------------------------------------------------------
-- Nodes and jobs that fail again and again

CREATE FUNCTION mull__worker_lost(message text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT message ~ '(was started again|gave no sign of life|the worker that had it is gone)$'
$$;

-- The last three incidents of a node are infrastructure failures, of two jobs at least: it takes no more until an admin
-- resumes it. A worker that was lost with all it ran is one incident; an hour is as far as anybody looks back. The last node that takes jobs stays.
CREATE FUNCTION mull__node_struck(p_node text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    incidents int;
    jobs int;
    why text;
BEGIN
    SELECT count(*), count(DISTINCT job), max(message) INTO incidents, jobs, why
      FROM (SELECT * FROM (
                SELECT DISTINCT ON (CASE WHEN mull__worker_lost(h.message) THEN h.boot ELSE h.fence::text END) h.*
                  FROM (SELECT a.fence, a.job, a.boot, a.class, a.message, a.ended_at FROM attempt a
                         WHERE a.node = p_node AND a.ended_at > clock_timestamp() - interval '1 hour'
                         UNION ALL
                        SELECT q.fence, a.job, q.boot, q.class, q.message, q.ended_at
                          FROM attempt_part q JOIN attempt a USING (fence)
                         WHERE q.node = p_node AND q.ended_at > clock_timestamp() - interval '1 hour') h, node n
                 WHERE n.name = p_node AND h.class <> 'requeue'
                   AND h.ended_at > greatest(clock_timestamp() - interval '1 hour', COALESCE(n.resumed_at, '-infinity'))
                 ORDER BY CASE WHEN mull__worker_lost(h.message) THEN h.boot ELSE h.fence::text END, h.ended_at DESC) d
             ORDER BY ended_at DESC LIMIT 3) last
     WHERE class = 'infra';
    IF incidents < 3 OR jobs < 2 THEN RETURN; END IF;
    UPDATE node SET drained = true, state = CASE WHEN state = 'UP' THEN 'DRAINED' ELSE state END,
                    quarantine = 'three infrastructure failures in a row, the last: ' || why
     WHERE name = p_node AND NOT drained AND EXISTS (SELECT 1 FROM node o WHERE o.name <> p_node AND o.state = 'UP');
    IF FOUND THEN
        PERFORM mull__event('scheduler', 'node_quarantine', NULL, NULL, NULL, jsonb_build_object('node', p_node, 'why', why));
    END IF;
END $$;
CREATE FUNCTION mull__attempt_struck() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull__node_struck(NEW.node);
    RETURN NULL;
END $$;
CREATE TRIGGER attempt_struck AFTER UPDATE OF ended_at ON attempt FOR EACH ROW
    WHEN (NEW.class = 'infra' AND OLD.ended_at IS NULL AND NEW.boot <> 'gang') EXECUTE FUNCTION mull__attempt_struck();
CREATE TRIGGER part_struck AFTER UPDATE OF ended_at ON attempt_part FOR EACH ROW
    WHEN (NEW.class = 'infra' AND OLD.ended_at IS NULL) EXECUTE FUNCTION mull__attempt_struck();

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
CREATE TRIGGER job_poison AFTER UPDATE OF state ON job FOR EACH ROW
    WHEN (OLD.state = 'RUNNING' AND NEW.state = 'PENDING' AND NEW.infra_failures > 0) EXECUTE FUNCTION mull__job_poison();

---------------------------------------------------------------------------------------------------------------------
-- Front door

-- Elements may have "slots" and "labels".
CREATE OR REPLACE FUNCTION mull__submit_arrays(p_batch jsonb)
RETURNS TABLE (ord int, id bigint, state text, created boolean, problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r record;
    a jsonb;
    x jsonb;
BEGIN
    FOR r IN SELECT * FROM mull__submit_jobs(p_batch) LOOP
        x := p_batch->r.ord;
        a := x->'array';
        IF r.created AND jsonb_typeof(a) = 'object' THEN
            INSERT INTO job_array (job, range, los, steps, starts, total, lim)
            SELECT r.id, a->>'range', ARRAY(SELECT e::int FROM jsonb_array_elements_text(a->'los') e),
                   ARRAY(SELECT e::int FROM jsonb_array_elements_text(a->'steps') e),
                   ARRAY(SELECT e::int FROM jsonb_array_elements_text(a->'starts') e), (a->>'total')::int, (a->>'lim')::int;
        END IF;
        IF r.created AND (COALESCE((x->>'slots')::int, 1) > 1 OR jsonb_typeof(x->'labels') = 'array') THEN
            UPDATE job SET slots = COALESCE((x->>'slots')::int, 1),
                           labels = ARRAY(SELECT jsonb_array_elements_text(
                               CASE WHEN jsonb_typeof(x->'labels') = 'array' THEN x->'labels' ELSE '[]' END))
             WHERE job.id = r.id;
        END IF;
        ord := r.ord; id := r.id; state := r.state; created := r.created; problem := r.problem;
        RETURN NEXT;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION mull__array_rows(a job_array, p_pos int[]) RETURNS SETOF bigint LANGUAGE sql AS $$
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

CREATE OR REPLACE FUNCTION mull_nodes() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('nodes', COALESCE(json_agg(json_build_object(
        'name', n.name, 'state', n.state, 'boot', n.boot, 'address', n.address, 'version', n.version,
        'last_seen', mull__time(n.last_seen), 'devices', n.devices, 'labels', n.labels, 'quarantine', n.quarantine,
        'maintenance', (SELECT json_agg(json_build_object('id', m.id::text, 'starts_at', mull__time(m.starts_at),
                        'ends_at', mull__time(m.ends_at), 'reason', m.reason) ORDER BY m.starts_at)
                          FROM maintenance m WHERE (m.nodes = '{}' OR n.name = ANY (m.nodes)) AND m.ends_at > clock_timestamp()),
        'running', (SELECT COALESCE(json_agg(json_build_object('job', r.job::text, 'attempt', r.attempt, 'devices',
                    r.devices) ORDER BY r.fence), '[]')
                      FROM (SELECT a.job, a.attempt, a.devices, a.fence FROM attempt a
                             WHERE a.node = n.name AND a.ended_at IS NULL
                             UNION ALL
                            SELECT a.job, a.attempt, p.devices, a.fence FROM attempt_part p JOIN attempt a USING (fence)
                             WHERE p.node = n.name AND p.ended_at IS NULL) r)) ORDER BY n.name), '[]'))
      FROM node n
$$;

CREATE OR REPLACE FUNCTION mull_node_action(p_node text, p_op text, p_actor text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    new_state text;
BEGIN
    UPDATE node SET drained = p_op = 'drain',
                    state = CASE WHEN p_op = 'drain' AND state = 'UP' THEN 'DRAINED'
                                 WHEN p_op = 'resume' AND state = 'DRAINED' THEN 'UP' ELSE state END,
                    quarantine = CASE WHEN p_op = 'resume' THEN '' ELSE quarantine END,
                    resumed_at = CASE WHEN p_op = 'resume' THEN clock_timestamp() ELSE resumed_at END
     WHERE name = p_node RETURNING state INTO new_state;
    IF FOUND THEN
        PERFORM mull__event(p_actor, 'node_' || p_op, NULL, NULL, NULL, jsonb_build_object('node', p_node));
    END IF;
    RETURN new_state;
END $$;

-- Sets (key=value or a bare word) and takes away (the key before it) labels of a node. The labels, NULL = no such node.
CREATE FUNCTION mull_node_label(p_node text, p_set text[], p_unset text[], p_actor text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    l text[];
BEGIN
    UPDATE node SET labels = ARRAY(
        SELECT DISTINCT x FROM (
            SELECT x FROM unnest(labels) x
             WHERE split_part(x, '=', 1) <> ALL (p_unset)
               AND split_part(x, '=', 1) <> ALL (ARRAY(SELECT split_part(s, '=', 1) FROM unnest(p_set) s))
             UNION ALL SELECT s FROM unnest(p_set) s) y ORDER BY x)
     WHERE name = p_node RETURNING labels INTO l;
    IF NOT FOUND THEN RETURN NULL; END IF;
    PERFORM mull__event(p_actor, 'node_label', NULL, NULL, NULL,
                        jsonb_build_object('node', p_node, 'set', p_set, 'unset', p_unset));
    RETURN json_build_object('name', p_node, 'labels', l);
END $$;

-- A window in which nodes (none named: all) take no jobs; nothing starts there that may still run when it begins.
CREATE FUNCTION mull_maintenance_add(p_nodes text[], p_starts_ms bigint, p_ends_ms bigint, p_reason text, p_actor text)
RETURNS TABLE (problem text, id bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT 'nodes: there is no node ' || string_agg(x, ', ') INTO problem
      FROM unnest(p_nodes) x WHERE NOT EXISTS (SELECT 1 FROM node WHERE name = x);
    IF problem IS NULL THEN
        INSERT INTO maintenance (nodes, starts_at, ends_at, reason, "user")
        VALUES (p_nodes, to_timestamp(p_starts_ms / 1000.0), to_timestamp(p_ends_ms / 1000.0), p_reason, p_actor)
        RETURNING maintenance.id INTO id;
        PERFORM mull__event(p_actor, 'maintenance_add', NULL, NULL, NULL, jsonb_build_object('id', id, 'nodes', p_nodes,
            'starts_at', mull__time(to_timestamp(p_starts_ms / 1000.0)), 'ends_at', mull__time(to_timestamp(p_ends_ms / 1000.0))));
    END IF;
    RETURN NEXT;
END $$;
CREATE FUNCTION mull_maintenance_list() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('maintenance', COALESCE(json_agg(json_build_object('id', id::text, 'nodes', nodes,
        'starts_at', mull__time(starts_at), 'ends_at', mull__time(ends_at), 'reason', reason, 'user', "user",
        'state', CASE WHEN starts_at > clock_timestamp() THEN 'planned' WHEN ends_at > clock_timestamp() THEN 'now'
                      ELSE 'over' END) ORDER BY starts_at, id), '[]'))
      FROM maintenance WHERE ends_at > clock_timestamp() - interval '7 days'
$$;
CREATE FUNCTION mull_maintenance_rm(p_id bigint, p_actor text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM maintenance WHERE id = p_id;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM mull__event(p_actor, 'maintenance_rm', NULL, NULL, NULL, jsonb_build_object('id', p_id));
    RETURN true;
END $$;

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'mull_scheduler') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON attempt_part, maintenance TO mull_scheduler;
        GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO mull_scheduler;
    END IF;
END $$;
