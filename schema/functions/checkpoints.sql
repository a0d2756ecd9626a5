-- Checkpoints: shown, pinned, removed.

CREATE FUNCTION mull__checkpoint_json(c checkpoint) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'id', c.id::text, 'job', c.job::text, 'attempt', c.attempt, 'path', c.path, 'step', c.step, 'bytes', c.bytes,
        'sha256', c.sha256, 'state', c.state, 'pinned', c.pinned,
        -- Evaluations of it are metrics of the run at its step.
        'metrics', c.metrics || COALESCE((
            SELECT jsonb_object_agg(m.key, m.value) FROM run r JOIN metric m ON m.run = r.id
             WHERE r.job = c.job AND m.key >= 'eval/' AND m.key < 'eval0' AND m.step = c.step), '{}'),
        'created_at', mull__time(c.created_at), 'removed_at', mull__time(c.removed_at), 'removed_by', c.removed_by)
$$;

-- Newest first: ids below p_before (0 = from the top). p_job 0, p_team '' and p_state '' = any.
CREATE FUNCTION mull_checkpoints(p_team text, p_job bigint, p_state text, p_before bigint, p_limit int)
RETURNS json LANGUAGE sql STABLE AS $$
    WITH page AS (
        SELECT c FROM checkpoint c JOIN job j ON j.id = c.job
         WHERE (p_team = '' OR j.team = p_team) AND (p_job = 0 OR c.job = p_job) AND (p_state = '' OR c.state = p_state)
           AND (p_before = 0 OR c.id < p_before)
         ORDER BY c.id DESC LIMIT p_limit)
    SELECT json_build_object(
        'checkpoints', COALESCE((SELECT json_agg(mull__checkpoint_json(c) ORDER BY (c).id DESC) FROM page), '[]'),
        'next_cursor', (SELECT CASE WHEN count(*) = p_limit THEN min((c).id)::text END FROM page))
$$;

CREATE FUNCTION mull_checkpoint_show(p_id bigint, p_team text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT mull__checkpoint_json(c) || jsonb_build_object(
        'files', c.files, 'name', j.name, 'kind', j.kind, 'team', j.team, 'user', j."user",
        'hashes', (SELECT r.hashes FROM run r WHERE r.job = c.job),
        -- What began with it.
        'runs', COALESCE((SELECT jsonb_agg(r.job::text ORDER BY r.job) FROM run r WHERE r.parent_checkpoint = c.id), '[]'))
      FROM checkpoint c JOIN job j ON j.id = c.job WHERE c.id = p_id AND (p_team = '' OR j.team = p_team)
$$;

-- Why this checkpoint should stay, NULL when nothing speaks for it. Jobs of other teams may have begun with it.
CREATE FUNCTION mull__checkpoint_needed(c checkpoint) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
    other text;
    best text;
BEGIN
    IF c.pinned THEN RETURN 'it is pinned'; END IF;
    SELECT string_agg(r.job::text, ', ' ORDER BY r.job) INTO other
      FROM run r JOIN job j ON j.id = r.job WHERE r.parent_checkpoint = c.id AND NOT mull__terminal(j.state);
    IF other IS NOT NULL THEN RETURN 'a job that has not ended began with it: ' || other; END IF;
    SELECT string_agg(j.id::text, ', ' ORDER BY j.id) INTO other
      FROM job_follow_child x JOIN job j ON j.id = x.job WHERE x.checkpoint = c.id AND NOT mull__terminal(j.state);
    IF other IS NOT NULL THEN RETURN 'a job that evaluates it has not ended: ' || other; END IF;
    IF NOT EXISTS (SELECT 1 FROM checkpoint o WHERE o.job = c.job AND o.id <> c.id AND o.state = 'PUBLISHED') THEN
        RETURN 'it is the only one that job ' || c.job || ' has';
    END IF;
    IF EXISTS (SELECT 1 FROM job j WHERE j.id = c.job AND NOT mull__terminal(j.state))
       AND NOT EXISTS (SELECT 1 FROM checkpoint o WHERE o.job = c.job AND o.state = 'PUBLISHED' AND o.step > c.step) THEN
        RETURN 'job ' || c.job || ' would go on from it';
    END IF;
    SELECT r.config->>'metric_for_best_model' INTO best FROM run r WHERE r.job = c.job;
    IF best = 'loss' AND c.metrics ? 'loss_mean' AND NOT EXISTS (
        SELECT 1 FROM checkpoint o WHERE o.job = c.job AND o.id <> c.id AND o.state = 'PUBLISHED'
           AND (o.metrics->>'loss_mean')::float8 < (c.metrics->>'loss_mean')::float8) THEN
        RETURN 'it is the best one of job ' || c.job || ' (metric_for_best_model: loss)';
    END IF;
    RETURN NULL;
END $$;

-- remove, pin or unpin asked by a user. Removing says that the files may go; whoever asked takes them away.
CREATE FUNCTION mull_checkpoint_action(p_id bigint, p_op text, p_team text, p_actor text, p_force boolean)
RETURNS TABLE (known boolean, ok boolean, state text, path text, message text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    c checkpoint%ROWTYPE;
BEGIN
    SELECT x.* INTO c FROM checkpoint x JOIN job j ON j.id = x.job
     WHERE x.id = p_id AND (p_team = '' OR j.team = p_team) FOR UPDATE OF x;
    known := c.id IS NOT NULL;
    ok := false;
    IF NOT known THEN RETURN NEXT; RETURN; END IF;
    state := c.state;
    path := c.path;
    IF p_op = 'remove' THEN
        -- Two removals at once must not each see the other's checkpoint stay.
        PERFORM 1 FROM checkpoint x WHERE x.job = c.job ORDER BY x.id FOR UPDATE;
        IF c.state = 'REMOVED' THEN
            ok := true;
            message := 'it was removed before';
            RETURN NEXT; RETURN;
        END IF;
        message := mull__checkpoint_needed(c);
        IF message IS NOT NULL AND NOT p_force THEN RETURN NEXT; RETURN; END IF;
        UPDATE checkpoint SET state = 'REMOVED', removed_at = clock_timestamp(), removed_by = p_actor WHERE id = p_id;
        state := 'REMOVED';
    ELSIF c.state = 'REMOVED' THEN
        message := 'it was removed';
        RETURN NEXT; RETURN;
    ELSE
        UPDATE checkpoint SET pinned = (p_op = 'pin') WHERE id = p_id;
    END IF;
    ok := true;
    PERFORM mull__event(p_actor, 'checkpoint_' || p_op, c.job, NULL, NULL,
                        jsonb_build_object('checkpoint', c.id, 'path', c.path, 'force', p_force));
    RETURN NEXT;
END $$;

CREATE FUNCTION mull__checkpoint_gone() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM mull_job_action(x.job, 'cancel', 'scheduler: its checkpoint was removed', '')
       FROM job_follow_child x JOIN job j ON j.id = x.job
      WHERE x.checkpoint = NEW.id AND j.state = 'PENDING' AND j.started_at IS NULL;
    RETURN NULL;
END $$;
