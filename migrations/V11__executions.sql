-- A machine whose server runs tasks, or has run some.
CREATE TABLE IF NOT EXISTS cloacina_hosts (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    -- How many tasks it runs at once; 0 since it was started without.
    slots int NOT NULL,
    -- Why it starts no task, where that is so.
    obstacle text,
    -- Of the server that speaks for it. A server that finds another one here starts nothing any more.
    session uuid NOT NULL,
    -- Of the database, when the host last said what it runs.
    timeline bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- A person said that it is gone.
    forgotten_at timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS cloacina_hosts_by_name ON cloacina_hosts (name) WHERE forgotten_at IS NULL;

-- One run of a workflow. Whatever changes it, its tasks or its events holds the lock of its row.
CREATE TABLE IF NOT EXISTS cloacina_executions (
    id uuid PRIMARY KEY,
    -- None has one of which a part is gone already: nothing finds it any more but what removes the rest.
    tenant uuid REFERENCES cloacina_tenants (id),
    workflow text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    -- Pending, Running, Completed, Failed or Cancelled.
    status text COLLATE "C" NOT NULL DEFAULT 'Pending',
    -- It was to be cancelled, since it began or was last retried.
    is_cancelled boolean NOT NULL DEFAULT false,
    -- A JSON object, as text: jsonb would take digits of its numbers.
    context text NOT NULL,
    error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Not before.
    run_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    -- The number of its last event.
    last_event int NOT NULL DEFAULT 0,
    -- Of the database, when this was made.
    timeline bigint NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS cloacina_executions_by_creation
    ON cloacina_executions (tenant, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS cloacina_executions_by_workflow
    ON cloacina_executions (tenant, workflow, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS cloacina_executions_by_status
    ON cloacina_executions (tenant, status, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS cloacina_executions_by_workflow_and_status
    ON cloacina_executions (tenant, workflow, status, created_at DESC, id DESC);
-- How many of a workflow run; whether one of a version has not ended.
CREATE INDEX IF NOT EXISTS cloacina_executions_not_ended
    ON cloacina_executions (tenant, status, workflow) WHERE status IN ('Pending', 'Running');
-- What is kept for too long.
CREATE INDEX IF NOT EXISTS cloacina_executions_ended
    ON cloacina_executions (tenant, completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS cloacina_executions_without_tenant ON cloacina_executions (id) WHERE tenant IS NULL;

CREATE TABLE IF NOT EXISTS cloacina_tasks (
    execution uuid NOT NULL,
    -- In the manifest, from 0.
    number int NOT NULL,
    id text COLLATE "C" NOT NULL,
    -- Numbers of tasks.
    dependencies int[] NOT NULL,
    -- NotStarted, Ready, Running, Completed, Failed, Skipped or Cancelled.
    status text COLLATE "C" NOT NULL DEFAULT 'NotStarted',
    -- All that there were, and those of them that were before the execution was last retried.
    attempts int NOT NULL DEFAULT 0,
    earlier_attempts int NOT NULL DEFAULT 0,
    -- Of the others, those that were abandoned.
    abandoned int NOT NULL DEFAULT 0,
    -- The one that runs, or ran last.
    attempt uuid,
    started_at timestamptz,
    completed_at timestamptz,
    exit_code int,
    error text,
    -- A JSON object, as text.
    output text,
    PRIMARY KEY (execution, number)
) WITH (fillfactor = 80);

-- One run of a task's command.
CREATE TABLE IF NOT EXISTS cloacina_attempts (
    id uuid PRIMARY KEY,
    tenant uuid NOT NULL,
    execution uuid NOT NULL,
    task int NOT NULL,
    -- Of this task in this execution, from 1.
    number int NOT NULL,
    host uuid NOT NULL,
    -- Of the host's system.
    boot uuid NOT NULL,
    -- Of the database, when it was claimed.
    timeline bigint NOT NULL DEFAULT 0,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    ended_at timestamptz,
    -- Its host is to end it.
    is_cancelled boolean NOT NULL DEFAULT false,
    exit_code int,
    error text,
    -- What it printed, in bytes.
    log_bytes bigint NOT NULL DEFAULT 0,
    -- What is kept of that, once it has ended: no index changes while it prints.
    log_kept_bytes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX IF NOT EXISTS cloacina_attempts_by_task ON cloacina_attempts (execution, task, number);
-- No two of a task run at the same time.
CREATE UNIQUE INDEX IF NOT EXISTS cloacina_attempts_running
    ON cloacina_attempts (execution, task) WHERE ended_at IS NULL;
CREATE INDEX IF NOT EXISTS cloacina_attempts_of_host ON cloacina_attempts (host) WHERE ended_at IS NULL;
CREATE INDEX IF NOT EXISTS cloacina_attempts_of_tenant ON cloacina_attempts (tenant) WHERE ended_at IS NULL;
-- What a tenant's logs take, and which of them are the oldest.
CREATE INDEX IF NOT EXISTS cloacina_attempts_with_log
    ON cloacina_attempts (tenant, ended_at) INCLUDE (log_kept_bytes) WHERE log_kept_bytes > 0;

-- What has happened to an execution, numbered from 1 without gaps.
CREATE TABLE IF NOT EXISTS cloacina_events (
    execution uuid NOT NULL,
    number int NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    event_type text COLLATE "C" NOT NULL,
    -- A JSON object, as text.
    event_data text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (execution, number)
);

-- What is kept of what an attempt printed. Each piece begins at an offset in all that it printed.
CREATE TABLE IF NOT EXISTS cloacina_log_pieces (
    attempt uuid NOT NULL,
    at bigint NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (attempt, at)
);

-- What may start: tasks that are ready, and executions of which no task has started. A small table of short-lived rows, so
-- vacuum comes by the number of dead ones, whatever share of the table they are, and does not pause in it.
CREATE TABLE IF NOT EXISTS cloacina_queue (
    tenant uuid NOT NULL,
    workflow text COLLATE "C" NOT NULL,
    -- An execution rather than a task of one that runs.
    is_start boolean NOT NULL,
    -- When the execution was made: the first ones come first.
    created_at timestamptz NOT NULL,
    execution uuid NOT NULL,
    -- Its number; -1 for an execution.
    task int NOT NULL,
    -- Not before.
    due_at timestamptz,
    -- How many executions of the workflow may run while this one starts.
    max_running int,
    -- Of the execution.
    timeline bigint NOT NULL,
    ready_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (execution, task)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000);
CREATE INDEX IF NOT EXISTS cloacina_queue_in_turn
    ON cloacina_queue (tenant, workflow, is_start, created_at, execution, task) WHERE due_at IS NULL;
CREATE INDEX IF NOT EXISTS cloacina_queue_due ON cloacina_queue (due_at) WHERE due_at IS NOT NULL;

-- Which execution a client's Idempotency-Key stands for, for a day.
CREATE TABLE IF NOT EXISTS cloacina_idempotency_keys (
    tenant uuid NOT NULL,
    workflow text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- Of the request's body.
    body_sha256 text NOT NULL,
    execution uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, workflow, key)
);
CREATE INDEX IF NOT EXISTS cloacina_idempotency_keys_by_creation ON cloacina_idempotency_keys (created_at);
