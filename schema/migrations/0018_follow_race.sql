-- A checkpoint that is published in the very moment in which its follower is submitted or released was seen by neither of
-- the two transactions. Both now take the training job's row first, so that the later one sees what the earlier did; and
-- a follower looks once more when the training job has ended.

CREATE OR REPLACE FUNCTION mull__checkpoint_followed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM job WHERE id = NEW.job FOR NO KEY UPDATE;
    PERFORM mull__follow_make(f.job) FROM job_follow f WHERE f.source = NEW.job ORDER BY f.job;
    RETURN NULL;
END $$;

ALTER FUNCTION mull__follow_make(bigint) RENAME TO mull__follow_make_seen;
CREATE FUNCTION mull__follow_make(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM job s WHERE s.id = (SELECT f.source FROM job_follow f WHERE f.job = p_job) FOR NO KEY UPDATE;
    PERFORM mull__follow_make_seen(p_job);
END $$;

ALTER FUNCTION mull__follow_settle(bigint) RENAME TO mull__follow_settle_seen;
CREATE FUNCTION mull__follow_settle(p_job bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM job_follow f JOIN job s ON s.id = f.source WHERE f.job = p_job AND mull__terminal(s.state)) THEN
        PERFORM mull__follow_make(p_job);
        PERFORM mull__follow_settle_seen(p_job);
    END IF;
END $$;
