-- The audit as a chain of hashes. Each event that a person caused has an entry in audit_chain with
-- SHA-256(hash of the entry before || the event's fields as text), so a change of an event, or one that is taken out or
-- put in, breaks the chain at that place for everybody who reads it; what cuts off its end shows where the last number
-- and hash were kept elsewhere.
--
-- Entries are made within seconds by whichever scheduler finds events without one (mull_audit_seal). Chaining inside the
-- transactions of the events would put these in a row, one commit after the other: that was tried, and halved the rate of
-- submits. Until then an event cannot be changed by the serving role either, and is noted as pending by the statement that
-- made it; one that is neither pending nor in the chain is found by verify.
--
-- Events of the life of a job (dispatch, ends of attempts …) come by the thousand and say what the machine did: they are
-- not in the chain.

CREATE FUNCTION mull__audited(kind text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT kind NOT IN ('dispatch', 'attempt_ended', 'preempted', 'poison', 'event_refused', 'stale_fence', 'node_up',
                        'node_down', 'error', 'hello', 'run_changed', 'follow_ended', 'leader', 'webhook_off', 'log_cut')
$$;

-- What is hashed of an event at place n. Microseconds, and jsonb, whose text has one form.
CREATE FUNCTION mull__audit_text(n bigint, e event) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_array(n, e.id, (extract(epoch FROM e.at) * 1000000)::bigint, e.actor, e.kind, e.job, e.attempt,
                             e.fence, e.detail)::text
$$;

-- Makes entries for pending events, at most p_most; how many. One caller at a time: another one leaves it to the first.
CREATE FUNCTION mull_audit_seal(p_most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    e event;
    last audit_chain;
    count int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(5577006791947779411) THEN RETURN 0; END IF;
    SELECT * INTO last FROM audit_chain ORDER BY n DESC LIMIT 1;
    last.n := COALESCE(last.n, 0);
    last.hash := COALESCE(last.hash, '');
    FOR e IN SELECT v.* FROM audit_pending p JOIN event v ON v.id = p.event ORDER BY p.event LIMIT p_most LOOP
        last.n := last.n + 1;
        last.hash := sha256(last.hash || convert_to(mull__audit_text(last.n, e), 'UTF8'));
        INSERT INTO audit_chain (n, event, hash) VALUES (last.n, e.id, last.hash);
        DELETE FROM audit_pending WHERE event = e.id;
        count := count + 1;
    END LOOP;
    RETURN count;
END $$;

CREATE FUNCTION mull__append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is only ever added to' USING ERRCODE = 'insufficient_privilege';
END $$;

-- Checks p_limit entries behind entry p_after. broken is NULL or says the first place that does not fit: its number, its
-- event and why. checked counts entries; n and hash are of the last one that fits; more says that entries are left.
CREATE FUNCTION mull_audit_verify(p_after bigint, p_limit int) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    r record;
    at_n bigint := p_after;
    at_event bigint := 0;
    at_hash bytea := '';
    why text;
    checked int := 0;
    stray bigint;
BEGIN
    PERFORM mull_audit_seal(p_limit);
    IF p_after > 0 THEN
        SELECT hash, event INTO at_hash, at_event FROM audit_chain WHERE n = p_after;
        IF NOT FOUND THEN
            RETURN json_build_object('checked', 0, 'n', 0, 'hash', NULL, 'more', false, 'broken', json_build_object(
                'n', p_after, 'event', NULL, 'why', 'there is no such entry'));
        END IF;
    END IF;
    FOR r IN SELECT c.n, c.event, c.hash, e FROM audit_chain c LEFT JOIN event e ON e.id = c.event
              WHERE c.n > p_after ORDER BY c.n LIMIT p_limit LOOP
        IF r.n <> at_n + 1 THEN
            why := 'entries before it are missing';
        ELSIF (r.e).id IS NULL THEN
            why := 'its event is missing';
        ELSIF r.hash <> sha256(at_hash || convert_to(mull__audit_text(r.n, r.e), 'UTF8')) THEN
            why := 'its event, or the entry before it, has been changed';
        END IF;
        IF why IS NOT NULL THEN
            RETURN json_build_object('checked', checked, 'n', at_n, 'hash', encode(at_hash, 'hex'), 'more', false,
                'broken', json_build_object('n', r.n, 'event', r.event::text, 'why', why));
        END IF;
        checked := checked + 1;
        at_n := r.n;
        at_hash := r.hash;
    END LOOP;
    -- An event that was put in beside the trigger has no entry. Those before the first entry are older than the chain.
    IF checked < p_limit THEN
        SELECT min(id) INTO stray FROM event e
         WHERE mull__audited(kind) AND id > (SELECT event FROM audit_chain ORDER BY n LIMIT 1)
           AND NOT EXISTS (SELECT 1 FROM audit_chain c WHERE c.event = e.id)
           AND NOT EXISTS (SELECT 1 FROM audit_pending p WHERE p.event = e.id);
    END IF;
    RETURN json_build_object('checked', checked, 'n', at_n, 'hash', encode(at_hash, 'hex'), 'more', checked = p_limit,
        'broken', CASE WHEN stray IS NOT NULL THEN json_build_object('n', NULL, 'event', stray::text, 'why',
            'it is in no entry of the chain') END);
END $$;

-- A change that somebody tried and was refused; p_actor is '' where the token was not known.
CREATE FUNCTION mull_refused(p_actor text, p_detail jsonb) RETURNS void LANGUAGE sql AS $$
    SELECT mull__event(p_actor, 'refused', NULL, NULL, NULL, p_detail)
$$;
