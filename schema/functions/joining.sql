-- Workers of other hosts: tokens to join with, their credentials, and whose files they may move.

-- p_node '' = any name, p_uses 0 = any number of nodes.
CREATE FUNCTION mull_node_token_create(p_hash text, p_node text, p_minutes int, p_uses int, p_note text, p_actor text)
RETURNS TABLE (id bigint, expires text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO node_token AS t (hash, node, uses, note, created_by, expires_at)
    VALUES (p_hash, NULLIF(p_node, ''), NULLIF(p_uses, 0), p_note, p_actor,
            clock_timestamp() + p_minutes * interval '1 minute')
    RETURNING t.id, mull__time(t.expires_at) INTO id, expires;
    PERFORM mull__event(p_actor, 'node_token_create', NULL, NULL, NULL,
                        jsonb_build_object('id', id, 'node', NULLIF(p_node, ''), 'uses', NULLIF(p_uses, 0)));
    RETURN NEXT;
END $$;

CREATE FUNCTION mull_node_tokens() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('tokens', COALESCE(json_agg(json_build_object(
        'id', id::text, 'node', node, 'uses_left', uses, 'note', note, 'created_by', created_by,
        'created_at', mull__time(created_at), 'expires_at', mull__time(expires_at),
        'state', CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= clock_timestamp() THEN 'expired'
                      WHEN uses = 0 THEN 'used' ELSE 'good' END) ORDER BY id DESC), '[]'))
      FROM node_token
$$;

CREATE FUNCTION mull_node_token_revoke(p_id bigint, p_actor text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE node_token SET revoked_at = COALESCE(revoked_at, clock_timestamp()) WHERE id = p_id;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM mull__event(p_actor, 'node_token_revoke', NULL, NULL, NULL, jsonb_build_object('id', p_id));
    RETURN true;
END $$;

-- A node comes in, or comes again and gets new credentials (the old ones are void). problem is NULL or says why not.
CREATE FUNCTION mull_node_join(p_hash text, p_node text, p_redis_sum text, p_secret_sum text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    t node_token%ROWTYPE;
    out_at timestamptz;
BEGIN
    SELECT * INTO t FROM node_token WHERE hash = p_hash FOR UPDATE;
    IF NOT FOUND OR t.revoked_at IS NOT NULL OR t.expires_at <= clock_timestamp() OR t.uses = 0 THEN
        RETURN 'the token is unknown, used up, expired or revoked';
    END IF;
    IF t.node <> p_node THEN RETURN 'the token is for the node ' || t.node; END IF;
    SELECT revoked_at INTO out_at FROM node_credential WHERE node = p_node FOR UPDATE;
    IF out_at >= t.created_at THEN
        RETURN 'the node ' || p_node || ' was revoked after this token was made';
    END IF;
    INSERT INTO node_credential AS c (node, redis_sum, secret_sum, token)
    VALUES (p_node, p_redis_sum, p_secret_sum, t.id)
    ON CONFLICT (node) DO UPDATE SET redis_sum = EXCLUDED.redis_sum, secret_sum = EXCLUDED.secret_sum,
        token = EXCLUDED.token, joined_at = clock_timestamp(), revoked_at = NULL;
    UPDATE node_token SET uses = uses - 1 WHERE id = t.id AND uses IS NOT NULL;
    PERFORM mull__event(p_node, 'node_join', NULL, NULL, NULL, jsonb_build_object('token', t.id));
    RETURN NULL;
END $$;

-- False: it never joined. What runs there is given up when its silence has lasted long enough, as for any lost node.
CREATE FUNCTION mull_node_revoke(p_node text, p_actor text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE node_credential SET revoked_at = COALESCE(revoked_at, clock_timestamp()) WHERE node = p_node;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM mull__event(p_actor, 'node_revoke', NULL, NULL, NULL, jsonb_build_object('node', p_node));
    RETURN true;
END $$;

-- The users that Redis must have, and no others of their kind.
CREATE FUNCTION mull_node_users() RETURNS TABLE (node text, redis_sum text) LANGUAGE sql STABLE AS $$
    SELECT node, redis_sum FROM node_credential WHERE revoked_at IS NULL ORDER BY node
$$;

-- The node that has this secret, or NULL.
CREATE FUNCTION mull_node_auth(p_sum text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT node FROM node_credential WHERE secret_sum = p_sum AND revoked_at IS NULL
$$;

-- Whose job it is and what it asks, for one who wants its files: a node (p_node) that has this attempt (p_fence) running,
-- or a user of its team (p_node '', p_team '' = any). No row: may not.
CREATE FUNCTION mull_transfer_access(p_job bigint, p_team text, p_node text, p_fence bigint)
RETURNS TABLE (team text, spec text) LANGUAGE sql STABLE AS $$
    SELECT j.team, s.spec FROM job j JOIN job_spec s ON s.job = j.id
     WHERE j.id = p_job AND CASE WHEN p_node = '' THEN p_team = '' OR j.team = p_team
           ELSE EXISTS (SELECT 1 FROM attempt a LEFT JOIN attempt_part p ON p.fence = a.fence AND p.node = p_node
                         WHERE a.fence = p_fence AND a.job = p_job AND a.ended_at IS NULL
                           AND (a.node = p_node OR p.ended_at IS NULL AND p.node IS NOT NULL)) END
$$;
