-- Tracking: runs, their metrics and checkpoints, what evaluations came to, and jobs that follow checkpoints. A run is
-- called by its job's id everywhere outside the database.

CREATE TABLE run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job bigint UNIQUE REFERENCES job (id) ON DELETE CASCADE,
    config jsonb NOT NULL DEFAULT '{}',
    hashes jsonb NOT NULL DEFAULT '{}',      -- content of model, data, config; version of the code
    seed bigint,
    parent_checkpoint bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt int,                             -- the last one that described it
    parent_path text,                        -- folder of the first weights; parent_checkpoint when it is one of ours
    resumed_path text                        -- what that attempt went on from
);
CREATE INDEX run_parent ON run (parent_checkpoint) WHERE parent_checkpoint IS NOT NULL;

-- No foreign key: it costs a look-up a point, a third of all; the run of a point is looked up once a line, and the
-- trigger run_deleted removes points with their run. Keys compare as bytes.
CREATE TABLE metric (
    run bigint NOT NULL,
    job bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    step bigint NOT NULL,
    value float8 NOT NULL,
    at timestamptz NOT NULL,
    UNIQUE (run, key, step)
);

CREATE TABLE checkpoint (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job bigint NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    attempt int NOT NULL,
    path text NOT NULL,
    step bigint NOT NULL,
    bytes bigint,
    sha256 text,
    state text NOT NULL DEFAULT 'PUBLISHED', -- PUBLISHED, REMOVED
    pinned boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    files jsonb NOT NULL DEFAULT '[]',       -- [{"name","bytes","sha256"}], all but SHA256SUMS
    metrics jsonb NOT NULL DEFAULT '{}',     -- of the step it was made at
    removed_at timestamptz,
    removed_by text,
    UNIQUE (job, path)
);
CREATE INDEX checkpoint_path ON checkpoint (path);
ALTER TABLE run ADD FOREIGN KEY (parent_checkpoint) REFERENCES checkpoint (id) ON DELETE SET NULL;

CREATE TABLE artifact (
    job bigint NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    attempt int NOT NULL,
    path text NOT NULL,
    bytes bigint,
    sha256 text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (job, attempt, path)
);

CREATE TABLE eval_result (
    job bigint NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    task text NOT NULL,
    sample bigint NOT NULL DEFAULT -1,       -- -1: of the whole task
    result jsonb NOT NULL,
    PRIMARY KEY (job, task, sample)
);

-- A job that follows another: it never runs itself, but a job is made from its item for each checkpoint of the source.
-- It is PENDING until the source and all that was made have ended.
CREATE TABLE job_follow (
    job bigint PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    source bigint NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    every bigint NOT NULL CHECK (every > 0), -- only steps that it divides
    item jsonb NOT NULL                      -- what mull_submit takes
);
CREATE INDEX job_follow_source ON job_follow (source);

CREATE TABLE job_follow_child (
    job bigint PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    follow bigint NOT NULL REFERENCES job_follow (job) ON DELETE CASCADE,
    checkpoint bigint NOT NULL REFERENCES checkpoint (id) ON DELETE CASCADE,
    UNIQUE (follow, checkpoint)
);
