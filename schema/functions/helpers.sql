-- Small functions that the others share, and what holds for all files of this folder.
--
-- Every effect that touches more than one row is one call of one of these functions, so one statement is one
-- transaction. Functions of the leader take its term first and raise SQLSTATE ML001 when that term is no longer
-- current: a paused old leader that wakes up can change nothing. They run with the caller's rights; those few that what a
-- team's people do (policies.sql) may take beyond their team are SECURITY DEFINER with a search_path of their own.
--
-- Naming: mull_X is called by the scheduler, mull__X only by other functions. Each function stands here once; README.md says when they are made again.

CREATE FUNCTION mull__time(t timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

CREATE FUNCTION mull__ms(t timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT COALESCE(floor(extract(epoch FROM t) * 1000), 0)::bigint
$$;

CREATE FUNCTION mull__epoch(t timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT floor(extract(epoch FROM t))::bigint
$$;

CREATE FUNCTION mull__terminal(state text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state NOT IN ('PENDING', 'RUNNING')
$$;

-- 0 for success, the status of the process, or 128 + signal.
CREATE FUNCTION mull__exit(code int, signal int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT COALESCE(code, 128 + signal)
$$;

CREATE FUNCTION mull__severity(class text) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT COALESCE(array_position('{requeue,infra,user,oom,timeout,cancelled}', class), CASE class WHEN 'ok' THEN 0 ELSE 3 END)
$$;

CREATE FUNCTION mull__nothing() RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT '{"ended":[],"started":[],"logs":[],"nodes":false,"stale":0,"refused":0}'::jsonb
$$;

CREATE FUNCTION mull__event(actor text, kind text, job bigint, attempt int, fence bigint, detail jsonb)
RETURNS void LANGUAGE sql AS $$
    WITH e AS (
        INSERT INTO event (at, actor, kind, job, attempt, fence, detail)
        VALUES (clock_timestamp(), $1, $2, $3, $4, $5, COALESCE($6, '{}'))
        RETURNING id)
    INSERT INTO audit_pending SELECT id FROM e WHERE mull__audited($2)
$$;

-- The members of two objects that have none in common; both have some.
CREATE FUNCTION mull__json_join(a json, b json) RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT (rtrim(left(rtrim(a::text), -1)) || ', ' || substr(ltrim(b::text), 2))::json
$$;
