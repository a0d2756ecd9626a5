-- Webhooks: the outbox, who is told, and what became of it.

-- Tasks of an array are not told one by one: the array's own changes are.
CREATE FUNCTION mull__webhook_write(was text, j job) RETURNS void LANGUAGE sql AS $$
    INSERT INTO webhook_delivery (webhook, body)
    SELECT w.id, jsonb_build_object(
        'type', 'job.' || lower(j.state), 'timestamp', mull__time(clock_timestamp()),
        'data', jsonb_build_object('id', j.id::text, 'name', j.name, 'kind', j.kind, 'team', j.team, 'user', j."user",
            'state', j.state, 'previous_state', was, 'reason', j.reason, 'attempt', j.attempt, 'node', j.node,
            'exit', j.exit_code, 'message', left(j.message, 2000), 'submitted_at', mull__time(j.submitted_at),
            'started_at', mull__time(j.started_at), 'ended_at', mull__time(j.ended_at)))::text
      FROM webhook w
     WHERE (w.team IS NULL OR w.team = j.team) AND w.disabled_at IS NULL AND (w.states = '{}' OR j.state = ANY (w.states))
$$;

-- For a team's people, who see no webhooks.
CREATE FUNCTION mull__webhook_write_for(was text, j job) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
    SELECT mull__webhook_write(was, j)
$$;

-- Every change of every job comes by here, thousands a second: rights are changed only where that is needed.
CREATE FUNCTION mull__webhook_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_user = 'mull_front' THEN
        PERFORM mull__webhook_write_for(OLD.state, NEW);
    ELSIF EXISTS (SELECT 1 FROM webhook) THEN
        PERFORM mull__webhook_write(OLD.state, NEW);
    END IF;
    RETURN NULL;
END $$;

-- p_team '' = jobs of every team. problem is NULL or says why not.
CREATE FUNCTION mull_webhook_add(p_team text, p_url text, p_secret text, p_states text, p_note text, p_actor text)
RETURNS TABLE (problem text, id bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF p_team = 'default' THEN
        INSERT INTO team (name) VALUES (p_team) ON CONFLICT DO NOTHING;
    ELSIF p_team <> '' AND NOT EXISTS (SELECT 1 FROM team WHERE name = p_team) THEN
        problem := 'there is no team ' || p_team || '; mull team add makes one';
        RETURN NEXT;
        RETURN;
    END IF;
    IF (SELECT count(*) FROM webhook WHERE team IS NOT DISTINCT FROM nullif(p_team, '')) >= 20 THEN
        problem := 'there are 20 webhooks already; remove one first';
        RETURN NEXT;
        RETURN;
    END IF;
    INSERT INTO webhook AS w (team, url, secret, states, note, created_by)
    VALUES (nullif(p_team, ''), p_url, p_secret, p_states::text[], p_note, p_actor) RETURNING w.id INTO id;
    PERFORM mull__event(p_actor, 'webhook_add', NULL, NULL, NULL, jsonb_build_object('id', id, 'team', p_team, 'url', p_url));
    RETURN NEXT;
END $$;

CREATE FUNCTION mull_webhooks() RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('webhooks', COALESCE(json_agg(json_build_object(
        'id', w.id::text, 'team', COALESCE(w.team, ''), 'url', w.url, 'states', w.states, 'note', w.note,
        'created_by', w.created_by, 'created_at', mull__time(w.created_at), 'disabled_at', mull__time(w.disabled_at),
        'last_status', w.last_status, 'last_error', w.last_error,
        'waiting', (SELECT count(*) FROM webhook_delivery d WHERE d.webhook = w.id AND d.delivered_at IS NULL AND d.dead_at IS NULL))
        ORDER BY w.id), '[]')) FROM webhook w
$$;

CREATE FUNCTION mull_webhook_rm(p_id bigint, p_actor text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    whose text;
BEGIN
    DELETE FROM webhook WHERE id = p_id RETURNING url INTO whose;
    IF whose IS NOT NULL THEN
        PERFORM mull__event(p_actor, 'webhook_rm', NULL, NULL, NULL, jsonb_build_object('id', p_id, 'url', whose));
    END IF;
    RETURN whose;
END $$;

-- Something to receive, now. The delivery's id; NULL: no such webhook.
CREATE FUNCTION mull_webhook_test(p_id bigint, p_actor text) RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO webhook_delivery (webhook, body)
    SELECT id, jsonb_build_object('type', 'webhook.test', 'timestamp', mull__time(clock_timestamp()),
                                  'data', jsonb_build_object('webhook', id::text, 'asked_by', p_actor))::text
      FROM webhook WHERE id = p_id RETURNING id
$$;

-- The newest deliveries of one.
CREATE FUNCTION mull_webhook_log(p_id bigint, p_limit int) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN EXISTS (SELECT 1 FROM webhook WHERE id = p_id) THEN json_build_object('deliveries', COALESCE((
        SELECT json_agg(json_build_object('id', id::text, 'type', body::jsonb->>'type', 'job', body::jsonb->'data'->>'id',
                   'created_at', mull__time(created_at), 'attempts', attempts, 'status', last_status, 'error', last_error,
                   'delivered_at', mull__time(delivered_at), 'given_up_at', mull__time(dead_at),
                   'next_at', CASE WHEN delivered_at IS NULL AND dead_at IS NULL THEN mull__time(next_at) END) ORDER BY id DESC)
          FROM (SELECT * FROM webhook_delivery WHERE webhook = p_id ORDER BY id DESC LIMIT p_limit) d), '[]')) END
$$;

-- Takes up to p_limit deliveries that are due, four at most of each webhook, none of the busy ones. They are the
-- caller's for p_lease seconds; whoever dies with some, another takes them then.
CREATE FUNCTION mull_webhook_claim(p_limit int, p_lease int, p_busy text)
RETURNS TABLE (id bigint, webhook bigint, url text, secret text, body text, attempt int) LANGUAGE sql AS $$
    WITH due AS (
        SELECT d.id FROM webhook w, LATERAL (
            SELECT id, next_at FROM webhook_delivery WHERE webhook = w.id AND delivered_at IS NULL AND dead_at IS NULL
               AND next_at <= clock_timestamp() ORDER BY next_at LIMIT 4 FOR UPDATE SKIP LOCKED) d
         WHERE w.disabled_at IS NULL AND w.id <> ALL (p_busy::bigint[])
         ORDER BY d.next_at LIMIT p_limit)
    UPDATE webhook_delivery t SET attempts = t.attempts + 1, next_at = clock_timestamp() + p_lease * interval '1 second'
      FROM due, webhook w WHERE t.id = due.id AND w.id = t.webhook
    RETURNING t.id, w.id, w.url, w.secret, t.body, t.attempts
$$;

-- How an attempt ended: p_status of HTTP, or 0 with p_error. After ten failures over some 22 hours it is given up; 410
-- turns the webhook off.
CREATE FUNCTION mull_webhook_done(p_id bigint, p_attempt int, p_status int, p_error text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    pauses int[] := ARRAY[5, 30, 120, 600, 1800, 7200, 18000, 18000, 36000];
    good boolean := p_status BETWEEN 200 AND 299;
    hook bigint;
BEGIN
    UPDATE webhook_delivery SET last_status = nullif(p_status, 0), last_error = left(p_error, 500),
           delivered_at = CASE WHEN good THEN clock_timestamp() END,
           dead_at = CASE WHEN NOT good AND (p_status = 410 OR attempts > array_length(pauses, 1)) THEN clock_timestamp() END,
           next_at = clock_timestamp() + COALESCE(pauses[attempts], 0) * (0.8 + 0.4 * random()) * interval '1 second'
     WHERE id = p_id AND attempts = p_attempt AND delivered_at IS NULL RETURNING webhook INTO hook;
    IF hook IS NULL THEN RETURN; END IF;
    UPDATE webhook SET last_status = nullif(p_status, 0), last_error = left(p_error, 500),
           disabled_at = CASE WHEN p_status = 410 THEN clock_timestamp() ELSE disabled_at END WHERE id = hook;
    IF p_status = 410 THEN
        PERFORM mull__event('scheduler', 'webhook_off', NULL, NULL, NULL, jsonb_build_object('id', hook, 'status', 410));
    END IF;
END $$;
