-- The chain over what people changed: an entry for each such event, with the hash of the entry before it and of the
-- event itself (functions/audit.sql). Neither the entries nor the events are ever changed.
CREATE TABLE audit_chain (
    n bigint PRIMARY KEY,                    -- 1, 2, 3 … without a gap
    event bigint NOT NULL UNIQUE,
    hash bytea NOT NULL
);

-- Events that have no entry yet.
CREATE TABLE audit_pending (
    event bigint PRIMARY KEY
);
