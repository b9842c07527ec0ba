-- Customers or teams, each with keys of its own. The row of a removed one stays until all that was its own is gone; its
-- names are free at once. A limit that is null is none; sizes are in bytes.
CREATE TABLE IF NOT EXISTS cloacina_tenants (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    username text,
    created_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz,
    max_running_tasks bigint,
    max_pending_executions bigint DEFAULT 10000,
    max_package_bytes bigint,
    max_log_bytes bigint,
    max_scratch_bytes bigint DEFAULT 1073741824,
    retention_seconds bigint DEFAULT 7776000,
    paths jsonb NOT NULL DEFAULT '{}'
);
-- Two names that differ only in case are one to a person.
CREATE UNIQUE INDEX IF NOT EXISTS cloacina_tenants_by_name ON cloacina_tenants (lower(name COLLATE "C")) WHERE removed_at IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS cloacina_tenants_by_username
    ON cloacina_tenants (lower(username COLLATE "C")) WHERE removed_at IS NULL;
CREATE INDEX IF NOT EXISTS cloacina_tenants_by_creation
    ON cloacina_tenants (created_at DESC, id DESC) WHERE removed_at IS NULL;
CREATE INDEX IF NOT EXISTS cloacina_tenants_removed ON cloacina_tenants (removed_at) WHERE removed_at IS NOT NULL;

-- Whose key it is; null: the server's, or that of a tenant which does not exist here. A tenant's key has its name in
-- `tenant_id` too, by which servers of earlier releases shut it out. It has to hold any of them.
DO $$
BEGIN
    IF (SELECT atttypid FROM pg_attribute
        WHERE attrelid = 'api_keys'::regclass AND attname = 'tenant_id' AND NOT attisdropped) <> 'text'::regtype THEN
        ALTER TABLE api_keys ALTER COLUMN tenant_id TYPE text USING tenant_id::text;
    END IF;
END
$$;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS tenant uuid REFERENCES cloacina_tenants (id);
CREATE INDEX IF NOT EXISTS api_keys_by_tenant
    ON api_keys (tenant, LEAST(GREATEST(created_at, '1970-01-01T00:00:00Z'), '9999-12-31T23:59:59Z') DESC, id DESC);

-- Keys that a later original made for a tenant become that tenant's, with the permission that they had. Of names that
-- differ only in case, the one of the oldest key counts; keys of the others, and of names that no tenant can have, stay
-- shut out.
INSERT INTO cloacina_tenants (id, name)
    SELECT DISTINCT ON (lower(tenant_id COLLATE "C")) gen_random_uuid(), tenant_id FROM api_keys
    WHERE tenant_id COLLATE "C" ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$'
      AND lower(tenant_id COLLATE "C") NOT IN ('public', 'information_schema', 'postgres', 'none', 'cloacina_views',
                                               lower(current_user), lower(session_user), lower(current_schema()))
      AND lower(tenant_id COLLATE "C") !~ '^(pg_|cloacina_removed_)'
    ORDER BY lower(tenant_id COLLATE "C"), created_at, tenant_id
    ON CONFLICT DO NOTHING;
UPDATE api_keys SET tenant = cloacina_tenants.id FROM cloacina_tenants
    WHERE tenant_id = cloacina_tenants.name AND removed_at IS NULL;

-- The channel on which servers tell each other of changes. Any role may send on a channel whose name it knows.
CREATE TABLE IF NOT EXISTS cloacina_notifications (channel text NOT NULL);
INSERT INTO cloacina_notifications
    SELECT 'cloacina_' || replace(gen_random_uuid()::text, '-', '') WHERE NOT EXISTS (SELECT FROM cloacina_notifications);
