-- What workers say, one event at a time: nodes that come, attempts and parts of gangs that start, speak and end.

-- One event of a worker whose sequence number was the next one. Adds what the leader must know to p_out, which is
-- mull__nothing() before.
CREATE FUNCTION mull__apply_event_plain(e jsonb, p_out jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
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
        IF e->'line' ? 'staged' THEN
            p_out := mull__staged(p_out, a.job, ts, e->'line');
        ELSE
            PERFORM mull__apply_engine(a.job, a.attempt, f, ts, e->'line');
        END IF;
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
        IF e->'line' ? 'staged' THEN
            p_out := mull__staged(p_out, a.job, to_timestamp((e->>'at')::numeric / 1000), e->'line');
        ELSE
            PERFORM mull__apply_engine(a.job, a.attempt, a.fence, to_timestamp((e->>'at')::numeric / 1000), e->'line');
        END IF;
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
