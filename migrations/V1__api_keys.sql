-- A database that already has this table, from an older server, keeps it as it is.
CREATE TABLE IF NOT EXISTS api_keys (
    id uuid PRIMARY KEY,
    key_hash text NOT NULL UNIQUE,
    name text NOT NULL,
    permissions text NOT NULL DEFAULT 'admin',
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
