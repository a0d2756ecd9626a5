-- aftercorr: each task of an array after the task of another array that has its index. The dependency of such an array is
-- kept as aftercorr:THE OTHER:ITSELF, so that the text alone says whether it is met: when a task of the other has
-- completed whose partner has no row yet. Of jobs that are no arrays, and after such jobs, it means afterok.

ALTER TABLE job_array ADD COLUMN corr bigint; -- the array whose tasks its own come after
CREATE INDEX job_array_corr ON job_array (corr) WHERE corr IS NOT NULL;

-- Positions of an array's tasks that have no row and whose partners have completed, the first p_count.
CREATE FUNCTION mull__corr_ready(a job_array, p_count int) RETURNS SETOF int LANGUAGE sql STABLE AS $$
    SELECT mull__array_pos(a, t.array_index) AS pos
      FROM job t
     WHERE t.array_job = a.corr AND t.state = 'COMPLETED' AND mull__array_pos(a, t.array_index) IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM job u WHERE u.array_job = a.job AND u.array_index = t.array_index)
     ORDER BY t.array_index LIMIT p_count
$$;

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
CREATE OR REPLACE FUNCTION mull__dependency(p_depends text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_depends LIKE 'checkpoint:%' THEN 'wait'
                WHEN p_depends LIKE 'aftercorr:%' THEN mull__dependency_corr(p_depends)
                ELSE mull__dependency_jobs(p_depends) END
$$;

-- A new array that comes after another: the pair is noted.
CREATE FUNCTION mull__array_corr() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    other bigint;
BEGIN
    SELECT split_part(depends, ':', 2)::bigint INTO other FROM job WHERE id = NEW.job AND depends LIKE 'aftercorr:%';
    IF other IS NOT NULL AND EXISTS (SELECT 1 FROM job_array WHERE job = other) THEN
        NEW.corr := other;
        UPDATE job SET depends = 'aftercorr:' || other || ':' || NEW.job WHERE id = NEW.job;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER array_corr BEFORE INSERT ON job_array FOR EACH ROW EXECUTE FUNCTION mull__array_corr();

CREATE OR REPLACE FUNCTION mull__array_tasks(p_job bigint, p_array bigint) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE
    a job_array%ROWTYPE;
    busy int := 0;
    most int;
BEGIN
    SELECT * INTO a FROM job_array WHERE job = p_array;
    IF p_job <> p_array THEN
        IF a.lim IS NULL THEN RETURN 1; END IF;
        SELECT count(*) INTO busy FROM job t WHERE t.array_job = p_array AND t.state = 'RUNNING';
        RETURN (busy < a.lim)::int;
    END IF;
    most := a.total - a.made;
    IF a.lim IS NOT NULL THEN
        SELECT count(*) INTO busy FROM job t WHERE t.array_job = p_array AND t.state IN ('PENDING', 'RUNNING') AND NOT t.hold;
        most := greatest(0, least(most, a.lim - busy));
    END IF;
    -- Nobody starts more at once than one statement takes.
    IF a.corr IS NOT NULL AND most > 0 THEN SELECT count(*) INTO most FROM mull__corr_ready(a, least(most, 512)); END IF;
    RETURN most;
END $$;

CREATE OR REPLACE FUNCTION mull__array_make(p_array bigint, p_count int) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    a job_array%ROWTYPE;
    n int;
    pos int[];
BEGIN
    SELECT * INTO a FROM job_array WHERE job = p_array FOR UPDATE;
    IF NOT FOUND OR a.closed OR NOT EXISTS (SELECT 1 FROM job WHERE id = p_array AND state = 'PENDING' AND NOT hold) THEN
        RETURN;
    END IF;
    n := least(p_count, a.total - a.made,
               a.lim - (SELECT count(*) FROM job t WHERE t.array_job = p_array AND t.state IN ('PENDING', 'RUNNING')
                                                     AND NOT t.hold)::int);
    IF n <= 0 THEN RETURN; END IF;
    IF a.corr IS NULL THEN
        SELECT array_agg(p ORDER BY p) INTO pos
          FROM (SELECT p FROM generate_series(a.next_pos, least(a.total, a.made + n) - 1) p
                 WHERE NOT EXISTS (SELECT 1 FROM job t WHERE t.array_job = p_array
                                      AND t.array_index = mull__array_index(a.los, a.steps, a.starts, p))
                 ORDER BY p LIMIT n) s;
    ELSE
        SELECT array_agg(p ORDER BY p) INTO pos FROM mull__corr_ready(a, n) p;
    END IF;
    IF pos IS NULL THEN RETURN; END IF;
    UPDATE job_array SET made = made + cardinality(pos),
                         next_pos = CASE WHEN a.corr IS NULL THEN pos[cardinality(pos)] + 1 ELSE next_pos END
     WHERE job = p_array;
    UPDATE job SET started_at = COALESCE(started_at, clock_timestamp()),
                   state = CASE WHEN a.made + cardinality(pos) = a.total THEN 'RUNNING' ELSE state END,
                   reason = CASE WHEN a.made + cardinality(pos) = a.total THEN '' ELSE reason END
     WHERE id = p_array;
    RETURN QUERY SELECT * FROM mull__array_rows(a, pos);
END $$;

-- An array whose last partners will never complete: its tasks without a row never get one, those that run go on.
ALTER FUNCTION mull_cancel_unmeetable(bigint, bigint[]) RENAME TO mull__cancel_unmeetable;
CREATE FUNCTION mull_cancel_unmeetable(p_term bigint, p_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    b bigint;
    plain bigint[];
BEGIN
    PERFORM mull__check_term(p_term);
    FOR b IN SELECT r.job FROM job_array r JOIN job j ON j.id = r.job
              WHERE r.job = ANY (p_ids) AND r.corr IS NOT NULL AND r.made > 0 AND j.state = 'PENDING'
                AND mull__dependency(j.depends) = 'never' ORDER BY r.job LOOP
        UPDATE job_array SET closed = true WHERE job = b;
        UPDATE job SET state = 'RUNNING', reason = '',
                       message = 'tasks whose partners in job ' || split_part(depends, ':', 2) || ' did not complete were left out'
         WHERE id = b;
        PERFORM mull__event('scheduler', 'cancel', b, NULL, NULL, '{"why": "the rest of its partners did not complete"}');
        PERFORM mull__array_finish(b);
    END LOOP;
    SELECT array_agg(x) INTO plain FROM unnest(p_ids) x
     WHERE NOT EXISTS (SELECT 1 FROM job_array r WHERE r.job = x AND r.corr IS NOT NULL AND r.made > 0);
    IF plain IS NOT NULL THEN PERFORM mull__cancel_unmeetable(p_term, plain); END IF;
END $$;
