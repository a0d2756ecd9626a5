-- Who leads, and how far it has read: each write of a leader carries its term.

-- Takes the lead when nobody holds it, the holder's time is over, or (own) the holder of that name is this very
-- process's predecessor. Returns the new term, or 0.
CREATE FUNCTION mull_leader_take(p_holder text, p_ttl_ms int, p_own boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    new_term bigint;
BEGIN
    INSERT INTO leader (id, term, holder, expires_at) VALUES (1, 0, '', '-infinity') ON CONFLICT DO NOTHING;
    UPDATE leader SET term = term + 1, holder = p_holder,
                      expires_at = clock_timestamp() + make_interval(secs => p_ttl_ms / 1000.0)
     WHERE id = 1 AND (expires_at <= clock_timestamp() OR (p_own AND holder = p_holder))
    RETURNING term INTO new_term;
    IF new_term IS NULL THEN RETURN 0; END IF;
    PERFORM mull__event(p_holder, 'leader', NULL, NULL, NULL, jsonb_build_object('term', new_term));
    RETURN new_term;
END $$;

CREATE FUNCTION mull_leader_renew(p_term bigint, p_ttl_ms int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE leader SET expires_at = clock_timestamp() + make_interval(secs => p_ttl_ms / 1000.0)
     WHERE id = 1 AND term = p_term;
    RETURN FOUND;
END $$;

-- The term of who leads or led last, for those who only read as it does; NULL before the first.
CREATE FUNCTION mull_leader_term() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT (SELECT term FROM leader WHERE id = 1)
$$;

-- An orderly stop hands the lead over at once.
CREATE FUNCTION mull_leader_release(p_term bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE leader SET expires_at = '-infinity' WHERE id = 1 AND term = $1
$$;

-- The share lock keeps a take-over waiting until the caller's transaction has ended.
CREATE FUNCTION mull__check_term(p_term bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM leader WHERE id = 1 AND term = p_term FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'term % is not current', p_term USING ERRCODE = 'ML001';
    END IF;
END $$;

-- The same for statements that only read: no lock, so nothing is written and there is no commit to wait for.
CREATE FUNCTION mull__read_term(p_term bigint) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM 1 FROM leader WHERE id = 1 AND term = p_term;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'term % is not current', p_term USING ERRCODE = 'ML001';
    END IF;
END $$;

CREATE FUNCTION mull_cursor(p_name text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT last_id FROM stream_cursor WHERE name = p_name), '0-0')
$$;
