-- Quotas of teams: jobs that wait, bytes of a spec, of an attempt's log (engine_lines.sql), and of what is kept for the team.
-- Submits and uploads beyond one are refused with a problem that begins with "quota WHICH: "; what runs is never stopped
-- for one, so a checkpoint may still be published that takes a team beyond.

-- At most p_most are counted one by one, by the index of all that wait: one of its own with the team would be paid for by
-- every submit and every dispatch, this only by teams with a quota.
CREATE FUNCTION mull__pending_of(p_team text, p_most bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT (SELECT count(*) FROM (SELECT FROM job WHERE team = p_team AND state = 'PENDING' LIMIT p_most) waiting)
         + (SELECT COALESCE(sum(a.total - a.made - 1), 0)::bigint FROM job_array a JOIN job j ON j.id = a.job
             WHERE a.made < a.total AND NOT a.closed AND j.team = p_team AND j.state = 'PENDING')
$$;

-- What mull keeps and can take away again: uploads, files of batches, published checkpoints. Other outputs are in the
-- team's own folders.
CREATE FUNCTION mull__stored_of(p_team text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT (COALESCE((SELECT sum(bytes) FROM api_file WHERE team = p_team), 0)
            + COALESCE((SELECT sum(c.bytes) FROM checkpoint c JOIN job j ON j.id = c.job
                         WHERE j.team = p_team AND c.state = 'PUBLISHED'), 0))::bigint
$$;

CREATE FUNCTION mull__quota_words(p_team text, p_which text, p_has text, p_limit bigint, p_do text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'quota ' || p_which || ': team ' || p_team || ' ' || p_has || ', its quota is ' || p_limit || '; ' || p_do
           || ', or ask an admin to raise it (mull quota set ' || p_team || ' --' || p_which || ' N)'
$$;

CREATE FUNCTION mull__quota_json(t team) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'max_pending', t.max_pending, 'pending_tasks', mull__pending_of(t.name, 9223372036854775807),
        'max_spec_bytes', t.max_spec, 'max_log_bytes', t.max_log,
        'max_stored_bytes', t.max_stored, 'stored_bytes', mull__stored_of(t.name))
$$;

-- What mull_submit takes, with "refuse" in the items that are beyond a quota of their team; NULL: nobody has any. Who submits to one team at the
-- same time waits here for the other's COMMIT, so that two cannot both take the last place; teams in order, so that they
-- never wait for each other. Items that are there already by their key are no new ones, and what the server itself submits
-- for a job that was let in ("no_quota") is not refused.
CREATE FUNCTION mull__quota_mark(p_batch jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    t team%ROWTYPE;
    item jsonb;
    pending bigint;
    stored bigint;
    words text;
    n bigint;
    i int;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM team x WHERE coalesce(x.max_pending, x.max_spec, x.max_stored) IS NOT NULL) THEN
        RETURN NULL; -- the usual case costs nothing
    END IF;
    FOR t IN SELECT x.* FROM team x
              WHERE (x.max_pending IS NOT NULL OR x.max_spec IS NOT NULL OR x.max_stored IS NOT NULL)
                AND x.name IN (SELECT e->>'team' FROM jsonb_array_elements(p_batch) e) ORDER BY x.name LOOP
        PERFORM pg_advisory_xact_lock(1836412017, hashtext(t.name));
        pending := CASE WHEN t.max_pending IS NOT NULL THEN mull__pending_of(t.name, t.max_pending + 1) END;
        stored := CASE WHEN t.max_stored IS NOT NULL THEN mull__stored_of(t.name) END;
        i := -1;
        FOR item IN SELECT * FROM jsonb_array_elements(p_batch) LOOP
            i := i + 1;
            CONTINUE WHEN item->>'team' <> t.name OR item ? 'no_quota';
            n := CASE WHEN jsonb_typeof(item->'array') = 'object' THEN (item->'array'->>'total')::bigint ELSE 1 END;
            words := CASE
                WHEN octet_length(item->>'spec') > t.max_spec THEN mull__quota_words(t.name, 'spec',
                    'sends a spec of ' || octet_length(item->>'spec') || ' bytes', t.max_spec, 'make it shorter')
                WHEN pending + n > t.max_pending THEN mull__quota_words(t.name, 'pending',
                    'has ' || pending || ' jobs pending' || CASE WHEN n > 1 THEN ' and asks for ' || n || ' more' ELSE '' END,
                    t.max_pending, 'wait until some have started, or cancel some')
                WHEN stored >= t.max_stored THEN mull__quota_words(t.name, 'stored', 'keeps ' || stored || ' bytes',
                    t.max_stored, 'remove checkpoints (mull ckpt rm) or files') END;
            IF words IS NULL THEN
                pending := pending + n;
            ELSIF NOT EXISTS (SELECT 1 FROM job j WHERE j.team = t.name AND j.client_key = item->>'key') THEN
                p_batch := jsonb_set(p_batch, ARRAY[i::text, 'refuse'], to_jsonb(words));
            END IF;
        END LOOP;
    END LOOP;
    RETURN p_batch;
END $$;

-- Raises ML003 where so many bytes more are too many.
CREATE FUNCTION mull__quota_store(p_team text, p_bytes bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    most bigint := (SELECT max_stored FROM team WHERE name = p_team);
    stored bigint;
BEGIN
    IF most IS NULL THEN RETURN; END IF;
    PERFORM pg_advisory_xact_lock(1836412017, hashtext(p_team));
    stored := mull__stored_of(p_team);
    IF stored + p_bytes > most THEN
        RAISE EXCEPTION USING ERRCODE = 'ML003', MESSAGE = mull__quota_words(p_team, 'stored',
            'keeps ' || stored || ' bytes and sends ' || p_bytes || ' more', most, 'remove checkpoints (mull ckpt rm) or files');
    END IF;
END $$;
