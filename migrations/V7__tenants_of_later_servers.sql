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
    -- of ours or are declared, and are no older than the columns for that. Those columns come after what was adopted; else
    -- they are the other server's own and say nothing. One row too few can be made anew, one too many is an elevation.
    IF EXISTS (SELECT FROM refinery_schema_history
               WHERE version = 6 AND xmin::text <> pg_current_xact_id()::xid::text)
       AND (SELECT min(attnum) FILTER (WHERE attname IN ('prefix', 'declared')) > min(attnum) FILTER (WHERE attname = 'is_admin')
            FROM pg_attribute WHERE attrelid = 'api_keys'::regclass AND NOT attisdropped) THEN
        WITH RECURSIVE own AS (
            SELECT id FROM api_keys
                WHERE (prefix LIKE 'clk\_%' AND length(prefix) = 12 OR declared) AND rotated_from IS NULL
                -- The one is by the server's clock, the other by the database's.
                AND created_at >= (SELECT applied_on::timestamptz FROM refinery_schema_history WHERE version = 2)
                                  - interval '5 min'
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
