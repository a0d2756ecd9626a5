-- Workers of other hosts join with a token, and get a user of their own in Redis and a secret for the front door. Only
-- sums are kept: of tokens and secrets SHA-256, of the Redis password what ACL SETUSER takes, so that Redis's users can
-- be made again after it has lost everything.
CREATE TABLE node_token (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash text NOT NULL UNIQUE,
    node text, -- NULL: any name
    uses int,  -- left; NULL: any number
    note text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE TABLE node_credential (
    node text PRIMARY KEY,
    redis_sum text NOT NULL,
    secret_sum text NOT NULL UNIQUE,
    token bigint NOT NULL REFERENCES node_token (id),
    joined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at timestamptz
);
