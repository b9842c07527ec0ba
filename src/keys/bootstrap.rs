//! The first key: made only when the table has none, and on disk before its row is committed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use postgres::{Client, Transaction};
use time::OffsetDateTime;
use time::macros::format_description;

use super::store::{self as rows, NewKey};
use crate::auth::Permission;
use crate::auth::api_key::{self, Plaintext};
use crate::command_error::{CommandError, runtime};
use crate::config::Settings;
use crate::plain_file;
use crate::postgres_link::describe;
use crate::store::locks::{self, Stopped};
use crate::store::migrations;

pub const FILE: &str = "bootstrap-key";
/// Where the file is written before it gets its name. One name, so that a killed start leaves one file at most.
const UNFINISHED: &str = ".bootstrap-key.new";
/// More than a key has; something else may be in the file, and is put aside.
const MOST_BYTES: u64 = 64 * 1024;
const NAME: &str = "bootstrap";
const NOT_MADE: &str = "cannot make the bootstrap key";

/// The key that the owner chose, if any.
///
/// # Errors
/// `Usage`, where it cannot be one, with what would be right and without the key.
pub fn chosen_key(chosen: Option<&str>) -> Result<Option<Plaintext>, CommandError> {
    let chosen = chosen.map(Plaintext::chosen).transpose();
    chosen.map_err(|wrong| CommandError::Usage(format!("the bootstrap key cannot be used: {wrong}")))
}

/// Migrates, and makes the first key and its file if there is no key at all. Other servers may be doing the same; for
/// their locks it waits for `limit` each.
///
/// # Errors
/// A migration failed, or the file or the row could not be written. The database is unchanged then.
pub fn migrate_and_make_first_key(
    client: &mut Client,
    limit: Duration,
    settings: &Settings,
) -> Result<(), CommandError> {
    let chosen = settings.bootstrap_key.as_deref();
    let mut make = |transaction: Transaction<'_>| make(transaction, &settings.home, chosen);
    migrations::run(client, limit, &mut make)?;
    let is_empty = rows::is_empty(client)
        .map_err(|error| CommandError::Runtime(format!("{NOT_MADE}: {}", describe(&error))))?;
    if is_empty { locks::with_locks(client, NOT_MADE, limit, make) } else { Ok(()) }
}

/// Makes them as part of the running transaction, and commits. One server at a time: the transaction takes the lock.
fn make(mut transaction: Transaction<'_>, home: &Path, chosen: Option<&str>) -> Result<(), Stopped> {
    let failed = |error: postgres::Error| Stopped::by(NOT_MADE, &error);
    rows::lock(&mut transaction).map_err(failed)?;
    if !rows::is_empty(&mut transaction).map_err(failed)? {
        return transaction.commit().map_err(failed);
    }
    let path = home.join(FILE);
    let key = first_key(&path, chosen)?;
    let row = NewKey::new(&key, NAME, Permission::Admin, None);
    rows::insert_first(&mut transaction, &row).map_err(failed)?;
    // Last before the commit: whatever could fail in the database without it has failed by now.
    write(home, &path, &key).map_err(|error| refused(&path, &error))?;
    transaction.commit().map_err(failed)?;
    log::info!(key_id:% = row.id, name = NAME, by = NAME, file:% = path.display(); "key created");
    Ok(())
}

/// The chosen key; else the one that is in the file already, since a start that was killed before its commit, or a
/// database that was made anew, has left it there; else a fresh one.
fn first_key(path: &Path, chosen: Option<&str>) -> Result<Plaintext, CommandError> {
    if let Some(chosen) = chosen_key(chosen)? {
        return Ok(chosen);
    }
    let held = read(path).map_err(|error| refused(path, &error))?;
    if let Some(found) = held.filter(|found| api_key::looks_like_ours(found) && !api_key::is_mistyped(found))
    {
        log::info!(file:% = path.display(); "the key that this file holds becomes the first key");
        return Plaintext::chosen(&found).map_err(|wrong| CommandError::Runtime(wrong.to_owned()));
    }
    Plaintext::generate().map_err(runtime("the system has no random bytes"))
}

/// What the file holds, if it is there. Text that is no UTF-8 counts as some other text.
fn read(path: &Path) -> io::Result<Option<String>> {
    match plain_file::read(path, MOST_BYTES) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn refused(path: &Path, error: &io::Error) -> CommandError {
    CommandError::Runtime(format!(
        "cannot write the bootstrap key to {}: {error}; no key was made, the database is unchanged",
        path.display()
    ))
}

/// Writes the file whole, readable by its owner alone from its first moment, and waits for the disk. A file with
/// another content gets out of its way first, so that no key is ever lost.
fn write(home: &Path, path: &Path, key: &Plaintext) -> io::Result<()> {
    if let Some(held) = read(path)?.filter(|held| held != key.reveal()) {
        set_aside(path, &held)?;
    }
    let unfinished = home.join(UNFINISHED);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{}", key.reveal())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(home)?.sync_all()
}

/// Gives the file the name `bootstrap-key.` and the time, or the first such name with a number that is free.
fn set_aside(path: &Path, held: &str) -> io::Result<()> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = OffsetDateTime::now_utc().format(&format).unwrap_or_else(|_| "before".to_owned());
    let mut aside = path.with_file_name(format!("{FILE}.{time}"));
    let mut number = 0;
    while aside.exists() {
        number += 1;
        aside.set_file_name(format!("{FILE}.{time}-{number}"));
    }
    fs::rename(path, &aside)?;
    fs::set_permissions(&aside, Permissions::from_mode(0o600))?;
    if !held.is_empty() {
        log::warn!(file:% = aside.display(); "the bootstrap-key file held something else, which was moved here");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_never_takes_the_place_of_what_was() {
        let home = std::env::temp_dir().join(format!("cloacinactl-aside-{}", std::process::id()));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir(&home).unwrap();
        let path = home.join(FILE);
        for text in ["a", "b", "c", "d"] {
            fs::write(&path, text).unwrap();
            set_aside(&path, text).unwrap();
        }
        let texts =
            fs::read_dir(&home).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        let mut texts: Vec<_> = texts.collect();
        texts.sort();
        assert_eq!(texts, ["a", "b", "c", "d"]);
        fs::remove_dir_all(&home).unwrap();
    }
}
