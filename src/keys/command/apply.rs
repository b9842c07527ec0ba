//! `cloacinactl keys apply`: from what the database has to what a file declares.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::super::expiry;
use super::super::store::TABLE;
use super::super::store::declared::{Declared, KnownKey, Step, declare, known_keys};
use super::declaration::{self, Wanted};
use crate::cli;
use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::database_command::{Load, failed, has_answered, tell_servers, until, until_within};
use crate::plain_file;
use crate::store::{COMMAND_LIMIT, Store};
use crate::terminal::shown;

/// Room for tens of thousands of keys, and short enough for /dev/zero.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// What each key adds to the time that the database may take, which may be far away.
const TIME_FOR_A_KEY: Duration = Duration::from_millis(500);

pub fn run(settings: Load, file: &str, dry_run: bool) -> Result<(), CommandError> {
    let wanted = read(file)?;
    let hashes: Vec<_> = wanted.iter().map(|key| key.hash).collect();
    let settings = settings()?;
    let store =
        if dry_run { Store::to_look(&settings, &[TABLE])? } else { Store::to_change(&settings, &[TABLE])? };
    let limit = COMMAND_LIMIT + TIME_FOR_A_KEY * u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    let now = store.now(until()).map_err(failed)?;
    let mut is_confirmed = true;
    let plan = |known: &[KnownKey]| {
        let plan = Plan { is_dry: dry_run, ..Plan::default() };
        plan.filled(&wanted, known, settings.max_key_lifetime, now)
    };
    let planned = if dry_run {
        plan(&known_keys(&store, &hashes, until_within(limit)).map_err(failed)?)
    } else {
        let mut planned = Ok(Plan::default());
        let steps = |known: Vec<KnownKey>| {
            planned = plan(&known);
            planned.as_mut().map(|plan| std::mem::take(&mut plan.steps)).unwrap_or_default()
        };
        is_confirmed = declare(&store, &hashes, steps, until_within(limit)).map_err(failed)?.is_confirmed;
        planned
    };
    let file = shown(file);
    let plan = planned.map_err(|refusal| Runtime(format!("{file}, {refusal}; nothing was changed")))?;
    for warning in &plan.warnings {
        cli::remark(&format!("cloacinactl: {file}, {warning}"));
    }
    has_answered();
    let printed = cli::print(&format!("{}unchanged {}\n", plan.report, plan.unchanged));
    if !dry_run {
        // Also when nothing has changed: the command that made the change may not have waited to the end.
        tell_servers(&store);
    }
    printed?;
    if !is_confirmed {
        return Err(Runtime(format!(
            "{file}: no synchronous standby has confirmed this, so a failover may undo it: apply it again, until one has"
        )));
    }
    match plan.dead {
        0 => Ok(()),
        dead => Err(Runtime(format!(
            "{file}: {dead} of its keys were revoked or rotated for good; take them out, and declare new ones instead"
        ))),
    }
}

fn read(file: &str) -> Result<Vec<Wanted>, CommandError> {
    let unreadable = |error: io::Error| Usage(format!("cannot read {}: {error}", shown(file)));
    // A shell's `<(…)` is a pipe, and may be waited for.
    let bytes =
        File::open(file).and_then(|file| plain_file::read_from(file, MOST_BYTES)).map_err(unreadable)?;
    declaration::read(&bytes).map_err(|wrong| Usage(format!("{}, {wrong}", shown(file))))
}

/// What is to be done, and what is to be said of it.
#[derive(Default)]
struct Plan<'a> {
    /// Nothing will be done, so the report says what would be.
    is_dry: bool,
    steps: Vec<Step<'a>>,
    /// A line for each change.
    report: String,
    /// Keys that need none.
    unchanged: usize,
    warnings: Vec<String>,
    /// Keys that the file wants and that cannot come back.
    dead: usize,
}

impl<'a> Plan<'a> {
    /// # Errors
    /// Why nothing at all may be done.
    fn filled(
        mut self,
        wanted: &'a [Wanted],
        known: &[KnownKey],
        max_lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Plan<'a>, String> {
        let by_hash: HashMap<&str, &KnownKey> = known.iter().map(|key| (key.hash.as_str(), key)).collect();
        for wanted in wanted {
            match by_hash.get(wanted.hash.as_str()) {
                None => {
                    check_lifetime(wanted, max_lifetime, now)?;
                    self.create(wanted);
                }
                Some(key) if !key.is_declared => return Err(not_to_be_taken(wanted, key)),
                Some(key) if key.is_revoked || key.is_rotated => {
                    let what = if key.is_revoked { "revoked" } else { "rotated" };
                    self.dead += 1;
                    self.warnings.push(format!("{wanted} was {what} and stays so ({})", key.id));
                    continue;
                }
                Some(key) if key.expires_at == wanted.expires_at => self.change(wanted, key),
                Some(key) => {
                    check_lifetime(wanted, max_lifetime, now)?;
                    self.change(wanted, key);
                }
            }
            if wanted.expires_at.is_some_and(|end| end <= now) {
                self.warnings.push(format!("{wanted} has expired"));
            }
        }
        let still_wanted: HashSet<&str> = wanted.iter().map(|key| key.hash.as_str()).collect();
        for key in known.iter().filter(|key| key.is_declared && !key.is_revoked) {
            if !still_wanted.contains(key.hash.as_str()) {
                self.steps.push(Step::Revoke(key.id));
                self.say(["revoked", "would revoke"], &key.name, &format!(" {}", key.id));
            }
        }
        Ok(self)
    }

    fn create(&mut self, wanted: &'a Wanted) {
        let id = Uuid::new_v4();
        self.steps.push(Step::Create(wanted.hash, row(wanted, id)));
        // The id of a key that is only planned is not the one that it will have.
        let id = if self.is_dry { String::new() } else { format!(" {id}") };
        self.say(["created", "would create"], &wanted.name, &id);
    }

    fn change(&mut self, wanted: &'a Wanted, key: &KnownKey) {
        let written = |end: Option<OffsetDateTime>| end.map_or("never".to_owned(), expiry::format_rfc3339);
        let changes: Vec<String> = [
            ("name", shown(&key.name), shown(&wanted.name)),
            ("permissions", shown(&key.permissions), wanted.permission.name().to_owned()),
            ("expires_at", written(key.expires_at), written(wanted.expires_at)),
        ]
        .into_iter()
        .filter(|(_, before, after)| before != after)
        .map(|(field, before, after)| format!("{field} {before} -> {after}"))
        .collect();
        if changes.is_empty() {
            self.unchanged += 1;
            return;
        }
        self.steps.push(Step::Change(row(wanted, key.id)));
        let details = format!(" {}: {}", key.id, changes.join(", "));
        self.say(["changed", "would change"], &wanted.name, &details);
    }

    /// `verbs`: what was done, and the same of a plan.
    fn say(&mut self, verbs: [&str; 2], name: &str, details: &str) {
        let _ = writeln!(self.report, "{} {}{details}", verbs[usize::from(self.is_dry)], shown(name));
    }
}

/// Why the row that has the hash is not one for a file to change.
fn not_to_be_taken(wanted: &Wanted, key: &KnownKey) -> String {
    let why = match key.tenant.as_deref() {
        None => "which no file declared".to_owned(),
        Some("") => "which is a tenant's".to_owned(),
        Some(tenant) => format!("which is a key of the tenant `{}`", shown(tenant)),
    };
    format!("{wanted} has the hash of the key {} (`{}`), {why}", key.id, shown(&key.name))
}

/// A file says for each key how long it lives, so it is not quietly made shorter.
fn check_lifetime(wanted: &Wanted, max_lifetime: Duration, now: OffsetDateTime) -> Result<(), String> {
    match expiry::bounded(wanted.expires_at, max_lifetime, now) {
        Err(line) => Err(format!("{wanted}: expires_at: {line}")),
        Ok(end) if end != wanted.expires_at => {
            Err(format!("{wanted}: expires_at: missing; no key lives for ever here"))
        }
        Ok(_) => Ok(()),
    }
}

fn row(wanted: &Wanted, id: Uuid) -> Declared<'_> {
    Declared { id, name: &wanted.name, permissions: wanted.permission.name(), expires_at: wanted.expires_at }
}
