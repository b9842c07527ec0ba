ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS prefix text;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS expires_at timestamptz;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS last_used_at timestamptz;

-- For adopted tables: lookups and pages must not depend on which indexes the older server made.
CREATE UNIQUE INDEX IF NOT EXISTS api_keys_by_hash ON api_keys (key_hash);
CREATE UNIQUE INDEX IF NOT EXISTS api_keys_by_id ON api_keys (id);
CREATE INDEX IF NOT EXISTS api_keys_newest_first ON api_keys (created_at DESC, id DESC);
