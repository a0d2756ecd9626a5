-- Quotas of teams beside the one of GPUs: functions/quotas.sql says what counts. NULL: none.
ALTER TABLE team
    ADD COLUMN max_pending bigint CHECK (max_pending >= 0), -- jobs that wait, each task of an array one of them
    ADD COLUMN max_spec bigint CHECK (max_spec >= 0),       -- bytes of a job's spec
    ADD COLUMN max_log bigint CHECK (max_log >= 0),         -- bytes of the log of an attempt
    ADD COLUMN max_stored bigint CHECK (max_stored >= 0);   -- bytes of uploads and published checkpoints

-- What of arrays is counted at each submit to a team with a quota.
CREATE INDEX job_array_open ON job_array (job) WHERE made < total AND NOT closed;
