//! `cloacinactl config get`, `set`, `unset` and `list`.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use super::{Command, unknown_action};
use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::config::file::{ConfigFile, lock};
use crate::config::sources::{Level, Sources};
use crate::config::{Flags, SETTINGS, Setting, make_home, unknown_key};

/// Reads what follows `config`.
///
/// # Errors
/// `Usage` that says what would be right.
pub fn parse(operands: &[String]) -> Result<Command, CommandError> {
    const ACTIONS: &str = "`config get KEY`, `config set KEY VALUE`, `config unset KEY` or `config list`";
    let usage = |text: &str| Err(Usage(text.to_owned()));
    // Operands are not repeated: they may be halves of a password with a space in it.
    match operands.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["get", key] => Ok(Command::ConfigGet((*key).to_owned())),
        ["set", key, value] => Ok(Command::ConfigSet((*key).to_owned(), (*value).to_owned())),
        ["unset", key] => Ok(Command::ConfigUnset((*key).to_owned())),
        ["list"] => Ok(Command::ConfigList),
        ["get", ..] => usage("`config get` takes one KEY"),
        ["set", ..] => usage("`config set` takes one KEY and one VALUE (quote a value that has spaces)"),
        ["unset", ..] => usage("`config unset` takes one KEY"),
        ["list", ..] => usage("`config list` takes no argument"),
        [] => usage(&format!("`config` needs an action: {ACTIONS}")),
        [other, ..] => Err(unknown_action("config", other, ACTIONS)),
    }
}

/// The value that counts, and a newline. A password in it is not masked: a user who asks for it wants it.
///
/// # Errors
/// `Usage` for an unknown key or a wrong value, `Runtime` when the key has no value.
pub fn get(home: &Path, key: &str) -> Result<String, CommandError> {
    let setting = known(key)?;
    let sources = Sources::open(home.to_owned(), Flags::new())?;
    let owner = setting.file_for.and_then(Setting::of_key).unwrap_or(setting);
    match sources.find(owner)? {
        // The file's name was asked for, and it is the file that counts.
        Some(found) if setting.file_for.is_some() && found.setting.key == key => Ok(found.value + "\n"),
        Some(found) if setting.file_for.is_none() => {
            let value = sources.content(&found)?;
            setting.check(&value, &found.name)?;
            Ok(value + "\n")
        }
        _ => Err(Runtime(format!("`{key}` has no value"))),
    }
}

/// Changes `config.toml`, and makes it and the home directory where they are missing.
///
/// # Errors
/// `Usage` for an unknown key, a wrong value or a broken file; `Runtime` when it cannot be written.
pub fn set(home: &Path, key: &str, value: &str) -> Result<(), CommandError> {
    let setting = known(key)?;
    setting.check(value, &format!("`{key}`"))?;
    make_home(home)?;
    let _held = held(home)?;
    let mut file = ConfigFile::read(home)?;
    file.set(setting, value)?;
    let sources = Sources { home: home.to_owned(), flags: Flags::new(), file };
    // Finds out whether the file now has both a value and a file for it.
    sources.find_at(Level::File, setting.file_for.and_then(Setting::of_key).unwrap_or(setting))?;
    sources.file.write()
}

/// Takes a value out of `config.toml`. One that is not there is no mistake: afterwards it is not there.
///
/// # Errors
/// `Usage` for an unknown key or a broken file, `Runtime` when it cannot be written.
pub fn unset(home: &Path, key: &str) -> Result<(), CommandError> {
    let setting = known(key)?;
    if !home.exists() {
        return Ok(());
    }
    let _held = held(home)?;
    let mut file = ConfigFile::read(home)?;
    if file.unset(setting)? { file.write() } else { Ok(()) }
}

/// Other processes leave `config.toml` alone for as long as this is held.
fn held(home: &Path) -> Result<File, CommandError> {
    lock(home).map_err(|error| Runtime(format!("cannot open {}: {error}", home.display())))
}

/// `key = value` for every setting that has a value, secrets masked.
///
/// # Errors
/// `Usage` for a wrong value, `Runtime` when `config.toml` cannot be read.
pub fn list(home: &Path) -> Result<String, CommandError> {
    let sources = Sources::open(home.to_owned(), Flags::new())?;
    let mut lines = String::new();
    for setting in SETTINGS.iter().filter(|setting| setting.file_for.is_none()) {
        let Some(found) = sources.find(setting)? else { continue };
        // The value, or the name of its file, which is not opened: it may be another user's.
        found.setting.check(&found.value, &found.name)?;
        let _ = writeln!(lines, "{} = {}", found.setting.key, found.setting.shown(&found.value));
    }
    Ok(lines)
}

fn known(key: &str) -> Result<&'static Setting, CommandError> {
    Setting::of_key(key).ok_or_else(|| Usage(unknown_key(key)))
}
