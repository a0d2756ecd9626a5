-- Files and batches in OpenAI's shapes. A batch is an annotate job and a few words beside it; its state and counts are
-- read from the job, never kept twice. Ids are random texts of the front door's making.

CREATE TABLE api_file (
    id text PRIMARY KEY,                     -- file-…
    team text NOT NULL REFERENCES team (name),
    "user" text NOT NULL REFERENCES app_user (name),
    purpose text NOT NULL,                   -- batch, batch_output, …
    filename text NOT NULL,
    bytes bigint NOT NULL,
    path text NOT NULL,                      -- where the server keeps it
    model text,                              -- that its first request names
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX api_file_team ON api_file (team, created_at, id);

CREATE TABLE api_batch (
    id text PRIMARY KEY,                     -- batch_…
    job bigint NOT NULL UNIQUE REFERENCES job (id) ON DELETE CASCADE,
    endpoint text NOT NULL,
    completion_window text NOT NULL,
    input_file text NOT NULL,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    cancelling_at timestamptz,
    expired boolean NOT NULL DEFAULT false,
    output_file text,                        -- made when the job has completed
    error_file text
);

CREATE FUNCTION mull__epoch(t timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT floor(extract(epoch FROM t))::bigint
$$;

CREATE FUNCTION mull__file_json(f api_file) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', f.id, 'object', 'file', 'bytes', f.bytes, 'created_at', mull__epoch(f.created_at),
                             'expires_at', NULL, 'filename', f.filename, 'purpose', f.purpose, 'status', 'processed',
                             'status_details', NULL)
$$;

CREATE FUNCTION mull_file_add(p_id text, p_team text, p_user text, p_purpose text, p_name text, p_bytes bigint,
                              p_path text, p_model text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    f api_file%ROWTYPE;
BEGIN
    INSERT INTO app_user (name) VALUES (p_user) ON CONFLICT DO NOTHING;
    INSERT INTO team (name) VALUES (p_team) ON CONFLICT DO NOTHING;
    INSERT INTO api_file (id, team, "user", purpose, filename, bytes, path, model)
    VALUES (p_id, p_team, p_user, p_purpose, p_name, p_bytes, p_path, p_model) RETURNING * INTO f;
    PERFORM mull__event(p_user, 'file', NULL, NULL, NULL, jsonb_build_object('id', p_id, 'bytes', p_bytes));
    RETURN mull__file_json(f);
END $$;

-- The files that a completed batch has written, once each; an empty one is no file. Ids follow from the batch's.
CREATE FUNCTION mull__batch_publish(p_team text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    b record;
    a record;
BEGIN
    FOR b IN SELECT x.id, x.job, j.team, j."user", j.attempt FROM api_batch x JOIN job j ON j.id = x.job
              WHERE j.state = 'COMPLETED' AND x.output_file IS NULL AND x.error_file IS NULL
                AND (p_team = '' OR j.team = p_team) FOR UPDATE OF x LOOP
        FOR a IN SELECT f.path, f.bytes, f.path LIKE '%/output.jsonl' AS good FROM artifact f
                  WHERE f.job = b.job AND f.attempt = b.attempt AND f.bytes > 0 LOOP
            INSERT INTO api_file (id, team, "user", purpose, filename, bytes, path)
            VALUES ('file-' || CASE WHEN a.good THEN 'o' ELSE 'e' END || substr(b.id, 7), b.team, b."user",
                    'batch_output', b.id || CASE WHEN a.good THEN '_output.jsonl' ELSE '_error.jsonl' END, a.bytes,
                    a.path)
            ON CONFLICT DO NOTHING;
            IF a.good THEN
                UPDATE api_batch SET output_file = 'file-o' || substr(b.id, 7) WHERE id = b.id;
            ELSE
                UPDATE api_batch SET error_file = 'file-e' || substr(b.id, 7) WHERE id = b.id;
            END IF;
        END LOOP;
    END LOOP;
END $$;

CREATE FUNCTION mull_file_show(p_id text, p_team text) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT mull__file_json(f) FROM api_file f WHERE f.id = p_id AND (p_team = '' OR f.team = p_team)
$$;

-- Where its bytes are, and what a batch of it needs to know.
CREATE FUNCTION mull_file_path(p_id text, p_team text)
RETURNS TABLE (path text, bytes bigint, purpose text, model text, team text) LANGUAGE sql STABLE AS $$
    SELECT f.path, f.bytes, f.purpose, f.model, f.team FROM api_file f
     WHERE f.id = p_id AND (p_team = '' OR f.team = p_team)
$$;

CREATE FUNCTION mull_file_list(p_team text, p_purpose text, p_after text, p_limit int, p_rising boolean)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    page json;
    n int;
BEGIN
    PERFORM mull__batch_publish(p_team);
    WITH c AS (SELECT f.created_at AS at FROM api_file f WHERE f.id = p_after),
    found AS (
        SELECT f FROM api_file f
         WHERE (p_team = '' OR f.team = p_team) AND (p_purpose = '' OR f.purpose = p_purpose)
           AND (p_after = '' OR CASE WHEN p_rising THEN (f.created_at, f.id) > ((SELECT at FROM c), p_after)
                                     ELSE (f.created_at, f.id) < ((SELECT at FROM c), p_after) END)
         ORDER BY CASE WHEN p_rising THEN f.created_at END, CASE WHEN p_rising THEN f.id END, f.created_at DESC,
                  f.id DESC LIMIT p_limit + 1),
    numbered AS (SELECT f, row_number() OVER (ORDER BY CASE WHEN p_rising THEN (f).created_at END,
                        CASE WHEN p_rising THEN (f).id END, (f).created_at DESC, (f).id DESC) AS ord FROM found)
    SELECT json_agg(mull__file_json(f) ORDER BY ord) FILTER (WHERE ord <= p_limit), count(*) INTO page, n
      FROM numbered;
    RETURN json_build_object('object', 'list', 'data', COALESCE(page, '[]'), 'has_more', n > p_limit,
                             'first_id', page->0->>'id', 'last_id', page->-1->>'id');
END $$;

-- known, in use by a batch that has not ended, and the path to remove when neither.
CREATE FUNCTION mull_file_delete(p_id text, p_team text, p_actor text)
RETURNS TABLE (known boolean, used boolean, path text) LANGUAGE plpgsql AS $$
DECLARE
    f api_file%ROWTYPE;
BEGIN
    SELECT * INTO f FROM api_file x WHERE x.id = p_id AND (p_team = '' OR x.team = p_team) FOR UPDATE;
    known := f.id IS NOT NULL;
    used := known AND EXISTS (SELECT 1 FROM api_batch b JOIN job j ON j.id = b.job
                               WHERE b.input_file = p_id AND NOT mull__terminal(j.state));
    IF known AND NOT used THEN
        DELETE FROM api_file x WHERE x.id = p_id;
        PERFORM mull__event(p_actor, 'file_delete', NULL, NULL, NULL, jsonb_build_object('id', p_id));
        path := f.path;
    END IF;
    RETURN NEXT;
END $$;

CREATE FUNCTION mull__batch_json(b api_batch) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'id', b.id, 'object', 'batch', 'endpoint', b.endpoint, 'completion_window', b.completion_window,
        'status', s.status, 'input_file_id', b.input_file, 'output_file_id', b.output_file,
        'error_file_id', b.error_file,
        'errors', CASE WHEN s.status = 'failed' THEN json_build_object('object', 'list', 'data', json_build_array(
            json_build_object('code', lower(j.state), 'message', j.message, 'line', NULL, 'param', NULL))) END,
        'created_at', mull__epoch(b.created_at), 'in_progress_at', mull__epoch(j.started_at),
        'expires_at', mull__epoch(b.expires_at),
        'finalizing_at', CASE WHEN s.status = 'finalizing' THEN mull__epoch(p.updated_at)
                              WHEN s.status = 'completed' THEN mull__epoch(least(p.updated_at, j.ended_at)) END,
        'completed_at', CASE WHEN s.status = 'completed' THEN mull__epoch(j.ended_at) END,
        'failed_at', CASE WHEN s.status = 'failed' THEN mull__epoch(j.ended_at) END,
        'expired_at', CASE WHEN s.status = 'expired' THEN mull__epoch(j.ended_at) END,
        'cancelling_at', mull__epoch(b.cancelling_at),
        'cancelled_at', CASE WHEN s.status = 'cancelled' THEN mull__epoch(j.ended_at) END,
        'request_counts', json_build_object(
            'total', COALESCE((r.result->>'rows')::bigint, p.total, 0),
            'completed', COALESCE((r.result->>'ok')::bigint, p.done, 0),
            'failed', COALESCE((r.result->>'errors')::bigint, 0)),
        'metadata', b.metadata, 'job', j.id::text)
      FROM job j LEFT JOIN progress p ON p.job = j.id
           LEFT JOIN job_result r ON r.job = j.id AND r.attempt = j.attempt AND j.state = 'COMPLETED',
           LATERAL (SELECT CASE WHEN j.state = 'COMPLETED' THEN 'completed'
                                WHEN j.state = 'CANCELLED' AND b.expired THEN 'expired'
                                WHEN j.state = 'CANCELLED' THEN 'cancelled'
                                WHEN mull__terminal(j.state) THEN 'failed'
                                WHEN j.cancel_requested THEN 'cancelling'
                                WHEN COALESCE(p.total, 0) = 0 THEN 'validating'
                                WHEN p.done >= p.total THEN 'finalizing'
                                ELSE 'in_progress' END AS status) s
     WHERE j.id = b.job
$$;

-- Submits the job of a batch and notes the batch, both or neither. p_item is an element of mull_submit's.
CREATE FUNCTION mull_batch_add(p_item jsonb, p_id text, p_endpoint text, p_window text, p_hours int, p_input text,
                               p_metadata jsonb) RETURNS TABLE (job bigint, batch json) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    made record;
    b api_batch%ROWTYPE;
BEGIN
    SELECT * INTO made FROM mull_submit(jsonb_build_array(p_item));
    INSERT INTO api_batch (id, job, endpoint, completion_window, input_file, metadata, expires_at)
    VALUES (p_id, made.id, p_endpoint, p_window, p_input, p_metadata, clock_timestamp() + make_interval(hours => p_hours))
    RETURNING * INTO b;
    job := made.id;
    batch := mull__batch_json(b);
    RETURN NEXT;
END $$;

CREATE FUNCTION mull_batch_show(p_id text, p_team text) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mull__batch_publish(p_team);
    RETURN (SELECT mull__batch_json(b) FROM api_batch b JOIN job j ON j.id = b.job
             WHERE b.id = p_id AND (p_team = '' OR j.team = p_team));
END $$;

CREATE FUNCTION mull_batch_list(p_team text, p_after text, p_limit int) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    page json;
    n int;
BEGIN
    PERFORM mull__batch_publish(p_team);
    WITH found AS (
        SELECT b, row_number() OVER (ORDER BY b.job DESC) AS ord FROM api_batch b JOIN job j ON j.id = b.job
         WHERE (p_team = '' OR j.team = p_team)
           AND (p_after = '' OR b.job < (SELECT x.job FROM api_batch x WHERE x.id = p_after))
         ORDER BY b.job DESC LIMIT p_limit + 1)
    SELECT json_agg(mull__batch_json(b) ORDER BY ord) FILTER (WHERE ord <= p_limit), count(*) INTO page, n FROM found;
    RETURN json_build_object('object', 'list', 'data', COALESCE(page, '[]'), 'has_more', n > p_limit,
                             'first_id', page->0->>'id', 'last_id', page->-1->>'id');
END $$;

-- The job to look at and the batch as it is then; no row: no such batch. A batch that has ended stays as it is.
CREATE FUNCTION mull_batch_cancel(p_id text, p_team text, p_actor text) RETURNS TABLE (job bigint, batch json)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    b api_batch%ROWTYPE;
BEGIN
    SELECT x.* INTO b FROM api_batch x JOIN job j ON j.id = x.job WHERE x.id = p_id AND (p_team = '' OR j.team = p_team);
    IF NOT FOUND THEN RETURN; END IF;
    IF NOT (SELECT mull__terminal(j.state) FROM job j WHERE j.id = b.job) THEN
        PERFORM mull_job_action(b.job, 'cancel', p_actor, '');
        UPDATE api_batch x SET cancelling_at = COALESCE(x.cancelling_at, clock_timestamp()) WHERE x.id = b.id
        RETURNING * INTO b;
    END IF;
    PERFORM mull__batch_publish(p_team);
    job := b.job;
    batch := (SELECT mull__batch_json(x) FROM api_batch x WHERE x.id = b.id);
    RETURN NEXT;
END $$;

-- Cancels what has not ended in its window; the jobs to look at.
CREATE FUNCTION mull_batches_expire() RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    b api_batch%ROWTYPE;
BEGIN
    FOR b IN SELECT x.* FROM api_batch x JOIN job j ON j.id = x.job
              WHERE x.expires_at < clock_timestamp() AND NOT x.expired AND NOT mull__terminal(j.state)
                FOR UPDATE OF x SKIP LOCKED LOOP
        UPDATE api_batch SET expired = true WHERE id = b.id;
        PERFORM mull_job_action(b.job, 'cancel', 'the end of its completion window', '');
        RETURN NEXT b.job;
    END LOOP;
END $$;

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'mull_scheduler') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON api_file, api_batch TO mull_scheduler;
    END IF;
END $$;
