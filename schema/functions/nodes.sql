-- Nodes: inventory, draining, labels, quarantine, maintenance.

CREATE FUNCTION mull_nodes() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('nodes', COALESCE(json_agg(json_build_object(
        'name', n.name, 'state', n.state, 'address', n.address, 'version', n.version,
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

-- No sign of life from this boot of a node: it takes no jobs until it speaks again. Returns the fences that ended.
CREATE FUNCTION mull__node_down_plain(p_term bigint, p_node text, p_boot text) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
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

CREATE FUNCTION mull_node_down(p_term bigint, p_node text, p_boot text) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT * FROM mull__node_down_plain(p_term, p_node, p_boot);
    IF EXISTS (SELECT 1 FROM node WHERE name = p_node AND boot = p_boot AND state = 'DOWN') THEN
        RETURN QUERY SELECT x::bigint FROM jsonb_array_elements_text(mull__parts_lost(p_node, p_boot, true,
                                'node ' || p_node || ' gave no sign of life', '{}')->'ended') x;
    END IF;
END $$;

-- drain: takes no new jobs, what runs goes on. resume: takes jobs again. The node's new state, NULL = no such node.
CREATE FUNCTION mull_node_action(p_node text, p_op text, p_actor text) RETURNS text LANGUAGE plpgsql AS $$
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

CREATE FUNCTION mull__node_stays_drained() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.state := 'DRAINED';
    RETURN NEW;
END $$;

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
