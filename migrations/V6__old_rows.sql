-- Rows of older servers may lack what every key has, or have moments that no RFC 3339 can write.
UPDATE api_keys SET name = '' WHERE name IS NULL;
UPDATE api_keys SET created_at = 'epoch'
    WHERE created_at IS NULL OR created_at < 'epoch' OR created_at >= '10000-01-01T00:00:00Z';
