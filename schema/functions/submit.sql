-- Jobs come in: dependencies, arrays, follow-ups.

-- 'met', 'wait' or 'never' for a dependency such as afterok:3:4. A job it names always exists (submit checks).
CREATE FUNCTION mull__dependency_jobs(p_depends text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    want text;
    waits boolean;
    never boolean;
BEGIN
    IF p_depends IS NULL OR p_depends = '' THEN RETURN 'met'; END IF;
    want := split_part(p_depends, ':', 1);
    SELECT bool_or(NOT mull__terminal(j.state)),
           bool_or(mull__terminal(j.state) AND (want = 'afterok' AND j.state <> 'COMPLETED'
                                             OR want = 'afterfail' AND j.state = 'COMPLETED'))
      INTO waits, never
      FROM job j WHERE j.id IN (SELECT x::bigint FROM unnest((string_to_array(p_depends, ':'))[2:]) x);
    IF never THEN RETURN 'never'; END IF;
    RETURN CASE WHEN waits THEN 'wait' ELSE 'met' END;
END $$;

CREATE FUNCTION mull__dependency_corr(p_depends text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    other bigint := split_part(p_depends, ':', 2)::bigint;
    a job_array%ROWTYPE;
BEGIN
    SELECT * INTO a FROM job_array WHERE job = NULLIF(split_part(p_depends, ':', 3), '')::bigint;
    IF a.corr IS NULL THEN RETURN mull__dependency_jobs('afterok:' || other); END IF;
    IF EXISTS (SELECT 1 FROM mull__corr_ready(a, 1)) THEN RETURN 'met'; END IF;
    -- None is ready: there may be one later, unless the other array has ended.
    RETURN CASE WHEN EXISTS (SELECT 1 FROM job WHERE id = other AND NOT mull__terminal(state)) THEN 'wait' ELSE 'never' END;
END $$;

CREATE FUNCTION mull__dependency(p_depends text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_depends LIKE 'checkpoint:%' THEN 'wait'
                WHEN p_depends LIKE 'aftercorr:%' THEN mull__dependency_corr(p_depends)
                ELSE mull__dependency_jobs(p_depends) END
$$;

CREATE FUNCTION mull__submit_jobs(p_batch jsonb)
RETURNS TABLE (ord int, id bigint, state text, created boolean, problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    actors text[] := '{}';
    jobs bigint[] := '{}';
    item jsonb;
    n int := 0;
    missing text;
BEGIN
    FOR item IN SELECT * FROM jsonb_array_elements(p_batch) LOOP
        ord := n;
        n := n + 1;
        id := NULL; state := NULL; created := false; problem := item->>'refuse';
        IF problem IS NOT NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF item->>'depends' <> '' THEN
            SELECT string_agg(x, ', ') INTO missing
              FROM unnest((string_to_array(item->>'depends', ':'))[2:]) x
             WHERE NOT EXISTS (SELECT 1 FROM job j WHERE j.id = x::bigint
                                  AND (j.team = item->>'team' OR (item->>'any_team')::boolean));
            IF missing IS NOT NULL THEN
                problem := 'after: no job ' || missing;
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        INSERT INTO app_user (name) VALUES (item->>'user') ON CONFLICT DO NOTHING;
        INSERT INTO team (name) VALUES (item->>'team') ON CONFLICT DO NOTHING;
        INSERT INTO job (name, kind, team, "user", state, reason, priority, submitted_at, begin_at, hold, client_key,
                         depends, gpus, time_limit_s, preemptible, min_run_s)
        VALUES (item->>'name', item->>'kind', item->>'team', item->>'user', 'PENDING',
                -- What is true before anybody has looked: the leader writes only what it finds to be otherwise.
                CASE WHEN (item->>'hold')::boolean THEN 'Held' WHEN item->>'depends' <> '' THEN 'Dependency'
                     WHEN item->>'begin_ms' IS NOT NULL THEN 'BeginTime' ELSE 'Priority' END, (item->>'priority')::int,
                clock_timestamp(), to_timestamp((item->>'begin_ms')::bigint / 1000.0), (item->>'hold')::boolean,
                item->>'key', COALESCE(item->>'depends', ''), (item->>'gpus')::int, (item->>'time_limit_s')::bigint,
                -- A job of kind generate keeps nothing that it could go on from.
                COALESCE((item->>'preemptible')::boolean, item->>'kind' <> 'generate'),
                COALESCE((item->>'min_run_s')::int, 60))
        ON CONFLICT (team, client_key) DO NOTHING
        RETURNING job.id, job.state INTO id, state;
        IF id IS NULL THEN
            SELECT j.id, j.state INTO id, state FROM job j
             WHERE j.team = item->>'team' AND j.client_key = item->>'key';
        ELSE
            created := true;
            INSERT INTO job_spec (job, spec) VALUES (id, item->>'spec');
            actors := actors || (item->>'user');
            jobs := jobs || id;
        END IF;
        RETURN NEXT;
    END LOOP;
    -- As mull__event does it, for all of them at once.
    WITH e AS (
        INSERT INTO event (at, actor, kind, job)
        SELECT clock_timestamp(), x.actor, 'submit', x.job FROM unnest(actors, jobs) AS x(actor, job)
        RETURNING event.id)
    INSERT INTO audit_pending SELECT e.id FROM e;
END $$;

-- Elements may have "slots" and "labels".
CREATE FUNCTION mull__submit_arrays(p_batch jsonb)
RETURNS TABLE (ord int, id bigint, state text, created boolean, problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r record;
    a jsonb;
    x jsonb;
BEGIN
    FOR r IN SELECT * FROM mull__submit_jobs(p_batch) LOOP
        x := p_batch->r.ord;
        a := x->'array';
        IF r.created AND jsonb_typeof(a) = 'object' THEN
            INSERT INTO job_array (job, range, los, steps, starts, total, lim)
            SELECT r.id, a->>'range', ARRAY(SELECT e::int FROM jsonb_array_elements_text(a->'los') e),
                   ARRAY(SELECT e::int FROM jsonb_array_elements_text(a->'steps') e),
                   ARRAY(SELECT e::int FROM jsonb_array_elements_text(a->'starts') e), (a->>'total')::int, (a->>'lim')::int;
        END IF;
        IF r.created AND (COALESCE((x->>'slots')::int, 1) > 1 OR jsonb_typeof(x->'labels') = 'array') THEN
            UPDATE job SET slots = COALESCE((x->>'slots')::int, 1),
                           labels = ARRAY(SELECT jsonb_array_elements_text(
                               CASE WHEN jsonb_typeof(x->'labels') = 'array' THEN x->'labels' ELSE '[]' END))
             WHERE job.id = r.id;
        END IF;
        ord := r.ord; id := r.id; state := r.state; created := r.created; problem := r.problem;
        RETURN NEXT;
    END LOOP;
END $$;

CREATE FUNCTION mull_submit(p_batch jsonb)
RETURNS TABLE (ord int, id bigint, state text, created boolean, problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    item jsonb;
    r record;
    n int := 0;
    source bigint;
BEGIN
    p_batch := COALESCE(mull__quota_mark(p_batch), p_batch);
    IF NOT EXISTS (SELECT 1 FROM jsonb_array_elements(p_batch) x WHERE x ? 'follow') THEN
        RETURN QUERY SELECT * FROM mull__submit_arrays(p_batch);
        RETURN;
    END IF;
    FOR item IN SELECT * FROM jsonb_array_elements(p_batch) LOOP
        source := (item->'follow'->>'source')::bigint;
        IF source IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM job j WHERE j.id = source AND j.kind = 'train'
                                  AND (j.team = item->>'team' OR (item->>'any_team')::boolean)) THEN
            ord := n; id := NULL; state := NULL; created := false;
            problem := 'after: no training job ' || source;
        ELSE
            SELECT * INTO r FROM mull__submit_arrays(jsonb_build_array(
                CASE WHEN source IS NULL THEN item ELSE (item - 'array') || '{"depends": ""}' END));
            ord := n; id := r.id; state := r.state; created := r.created; problem := r.problem;
            IF source IS NOT NULL AND r.created THEN
                INSERT INTO job_follow (job, source, every, item)
                VALUES (r.id, source, (item->'follow'->>'every')::bigint, item - 'follow');
                UPDATE job SET depends = 'checkpoint:' || source || ':' || (item->'follow'->>'every'),
                               reason = CASE WHEN hold THEN 'Held' ELSE 'Dependency' END WHERE job.id = r.id;
                PERFORM mull__follow_make(r.id);
                PERFORM mull__follow_settle(r.id);
            END IF;
        END IF;
        n := n + 1;
        RETURN NEXT;
    END LOOP;
END $$;

-- The same for people of several teams, in one transaction: [{"team", "items"}], and ord counts on through all of them. Each
-- part runs as its team's.
CREATE FUNCTION mull_submit_teams(p_parts jsonb)
RETURNS TABLE (ord int, id bigint, state text, created boolean, problem text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    part jsonb;
    before int := 0;
BEGIN
    FOR part IN SELECT * FROM jsonb_array_elements(p_parts) LOOP
        PERFORM set_config('mull.team', part->>'team', true);
        RETURN QUERY SELECT before + s.ord, s.id, s.state, s.created, s.problem FROM mull_submit(part->'items') s;
        before := before + jsonb_array_length(part->'items');
    END LOOP;
END $$;
