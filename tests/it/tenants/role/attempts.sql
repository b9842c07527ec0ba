-- What a tenant's role tries, as EXPECTED: STATEMENT, each in a transaction of its own. EXPECTED is
--   the SQLSTATEs that refuse it,
--   nothing   PostgreSQL warns and changes nothing, or shows nothing,
--   own       it shows one row, the tenant's own,
--   allowed   PostgreSQL gives it to every role: README says so.
-- {role} {schema} are the tenant's own, {other} {theirs} those of another tenant, {server} is the server's role, {home}
-- the schema of its tables, {database} the database, {table} {sequence} {lock} each of the server's.

== rows of others through the views
own: SELECT * FROM cloacina_views.tenant
own: TABLE cloacina_views.tenant
own: SELECT to_json(t) FROM cloacina_views.tenant AS t
own: SELECT schema_name, count(*) FROM cloacina_views.tenant GROUP BY 1
own: COPY (SELECT * FROM cloacina_views.tenant) TO STDOUT
own: SELECT a.* FROM cloacina_views.tenant AS a, cloacina_views.tenant AS b
own: BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM cloacina_views.tenant; COMMIT; FETCH ALL FROM c
own: PREPARE p AS SELECT * FROM cloacina_views.tenant; EXECUTE p; DEALLOCATE p
own: CREATE VIEW v AS SELECT * FROM cloacina_views.tenant; SELECT * FROM v
own: CREATE MATERIALIZED VIEW m AS SELECT * FROM cloacina_views.tenant; SELECT * FROM m
own: CREATE VIEW barred WITH (security_invoker, security_barrier) AS SELECT * FROM cloacina_views.tenant; SELECT * FROM barred
own: SET row_security = off; SELECT * FROM cloacina_views.tenant
own: SET enable_seqscan = off; SELECT * FROM cloacina_views.tenant WHERE schema_name >= ''
own: CREATE FUNCTION tell(text) RETURNS bool COST 0.0000001 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'told: %', $1; RETURN true; END $$; SELECT * FROM cloacina_views.tenant WHERE tell(schema_name) AND tell(paths::text) AND tell(max_running_tasks::text)
own: CREATE FUNCTION tell_row(cloacina_views.tenant) RETURNS bool COST 0.0000001 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'told: %', $1; RETURN true; END $$; SELECT * FROM cloacina_views.tenant AS t WHERE tell_row(t)
own: CREATE FUNCTION tell_below(text, text) RETURNS bool COST 0.0000001 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'told: % %', $1, $2; RETURN true; END $$; CREATE OPERATOR <<<< (FUNCTION = tell_below, LEFTARG = text, RIGHTARG = text, RESTRICT = scalarltsel, JOIN = scalarltjoinsel); SELECT * FROM cloacina_views.tenant WHERE schema_name <<<< 'x' AND paths::text <<<< 'x'
own: SELECT * FROM cloacina_views.tenant WHERE 1 / (schema_name = '{schema}')::int = 1
42501: CREATE FUNCTION silent(text) RETURNS bool LEAKPROOF LANGUAGE sql AS 'SELECT true'
22P02: SELECT * FROM cloacina_views.tenant WHERE schema_name::int = 1
22007: SELECT * FROM cloacina_views.tenant WHERE paths::text::date = now()
allowed: EXPLAIN (ANALYZE, VERBOSE, BUFFERS, SETTINGS) SELECT * FROM cloacina_views.tenant
allowed: BEGIN; LOCK TABLE cloacina_views.tenant IN ACCESS SHARE MODE; ROLLBACK
nothing: SELECT * FROM pg_stats WHERE schemaname IN ('{home}', '{theirs}')
nothing: SELECT * FROM pg_stats_ext WHERE schemaname = '{home}'
nothing: SELECT * FROM information_schema.columns WHERE table_schema IN ('{home}', '{theirs}')
42501: SELECT * FROM pg_statistic
42501: SELECT * FROM cloacina_views.tenant FOR UPDATE
42501: SELECT * FROM cloacina_views.tenant FOR KEY SHARE
42501: UPDATE cloacina_views.tenant SET max_running_tasks = 1
42501: UPDATE cloacina_views.tenant SET username = '{other}'
42501: INSERT INTO cloacina_views.tenant (schema_name, username) VALUES ('x', 'x')
42501: DELETE FROM cloacina_views.tenant
42501,0A000: MERGE INTO cloacina_views.tenant USING (VALUES (1)) AS v ON true WHEN MATCHED THEN DELETE
42501: COPY cloacina_views.tenant FROM STDIN
42501: BEGIN; LOCK TABLE cloacina_views.tenant IN ROW SHARE MODE
42501: BEGIN; LOCK TABLE cloacina_views.tenant IN ACCESS EXCLUSIVE MODE
42809: TRUNCATE cloacina_views.tenant
42501: CREATE RULE r AS ON SELECT TO cloacina_views.tenant DO INSTEAD SELECT 1
42501: CREATE RULE r AS ON INSERT TO cloacina_views.tenant DO INSTEAD NOTHING
42501: CREATE TRIGGER t INSTEAD OF UPDATE ON cloacina_views.tenant FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
42501: ALTER VIEW cloacina_views.tenant SET (security_invoker = true)
42501: ALTER VIEW cloacina_views.tenant RESET (security_barrier)
42501: ALTER VIEW cloacina_views.tenant OWNER TO {role}
42501: ALTER VIEW cloacina_views.tenant RENAME TO t
42501: ALTER VIEW cloacina_views.tenant SET SCHEMA {schema}
42501: CREATE OR REPLACE VIEW cloacina_views.tenant AS SELECT 1 AS one
42501: DROP VIEW cloacina_views.tenant CASCADE
42501: COMMENT ON VIEW cloacina_views.tenant IS 'x'
42501: COMMENT ON SCHEMA cloacina_views IS 'x'
42501: CREATE TABLE cloacina_views.workflows (n int)
42501: ALTER SCHEMA cloacina_views RENAME TO x
42501: DROP SCHEMA cloacina_views CASCADE
nothing: GRANT SELECT ON cloacina_views.tenant TO {other}
nothing: REVOKE SELECT ON cloacina_views.tenant FROM PUBLIC
nothing: REVOKE USAGE ON SCHEMA cloacina_views FROM PUBLIC

== the server's tables
42501: SELECT * FROM {home}.{table}
42501: SELECT count(*) FROM {home}.{table}
42501: SELECT FROM {home}.{table}
42501: SELECT ctid, xmin FROM {home}.{table}
42501: INSERT INTO {home}.{table} DEFAULT VALUES
42501: DELETE FROM {home}.{table}
42501: TRUNCATE {home}.{table}
42501: COPY {home}.{table} TO STDOUT
42501: COPY {home}.{table} FROM STDIN
42501: SELECT * FROM {home}.{table} FOR UPDATE
42501: SELECT currtid2('{home}.{table}', '(0,1)')
42501,0A000: SELECT query_to_xml('SELECT * FROM {home}.{table}', true, false, '')
42501: SELECT * FROM ts_stat('SELECT to_tsvector(t::text) FROM {home}.{table} AS t')
42501: BEGIN; LOCK TABLE {home}.{table} IN ACCESS SHARE MODE
42501: BEGIN; LOCK TABLE {home}.{table} IN ACCESS EXCLUSIVE MODE
42501: EXPLAIN SELECT * FROM {home}.{table}
42501: CREATE TABLE of_{table} (LIKE {home}.{table} INCLUDING ALL)
42501: CREATE TABLE of_{table} () INHERITS ({home}.{table})
42501: CREATE TABLE of_{table} (x {home}.{table})
42501: CREATE TABLE of_{table} (x {home}.{table}[])
42501: CREATE TEMP TABLE of_{table} (x {home}.{table})
42501: CREATE TABLE of_{table} AS SELECT NULL::{home}.{table} AS x
42501: CREATE MATERIALIZED VIEW of_{table} AS SELECT NULL::{home}.{table} AS x
42501: CREATE FUNCTION of_{table}() RETURNS SETOF {home}.{table} LANGUAGE sql AS 'SELECT NULL'
42501: CREATE FUNCTION of_{table}({home}.{table}) RETURNS int LANGUAGE sql AS 'SELECT 1'
42501: CREATE TYPE of_{table} AS (x {home}.{table})
42501: CREATE DOMAIN of_{table} AS {home}.{table}
42501: CREATE VIEW view_of_{table} AS SELECT * FROM {home}.{table}; SELECT * FROM view_of_{table}
42501: CREATE TRIGGER t BEFORE INSERT ON {home}.{table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
42501: CREATE RULE r AS ON INSERT TO {home}.{table} DO ALSO NOTIFY x
42501: CREATE POLICY p ON {home}.{table}
42501: ALTER TABLE {home}.{table} ENABLE ROW LEVEL SECURITY
42501: ALTER TABLE {home}.{table} ADD COLUMN x int
42501: ALTER TABLE {home}.{table} OWNER TO {role}
42501: ALTER TABLE {home}.{table} SET (autovacuum_enabled = off)
42501: CREATE INDEX ON {home}.{table} ((1))
42501: CREATE STATISTICS s ON ctid, xmin FROM {home}.{table}
42501: CLUSTER {home}.{table} USING x
42501: REINDEX TABLE {home}.{table}
42501: DROP TABLE {home}.{table} CASCADE
42501: COMMENT ON TABLE {home}.{table} IS 'x'
42501: GRANT SELECT ON {home}.{table} TO {role}
nothing: ANALYZE {home}.{table}
nothing: VACUUM FULL {home}.{table}
42501: CREATE TABLE of_keys (id uuid REFERENCES {home}.api_keys (id))
42501: CREATE TABLE of_tenants (id uuid REFERENCES {home}.cloacina_tenants (id))
42501: UPDATE {home}.api_keys SET permissions = 'admin'
42501: UPDATE {home}.cloacina_tenants SET max_running_tasks = NULL
nothing: SELECT last_value FROM pg_sequences WHERE schemaname = '{home}' AND last_value IS NOT NULL
allowed: CREATE VIEW of_column AS SELECT (NULL::{home}.api_keys).name
allowed: CREATE FUNCTION of_column() RETURNS text BEGIN ATOMIC SELECT (NULL::{home}.api_keys).name; END
42501: SELECT nextval('{home}.{sequence}')
42501: SELECT setval('{home}.{sequence}', 1)
42501: SELECT last_value FROM {home}.{sequence}
42501: SELECT currval('{home}.{sequence}')
55000: SELECT lastval()
42501: ALTER SEQUENCE {home}.{sequence} RESTART
42501: CREATE TABLE of_{sequence} (n bigint DEFAULT nextval('{home}.{sequence}')); INSERT INTO of_{sequence} DEFAULT VALUES

== other schemas
42501: CREATE TABLE {home}.mine (n int)
42501: CREATE FUNCTION {home}.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'
42501: CREATE TYPE {home}.mine AS ENUM ('x')
42501: CREATE VIEW {home}.mine AS SELECT 1
42501: CREATE TABLE {theirs}.mine (n int)
42501: CREATE FUNCTION {theirs}.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
42501: SELECT * FROM {theirs}.orders
42501: INSERT INTO {theirs}.orders VALUES (1)
42501: SELECT {theirs}.secret()
42501: DROP TABLE {theirs}.orders
42501: ALTER FUNCTION {theirs}.secret() OWNER TO {role}
42501: CREATE VIEW of_orders AS SELECT * FROM {theirs}.orders
42501: CREATE TABLE pg_catalog.mine (n int)
42501: CREATE FUNCTION pg_catalog.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
42501: CREATE TABLE information_schema.mine (n int)
42501: CREATE SCHEMA mine
42501: CREATE SCHEMA IF NOT EXISTS {server}
42501: CREATE SCHEMA AUTHORIZATION {role}
42501: ALTER SCHEMA {theirs} RENAME TO mine
42501: DROP SCHEMA {theirs} CASCADE
42501: DROP SCHEMA {home} CASCADE
42501: REINDEX SCHEMA {home}
42501: GRANT USAGE ON SCHEMA {theirs} TO {role}
42501: ALTER DEFAULT PRIVILEGES FOR ROLE {server} GRANT SELECT ON TABLES TO {role}
42501: ALTER DEFAULT PRIVILEGES FOR ROLE {other} GRANT SELECT ON TABLES TO {role}

== its own schema
42501: ALTER SCHEMA {schema} RENAME TO mine
42501: ALTER SCHEMA {schema} OWNER TO {role}
42501: DROP SCHEMA {schema} CASCADE
42501: COMMENT ON SCHEMA {schema} IS 'x'
nothing: GRANT USAGE, CREATE ON SCHEMA {schema} TO {other}
nothing: GRANT ALL ON SCHEMA {schema} TO PUBLIC
nothing: REVOKE ALL ON SCHEMA {schema} FROM {server}
allowed: CREATE TABLE t (n int PRIMARY KEY, d text DEFAULT 'x'); INSERT INTO t VALUES (1); ANALYZE t; DROP TABLE t
allowed: CREATE TABLE shared (n int); GRANT ALL ON shared TO {other}, PUBLIC
allowed: ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {other}
allowed: CREATE FUNCTION trap() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'
allowed: CREATE TABLE triggered (n int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t AFTER INSERT ON triggered EXECUTE FUNCTION f()
allowed: CREATE TYPE mood AS ENUM ('fine'); CREATE TYPE pair AS (a int, b int); CREATE DOMAIN small AS int CHECK (VALUE < 9)
allowed: CREATE FUNCTION cast_pair(pair) RETURNS mood LANGUAGE sql AS $$ SELECT 'fine'::mood $$; CREATE CAST (pair AS mood) WITH FUNCTION cast_pair AS IMPLICIT
allowed: CREATE COLLATION other_order (provider = libc, locale = 'C')
allowed: CREATE DEFAULT CONVERSION wrong FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8
allowed: CREATE TEXT SEARCH CONFIGURATION mine (COPY = simple)
42501: ALTER TABLE shared OWNER TO {other}
42501: ALTER TABLE shared OWNER TO {server}
42501: ALTER TABLE shared SET SCHEMA {home}
42501: ALTER TABLE shared SET SCHEMA {theirs}
42501: ALTER TABLE shared SET TABLESPACE pg_global

== roles
42501: SET ROLE {server}
42501: SET ROLE {other}
42501: SET ROLE pg_read_all_data
42501: SET SESSION AUTHORIZATION {server}
42501: SET SESSION AUTHORIZATION {other}
42501: SELECT set_config('role', '{server}', false)
42501: SELECT set_config('session_authorization', '{server}', false)
42501: CREATE FUNCTION as_server() RETURNS int LANGUAGE sql SET role = '{server}' AS 'SELECT 1'; SELECT as_server()
42501: CREATE ROLE mine
42501: CREATE USER mine
42501: DROP ROLE {other}
42501: DROP ROLE {server}
42501: DROP ROLE {role}
42501: ALTER ROLE {server} PASSWORD 'x'
42501: ALTER ROLE {other} PASSWORD 'x'
42501: ALTER ROLE {other} NOLOGIN
42501: ALTER ROLE {other} SET search_path = {schema}
42501: ALTER ROLE {server} SET search_path = {schema}
42501: ALTER ROLE {server} IN DATABASE {database} SET statement_timeout = 1
42501: ALTER ROLE ALL SET search_path = {schema}
42501: ALTER ROLE ALL IN DATABASE {database} SET search_path = {schema}
42501: ALTER ROLE {role} SUPERUSER
42501: ALTER ROLE {role} CREATEROLE
42501: ALTER ROLE {role} CREATEDB
42501: ALTER ROLE {role} REPLICATION
42501: ALTER ROLE {role} BYPASSRLS
42501: ALTER ROLE {role} INHERIT
42501: ALTER ROLE {role} CONNECTION LIMIT -1
42501: ALTER ROLE {role} VALID UNTIL 'infinity'
42501: ALTER ROLE {role} NOLOGIN
0A000: ALTER ROLE {role} RENAME TO mine
42501: COMMENT ON ROLE {role} IS 'x'
42501: GRANT {server} TO {role}
42501: GRANT {other} TO {role}
42501: GRANT pg_monitor, pg_signal_backend TO {role}
42501: GRANT pg_read_server_files TO {role}
42501,XX000,0A000: GRANT pg_database_owner TO {role}
42501,0LP01: GRANT {role} TO {role}
42501: GRANT {role} TO {server}
42501: GRANT {role} TO {other} WITH ADMIN OPTION
42501: REVOKE {role} FROM {server}
42501: REASSIGN OWNED BY {role} TO {server}
42501: REASSIGN OWNED BY {role} TO {other}
42501: REASSIGN OWNED BY {other} TO {role}
42501: DROP OWNED BY {other}
42501: DROP OWNED BY {server}
42501: SELECT rolpassword FROM pg_authid
42501: SELECT passwd FROM pg_shadow
42704: CREATE USER MAPPING FOR {other} SERVER x
allowed: ALTER ROLE {role} PASSWORD '{password}'
allowed: ALTER ROLE {role} SET statement_timeout = '1h'; ALTER ROLE {role} SET work_mem = '1MB'
allowed: ALTER ROLE {role} IN DATABASE {database} SET application_name = 'mine'
allowed: SET statement_timeout = 0; SET work_mem = '1TB'; SET lock_timeout = 0; RESET ALL

== the database and the cluster
42501: CREATE DATABASE mine
42501: DROP DATABASE {database}
42501: ALTER DATABASE {database} SET search_path = {schema}
42501: ALTER DATABASE {database} OWNER TO {role}
42501: ALTER DATABASE {database} CONNECTION LIMIT 0
42501: ALTER DATABASE {database} RENAME TO mine
42501: COMMENT ON DATABASE {database} IS 'x'
nothing: REVOKE CONNECT ON DATABASE {database} FROM PUBLIC
nothing: GRANT CREATE ON DATABASE {database} TO {role}
42501: REINDEX DATABASE {database}
42501: ALTER SYSTEM SET work_mem = '1GB'
42501: CREATE TABLESPACE mine LOCATION '/tmp'
42501,0A000,58P01: CREATE EXTENSION dblink
42501,0A000,58P01: CREATE EXTENSION postgres_fdw
42501,0A000,58P01: CREATE EXTENSION hstore
42501,0A000,58P01: CREATE EXTENSION adminpack
42501: DROP EXTENSION plpgsql
42501: CREATE FOREIGN DATA WRAPPER mine
42704: CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw
42501: CREATE PUBLICATION mine
42501: CREATE PUBLICATION mine FOR ALL TABLES
42501: CREATE SUBSCRIPTION mine CONNECTION 'host=127.0.0.1' PUBLICATION x
42501: CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION f()
42501: CREATE LANGUAGE mine HANDLER plpgsql_call_handler
42501: CREATE ACCESS METHOD mine TYPE INDEX HANDLER bthandler
42501: CREATE CAST (text AS integer) WITH INOUT AS IMPLICIT
42501: CREATE CAST (text AS uuid) WITHOUT FUNCTION
42501: CREATE FUNCTION c() RETURNS int LANGUAGE c AS 'libc', 'getpid'
42501: CREATE FUNCTION c() RETURNS int LANGUAGE internal AS 'pg_backend_pid'
42501: CREATE TYPE mine (INPUT = int4in, OUTPUT = int4out)
42501: CREATE OPERATOR FAMILY mine USING btree
42501: CREATE OPERATOR CLASS mine DEFAULT FOR TYPE text USING btree AS STORAGE text
42501: CREATE TEXT SEARCH TEMPLATE mine (LEXIZE = dsimple_lexize)
42501: ALTER FUNCTION pg_catalog.now() OWNER TO {role}
42501: CREATE OR REPLACE FUNCTION pg_catalog.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'
42501: INSERT INTO pg_catalog.pg_class DEFAULT VALUES
42501: DELETE FROM pg_catalog.pg_auth_members
42501: SET session_replication_role = replica
42501: SET log_statement = 'none'
42501: SET allow_system_table_mods = on
42501: SET session_preload_libraries = 'x'
42501: ALTER ROLE {role} SET session_preload_libraries = 'x'
42501: LOAD 'plpgsql.so'
42501: CHECKPOINT
nothing: VACUUM (SKIP_LOCKED) pg_catalog.pg_authid
22023: SECURITY LABEL ON ROLE {role} IS 'x'

== files, programs and the server itself
42501: COPY t FROM '/etc/passwd'; SELECT 1
42501: COPY (SELECT 1) TO '/tmp/mine'
42501: COPY (SELECT 1) TO PROGRAM 'true'
42501: SELECT pg_read_file('postgresql.conf')
42501: SELECT pg_read_binary_file('/etc/passwd')
42501: SELECT pg_stat_file('postgresql.conf')
42501: SELECT pg_ls_dir('.')
42501: SELECT pg_ls_logdir()
42501: SELECT pg_ls_waldir()
42501: SELECT pg_ls_tmpdir()
42501: SELECT pg_current_logfile()
42501: SELECT * FROM pg_hba_file_rules
42501: SELECT * FROM pg_file_settings
42501: SHOW data_directory
42501: SHOW config_file
nothing: SELECT 1 FROM pg_settings WHERE name IN ('data_directory', 'hba_file', 'primary_conninfo')
42501: SELECT lo_import('/etc/passwd')
42501: SELECT pg_reload_conf()
42501: SELECT pg_rotate_logfile()
42501: SELECT pg_promote()
42501: SELECT pg_switch_wal()
42501: SELECT pg_create_restore_point('x')
42501: SELECT pg_backup_start('x')
42501: SELECT pg_stat_reset()
42501: SELECT pg_stat_reset_shared('bgwriter')
42501: SELECT pg_stat_reset_single_table_counters('{home}.api_keys'::regclass)
42501: SELECT pg_log_backend_memory_contexts(pg_backend_pid())
42501: SELECT pg_create_physical_replication_slot('mine')
42501: SELECT pg_create_logical_replication_slot('mine', 'pgoutput')
42501: SELECT pg_replication_origin_create('mine')
42501: SELECT * FROM pg_config
42501: SELECT * FROM pg_shmem_allocations
42501: SELECT pg_import_system_collations('pg_catalog')
allowed: SELECT pg_logical_emit_message(false, 'mine', 'x')
allowed: SELECT version(), inet_server_addr(), pg_postmaster_start_time(), current_setting('port')

== large objects
allowed: SELECT lo_create(815); SELECT lo_put(815, 0, 'x'); SELECT lo_unlink(815)
allowed: SELECT oid, lomowner::regrole FROM pg_largeobject_metadata
42501: SELECT lo_get(4711)
42501: SELECT lo_put(4711, 0, 'x')
42501: SELECT lo_unlink(4711)
42501: SELECT lo_open(4711, 131072)
42501: SELECT lo_export(4711, '/tmp/mine')
42501: ALTER LARGE OBJECT 4711 OWNER TO {role}
42501: GRANT SELECT ON LARGE OBJECT 4711 TO {role}
42501: SELECT * FROM pg_largeobject

== sessions of others
42501: SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{server}'
42501: SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = '{server}'
42501: SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{other}'
42501: SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = '{other}'
nothing: SELECT query, state, client_addr FROM pg_stat_activity WHERE usename IN ('{server}', '{other}') AND (query <> '<insufficient privilege>' OR state IS NOT NULL OR client_addr IS NOT NULL OR query_start IS NOT NULL)
allowed: SELECT pid, datname, usename, application_name FROM pg_stat_activity
allowed: SELECT * FROM pg_locks
allowed: SELECT n, pg_stat_get_backend_activity(n) FROM pg_stat_get_backend_idset() AS n
nothing: SELECT pg_listening_channels()
nothing: SELECT 1 FROM pg_stat_ssl WHERE pid <> pg_backend_pid() AND (version IS NOT NULL OR client_dn IS NOT NULL)
42501: SELECT * FROM pg_backend_memory_contexts
55000: BEGIN; PREPARE TRANSACTION 'x'
allowed: SELECT pg_advisory_lock({lock}); SELECT pg_advisory_unlock_all()
allowed: LISTEN {channel}; NOTIFY {channel}; NOTIFY {channel}, 'DELETE FROM api_keys'; UNLISTEN *
allowed: CREATE TEMP TABLE api_keys (id int); CREATE TEMP TABLE cloacina_tenants (id int); DISCARD TEMP
allowed: BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT pg_export_snapshot(); ROLLBACK

== what is shown to every role
allowed: SELECT rolname, rolsuper, rolconnlimit, rolconfig FROM pg_roles
allowed: SELECT * FROM pg_auth_members
allowed: SELECT * FROM pg_db_role_setting
allowed: SELECT datname, pg_encoding_to_char(encoding) FROM pg_database
allowed: SELECT nspname, nspowner::regrole, nspacl FROM pg_namespace
allowed: SELECT relname, relnamespace::regnamespace, relpages, reltuples FROM pg_class
allowed: SELECT attname, attrelid FROM pg_attribute
allowed: SELECT proname, prosrc FROM pg_proc WHERE proname = 'secret'
allowed: SELECT pg_get_viewdef(oid) FROM pg_class WHERE relkind = 'v'
allowed: SELECT pg_get_constraintdef(oid) FROM pg_constraint
allowed: SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
allowed: SELECT description FROM pg_description UNION ALL SELECT description FROM pg_shdescription
allowed: SELECT relname, n_live_tup, n_tup_ins, last_analyze FROM pg_stat_all_tables
allowed: SELECT pg_total_relation_size('{home}.{table}'::regclass)
allowed: SELECT * FROM pg_stat_database
allowed: SELECT * FROM pg_prepared_xacts
allowed: SELECT * FROM pg_stat_progress_vacuum
allowed: SELECT pg_current_snapshot(), pg_current_wal_lsn()
42501: SELECT pg_tablespace_size('pg_global')
allowed: SELECT pg_database_size(current_database())
