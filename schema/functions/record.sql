-- Workers' and engines' events become rows, each once.
--
-- Recording in bulk. Points of metrics arrive by COPY: the recorder puts those of an engine's metrics lines into
-- metric_stage, a temporary table of its connection, and leaves {"ev":"metrics","staged":N} in the event; mull_record, in
-- the same transaction, decides about the event as about any other and then takes over the points of those it applied.
-- A line that comes again (another read of the stream, a resync, an attempt that repeats steps) changes nothing: events
-- are applied once each, and of points with the same run, key and step the first stands.
--
-- What mull_record tells its caller grows with the batch, so it is gathered in arrays and made JSON once: a JSON value
-- that every event changes is copied whole by every event.

-- A batch of event lines, in stream order, exactly once each, together with the stream's cursor.
-- Per boot exactly seq = high water + 1 is applied; lower is a duplicate; higher is a gap: it asks for a resync and is
-- dropped. p_careful runs each event in a subtransaction and notes one that PostgreSQL refuses (foreign nonsense) in
-- the audit instead of failing the batch; the caller uses it after a plain call failed.
-- Returns {"acks":{boot:hw}, "resync":{boot:hw+1}, "ended":[fence], "started":[fence], "logs":[job],
--          "gang":[fence], "heartbeats":[{"node","boot","attempts"}], "nodes":bool, "stale":n, "refused":n, "duplicates":n}.
CREATE FUNCTION mull_record(p_term bigint, p_stream text, p_cursor text, p_events jsonb, p_careful boolean)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    res jsonb;
BEGIN
    PERFORM mull__check_term(p_term);
    IF NOT p_careful THEN res := mull__record_clean(p_events); END IF;
    IF res IS NULL THEN res := mull__record_each(p_events, p_careful); END IF;
    IF res->'points' <> '[]' THEN PERFORM mull__take_points(res->'points'); END IF;
    -- Once a boot and batch: a row that is updated for each event grows a chain of dead versions that every later look
    -- has to walk.
    UPDATE node SET hw_seq = a.value::bigint, last_seen = clock_timestamp()
      FROM jsonb_each_text(res->'acks') a WHERE node.boot = a.key AND node.hw_seq < a.value::bigint;
    INSERT INTO stream_cursor (name, last_id) VALUES (p_stream, p_cursor)
    ON CONFLICT (name) DO UPDATE SET last_id = EXCLUDED.last_id;
    RETURN res - 'points';
END $$;

-- What the events of a batch came to, together: an object as mull__apply_event makes it of each, and the points and
-- heartbeats as lists.
CREATE FUNCTION mull__sum(p_outs jsonb[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'ended', COALESCE((SELECT jsonb_agg(x) FROM unnest(p_outs) d, jsonb_array_elements(d->'ended') x), '[]'),
        'started', COALESCE((SELECT jsonb_agg(x) FROM unnest(p_outs) d, jsonb_array_elements(d->'started') x), '[]'),
        'logs', COALESCE((SELECT jsonb_agg(x) FROM unnest(p_outs) d, jsonb_array_elements(d->'logs') x), '[]'),
        'gang', COALESCE((SELECT jsonb_agg(x) FROM unnest(p_outs) d, jsonb_array_elements(d->'gang') x), '[]'),
        'points', COALESCE(jsonb_agg(d->'points') FILTER (WHERE d ? 'points'), '[]'),
        'heartbeats', COALESCE(jsonb_agg(d->'heartbeat') FILTER (WHERE d ? 'heartbeat'), '[]'),
        'nodes', COALESCE(bool_or((d->>'nodes')::boolean), false),
        'stale', COALESCE(sum((d->>'stale')::int), 0), 'refused', COALESCE(sum((d->>'refused')::int), 0))
      FROM unnest(p_outs) d
$$;

-- The same of a clean batch, which nearly all are, with one statement for all starts and one for all good ends instead of
-- several an event. Clean: no worker comes or comes again, every boot's events go on where its last ones ended, and an
-- attempt's start is the first and its end the last that is said of it here; starts, the rest and ends may then be
-- taken in this order with the same outcome as in the stream's. What the two statements do not match (parts of gangs,
-- stale fences, bad ends) is applied as any other event. NULL: the batch is not clean, and nothing was done.
CREATE FUNCTION mull__record_clean(p_events jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    nothing constant jsonb := mull__nothing();
    acks jsonb;
    all_ jsonb[];    -- the events, and of each
    types text[];
    boots text[];
    seqs bigint[];
    fences bigint[];
    goods boolean[]; -- ends without a failure
    outs jsonb[] := '{}';
    started bigint[];
    ended bigint[];
    ended_jobs bigint[];
    d jsonb;
    res jsonb;
    i int;
BEGIN
    SELECT array_agg(e ORDER BY o), array_agg(e->>'type' ORDER BY o), array_agg(e->>'boot' ORDER BY o),
           array_agg((e->>'seq')::bigint ORDER BY o), array_agg((e->>'fence')::bigint ORDER BY o),
           array_agg(COALESCE(e->>'type' = 'attempt_ended' AND e->>'class' = 'ok' AND e->>'exit_code' = '0' AND e ? 'fence', false)
                     ORDER BY o)
      INTO all_, types, boots, seqs, fences, goods
      FROM jsonb_array_elements(p_events) WITH ORDINALITY x (e, o);
    IF all_ IS NULL OR 'node_hello' = ANY (types) OR 'invalid' = ANY (types)
       OR EXISTS (SELECT 1 FROM (SELECT DISTINCT unnest(boots) AS boot) b WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.boot = b.boot))
       OR EXISTS (SELECT 1 FROM (SELECT type, row_number() OVER w AS nth, count(*) OVER (PARTITION BY fence) AS of_them
                                   FROM unnest(types, fences) WITH ORDINALITY u (type, fence, o) WHERE fence IS NOT NULL
                                 WINDOW w AS (PARTITION BY fence ORDER BY o)) s
                   WHERE type = 'attempt_started' AND nth > 1 OR type = 'attempt_ended' AND nth < of_them) THEN
        RETURN NULL;
    END IF;
    SELECT CASE WHEN bool_and(n.hw_seq > 0 AND s.first = n.hw_seq + 1 AND s.ordered) IS NOT FALSE
                THEN COALESCE(jsonb_object_agg(s.boot, s.last), '{}') END
      INTO acks
      FROM (SELECT boot, min(seq) AS first, max(seq) AS last, bool_and(seq = before + 1 OR before IS NULL) AS ordered
              FROM (SELECT boot, seq, lag(seq) OVER (PARTITION BY boot ORDER BY o) AS before
                      FROM unnest(types, boots, seqs) WITH ORDINALITY u (type, boot, seq, o)
                     WHERE type <> 'node_heartbeat') q GROUP BY boot) s
      JOIN node n ON n.boot = s.boot;
    IF acks IS NULL THEN RETURN NULL; END IF;

    WITH taken AS (
        UPDATE attempt a SET state = 'RUNNING', started_at = COALESCE(a.started_at, clock_timestamp()), pid = (e->>'pid')::int
          FROM unnest(all_, types, fences) u (e, type, f)
         WHERE u.type = 'attempt_started' AND a.fence = u.f AND a.job = (e->>'job')::bigint AND a.boot = e->>'boot'
           AND a.ended_at IS NULL
        RETURNING a.fence)
    SELECT COALESCE(array_agg(fence), '{}') INTO started FROM taken;
    FOR i IN SELECT o FROM unnest(types, goods, fences) WITH ORDINALITY u (type, good, f, o)
              WHERE NOT good AND NOT (type = 'attempt_started' AND f IN (SELECT unnest(started))) ORDER BY o LOOP
        d := CASE WHEN types[i] = 'node_heartbeat' THEN mull__heartbeat(all_[i]) ELSE mull__apply_event(all_[i], nothing) END;
        IF d <> nothing THEN outs := outs || d; END IF;
    END LOOP;
    WITH taken AS (
        UPDATE attempt a SET ended_at = clock_timestamp(), state = 'COMPLETED', exit_code = 0, exit_signal = NULL, class = 'ok',
                             message = COALESCE(e->>'message', '')
          FROM unnest(all_, goods, fences) u (e, good, f)
         WHERE u.good AND a.fence = u.f
           AND a.job = (e->>'job')::bigint AND a.boot = e->>'boot' AND a.ended_at IS NULL
        RETURNING a.fence, a.job, a.attempt, a.message),
    noted AS (
        INSERT INTO event (at, actor, kind, job, attempt, fence, detail)
        SELECT clock_timestamp(), 'scheduler', 'attempt_ended', job, attempt, fence,
               '{"class":"ok","exit_code":0,"exit_signal":null}' FROM taken),
    done AS (
        UPDATE job j SET state = 'COMPLETED', reason = '', ended_at = clock_timestamp(), exit_code = 0, exit_signal = NULL,
                         message = taken.message
          FROM taken WHERE j.id = taken.job)
    SELECT COALESCE(array_agg(fence), '{}'), COALESCE(array_agg(job), '{}') INTO ended, ended_jobs FROM taken;
    FOR i IN SELECT o FROM unnest(goods, fences) WITH ORDINALITY u (good, f, o)
              WHERE good AND f NOT IN (SELECT unnest(ended)) ORDER BY o LOOP
        d := mull__apply_event(all_[i], nothing);
        IF d <> nothing THEN outs := outs || d; END IF;
    END LOOP;
    res := mull__sum(outs);
    RETURN res || jsonb_build_object('acks', acks, 'resync', '{}'::jsonb, 'duplicates', 0,
        'started', to_jsonb(started) || (res->'started'), 'ended', to_jsonb(ended) || (res->'ended'),
        'logs', to_jsonb(ended_jobs) || (res->'logs'));
END $$;

-- The same event by event, in order: whatever the batch.
CREATE FUNCTION mull__record_each(p_events jsonb, p_careful boolean) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    nothing constant jsonb := mull__nothing();
    acks jsonb := '{}';
    resync jsonb := '{}';
    outs jsonb[] := '{}';
    stale int := 0;
    refused int := 0;
    duplicates int := 0;
    e jsonb;
    d jsonb;
    res jsonb;
    kind text;
    boot_ text;
    seq bigint;
    hw bigint;
BEGIN
    FOR e IN SELECT * FROM jsonb_array_elements(p_events) LOOP
        boot_ := e->>'boot';
        seq := (e->>'seq')::bigint;
        kind := e->>'type';
        IF kind = 'node_heartbeat' THEN
            d := mull__heartbeat(e);
            outs := outs || d;
            IF d ? 'unknown' THEN resync := resync || jsonb_build_object(boot_, 1); END IF;
            CONTINUE;
        END IF;
        -- Boots of this batch are in acks.
        hw := (acks->>boot_)::bigint;
        IF hw IS NULL THEN
            SELECT n.hw_seq INTO hw FROM node n WHERE n.name = e->>'node' AND n.boot = boot_;
            IF NOT FOUND THEN
                hw := 0;
                -- A boot that another one has replaced has nothing more to say.
                IF EXISTS (SELECT 1 FROM node_boot b WHERE b.boot = boot_) THEN
                    stale := stale + 1;
                    CONTINUE;
                END IF;
            END IF;
        END IF;
        IF seq <= hw THEN
            duplicates := duplicates + 1;
            acks := acks || jsonb_build_object(boot_, hw);
            CONTINUE;
        ELSIF seq > hw + 1 OR (hw = 0 AND kind <> 'node_hello') THEN
            resync := resync || jsonb_build_object(boot_, hw + 1);
            CONTINUE;
        END IF;
        IF p_careful THEN
            BEGIN
                d := mull__apply_event(e, nothing);
            EXCEPTION WHEN OTHERS THEN
                -- Resources, deadlocks, shutdowns and a lost term are no fault of this event: the whole batch waits.
                IF left(SQLSTATE, 2) IN ('40', '53', '55', '57', '58', 'XX', 'ML') THEN RAISE; END IF;
                PERFORM mull__event(COALESCE(e->>'node', ''), 'event_refused', NULL, NULL, NULL,
                                    jsonb_build_object('boot', boot_, 'seq', seq, 'type', kind, 'why', SQLERRM));
                refused := refused + 1;
                d := nothing;
            END;
        ELSE
            d := mull__apply_event(e, nothing);
        END IF;
        IF d <> nothing THEN outs := outs || d; END IF;
        acks := acks || jsonb_build_object(boot_, seq);
        IF resync ? boot_ THEN resync := resync - boot_; END IF;
    END LOOP;
    res := mull__sum(outs);
    RETURN res || jsonb_build_object('acks', acks, 'resync', resync, 'duplicates', duplicates,
        'stale', stale + (res->>'stale')::int, 'refused', refused + (res->>'refused')::int);
END $$;

-- A sign of life; it has no place in the sequence. Returns {} of a boot that another has replaced, {"unknown":true} of one
-- whose hello was lost (a flushed Redis), {"heartbeat":{"node","boot","attempts"}} otherwise, with "nodes" when the node
-- was down before.
CREATE FUNCTION mull__heartbeat(e jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    out_ jsonb;
BEGIN
    UPDATE node SET last_seen = clock_timestamp() WHERE name = e->>'node' AND boot = e->>'boot';
    IF NOT FOUND THEN
        RETURN CASE WHEN EXISTS (SELECT 1 FROM node_boot b WHERE b.boot = e->>'boot') THEN '{}' ELSE '{"unknown":true}' END;
    END IF;
    out_ := jsonb_build_object('heartbeat', jsonb_build_object('node', e->>'node', 'boot', e->>'boot', 'attempts', e->'attempts'));
    UPDATE node SET state = 'UP' WHERE name = e->>'node' AND state = 'DOWN';
    RETURN CASE WHEN FOUND THEN out_ || '{"nodes":true}' ELSE out_ END;
END $$;
