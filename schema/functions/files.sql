-- Files of the OpenAI-compatible interface.

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
    PERFORM mull__quota_store(p_team, p_bytes);
    INSERT INTO api_file (id, team, "user", purpose, filename, bytes, path, model)
    VALUES (p_id, p_team, p_user, p_purpose, p_name, p_bytes, p_path, p_model) RETURNING * INTO f;
    PERFORM mull__event(p_user, 'file', NULL, NULL, NULL, jsonb_build_object('id', p_id, 'bytes', p_bytes));
    RETURN mull__file_json(f);
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
