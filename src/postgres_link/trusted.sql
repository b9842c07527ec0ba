-- Whose tables the server takes for its own: the roles that could do anything to them in any case, and those that others
-- than themselves made us a member of. Any other role with CREATE on the database can make a schema that comes first on
-- our path, with tables and keys of its choice in it. Up to PostgreSQL 15 a role may even make us its member; from 16 on
-- the role that makes another is a member of it, without inheriting from it.
trusted (role) AS (
    SELECT oid FROM pg_roles WHERE rolname = current_user
    UNION
    SELECT roleid FROM pg_auth_members JOIN trusted ON member = role
    WHERE grantor <> roleid AND to_jsonb(pg_auth_members) ->> 'inherit_option' IS DISTINCT FROM 'false'
), trusted_owner (role) AS (
    SELECT role FROM trusted
    UNION
    SELECT oid FROM pg_roles WHERE rolsuper OR rolname = 'pg_database_owner'
    UNION
    SELECT datdba FROM pg_database WHERE datname = current_database()
)
