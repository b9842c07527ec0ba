-- What a tenant's role may read, in views that all share: each shows the rows of the role that asks. Made with the first
-- role, and made anew whenever the text of the comment has changed.
CREATE SCHEMA IF NOT EXISTS cloacina_views;
CREATE OR REPLACE VIEW cloacina_views.tenant WITH (security_barrier) AS
    SELECT name AS schema_name, username, created_at, max_running_tasks, max_pending_executions, max_package_bytes,
           max_log_bytes, max_scratch_bytes, make_interval(secs => retention_seconds) AS retention, paths
    FROM cloacina_tenants
    WHERE username = current_user AND removed_at IS NULL;
CREATE OR REPLACE VIEW cloacina_views.workflows WITH (security_barrier) AS
    SELECT package.id, package.name AS package_name, package.version, package.description, package.tasks, package.created_at,
           workflow.is_paused AS paused
    FROM cloacina_packages AS package JOIN cloacina_workflows AS workflow USING (tenant, name)
    WHERE package.deleted_at IS NULL
      AND package.tenant IN (SELECT id FROM cloacina_tenants WHERE username = current_user AND removed_at IS NULL);
CREATE OR REPLACE VIEW cloacina_views.executions WITH (security_barrier) AS
    SELECT id, workflow AS workflow_name, version, status, context, error, created_at, run_at, started_at, completed_at
    FROM cloacina_executions
    WHERE tenant IN (SELECT id FROM cloacina_tenants WHERE username = current_user AND removed_at IS NULL);
CREATE OR REPLACE VIEW cloacina_views.tasks WITH (security_barrier) AS
    SELECT task.execution AS execution_id, task.number, task.id, task.dependencies, task.status, task.attempts, task.started_at,
           task.completed_at, task.exit_code, task.error, task.output
    FROM cloacina_tasks AS task JOIN cloacina_executions AS execution ON execution.id = task.execution
    WHERE execution.tenant IN (SELECT id FROM cloacina_tenants WHERE username = current_user AND removed_at IS NULL);
CREATE OR REPLACE VIEW cloacina_views.attempts WITH (security_barrier) AS
    SELECT attempt.id, attempt.execution AS execution_id, task.id AS task_id, attempt.number, attempt.claimed_at,
           attempt.started_at, attempt.ended_at, attempt.exit_code, attempt.error, attempt.log_bytes, attempt.log_kept_bytes
    FROM cloacina_attempts AS attempt
    JOIN cloacina_tasks AS task ON task.execution = attempt.execution AND task.number = attempt.task
    JOIN cloacina_executions AS execution ON execution.id = attempt.execution
    WHERE execution.tenant IN (SELECT id FROM cloacina_tenants WHERE username = current_user AND removed_at IS NULL);
CREATE OR REPLACE VIEW cloacina_views.events WITH (security_barrier) AS
    SELECT event.execution AS execution_id, event.number AS sequence_num, event.id, event.event_type, event.event_data,
           event.created_at
    FROM cloacina_events AS event JOIN cloacina_executions AS execution ON execution.id = event.execution
    WHERE execution.tenant IN (SELECT id FROM cloacina_tenants WHERE username = current_user AND removed_at IS NULL);
-- Each row begins at an offset in all that an attempt has printed.
CREATE OR REPLACE VIEW cloacina_views.logs WITH (security_barrier) AS
    SELECT attempt.execution AS execution_id, piece.attempt AS attempt_id, piece.at, piece.bytes
    FROM cloacina_log_pieces AS piece JOIN cloacina_attempts AS attempt ON attempt.id = piece.attempt
    JOIN cloacina_executions AS execution ON execution.id = attempt.execution
    WHERE execution.tenant IN (SELECT id FROM cloacina_tenants WHERE username = current_user AND removed_at IS NULL);
GRANT USAGE ON SCHEMA cloacina_views TO PUBLIC;
GRANT SELECT ON cloacina_views.tenant, cloacina_views.workflows, cloacina_views.executions, cloacina_views.tasks,
    cloacina_views.attempts, cloacina_views.events, cloacina_views.logs TO PUBLIC;
COMMENT ON SCHEMA cloacina_views IS 'cloacinactl: views of V11';
