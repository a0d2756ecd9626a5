-- Teams share a cluster: weights, quotas and a tree of teams, the decayed use of teams and users, and preemption. The
-- functions that are replaced here differ from 0002 in the columns that this brings.

ALTER TABLE team
    ADD COLUMN parent text REFERENCES team (name),
    ADD COLUMN weight float8 NOT NULL DEFAULT 1 CHECK (weight >= 0.001 AND weight <= 1e6),
    ADD COLUMN nominal int CHECK (nominal >= 0), -- GPUs of its own; NULL: no quota applies to it
    ADD COLUMN borrow int CHECK (borrow >= 0),   -- GPUs beyond nominal; NULL: any number
    ADD COLUMN lend int CHECK (lend >= 0),       -- how many of its nominal others may use; NULL: all
    ADD COLUMN used float8 NOT NULL DEFAULT 0,   -- decayed average of devices in use, as of used_at
    ADD COLUMN used_at timestamptz;
CREATE TABLE user_usage (
    team text NOT NULL REFERENCES team (name) ON DELETE CASCADE,
    "user" text NOT NULL REFERENCES app_user (name) ON DELETE CASCADE,
    used float8 NOT NULL,
    used_at timestamptz NOT NULL,
    PRIMARY KEY (team, "user")
);
ALTER TABLE job
    ADD COLUMN preemptible boolean NOT NULL DEFAULT true,
    ADD COLUMN min_run_s int NOT NULL DEFAULT 60 CHECK (min_run_s >= 0); -- not preempted before it has run this long
UPDATE job SET preemptible = false WHERE kind = 'generate' AND state IN ('PENDING', 'RUNNING');
ALTER TABLE attempt
    ADD COLUMN preempted_by bigint,              -- job for which it was told to stop
    ADD COLUMN preempt_reason text;              -- priority, reclaim

-- A drained node that goes down and comes back is drained still.
ALTER TABLE node ADD COLUMN drained boolean NOT NULL DEFAULT false;
UPDATE node SET drained = true WHERE state = 'DRAINED';
CREATE FUNCTION mull__node_stays_drained() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.state := 'DRAINED';
    RETURN NEW;
END $$;
CREATE TRIGGER node_stays_drained BEFORE UPDATE ON node FOR EACH ROW
    WHEN (NEW.drained AND NEW.state = 'UP') EXECUTE FUNCTION mull__node_stays_drained();

CREATE FUNCTION mull__ms(t timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT COALESCE(floor(extract(epoch FROM t) * 1000), 0)::bigint
$$;

-- An average that was p_used at p_at and has had nothing to add since.
CREATE FUNCTION mull__decayed(p_used float8, p_at timestamptz, p_half_life_s float8) RETURNS float8 LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN p_at IS NULL THEN 0
                ELSE p_used * power(2, -least(1000, greatest(0, extract(epoch FROM clock_timestamp() - p_at))
                                                    / p_half_life_s)) END
$$;

---------------------------------------------------------------------------------------------------------------------
-- Front door

CREATE OR REPLACE FUNCTION mull_submit(p_batch jsonb)
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
                         depends, gpus, time_limit_s, preemptible, min_run_s)
        VALUES (item->>'name', item->>'kind', item->>'team', item->>'user', 'PENDING',
                -- What is true before anybody has looked: the leader writes only what it finds to be otherwise.
                CASE WHEN (item->>'hold')::boolean THEN 'Held' WHEN item->>'depends' <> '' THEN 'Dependency'
                     WHEN item->>'begin_ms' IS NOT NULL THEN 'BeginTime' ELSE 'Priority' END, (item->>'priority')::int,
                clock_timestamp(), to_timestamp((item->>'begin_ms')::bigint / 1000.0), (item->>'hold')::boolean,
                item->>'key', COALESCE(item->>'depends', ''), (item->>'gpus')::int, (item->>'time_limit_s')::bigint,
                -- A job of kind generate keeps nothing that it could go on from.
                COALESCE((item->>'preemptible')::boolean, item->>'kind' <> 'generate'),
                COALESCE((item->>'min_run_s')::int, 60))
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
    SELECT json_build_object('teams', COALESCE(json_agg(json_build_object(
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
        parent = CASE WHEN p_set ? 'parent' THEN p_set->>'parent' ELSE parent END
     WHERE name = p_name;
    PERFORM mull__event(p_actor, CASE WHEN created THEN 'team_add' ELSE 'team_set' END, NULL, NULL, NULL,
                        p_set || jsonb_build_object('team', p_name));
    RETURN NEXT;
END $$;

-- drain: takes no new jobs, what runs goes on. resume: takes jobs again. The node's new state, NULL = no such node.
CREATE FUNCTION mull_node_action(p_node text, p_op text, p_actor text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    new_state text;
BEGIN
    UPDATE node SET drained = p_op = 'drain',
                    state = CASE WHEN p_op = 'drain' AND state = 'UP' THEN 'DRAINED'
                                 WHEN p_op = 'resume' AND state = 'DRAINED' THEN 'UP' ELSE state END
     WHERE name = p_node RETURNING state INTO new_state;
    IF FOUND THEN
        PERFORM mull__event(p_actor, 'node_' || p_op, NULL, NULL, NULL, jsonb_build_object('node', p_node));
    END IF;
    RETURN new_state;
END $$;

-- What place alone says about a job, and over it what the team's quota says.
ALTER FUNCTION mull_job_why(bigint, text) RENAME TO mull__job_why_place;
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

---------------------------------------------------------------------------------------------------------------------
-- Leader

DROP FUNCTION mull_pending(bigint, bigint[], bigint, int);
CREATE FUNCTION mull_pending(p_term bigint, p_ids bigint[], p_after bigint, p_limit int)
RETURNS TABLE (id bigint, priority int, gpus int, hold boolean, eligible_ms bigint, dep text, avoid_node text,
               reason text, team text, "user" text, time_limit_s bigint)
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
               j."user", COALESCE(j.time_limit_s, 0)::bigint
          FROM job j WHERE j.state = 'PENDING' AND j.id > p_after ORDER BY j.id LIMIT p_limit;
    ELSE
        RETURN QUERY
        SELECT j.id, j.priority, j.gpus, j.hold,
               COALESCE(ceil(extract(epoch FROM greatest(j.begin_at, j.not_before)) * 1000), 0)::bigint,
               CASE WHEN j.depends = '' THEN 'met' ELSE mull__dependency(j.depends) END,
               CASE WHEN j.infra_failures > 0 THEN j.node END, j.reason, j.team,
               j."user", COALESCE(j.time_limit_s, 0)::bigint
          FROM job j WHERE j.id = ANY (p_ids) AND j.state = 'PENDING' ORDER BY j.id;
    END IF;
END $$;

DROP FUNCTION mull_live_attempts(bigint);
CREATE FUNCTION mull_live_attempts(p_term bigint)
RETURNS TABLE (fence bigint, job bigint, attempt int, node text, boot text, started boolean, cancel_requested boolean,
               time_limit_s bigint, deadline_ms bigint, devices jsonb, spec text, team text, "user" text, priority int,
               started_ms bigint, saved_ms bigint, preemptible boolean, min_run_s int, preempt_reason text) LANGUAGE plpgsql AS $$
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
               j.preemptible, j.min_run_s, a.preempt_reason
          FROM attempt a JOIN job j ON j.id = a.job WHERE a.ended_at IS NULL ORDER BY a.fence;
END $$;

DROP FUNCTION mull_dispatch(bigint, jsonb);
CREATE FUNCTION mull_dispatch(p_term bigint, p_items jsonb)
RETURNS TABLE (job bigint, attempt int, fence bigint, time_limit_s bigint, spec text, preemptible boolean,
               min_run_s int) LANGUAGE plpgsql AS $$
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
                'created', floor(extract(epoch FROM s.submitted_at))::bigint))::text, s.preemptible, s.min_run_s
      FROM made m JOIN started s ON s.id = m.job JOIN job_spec js ON js.job = m.job
     ORDER BY s.ord;
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

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'mull_scheduler') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON user_usage TO mull_scheduler;
    END IF;
END $$;
