-- The OpenAI-compatible interface.

-- Files and batches in OpenAI's shapes. A batch is an annotate job and a few words beside it; its state and counts are
-- read from the job, never kept twice. Ids are random texts of the front door's making.
CREATE TABLE api_file (
    id text PRIMARY KEY,                     -- file-…
    team text NOT NULL REFERENCES team (name),
    "user" text NOT NULL REFERENCES app_user (name),
    purpose text NOT NULL,                   -- batch, batch_output, …
    filename text NOT NULL,
    bytes bigint NOT NULL,
    path text NOT NULL,                      -- where the server keeps it
    model text,                              -- that its first request names
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX api_file_team ON api_file (team, created_at, id);

CREATE TABLE api_batch (
    id text PRIMARY KEY,                     -- batch_…
    job bigint NOT NULL UNIQUE REFERENCES job (id) ON DELETE CASCADE,
    endpoint text NOT NULL,
    completion_window text NOT NULL,
    input_file text NOT NULL,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    cancelling_at timestamptz,
    expired boolean NOT NULL DEFAULT false,
    output_file text,                        -- made when the job has completed
    error_file text
);
