-- A key that was rotated keeps what its successors need to know, since a grace shortens its own expiry.
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS rotated_from uuid;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS rotated_at timestamptz;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS lifetime interval;
