-- What a tenant's role may read, in views that all share: each shows the rows of the role that asks. Made with the first
-- role, and made anew whenever the text of the comment has changed.
CREATE SCHEMA IF NOT EXISTS cloacina_views;
CREATE OR REPLACE VIEW cloacina_views.tenant WITH (security_barrier) AS
    SELECT name AS schema_name, username, created_at, max_running_tasks, max_pending_executions, max_package_bytes,
           max_log_bytes, max_scratch_bytes, make_interval(secs => retention_seconds) AS retention, paths
    FROM cloacina_tenants
    WHERE username = current_user AND removed_at IS NULL;
GRANT USAGE ON SCHEMA cloacina_views TO PUBLIC;
GRANT SELECT ON cloacina_views.tenant TO PUBLIC;
COMMENT ON SCHEMA cloacina_views IS 'cloacinactl: views of V9';
