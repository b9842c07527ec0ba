-- Tables of later servers have these columns, and say by them which keys are a tenant's: those with a tenant, and those
-- with `admin` that are not `is_admin`. Where we add `is_admin`, null is for rows of servers that do not know the column:
-- there `permissions` alone decides, as it did. Where it is there already, null was no admin and stays none.
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS tenant_id text;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'api_keys'::regclass AND attname = 'is_admin' AND NOT attisdropped) THEN
        ALTER TABLE api_keys ADD COLUMN is_admin boolean;
        RETURN;
    END IF;
    -- An earlier release of this server may have adopted the table: what it made stays what it is. Its rows have a prefix
    -- or are declared, and so they are told from others' only if the columns for that were its own, not made just now.
    IF EXISTS (SELECT FROM refinery_schema_history
               WHERE version = 6 AND xmin::text <> pg_current_xact_id()::xid::text) THEN
        WITH RECURSIVE own AS (
            SELECT id FROM api_keys WHERE (prefix IS NOT NULL OR declared) AND rotated_from IS NULL
            UNION
            SELECT api_keys.id FROM api_keys JOIN own ON api_keys.rotated_from = own.id
        )
        UPDATE api_keys SET is_admin = true
            WHERE permissions = 'admin' AND is_admin IS NOT TRUE AND tenant_id IS NULL AND id IN (SELECT id FROM own);
    END IF;
    UPDATE api_keys SET is_admin = false WHERE is_admin IS NULL;
    ALTER TABLE api_keys ALTER COLUMN is_admin SET DEFAULT false, ALTER COLUMN is_admin SET NOT NULL;
END
$$;
