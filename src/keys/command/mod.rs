//! `cloacinactl keys …`: straight on the database with the server's own store, for an operator who has that and no key.

mod apply;
mod declaration;
mod explain;
mod list;

use std::process::ExitCode;

use uuid::Uuid;

use super::request_body::{End, check_name, read_grace};
use super::store::{self, Among, NewKey, Revocation, Rotated, Successor, TABLE};
use super::{ALREADY_ROTATED, expiry, parse_id};
use crate::auth::Permission;
use crate::auth::api_key::Plaintext;
use crate::auth::store::{Undone, undo as undo_key};
use crate::cli::{self, KeysAction};
use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::command_error::runtime;
use crate::config::Settings;
use crate::database_command::{
    self, Load, failed, find_tenant, hand_over, invalid, remark_unconfirmed, tell_servers, tenant_not_found,
    until,
};
use crate::store::Store;
use crate::terminal::shown;

/// Carries out an action. `settings` is asked for only where a database is needed.
///
/// # Errors
/// `Usage` for a value that is not right, and those of `database_command::run`.
pub fn run(
    action: KeysAction,
    settings: impl FnOnce() -> Result<Settings, CommandError> + Send + 'static,
) -> Result<ExitCode, CommandError> {
    let may_change = !matches!(action, KeysAction::List { .. } | KeysAction::Explain);
    database_command::run(settings, may_change, move |settings| carry_out(&action, settings))
}

fn carry_out(action: &KeysAction, settings: Load) -> Result<ExitCode, CommandError> {
    match action {
        KeysAction::Create { name, permissions, expires_in, tenant } => {
            create(settings, name, permissions.as_deref(), expires_in.as_deref(), tenant.as_deref())?;
        }
        KeysAction::List { tenant, json, active } => {
            list::run(&Store::to_look(&settings()?, &[TABLE])?, tenant.as_deref(), *json, *active)?;
        }
        KeysAction::Revoke { id } => revoke(settings, id)?,
        KeysAction::Rotate { id, grace } => rotate(settings, id, grace.as_deref())?,
        KeysAction::Explain => return explain::run(settings),
        KeysAction::Apply { file, dry_run } => apply::run(settings, file, *dry_run)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(
    settings: Load,
    name: &str,
    permissions: Option<&str>,
    expires_in: Option<&str>,
    tenant: Option<&str>,
) -> Result<(), CommandError> {
    check_name(name).map_err(|line| invalid("--name", &line))?;
    let permission = match permissions {
        Some(permissions) => Permission::parse(permissions)
            .ok_or_else(|| invalid("--permissions", &format!("expected {}", Permission::NAMES)))?,
        None => Permission::Admin,
    };
    let asked = expires_in.map(expiry::duration).transpose().map_err(|line| invalid("--expires-in", line))?;
    if asked.is_some_and(|duration| duration.is_zero()) {
        return Err(invalid("--expires-in", "must lie in the future"));
    }
    let settings = settings()?;
    let longest = settings.max_key_lifetime;
    // That needs no clock, so the database is left alone.
    if !longest.is_zero() && asked.is_some_and(|duration| duration.unsigned_abs() > longest) {
        let line = format!("must not be more than {}s: keys live no longer here", longest.as_secs());
        return Err(invalid("--expires-in", &line));
    }
    let store = Store::to_change(&settings, &[TABLE])?;
    let tenant = tenant.map(|name| find_tenant(&store, name)).transpose()?;
    let now = store.now(until()).map_err(failed)?;
    let end = asked.map(End::ExpiresIn);
    let expires_at = End::bounded(end, longest, now).map_err(|line| invalid("--expires-in", &line))?;
    let key = Plaintext::generate().map_err(runtime("the system has no random bytes"))?;
    let new = NewKey::new(&key, name, permission, expires_at);
    let is_confirmed = match &tenant {
        None => store::insert(&store, &new, until()).map_err(failed)?.is_confirmed,
        Some(tenant) => {
            let made = store::insert_of(&store, tenant, &new, until()).map_err(failed)?;
            made.value.ok_or_else(|| tenant_not_found(tenant.name()))?;
            made.is_confirmed
        }
    };
    // It may be lost with its primary, which lets no client in; a revocation that is lost would.
    if !is_confirmed {
        remark_unconfirmed();
    }
    cli::remark(&format!("created {} {}", shown(name), new.id));
    show(&store, new.id, &key)
}

/// Prints a new key. One that no process can have read must not stay valid.
fn show(store: &Store, id: Uuid, key: &Plaintext) -> Result<(), CommandError> {
    hand_over(key.reveal(), |error| {
        let undone = undo(store, id);
        format!("the new key {id} could not be written to stdout ({error}); {undone}")
    })
}

/// Takes back that a key was made, and says how things stand then.
fn undo(store: &Store, id: Uuid) -> String {
    match undo_key(store, id, until()) {
        Ok(Undone::Now { restored: Some(old), .. }) => {
            format!("the new key was revoked again, and {old} works as before")
        }
        Ok(_) => "the new key was revoked again".to_owned(),
        Err(error) => format!("revoking the new key {id} failed, please do so: {}", failed(error)),
    }
}

fn revoke(settings: Load, id: &str) -> Result<(), CommandError> {
    let id = key_id(id)?;
    let store = Store::to_change(&settings()?, &[TABLE])?;
    let revocation = store::revoke(&store, Among::All, id, until()).map_err(failed)?;
    if revocation.value == Revocation::Unknown {
        return Err(Runtime(format!("there is no key {id}")));
    }
    // For an earlier revocation as well: the command that made it may not have waited to the end.
    tell_servers(&store);
    match revocation.value {
        _ if !revocation.is_confirmed => Err(Runtime(format!(
            "{id} is revoked, but no synchronous standby has confirmed that: revoke it again, until one has"
        ))),
        Revocation::Revoked(name) => cli::print(&format!("revoked {} {id}\n", shown(&name))),
        _ => Err(Runtime(format!("the key {id} has been revoked before"))),
    }
}

fn rotate(settings: Load, old: &str, grace: Option<&str>) -> Result<(), CommandError> {
    let old = key_id(old)?;
    let grace = read_grace(grace.unwrap_or("0s")).map_err(|line| invalid("--grace", line))?;
    let key = Plaintext::generate().map_err(runtime("the system has no random bytes"))?;
    let settings = settings()?;
    let successor = Successor::new(&key, grace, settings.max_key_lifetime);
    let id = successor.id;
    let store = Store::to_change(&settings, &[TABLE])?;
    let rotated = store::rotate(&store, Among::All, old, &successor, until()).map_err(failed)?;
    let made = match rotated.value {
        // A failover may bring the old key back as it was, so it is brought back here.
        Rotated::Now(_) if !rotated.is_confirmed => {
            return Err(Runtime(format!(
                "no synchronous standby has confirmed the rotation of {old}; {}",
                undo(&store, id)
            )));
        }
        Rotated::Now(made) => made,
        Rotated::Earlier => return Err(Runtime(format!("{ALREADY_ROTATED}: {old}"))),
        Rotated::NotValid => {
            return Err(Runtime(format!("there is no valid key {old}: unknown, revoked or expired")));
        }
    };
    // The key comes first: the old one has ended or will, whether or not all servers can be told.
    let until = expiry::format_rfc3339(made.old_expires_at);
    cli::remark(&format!("rotated {} {old} to {id}; the old key ends {until}", shown(&made.name)));
    let printed = show(&store, id, &key);
    tell_servers(&store);
    printed
}

fn key_id(text: &str) -> Result<Uuid, CommandError> {
    // The text is not repeated: it may be a key.
    parse_id(text).ok_or_else(|| {
        Usage("invalid key ID format: it is like a1b2c3d4-e5f6-7890-abcd-ef1234567890".to_owned())
    })
}
