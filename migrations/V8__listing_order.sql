-- Listings are in the order of the moments that they show, so that pages meet: rows that come later from another program
-- may have none, or one that no RFC 3339 can write.
CREATE INDEX IF NOT EXISTS api_keys_by_creation
    ON api_keys (LEAST(GREATEST(created_at, '1970-01-01T00:00:00Z'), '9999-12-31T23:59:59Z') DESC, id DESC);
DROP INDEX IF EXISTS api_keys_newest_first;
