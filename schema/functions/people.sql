-- Users, tokens and the audit.

-- Whom a token speaks for; an admin's speaks for every team.
CREATE FUNCTION mull_auth(p_hash text) RETURNS TABLE ("user" text, team text, role text)
LANGUAGE sql STABLE AS $$
    SELECT t."user", CASE WHEN t.role = 'admin' THEN '' ELSE t.team END, t.role FROM token t
     WHERE t.hash = p_hash AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())
$$;

-- Makes the user if need be; the team must be there. p_days 0: no end. problem is NULL or says why not.
CREATE FUNCTION mull_token_create(p_hash text, p_user text, p_team text, p_role text, p_days int, p_note text, p_actor text)
RETURNS TABLE (problem text, id bigint, expires text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF p_team = 'default' THEN
        INSERT INTO team (name) VALUES (p_team) ON CONFLICT DO NOTHING;
    ELSIF NOT EXISTS (SELECT 1 FROM team WHERE name = p_team) THEN
        problem := 'there is no team ' || p_team || '; mull team set makes one';
        RETURN NEXT;
        RETURN;
    END IF;
    INSERT INTO app_user (name) VALUES (p_user) ON CONFLICT DO NOTHING;
    INSERT INTO token AS t (hash, "user", team, role, note, expires_at)
    VALUES (p_hash, p_user, p_team, p_role, p_note,
            CASE WHEN p_days > 0 THEN clock_timestamp() + p_days * interval '1 day' END)
    RETURNING t.id, mull__time(t.expires_at) INTO id, expires;
    PERFORM mull__event(p_actor, 'token_create', NULL, NULL, NULL,
                        jsonb_build_object('id', id, 'user', p_user, 'team', p_team, 'role', p_role));
    RETURN NEXT;
END $$;

-- Newest first; p_user '' = of everybody.
CREATE FUNCTION mull_tokens(p_user text) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('tokens', COALESCE(json_agg(json_build_object(
        'id', id::text, 'user', "user", 'team', team, 'role', role, 'note', note, 'created_at', mull__time(created_at),
        'expires_at', mull__time(expires_at), 'state', CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
        WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'good' END) ORDER BY id DESC), '[]'))
      FROM token WHERE p_user = '' OR "user" = p_user
$$;

-- The user whose token it was, or NULL: there is none, or it is somebody else's (p_user '' may revoke any).
CREATE FUNCTION mull_token_revoke(p_id bigint, p_user text, p_actor text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    whose text;
BEGIN
    UPDATE token SET revoked_at = COALESCE(revoked_at, clock_timestamp())
     WHERE id = p_id AND (p_user = '' OR "user" = p_user) RETURNING "user" INTO whose;
    IF whose IS NOT NULL THEN
        PERFORM mull__event(p_actor, 'token_revoke', NULL, NULL, NULL, jsonb_build_object('id', p_id, 'user', whose));
    END IF;
    RETURN whose;
END $$;

CREATE FUNCTION mull_users() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('users', COALESCE(json_agg(json_build_object(
        'name', u.name, 'created_at', mull__time(u.created_at),
        'tokens', (SELECT count(*) FROM token t WHERE t."user" = u.name AND t.revoked_at IS NULL
                    AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())),
        'running', (SELECT count(*) FROM job j WHERE j."user" = u.name AND j.state = 'RUNNING'),
        'pending', (SELECT count(*) FROM job j WHERE j."user" = u.name AND j.state = 'PENDING')) ORDER BY u.name), '[]'))
      FROM app_user u
$$;

-- The newest lines of the audit, all jobs and none; for admins.
CREATE FUNCTION mull_audit(p_before bigint, p_limit int) RETURNS json LANGUAGE sql STABLE AS $$
    WITH page AS (SELECT * FROM event WHERE p_before = 0 OR id < p_before ORDER BY id DESC LIMIT p_limit)
    SELECT json_build_object(
        'events', COALESCE((SELECT json_agg(json_build_object('id', id::text, 'at', mull__time(at), 'kind', kind, 'actor',
            actor, 'job', job::text, 'attempt', attempt, 'detail', detail) ORDER BY id DESC) FROM page), '[]'),
        'next_cursor', (SELECT CASE WHEN count(*) = p_limit THEN min(id)::text END FROM page))
$$;
