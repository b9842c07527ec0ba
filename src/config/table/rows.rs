//! The rows: every setting with its names, its default and its help, in the order in which people see them.

use super::{Field, Form, Secrecy, Setting};
use crate::config::Bind;
use crate::config::values::{
    address, count, database_url, duration, path, sandbox_mode, secret, size, switch, tenant_database_host,
    user,
};

macro_rules! field {
    ($field:ident, |$value:ident| $parsed:expr) => {
        Field {
            take: |settings, $value| $parsed.map(|parsed| settings.$field = parsed),
            is_same: |one, other| one.$field == other.$field,
            copy: |to, from| to.$field.clone_from(&from.$field),
        }
    };
}

pub static SETTINGS: &[Setting] = &[
    Setting {
        key: "bind",
        default: Some("0.0.0.0:8080"),
        help: "Address and port to listen on; port 0 takes a free one.",
        field: field!(bind, |value| address(value).map(Bind)),
        ..setting(Form::Text, "--bind", "CLOACINA_BIND", "ADDR:PORT")
    },
    Setting {
        key: "database_url",
        help: "The PostgreSQL database: postgresql://USER:PASSWORD@HOST:5432/DATABASE. Required. Of psql's variables only PGPASSFILE is read.",
        secrecy: Secrecy::Url,
        field: field!(database_url, |value| database_url(value)),
        ..setting(Form::Text, "--database-url", "DATABASE_URL", "URL")
    },
    Setting {
        key: "database_url_file",
        help: "A file with the database URL in it, instead of the URL.",
        file_for: Some("database_url"),
        ..setting(Form::Text, "--database-url-file", "DATABASE_URL_FILE", "FILE")
    },
    Setting {
        key: "tenant_database_host",
        help: "Where tenants find the database, HOST[:PORT] or the directory of a socket, for their connection strings; else as database_url has it.",
        field: field!(tenant_database_host, |value| tenant_database_host(value).map(Some)),
        ..setting(Form::Text, "--tenant-database-host", "CLOACINA_TENANT_DATABASE_HOST", "HOST")
    },
    Setting {
        key: "bootstrap_key",
        help: "The first admin key, used only while the database has no key; made up when not given.",
        secrecy: Secrecy::Whole,
        field: field!(bootstrap_key, |value| secret(value).map(Some)),
        ..setting(Form::Text, "--bootstrap-key", "CLOACINA_BOOTSTRAP_KEY", "KEY")
    },
    Setting {
        key: "bootstrap_key_file",
        help: "A file with the bootstrap key in it, instead of the key.",
        file_for: Some("bootstrap_key"),
        ..setting(Form::Text, "--bootstrap-key-file", "CLOACINA_BOOTSTRAP_KEY_FILE", "FILE")
    },
    Setting {
        key: "trusted_proxies",
        help: "Reverse proxies (addresses or networks) whose X-Forwarded-For names the client in log lines.",
        field: field!(trusted_proxies, |value| value.parse()),
        ..setting(Form::Text, "--trusted-proxy", "CLOACINA_TRUSTED_PROXIES", "ADDR[/BITS],…")
    },
    Setting {
        key: "workers",
        default: Some("8"),
        help: "Threads for requests that read; half as many more are for changes.",
        field: field!(workers, |value| count(value, 1..=1024)),
        ..setting(Form::Number, "--workers", "CLOACINA_WORKERS", "N")
    },
    Setting {
        key: "pool_size",
        default: Some("8"),
        help: "Database sessions.",
        field: field!(pool_size, |value| count(value, 1..=1024)),
        ..setting(Form::Number, "--pool-size", "CLOACINA_POOL_SIZE", "N")
    },
    Setting {
        key: "queue",
        default: Some("512"),
        help: "Requests that may wait for a worker; more are answered with 503.",
        field: field!(queue, |value| count(value, 1..=1_000_000)),
        ..setting(Form::Number, "--queue", "CLOACINA_QUEUE", "N")
    },
    Setting {
        key: "max_connections",
        default: Some("4096"),
        help: "Connections of clients that may be open at once.",
        field: field!(max_connections, |value| count(value, 1..=1_000_000)),
        ..setting(Form::Number, "--max-connections", "CLOACINA_MAX_CONNECTIONS", "N")
    },
    Setting {
        key: "auth_cache_size",
        default: Some("256"),
        help: "Keys that are remembered as valid; 0 asks the database every time.",
        field: field!(cache_size, |value| count(value, 0..=1_000_000)),
        ..setting(Form::Number, "--auth-cache-size", "CLOACINA_AUTH_CACHE_SIZE", "N")
    },
    Setting {
        key: "auth_cache_ttl",
        default: Some("30s"),
        help: "How long a key is remembered.",
        field: field!(cache_ttl, |value| duration(value, "0s", "24h")),
        ..setting(Form::Duration, "--auth-cache-ttl", "CLOACINA_AUTH_CACHE_TTL", "DURATION")
    },
    Setting {
        key: "max_key_lifetime",
        default: Some("0s"),
        help: "Longest life of a new key, such as 90d; also that of a key made without an expiry. 0s: no limit.",
        field: field!(max_key_lifetime, |value| duration(value, "0s", "36500d")),
        ..setting(Form::Duration, "--max-key-lifetime", "CLOACINA_MAX_KEY_LIFETIME", "DURATION")
    },
    Setting {
        key: "max_package_size",
        default: Some("100M"),
        help: "Largest package that may be uploaded, in bytes, or such as 100M (MiB).",
        field: field!(max_package_size, |value| size(value, "1K", "1G")),
        ..setting(Form::Size, "--max-package-size", "CLOACINA_MAX_PACKAGE_SIZE", "SIZE")
    },
    Setting {
        key: "request_timeout",
        default: Some("10s"),
        help: "For a whole request, from its first byte to its last.",
        field: field!(request_timeout, |value| duration(value, "1ms", "1h")),
        ..setting(Form::Duration, "--request-timeout", "CLOACINA_REQUEST_TIMEOUT", "DURATION")
    },
    Setting {
        key: "idle_timeout",
        default: Some("75s"),
        help: "Between two requests on one connection.",
        field: field!(idle_timeout, |value| duration(value, "1ms", "24h")),
        ..setting(Form::Duration, "--idle-timeout", "CLOACINA_IDLE_TIMEOUT", "DURATION")
    },
    Setting {
        key: "write_timeout",
        default: Some("10s"),
        help: "For a client that does not take its answer.",
        field: field!(write_timeout, |value| duration(value, "1ms", "1h")),
        ..setting(Form::Duration, "--write-timeout", "CLOACINA_WRITE_TIMEOUT", "DURATION")
    },
    Setting {
        key: "database_timeout",
        default: Some("4s"),
        help: "For the database's part of a request; then the answer is 503.",
        field: field!(database_timeout, |value| duration(value, "1ms", "1h")),
        ..setting(Form::Duration, "--database-timeout", "CLOACINA_DATABASE_TIMEOUT", "DURATION")
    },
    Setting {
        key: "shutdown_timeout",
        default: Some("30s"),
        help: "For the requests that are under way when the server is told to stop.",
        field: field!(shutdown_timeout, |value| duration(value, "0s", "1h")),
        ..setting(Form::Duration, "--shutdown-timeout", "CLOACINA_SHUTDOWN_TIMEOUT", "DURATION")
    },
    Setting {
        key: "database_wait",
        default: Some("30s"),
        help: "For a PostgreSQL that is still coming up, or a lock on its tables, when the server starts.",
        field: field!(database_wait, |value| duration(value, "0s", "1h")),
        ..setting(Form::Duration, "--database-wait", "CLOACINA_DATABASE_WAIT", "DURATION")
    },
    Setting {
        key: "access_log",
        default: Some("false"),
        help: "Log a line for every request: route, status, milliseconds, bytes, client, key.",
        field: field!(access_log, |value| switch(value)),
        ..setting(Form::Switch, "--access-log", "CLOACINA_ACCESS_LOG", "true|false")
    },
    Setting {
        key: "task_slots",
        default: Some("0"),
        help: "Tasks of workflows that run here at the same time. 0: this server starts none.",
        field: field!(task_slots, |value| count(value, 0..=1000)),
        ..setting(Form::Number, "--task-slots", "CLOACINA_TASK_SLOTS", "N")
    },
    Setting {
        key: "sandbox",
        default: Some("required"),
        help: "What keeps tasks from the rest of the host: required, partial or off. Where required cannot be held no task starts; partial is as much as there is, and the log lists what stays open.",
        values: &["required", "partial", "off"],
        field: field!(sandbox, |value| sandbox_mode(value)),
        ..setting(Form::Text, "--sandbox", "CLOACINA_SANDBOX", "MODE")
    },
    Setting {
        key: "task_user",
        help: "The user that tasks run as, by name or number; only a server that is root can, and has to.",
        field: field!(task_user, |value| user(value).map(Some)),
        ..setting(Form::Text, "--task-user", "CLOACINA_TASK_USER", "USER")
    },
    Setting {
        key: "task_log_limit",
        default: Some("1M"),
        help: "How much is kept of what one attempt of a task prints, its beginning and its end, in bytes, or such as 1M (MiB).",
        field: field!(task_log_limit, |value| size(value, "4K", "1G")),
        ..setting(Form::Size, "--task-log-limit", "CLOACINA_TASK_LOG_LIMIT", "SIZE")
    },
    Setting {
        key: "stop_tasks",
        help: "End tasks when the server stops, rather than let them go on: so it is anyway for a server that is process 1, as in a container.",
        field: field!(stop_tasks, |value| switch(value).map(Some)),
        ..setting(Form::Switch, "--stop-tasks", "CLOACINA_STOP_TASKS", "true|false")
    },
];

/// A row but for what it says and does. Its field is that of a setting that names a file: the file's content goes into
/// another setting's field.
const fn setting(
    form: Form,
    flag: &'static str,
    variable: &'static str,
    placeholder: &'static str,
) -> Setting {
    Setting {
        key: "",
        flag,
        variable,
        placeholder,
        default: None,
        help: "",
        form,
        values: &[],
        secrecy: Secrecy::Open,
        file_for: None,
        field: Field { take: |_, value| path(value), is_same: |_, _| true, copy: |_, _| () },
    }
}
