-- What may be thrown away once it is old: lines of logs, points of metrics and samples of evaluations of jobs that ended
-- long ago, deliveries of webhooks that were received or given up. Jobs, runs, figures, checkpoints and the audit stay.
-- At most p_limit rows of one kind a call, so that no transaction is long. The number of rows; p_dry: that there are.
CREATE FUNCTION mull_retain(p_what text, p_days int, p_limit int, p_dry boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before timestamptz := clock_timestamp() - p_days * interval '1 day';
    old constant text := '(SELECT id FROM job WHERE ended_at < $1)';
    rows_of text := CASE p_what
        WHEN 'logs' THEN 'job_log t WHERE t.job IN ' || old
        WHEN 'metrics' THEN 'metric t WHERE t.run IN (SELECT r.id FROM run r WHERE r.job IN ' || old || ')'
        WHEN 'samples' THEN 'eval_result t WHERE t.sample >= 0 AND t.job IN ' || old
        WHEN 'deliveries' THEN 'webhook_delivery t WHERE COALESCE(t.delivered_at, t.dead_at) < $1' END;
    n bigint;
BEGIN
    IF rows_of IS NULL OR p_days < 1 THEN
        RAISE EXCEPTION 'nothing to throw away: % older than % days', p_what, p_days;
    END IF;
    IF p_dry THEN
        EXECUTE 'SELECT count(*) FROM ' || rows_of INTO n USING before;
    ELSE
        EXECUTE format('DELETE FROM %s WHERE ctid = ANY (ARRAY(SELECT t.ctid FROM %s LIMIT $2))',
                       split_part(rows_of, ' ', 1), rows_of) USING before, p_limit;
        GET DIAGNOSTICS n = ROW_COUNT;
    END IF;
    RETURN n;
END $$;
