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

-- Applies a batch of event lines in stream order, exactly once each, together with the stream's cursor.
-- Per boot exactly seq = high water + 1 is applied; lower is a duplicate; higher is a gap: it asks for a resync and is
-- dropped. p_careful runs each event in a subtransaction and notes one that PostgreSQL refuses (foreign nonsense) in
-- the audit instead of failing the batch; the caller uses it after a plain call failed.
-- Returns {"acks":{boot:hw}, "resync":{boot:hw+1}, "ended":[fence], "started":[fence], "logs":[job],
--          "gang":[fence], "heartbeats":[{"node","boot","attempts"}], "nodes":bool, "stale":n, "refused":n, "duplicates":n}.
CREATE FUNCTION mull_record(p_term bigint, p_stream text, p_cursor text, p_events jsonb, p_careful boolean)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    nothing constant jsonb := mull__nothing();
    acks jsonb := '{}';
    resync jsonb := '{}';
    ended bigint[] := '{}';
    started bigint[] := '{}';
    logs bigint[] := '{}';
    gang bigint[] := '{}';
    points jsonb[] := '{}';
    heartbeats jsonb := '[]';
    nodes boolean := false;
    stale int := 0;
    refused int := 0;
    duplicates int := 0;
    e jsonb;
    d jsonb;
    kind text;
    boot_ text;
    seq bigint;
    hw bigint;
BEGIN
    PERFORM mull__check_term(p_term);
    FOR e IN SELECT * FROM jsonb_array_elements(p_events) LOOP
        boot_ := e->>'boot';
        seq := (e->>'seq')::bigint;
        kind := e->>'type';
        IF kind = 'node_heartbeat' THEN
            UPDATE node SET last_seen = clock_timestamp() WHERE name = e->>'node' AND boot = boot_ RETURNING hw_seq INTO hw;
            IF FOUND THEN
                UPDATE node SET state = 'UP' WHERE name = e->>'node' AND state = 'DOWN';
                nodes := nodes OR FOUND;
                heartbeats := heartbeats || jsonb_build_object('node', e->>'node', 'boot', boot_, 'attempts',
                                                               e->'attempts');
            ELSIF NOT EXISTS (SELECT 1 FROM node_boot b WHERE b.boot = boot_) THEN
                -- Its hello was lost (a flushed Redis): ask for everything.
                resync := resync || jsonb_build_object(boot_, 1);
            END IF;
            CONTINUE;
        END IF;
        -- Boots of this batch are in acks; their node rows are written once, at the end: a row that is updated for each
        -- event grows a chain of dead versions that every later look has to walk.
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
        IF d <> nothing THEN
            IF d->'ended' <> '[]' THEN ended := ended || mull__numbers(d->'ended'); END IF;
            IF d->'started' <> '[]' THEN started := started || mull__numbers(d->'started'); END IF;
            IF d->'logs' <> '[]' THEN logs := logs || mull__numbers(d->'logs'); END IF;
            IF d ? 'gang' THEN gang := gang || mull__numbers(d->'gang'); END IF;
            IF d ? 'points' THEN points := points || (d->'points'); END IF;
            nodes := nodes OR (d->>'nodes')::boolean;
            stale := stale + (d->>'stale')::int;
            refused := refused + (d->>'refused')::int;
        END IF;
        acks := acks || jsonb_build_object(boot_, seq);
        IF resync ? boot_ THEN resync := resync - boot_; END IF;
    END LOOP;
    IF array_length(points, 1) > 0 THEN PERFORM mull__take_points(to_jsonb(points)); END IF;
    UPDATE node SET hw_seq = a.value::bigint, last_seen = clock_timestamp()
      FROM jsonb_each_text(acks) a WHERE node.boot = a.key AND node.hw_seq < a.value::bigint;
    INSERT INTO stream_cursor (name, last_id) VALUES (p_stream, p_cursor)
    ON CONFLICT (name) DO UPDATE SET last_id = EXCLUDED.last_id;
    RETURN jsonb_build_object('acks', acks, 'resync', resync, 'ended', to_jsonb(ended), 'started', to_jsonb(started),
                              'logs', to_jsonb(logs), 'gang', to_jsonb(gang), 'heartbeats', heartbeats, 'nodes', nodes, 'stale', stale,
                              'refused', refused, 'duplicates', duplicates);
END $$;

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

-- One line that the engine of a current attempt wrote to its descriptor 3.
CREATE FUNCTION mull__apply_engine_line(p_job bigint, p_attempt int, p_fence bigint, p_at timestamptz, line jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE line->>'ev'
    WHEN 'progress' THEN
        INSERT INTO progress AS p (job, done, total, unit, tokens, eta_s, errors, updated_at)
        VALUES (p_job, COALESCE((line->>'done')::numeric::bigint, 0), (line->>'total')::numeric::bigint,
                COALESCE(line->>'unit', ''), (line->>'tokens')::numeric::bigint, (line->>'eta_s')::float8,
                (line->>'errors')::numeric::bigint, p_at)
        ON CONFLICT (job) DO UPDATE SET done = EXCLUDED.done, total = EXCLUDED.total, unit = EXCLUDED.unit,
            tokens = EXCLUDED.tokens, eta_s = EXCLUDED.eta_s, errors = EXCLUDED.errors, updated_at = EXCLUDED.updated_at;
    WHEN 'run' THEN
        PERFORM mull__apply_run(p_job, p_attempt, p_fence, line);
    WHEN 'metric' THEN
        INSERT INTO metric (run, job, key, step, value, at)
        SELECT mull__run_of(p_job), p_job, m.key, COALESCE((line->>'step')::numeric::bigint, 0),
               (m.value #>> '{}')::float8, p_at
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
        -- The same folder again: an attempt that went on from before it has written it anew.
        INSERT INTO checkpoint AS c (job, attempt, path, step, bytes, sha256, files, metrics, state, created_at)
        VALUES (p_job, p_attempt, line->>'path', COALESCE((line->>'step')::numeric::bigint, 0),
                (line->>'bytes')::numeric::bigint, line->>'sha256', COALESCE(line->'files', '[]'),
                mull__figures(line->'metrics'), 'PUBLISHED', p_at)
        ON CONFLICT (job, path) DO UPDATE SET attempt = EXCLUDED.attempt, step = EXCLUDED.step, bytes = EXCLUDED.bytes,
            sha256 = EXCLUDED.sha256, files = EXCLUDED.files, metrics = EXCLUDED.metrics, state = 'PUBLISHED',
            created_at = EXCLUDED.created_at, removed_at = NULL, removed_by = NULL;
    WHEN 'checkpoint_removed' THEN
        UPDATE checkpoint SET state = 'REMOVED', removed_at = p_at, removed_by = 'retention'
         WHERE job = p_job AND path = line->>'path' AND state = 'PUBLISHED';
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

-- Evaluations that share their rows among the tasks of an array, and evaluations that follow a training job.

-- Figures and metrics of a sharded evaluation are the array's own: each task says the same.
CREATE FUNCTION mull__apply_engine(p_job bigint, p_attempt int, p_fence bigint, p_at timestamptz, line jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    whole bigint;
BEGIN
    IF line->>'ev' IN ('eval', 'metric') THEN
        SELECT j.array_job INTO whole FROM job j JOIN job_spec s ON s.job = j.id
         WHERE j.id = p_job AND j.kind = 'eval' AND j.array_job IS NOT NULL AND s.spec::jsonb ? 'shards';
        whole := COALESCE(whole, p_job);
    END IF;
    IF line->>'ev' = 'eval' THEN
        PERFORM mull__apply_eval(whole, line);
        PERFORM mull__follow_result(whole, p_at, line);
    ELSE
        PERFORM mull__apply_engine_line(COALESCE(whole, p_job), p_attempt, p_fence, p_at, line);
    END IF;
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

-- Evaluations: the engine's eval lines become rows of eval_result, and show lists them.

-- One eval line: {"task", "result"} is the whole task, {"task", "samples": [{"id", …}]} are its samples. An attempt that
-- goes on after a kill says everything again, so what is there is replaced.
CREATE FUNCTION mull__apply_eval(p_job bigint, line jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO eval_result (job, task, sample, result)
    SELECT p_job, line->>'task', r.sample, r.result
      FROM (SELECT -1::bigint AS sample, line->'result' AS result WHERE jsonb_typeof(line->'result') = 'object'
            UNION ALL
            SELECT (s->>'id')::bigint, s - 'id'
              FROM jsonb_array_elements(CASE WHEN jsonb_typeof(line->'samples') = 'array' THEN line->'samples' END) s) r
        ON CONFLICT (job, task, sample) DO UPDATE SET result = EXCLUDED.result
$$;

-- A later attempt's description replaces an earlier one's; when it follows from something else, the audit says from what.
CREATE FUNCTION mull__apply_run(p_job bigint, p_attempt int, p_fence bigint, line jsonb) RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
    r bigint := mull__run_of(p_job);
    before jsonb;
    parent bigint;
BEGIN
    SELECT hashes INTO before FROM run WHERE id = r;
    IF before <> '{}' AND before <> line->'hashes' THEN
        PERFORM mull__event('engine', 'run_changed', p_job, p_attempt, p_fence,
                            jsonb_build_object('before', before, 'after', line->'hashes'));
    END IF;
    SELECT c.id INTO parent FROM checkpoint c WHERE c.path = line->>'parent' AND c.job <> p_job
     ORDER BY c.id DESC LIMIT 1;
    UPDATE run SET config = line->'config', hashes = line->'hashes', seed = (line->>'seed')::numeric::bigint,
                   attempt = p_attempt, parent_path = line->>'parent', parent_checkpoint = parent,
                   resumed_path = line->>'resumed'
     WHERE id = r;
END $$;

-- The run of a job, made by whichever of its lines comes first.
CREATE FUNCTION mull__run_of(p_job bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    r bigint;
BEGIN
    SELECT id INTO r FROM run WHERE job = p_job;
    IF r IS NULL THEN
        INSERT INTO run (job, config)
        VALUES (p_job, COALESCE((SELECT s.spec::jsonb FROM job_spec s WHERE s.job = p_job), '{}')) RETURNING id INTO r;
    END IF;
    RETURN r;
END $$;
