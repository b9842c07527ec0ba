//! Every setting once: its names, its default, its help line, what it takes, and which field of `Settings` it fills.

mod rows;

use super::Settings;
use super::mask::mask_url;
use crate::command_error::CommandError::{self, Usage};
use crate::suggestion::did_you_mean;
use crate::terminal::shown;
pub use rows::SETTINGS;

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
    /// All values that there are, where they are few.
    pub values: &'static [&'static str],
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

    /// Whether the `hosts` commands know it: where the database is.
    pub fn is_for_hosts(&self) -> bool {
        ["database_url", "database_url_file", "database_wait"].contains(&self.key)
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
