-- Jobs that are submitted by the clock.

-- The first moment after p_after that a schedule names: f has "minute", "hour", "dom", "month", "dow" (0 Sunday), lists of
-- numbers, and "hour_any", "dom_any", "dow_any" where the field was a star. As in cron, a day must match both day
-- fields, but either when both are given. A time of day that summer time skips comes as much later, one that it repeats comes
-- once; schedules for every hour follow the clock on the wall and skip or repeat nothing. NULL: never in twelve years.
CREATE FUNCTION mull__cron_next(f jsonb, p_tz text, p_after timestamptz) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    d date := (p_after AT TIME ZONE p_tz)::date - 1;
    best timestamptz;
    on_dom boolean;
    on_dow boolean;
BEGIN
    FOR k IN 0 .. 4400 LOOP
        d := d + 1;
        CONTINUE WHEN NOT f->'month' @> to_jsonb(extract(month FROM d)::int);
        on_dom := f->'dom' @> to_jsonb(extract(day FROM d)::int);
        on_dow := f->'dow' @> to_jsonb(extract(dow FROM d)::int);
        CONTINUE WHEN NOT CASE WHEN (f->>'dom_any')::boolean OR (f->>'dow_any')::boolean THEN on_dom AND on_dow
                               ELSE on_dom OR on_dow END;
        SELECT min(t) INTO best
          FROM (SELECT d + make_interval(hours => h::int, mins => m::int) AS wall
                  FROM jsonb_array_elements_text(f->'hour') h, jsonb_array_elements_text(f->'minute') m) w,
               LATERAL (SELECT wall AT TIME ZONE p_tz + o AS t, o
                          FROM unnest('{0,-1 hour,1 hour,-30 min,30 min}'::interval[]) o) c
         WHERE t > p_after AND CASE WHEN (f->>'hour_any')::boolean THEN t AT TIME ZONE p_tz = wall ELSE o = '0' END;
        IF best IS NOT NULL THEN RETURN best; END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- Makes or changes a schedule. problem is NULL or says why not.
CREATE FUNCTION mull_cron_set(p_team text, p_name text, p_user text, p_schedule text, p_tz text, p_fields jsonb,
                              p_item jsonb, p_no_overlap boolean)
RETURNS TABLE (problem text, created boolean, next_at text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    at timestamptz;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_timezone_names WHERE lower(name) = lower(p_tz)) THEN
        problem := 'tz: there is no time zone ' || p_tz || '; give a name such as UTC or Europe/Berlin';
        RETURN NEXT; RETURN;
    END IF;
    at := mull__cron_next(p_fields, p_tz, clock_timestamp());
    IF at IS NULL THEN
        problem := 'schedule: no day of the coming years matches it';
        RETURN NEXT; RETURN;
    END IF;
    INSERT INTO app_user (name) VALUES (p_user) ON CONFLICT DO NOTHING;
    INSERT INTO team (name) VALUES (p_team) ON CONFLICT DO NOTHING;
    created := NOT EXISTS (SELECT 1 FROM cron WHERE team = p_team AND name = p_name);
    INSERT INTO cron AS c (team, name, "user", schedule, tz, fields, item, no_overlap, next_at)
    VALUES (p_team, p_name, p_user, p_schedule, p_tz, p_fields, p_item, p_no_overlap, at)
        ON CONFLICT (team, name) DO UPDATE SET "user" = EXCLUDED."user", schedule = EXCLUDED.schedule, tz = EXCLUDED.tz,
           fields = EXCLUDED.fields, item = EXCLUDED.item, no_overlap = EXCLUDED.no_overlap, next_at = EXCLUDED.next_at,
           last_problem = '';
    PERFORM mull__event(p_user, CASE WHEN created THEN 'cron_add' ELSE 'cron_set' END, NULL, NULL, NULL,
                        jsonb_build_object('team', p_team, 'name', p_name, 'schedule', p_schedule, 'tz', p_tz));
    next_at := mull__time(at);
    RETURN NEXT;
END $$;

-- p_team '' = all.
CREATE FUNCTION mull_cron_list(p_team text) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('cron', COALESCE(json_agg(json_build_object(
        'name', c.name, 'team', c.team, 'user', c."user", 'schedule', c.schedule, 'tz', c.tz, 'kind', c.item->>'kind',
        'no_overlap', c.no_overlap, 'next_at', mull__time(c.next_at), 'last_at', mull__time(c.last_at),
        'last_job', c.last_job::text, 'last_problem', c.last_problem) ORDER BY c.team, c.name), '[]'))
      FROM cron c WHERE p_team = '' OR c.team = p_team
$$;

CREATE FUNCTION mull_cron_rm(p_team text, p_name text, p_actor text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM cron WHERE team = p_team AND name = p_name;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM mull__event(p_actor, 'cron_rm', NULL, NULL, NULL, jsonb_build_object('team', p_team, 'name', p_name));
    RETURN true;
END $$;

-- Submits what is due and moves each schedule on, in one transaction under the term; the job's key names the moment,
-- so no moment has two jobs. Of several that were missed the first is made up for. The ids of the new jobs.
CREATE FUNCTION mull_cron_fire(p_term bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    c cron%ROWTYPE;
    r record;
BEGIN
    PERFORM mull__read_term(p_term);
    IF NOT EXISTS (SELECT 1 FROM cron WHERE next_at <= clock_timestamp()) THEN RETURN; END IF;
    PERFORM mull__check_term(p_term);
    FOR c IN SELECT * FROM cron WHERE next_at <= clock_timestamp() ORDER BY next_at, team, name FOR UPDATE LOOP
        UPDATE cron SET next_at = mull__cron_next(c.fields, c.tz, greatest(c.next_at, clock_timestamp())), last_at = c.next_at
         WHERE team = c.team AND name = c.name;
        IF c.no_overlap AND EXISTS (SELECT 1 FROM job WHERE id = c.last_job AND NOT mull__terminal(state)) THEN
            UPDATE cron SET last_problem = 'left out at ' || mull__time(c.next_at) || ': job ' || c.last_job
                                           || ' has not ended' WHERE team = c.team AND name = c.name;
            CONTINUE;
        END IF;
        SELECT * INTO r FROM mull_submit(jsonb_build_array(c.item || jsonb_build_object('key',
            'cron ' || c.name || ' ' || mull__time(c.next_at))));
        UPDATE cron SET last_job = COALESCE(r.id, last_job), last_problem = COALESCE(r.problem, '')
         WHERE team = c.team AND name = c.name;
        PERFORM mull__event('scheduler', 'cron_fire', r.id, NULL, NULL,
                            jsonb_build_object('team', c.team, 'name', c.name, 'at', mull__time(c.next_at)));
        IF r.created THEN RETURN NEXT r.id; END IF;
    END LOOP;
END $$;
