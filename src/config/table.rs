//! Every setting once: its names, its default, its help line, what it takes, and which field of `Settings` it fills.

use super::mask::mask_url;
use super::values::{
    address, count, database_url, duration, path, secret, size, switch, tenant_database_host,
};
use super::{Bind, Settings};
use crate::command_error::CommandError::{self, Usage};
use crate::suggestion::did_you_mean;
use crate::terminal::shown;

/// A row of the table. Parsing, `serve --help`, `config list` and the checks of `config set` all read it.
pub struct Setting {
    /// In `config.toml` and for `config get`.
    pub key: &'static str,
    pub flag: &'static str,
    /// In the environment.
    pub variable: &'static str,
    /// What stands for the value in a help text.
    pub placeholder: &'static str,
    pub default: Option<&'static str>,
    pub help: &'static str,
    /// What `config.toml` may hold.
    pub form: Form,
    pub secrecy: Secrecy,
    /// The setting whose value is in the file that this one names.
    pub file_for: Option<&'static str>,
    field: Field,
}

/// The field of `Settings` that a setting fills.
struct Field {
    /// Checks a value and puts it there. The error says what would be right and never repeats the value.
    take: fn(&mut Settings, &str) -> Result<(), String>,
    is_same: fn(&Settings, &Settings) -> bool,
    /// The first one's becomes what the second one's is.
    copy: fn(&mut Settings, &Settings),
}

macro_rules! field {
    ($field:ident, |$value:ident| $parsed:expr) => {
        Field {
            take: |settings, $value| $parsed.map(|parsed| settings.$field = parsed),
            is_same: |one, other| one.$field == other.$field,
            copy: |to, from| to.$field.clone_from(&from.$field),
        }
    };
}

/// The TOML types of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A string.
    Text,
    /// An integer.
    Number,
    /// A string such as `30s`, or an integer of seconds.
    Duration,
    /// A string such as `100M`, or an integer of bytes.
    Size,
    /// A boolean; its flag has no value.
    Switch,
}

/// How much of a value may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    Open,
    /// All but the password in it.
    Url,
    /// Nothing.
    Whole,
}

impl Setting {
    /// The row of a key in `config.toml`.
    pub fn of_key(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The setting that names a file with this one's value in it.
    pub fn file(&self) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.file_for == Some(self.key))
    }

    /// Whether the `keys` commands know it: where the database is, and how long a new key may live.
    pub fn is_for_keys(&self) -> bool {
        ["database_url", "database_url_file", "database_wait", "max_key_lifetime"].contains(&self.key)
    }

    /// Whether the `tenants` commands know it: where the database is, and where tenants find it.
    pub fn is_for_tenants(&self) -> bool {
        ["database_url", "database_url_file", "tenant_database_host", "database_wait"].contains(&self.key)
    }

    /// Whether `take` would take the value that was given under this name.
    ///
    /// # Errors
    /// `Usage` that names it and says what would be right.
    pub fn check(&self, value: &str, name: &str) -> Result<(), CommandError> {
        self.put(&mut Settings::default(), value, name)
    }

    /// Takes the value that was given under this name.
    ///
    /// # Errors
    /// `Usage` that names it and says what would be right, and repeats it unless it is secret.
    pub fn put(&self, settings: &mut Settings, value: &str, name: &str) -> Result<(), CommandError> {
        (self.field.take)(settings, value).map_err(|why| {
            Usage(match self.secrecy {
                Secrecy::Open => format!("invalid value `{}` for {name}: {why}", shown(value)),
                Secrecy::Url | Secrecy::Whole => format!("invalid value for {name}: {why}"),
            })
        })
    }

    pub fn is_same(&self, one: &Settings, other: &Settings) -> bool {
        (self.field.is_same)(one, other)
    }

    /// The first one's value becomes what the second one's is.
    pub fn copy(&self, to: &mut Settings, from: &Settings) {
        (self.field.copy)(to, from);
    }

    /// The value as it may stand in a listing or in a log line.
    pub fn shown(&self, value: &str) -> String {
        match self.secrecy {
            Secrecy::Open => value.to_owned(),
            Secrecy::Url => mask_url(value),
            Secrecy::Whole => "***".to_owned(),
        }
    }
}

/// What is said of a key that is none.
pub fn unknown_key(key: &str) -> String {
    let known: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
    let meant = did_you_mean(key, known.iter().copied());
    format!("unknown key `{}`{meant}; known keys are {}", shown(key), known.join(", "))
}

/// In the order in which people see them.
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
        secrecy: Secrecy::Open,
        file_for: None,
        field: Field { take: |_, value| path(value), is_same: |_, _| true, copy: |_, _| () },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_key() {
        for setting in SETTINGS {
            // A flag that mostly has one value reads better in the singular.
            let flag = setting.key.replace('_', "-").replace("proxies", "proxy");
            assert_eq!(setting.flag, format!("--{flag}"));
            let upper = setting.key.to_uppercase();
            let variable =
                if upper.starts_with("DATABASE_URL") { upper } else { format!("CLOACINA_{upper}") };
            assert_eq!(setting.variable, variable);
            assert!(setting.help.ends_with('.') && !setting.placeholder.is_empty());
            assert_eq!(SETTINGS.iter().filter(|other| other.key == setting.key).count(), 1);
        }
    }

    #[test]
    fn defaults_are_valid() {
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                (setting.field.take)(&mut Settings::default(), default).unwrap();
            }
        }
    }
}
