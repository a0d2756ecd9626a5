-- Webhooks: who wants to hear of jobs, and the outbox of what they have not heard yet. A delivery is written by the
-- transaction that changes the job's state, so none can be lost and none is sent for what did not happen; it is sent
-- afterwards, at least once, by whichever scheduler claims it.
CREATE TABLE webhook (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team text REFERENCES team (name),        -- NULL: jobs of every team
    url text NOT NULL,
    secret text NOT NULL,                    -- signs what is sent, so it is kept as it is
    states text[] NOT NULL DEFAULT '{}',     -- of jobs; none: all
    note text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at timestamptz,                 -- the receiver answered 410 Gone
    last_status int,
    last_error text NOT NULL DEFAULT ''
);
CREATE TABLE webhook_delivery (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook bigint NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    body text NOT NULL,                      -- as it is signed and sent
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts int NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- the next attempt; while one is under way, when it counts as lost
    delivered_at timestamptz,
    dead_at timestamptz,                     -- given up
    last_status int,
    last_error text NOT NULL DEFAULT ''
);
CREATE INDEX webhook_due ON webhook_delivery (webhook, next_at) WHERE delivered_at IS NULL AND dead_at IS NULL;
