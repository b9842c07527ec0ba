-- Follows WITH RECURSIVE and the tables of postgres_link/trusted.sql. What there is of our tables, and what of it is not ours: one row. Asks the catalogs alone, so it waits for no lock
-- and works on whatever else has these names.
place AS (
    SELECT COALESCE((SELECT relnamespace FROM pg_class WHERE oid = to_regclass('api_keys')),
                    (SELECT oid FROM pg_namespace WHERE nspname = current_schema())) AS schema
), executed (relation) AS (VALUES
    -- The tables of executions: no other program's would have all their names, so their columns are not looked at.
    ('cloacina_hosts'), ('cloacina_executions'), ('cloacina_tasks'), ('cloacina_attempts'), ('cloacina_events'),
    ('cloacina_log_pieces'), ('cloacina_queue'), ('cloacina_idempotency_keys')
), wanted (relation, kind, name_of_kind) AS (VALUES
    ('api_keys', 'r', 'table'), ('auth_caches', 'r', 'table'), ('cloacina_tenants', 'r', 'table'),
    ('cloacina_notifications', 'r', 'table'),
    ('cloacina_packages', 'r', 'table'), ('cloacina_package_pieces', 'r', 'table'), ('cloacina_workflows', 'r', 'table'),
    ('refinery_schema_history', 'r', 'table'),
    ('api_key_changes', 'S', 'sequence'), ('api_keys_by_hash', 'i', 'index'), ('api_keys_by_id', 'i', 'index'),
    ('api_keys_newest_first', 'i', 'index'), ('api_keys_by_creation', 'i', 'index'),
    ('api_keys_by_tenant', 'i', 'index')
    UNION ALL SELECT relation, 'r', 'table' FROM executed
), found AS (
    SELECT pg_class.oid, relation, kind, name_of_kind, relkind::text, relowner, relpersistence, format('%I.%I', nspname, relname) AS shown
    FROM place JOIN pg_class ON relnamespace = schema JOIN wanted ON relname = relation
    JOIN pg_namespace ON pg_namespace.oid = schema
), ours AS (
    SELECT * FROM found WHERE relkind = kind
), expected (relation, name, types, length, is_required) AS (VALUES
    ('api_keys', 'id', '{uuid}'::text[], 0, true), ('api_keys', 'key_hash', '{text,varchar}', 64, true),
    ('api_keys', 'name', '{text,varchar}', 255, true), ('api_keys', 'permissions', '{text,varchar}', 5, true),
    ('api_keys', 'created_at', '{timestamptz}', 0, true), ('api_keys', 'revoked_at', '{timestamptz}', 0, true),
    ('api_keys', 'prefix', '{text,varchar}', 12, false), ('api_keys', 'expires_at', '{timestamptz}', 0, false),
    ('api_keys', 'last_used_at', '{timestamptz}', 0, false), ('api_keys', 'rotated_from', '{uuid}', 0, false),
    ('api_keys', 'rotated_at', '{timestamptz}', 0, false), ('api_keys', 'lifetime', '{interval}', 0, false),
    ('api_keys', 'declared', '{bool}', 0, false), ('api_keys', 'tenant_id', '{text,varchar,uuid}', 0, false),
    ('api_keys', 'is_admin', '{bool}', 0, false), ('api_keys', 'tenant', '{uuid}', 0, false),
    ('cloacina_tenants', 'id', '{uuid}', 0, true), ('cloacina_tenants', 'name', '{text}', 0, true),
    ('cloacina_tenants', 'username', '{text}', 0, true), ('cloacina_tenants', 'created_at', '{timestamptz}', 0, true),
    ('cloacina_tenants', 'removed_at', '{timestamptz}', 0, true), ('cloacina_tenants', 'max_running_tasks', '{int8}', 0, true),
    ('cloacina_tenants', 'max_pending_executions', '{int8}', 0, true), ('cloacina_tenants', 'max_package_bytes', '{int8}', 0, true),
    ('cloacina_tenants', 'max_log_bytes', '{int8}', 0, true), ('cloacina_tenants', 'max_scratch_bytes', '{int8}', 0, true),
    ('cloacina_tenants', 'retention_seconds', '{int8}', 0, true), ('cloacina_tenants', 'paths', '{jsonb}', 0, true),
    ('cloacina_packages', 'id', '{uuid}', 0, true), ('cloacina_packages', 'tenant', '{uuid}', 0, true),
    ('cloacina_packages', 'name', '{text}', 0, true), ('cloacina_packages', 'version', '{text}', 0, true),
    ('cloacina_packages', 'precedence', '{text}', 0, true), ('cloacina_packages', 'is_pre_release', '{bool}', 0, true),
    ('cloacina_packages', 'description', '{text}', 0, true), ('cloacina_packages', 'manifest', '{text}', 0, true),
    ('cloacina_packages', 'tasks', '{_text}', 0, true), ('cloacina_packages', 'sha256', '{text}', 0, true),
    ('cloacina_packages', 'size', '{int8}', 0, true), ('cloacina_packages', 'created_at', '{timestamptz}', 0, true),
    ('cloacina_packages', 'deleted_at', '{timestamptz}', 0, true), ('cloacina_packages', 'has_pieces', '{bool}', 0, true),
    ('cloacina_package_pieces', 'package', '{uuid}', 0, true), ('cloacina_package_pieces', 'number', '{int4}', 0, true),
    ('cloacina_package_pieces', 'bytes', '{bytea}', 0, true), ('cloacina_workflows', 'tenant', '{uuid}', 0, true),
    ('cloacina_workflows', 'name', '{text}', 0, true), ('cloacina_workflows', 'is_paused', '{bool}', 0, true),
    ('cloacina_notifications', 'channel', '{text}', 0, true), ('auth_caches', 'server', '{uuid}', 0, true), ('auth_caches', 'seen', '{int8}', 0, true),
    ('auth_caches', 'since', '{timestamptz}', 0, true),
    ('refinery_schema_history', 'version', '{int4}', 0, true),
    ('refinery_schema_history', 'name', '{varchar,text}', 0, true),
    ('refinery_schema_history', 'applied_on', '{varchar,text}', 0, true),
    ('refinery_schema_history', 'checksum', '{varchar,text}', 0, true)
), columns AS (
    SELECT relation, shown, attname::text AS name, typname, attnum, attnotnull, attgenerated <> '' AS is_generated,
           format_type(atttypid, atttypmod) AS type, CASE WHEN typname = 'varchar' AND atttypmod > 0 THEN atttypmod - 4 END AS length,
           pg_get_expr(adbin, adrelid) AS default_value, attidentity <> '' AS is_identity
    FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
    JOIN pg_type ON pg_type.oid = atttypid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE kind = 'r'
), written AS (
    -- What new rows and changed ones hold, and the server says. A tenant's columns are null in the server's own rows.
    SELECT relation, name, attnum FROM columns JOIN expected USING (relation, name)
    WHERE name NOT IN ('tenant_id', 'tenant')
), always_differs AS (
    -- No two rows agree in one of these: what the server makes unique itself, and what is null or counted if not given.
    SELECT relation, attnum FROM columns
    WHERE (relation, name) IN (('api_keys', 'id'), ('api_keys', 'key_hash'), ('auth_caches', 'server'), ('cloacina_tenants', 'id'),
                               ('cloacina_packages', 'id'),
                               ('refinery_schema_history', 'version'))
       OR (relation, name) NOT IN (SELECT relation, name FROM written)
          AND (is_identity OR NOT is_generated AND COALESCE(default_value ~ '^(nextval|gen_random_uuid)\(', true))
), obstacles (shown, what) AS (
    SELECT shown, format('the unique index %I', relname)
    FROM ours JOIN pg_index ON indrelid = ours.oid JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relation NOT IN (SELECT relation FROM executed) AND relname NOT IN ('cloacina_tenants_by_name', 'cloacina_tenants_by_username', 'cloacina_packages_not_deleted',
                          'cloacina_package_pieces_pkey', 'cloacina_workflows_pkey') AND (indisexclusion OR indisunique AND NOT EXISTS (
        SELECT FROM always_differs
        WHERE always_differs.relation = ours.relation AND attnum = ANY((indkey::int2[])[0:indnkeyatts - 1])))
    UNION ALL
    SELECT shown, format('the %s constraint %I', CASE contype WHEN 'c' THEN 'check' ELSE 'foreign key' END, conname)
    FROM ours JOIN pg_constraint ON conrelid = ours.oid
    WHERE contype IN ('c', 'f') AND (conkey IS NULL OR conkey = '{}' OR EXISTS (
        SELECT FROM written WHERE written.relation = ours.relation AND attnum = ANY(conkey)))
    UNION ALL
    SELECT shown, format('the trigger %I', tgname)
    FROM ours JOIN pg_trigger ON tgrelid = ours.oid
    -- On INSERT, DELETE or UPDATE.
    WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgtype & 28 <> 0
    UNION ALL
    SELECT shown, format('the rule %I', rulename)
    FROM ours JOIN pg_rewrite ON ev_class = ours.oid WHERE kind = 'r' AND ev_enabled IN ('O', 'A')
), needed (privilege, relation) AS (VALUES
    ('SELECT', 'api_keys'), ('INSERT', 'api_keys'), ('UPDATE', 'api_keys'), ('SELECT', 'auth_caches'),
    ('INSERT', 'auth_caches'), ('UPDATE', 'auth_caches'), ('DELETE', 'auth_caches'), ('SELECT', 'cloacina_tenants'), ('SELECT', 'cloacina_notifications'),
    ('INSERT', 'cloacina_tenants'), ('UPDATE', 'cloacina_tenants'), ('DELETE', 'cloacina_tenants'),
    ('SELECT', 'cloacina_packages'), ('INSERT', 'cloacina_packages'), ('UPDATE', 'cloacina_packages'), ('DELETE', 'cloacina_packages'),
    ('SELECT', 'cloacina_package_pieces'), ('INSERT', 'cloacina_package_pieces'), ('DELETE', 'cloacina_package_pieces'),
    ('SELECT', 'cloacina_workflows'), ('INSERT', 'cloacina_workflows'), ('UPDATE', 'cloacina_workflows'), ('DELETE', 'cloacina_workflows'),
    ('SELECT', 'refinery_schema_history'), ('USAGE', 'api_key_changes'), ('SELECT', 'api_key_changes')
    UNION ALL
    SELECT privilege, relation FROM executed CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS every (privilege)
), problems (rank, problem) AS (
    SELECT 0, format('user %s may use no schema of its search_path (%s)', current_user, current_setting('search_path'))
    FROM place WHERE schema IS NULL
    UNION ALL
    SELECT 0, format('user %s owns %s, and could let in any key there: let user %s own that; or, if they belong together: GRANT %s TO %s',
                     pg_get_userbyid(relowner), string_agg(shown, ', ' ORDER BY shown), current_user,
                     quote_ident(pg_get_userbyid(relowner)), quote_ident(current_user))
    FROM found WHERE relowner NOT IN (SELECT role FROM trusted_owner) GROUP BY relowner
    UNION ALL
    SELECT 1, format('%s is a %s, and has to be a %s', shown,
                     COALESCE('{"r":"table","v":"view","m":"materialized view","f":"foreign table","p":"partitioned table",
                                "S":"sequence","i":"index","I":"partitioned index","c":"type","t":"table"}'::json ->> relkind, relkind), name_of_kind)
    FROM found WHERE relkind <> kind
    UNION ALL
    SELECT 1, format('the index %s is of another table than api_keys', shown)
    FROM ours WHERE kind = 'i' AND NOT EXISTS (
        SELECT FROM pg_index JOIN ours AS keys ON keys.oid = indrelid AND keys.relation = 'api_keys'
        WHERE indexrelid = ours.oid)
    UNION ALL
    SELECT 1, format('the sequence %s is another program''s: it has to be of bigint, ascending by 1, without a cycle', shown)
    FROM ours JOIN pg_sequence ON seqrelid = oid
    WHERE seqtypid <> 'int8'::regtype OR seqincrement <> 1 OR seqcycle
    UNION ALL
    SELECT 2, format('the table %s has no column %s; it has to have one of type %s', shown, name,
                     format_type(to_regtype(types[1]), NULL))
    FROM ours JOIN expected USING (relation)
    WHERE is_required AND NOT EXISTS (
        SELECT FROM columns WHERE columns.relation = expected.relation AND columns.name = expected.name)
    UNION ALL
    SELECT 3, CASE
        WHEN typname <> ALL (types) THEN format('the column %s of the table %s is %s, and has to be %s', name, shown,
            type, (SELECT string_agg(format_type(to_regtype(one), NULL), ' or ') FROM unnest(types) AS one))
        WHEN columns.length < expected.length THEN format('the column %s of the table %s is %s, and has to have room for %s characters',
            name, shown, type, expected.length)
        WHEN is_generated THEN format('the column %s of the table %s is generated, and has to take what the server writes', name, shown)
        ELSE format('the column %s of the table %s is not null or has a default, and has to be null in a new row', name, shown)
        END
    FROM columns JOIN expected USING (relation, name)
    WHERE typname <> ALL (types) OR columns.length < expected.length OR is_generated
       OR relation = 'api_keys' AND name IN ('revoked_at', 'expires_at', 'tenant_id', 'tenant')
          AND (attnotnull OR default_value NOT LIKE 'NULL::%')
    UNION ALL
    SELECT 4, format('the column id of the table %s has to be its primary key', shown)
    FROM columns
    WHERE relation = 'api_keys' AND name = 'id' AND NOT (attnotnull AND EXISTS (
        SELECT FROM pg_index JOIN ours ON ours.oid = indrelid AND ours.relation = 'api_keys'
        WHERE indisunique AND indisvalid AND indpred IS NULL AND indnkeyatts = 1 AND indkey[0] = attnum))
    UNION ALL
    SELECT 4, format('the %s %s is unlogged, and a crash would empty it: ALTER %s %s SET LOGGED', name_of_kind, shown,
                     upper(name_of_kind), shown)
    FROM ours WHERE relpersistence = 'u'
    UNION ALL
    SELECT 4, format('%s of the table %s may change or refuse what the server writes; drop it there', what, shown)
    FROM obstacles
    UNION ALL
    SELECT 5, format('the column %s of the table %s (%s) is not null and has no default, and has to have one: the server does not fill it',
                     name, shown, type)
    FROM columns
    WHERE attnotnull AND default_value IS NULL AND NOT is_identity AND NOT is_generated
      AND relation NOT IN (SELECT relation FROM executed)
      AND relation || '.' || name NOT IN ('api_keys.id', 'api_keys.key_hash', 'api_keys.name', 'api_keys.permissions',
          'api_keys.created_at', 'api_keys.is_admin', 'auth_caches.server', 'auth_caches.seen',
          'api_keys.revoked_at', 'api_keys.expires_at', 'api_keys.tenant_id', 'api_keys.tenant',
          'cloacina_tenants.id', 'cloacina_tenants.name', 'cloacina_notifications.channel',
          'cloacina_packages.id', 'cloacina_packages.tenant', 'cloacina_packages.name', 'cloacina_packages.version',
          'cloacina_packages.precedence', 'cloacina_packages.is_pre_release', 'cloacina_packages.manifest',
          'cloacina_packages.tasks', 'cloacina_packages.sha256', 'cloacina_packages.size',
          'cloacina_package_pieces.package', 'cloacina_package_pieces.number', 'cloacina_package_pieces.bytes',
          'cloacina_workflows.tenant', 'cloacina_workflows.name')
      AND (relation, name) NOT IN (SELECT relation, name FROM expected WHERE relation = 'refinery_schema_history')
    UNION ALL
    SELECT 6, format('row security hides rows of the table %s from user %s; let the server be its owner, or: ALTER TABLE %s NO FORCE ROW LEVEL SECURITY',
                     shown, current_user, shown)
    FROM ours WHERE kind = 'r' AND row_security_active(oid)
    UNION ALL
    SELECT 7, format('user %s may not do what the server does: %s; make it the owner, or grant that', current_user,
                     string_agg(privilege || ' on ' || relation, ', '))
    FROM ours JOIN needed USING (relation)
    WHERE NOT CASE kind WHEN 'S' THEN has_sequence_privilege(oid, privilege) ELSE has_table_privilege(oid, privilege) END
    HAVING count(*) > 0
)
SELECT (SELECT string_agg(problem, '; ') FROM (SELECT problem FROM problems ORDER BY rank LIMIT 6) AS first),
       (SELECT quote_ident(nspname) FROM pg_namespace JOIN place ON schema = oid),
       EXISTS (SELECT FROM ours WHERE relation = 'refinery_schema_history'),
       EXISTS (SELECT FROM ours WHERE relation = 'api_keys'),
       EXISTS (SELECT FROM columns WHERE relation = 'api_keys' AND name = 'tenant_id'),
       EXISTS (SELECT FROM columns WHERE relation = 'api_keys' AND name = 'is_admin')
