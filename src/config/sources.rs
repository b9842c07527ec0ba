//! Where a setting's value comes from: flag, environment, `config.toml` or default, or a file that one of them names.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::file::ConfigFile;
use super::{Flags, Setting, Settings};
use crate::command_error::CommandError::{self, Usage};
use crate::plain_file;

/// All places that a setting may come from, but for the environment.
pub struct Sources {
    pub home: PathBuf,
    pub flags: Flags,
    pub file: ConfigFile,
}

/// Highest precedence first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Flag,
    Environment,
    File,
    Default,
}

/// The one of a setting's values that counts.
pub struct Found {
    /// The setting itself, or the one that names a file with its value.
    pub setting: &'static Setting,
    level: Level,
    pub value: String,
    /// How the user gave it.
    pub name: String,
}

impl Sources {
    /// # Errors
    /// `config.toml` cannot be read, or is not right.
    pub fn open(home: PathBuf, flags: Flags) -> Result<Sources, CommandError> {
        let file = ConfigFile::read(&home)?;
        Ok(Sources { home, flags, file })
    }

    /// Puts a setting's value into its field.
    ///
    /// # Errors
    /// `Usage` for a value that is not right, or that is given in two ways at once.
    pub fn fill(&self, settings: &mut Settings, setting: &'static Setting) -> Result<(), CommandError> {
        let Some(found) = self.find(setting)? else { return Ok(()) };
        let value = self.content(&found)?;
        let name = match found.setting.file_for {
            Some(_) => format!("the content of {} ({})", self.file_of(&found).display(), found.name),
            None => found.name.clone(),
        };
        setting.put(settings, &value, &name)?;
        if found.setting.file_for == Some("database_url") {
            settings.database_url_file = Some(self.file_of(&found));
        }
        Ok(())
    }

    /// Looks for a setting, and for the file that holds it, level by level.
    ///
    /// # Errors
    /// `Usage` where both are given on one level.
    pub fn find(&self, setting: &'static Setting) -> Result<Option<Found>, CommandError> {
        for level in [Level::Flag, Level::Environment, Level::File, Level::Default] {
            let found = self.find_at(level, setting)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The same on one level.
    ///
    /// # Errors
    /// As `find`.
    pub fn find_at(&self, level: Level, setting: &'static Setting) -> Result<Option<Found>, CommandError> {
        let own = self.at(level, setting)?;
        let Some(file) = setting.file() else { return Ok(own) };
        match (own, self.at(level, file)?) {
            (Some(own), Some(file)) => {
                Err(Usage(format!("both {} and {} are given; one of them has to go", own.name, file.name)))
            }
            (own, file) => Ok(own.or(file)),
        }
    }

    fn at(&self, level: Level, setting: &'static Setting) -> Result<Option<Found>, CommandError> {
        let given = match level {
            Level::Flag => {
                self.flags.get(setting.key).map(|value| (value.clone(), format!("`{}`", setting.flag)))
            }
            Level::Environment => {
                let name = format!("`{}`", setting.variable);
                let value = std::env::var_os(setting.variable).filter(|value| !value.is_empty());
                let value = value.map(OsString::into_string).transpose();
                value
                    .map_err(|_| Usage(format!("the value of {name} is not UTF-8")))?
                    .map(|value| (value, name))
            }
            Level::File => self.file.value(setting.key).map(|(value, name)| (value.to_owned(), name)),
            Level::Default => {
                setting.default.map(|value| (value.to_owned(), format!("the default of `{}`", setting.key)))
            }
        };
        Ok(given.map(|(value, name)| Found { setting, level, value, name }))
    }

    /// The value itself, also when what was given is the name of a file with the value in it.
    ///
    /// # Errors
    /// `Usage` for a file that cannot be read.
    pub fn content(&self, found: &Found) -> Result<String, CommandError> {
        if found.setting.file_for.is_none() {
            return Ok(found.value.clone());
        }
        found.setting.check(&found.value, &found.name)?;
        let path = self.file_of(found);
        secret_in(&path)
            .map_err(|what| Usage(format!("cannot read {} ({}): {what}", path.display(), found.name)))
    }

    /// A path in `config.toml` starts where that file is.
    fn file_of(&self, found: &Found) -> PathBuf {
        match found.level {
            Level::File => self.home.join(&found.value),
            _ => PathBuf::from(&found.value),
        }
    }
}

/// The secret in a file, without the newline at its end. The error says what is wrong with the file.
pub fn secret_in(path: &Path) -> Result<String, String> {
    /// Longer than any URL or key.
    const MOST_BYTES: u64 = 64 * 1024;
    // What a shell hands over with `<(…)` or `<` is a pipe that is open already, and may be waited for.
    let is_open = ["/dev/stdin", "/dev/fd", "/proc/self/fd"].iter().any(|place| path.starts_with(place));
    let bytes = match is_open {
        true => File::open(path).and_then(|file| plain_file::read_from(file, MOST_BYTES)),
        false => plain_file::read(path, MOST_BYTES),
    }
    .map_err(|error| error.to_string())?;
    secret_text(bytes)
}

/// A secret as a file has it, with a line end behind it or without.
///
/// # Errors
/// What is wrong with it.
pub fn secret_text(bytes: Vec<u8>) -> Result<String, String> {
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err("it is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}
