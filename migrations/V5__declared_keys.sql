-- Whether a file of `cloacinactl keys apply` made the row; such files change and revoke no others.
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS declared boolean NOT NULL DEFAULT false;
