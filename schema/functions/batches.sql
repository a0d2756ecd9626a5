-- Batches of the OpenAI-compatible interface.

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
            'completed', COALESCE((r.result->>'ok')::bigint, p.done - COALESCE(p.errors, 0), 0),
            'failed', COALESCE((r.result->>'errors')::bigint, p.errors, 0)),
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
    IF made.problem LIKE 'quota %' THEN
        RAISE EXCEPTION USING ERRCODE = 'ML003', MESSAGE = made.problem;
    END IF;
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
