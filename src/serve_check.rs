//! `serve --check`: everything that would stop a start, said at once for a deploy script. Leaves nothing behind, and
//! waits for no other process.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::{AccessFlags, access};
use postgres::Client;

use crate::cli;
use crate::command_error::CommandError::{self, Runtime};
use crate::config::{Flags, Settings};
use crate::engine::cgroup;
use crate::hosts;
use crate::http::listener;
use crate::keys::{self, bootstrap};
use crate::store::migrations::State;
use crate::store::preflight::{self as database, Finding};
use crate::store::schema::Schema;
use crate::tenants;
use crate::workflows;

/// Prints a line for each thing that is in order on stdout, and one for each that is not on stderr. The exit code is 2
/// for wrong usage or configuration, 1 for what else is wrong. A taken address is not: mostly that is the server which
/// is to be replaced.
///
/// # Errors
/// stdout cannot be written.
pub fn check(home: PathBuf, flags: Flags) -> Result<ExitCode, CommandError> {
    let mut code = 0;
    for finding in find(home, flags) {
        match finding {
            Ok(line) => cli::print(&format!("ok: {line}\n"))?,
            Err(failure) => {
                code = code.max(failure.exit_code());
                cli::print_error(&failure);
            }
        }
    }
    Ok(ExitCode::from(code))
}

fn find(home: PathBuf, flags: Flags) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (settings, wrong) = match Settings::load_all(home.clone(), false, flags) {
        Ok((settings, wrong)) => (Some(settings), wrong),
        Err(failure) => {
            findings.push(Err(failure));
            (None, Vec::new())
        }
    };
    let is_wrong: Vec<_> = wrong.iter().map(|(key, _)| *key).collect();
    findings.extend(wrong.into_iter().map(|(_, failure)| Err(failure)));
    let chosen = settings.as_ref().and_then(|settings| settings.bootstrap_key.as_deref());
    findings.extend(bootstrap::chosen_key(chosen).err().map(Err));
    if findings.is_empty() {
        findings.push(Ok("configuration".to_owned()));
    }
    findings.extend(look_at_home(&home));
    let is_right = |key| !is_wrong.contains(&key);
    if let Some(settings) = settings.as_ref().filter(|_| is_right("bind")) {
        findings.push(listener::is_taken(settings.bind.0).map(|taken| match taken {
            true => format!(
                "address {} (it is in use now, which is right if by the server that this one replaces)",
                settings.bind.0
            ),
            false => format!("address {} (it is free)", settings.bind.0),
        }));
    }
    if let Some(settings) = settings.as_ref().filter(|_| is_right("database_url")) {
        findings.extend(database::database(
            settings,
            &[keys::store::TABLE, tenants::store::TABLE, workflows::store::TABLE, hosts::store::TABLE],
            look_at_rows,
        ));
    }
    if let Some(settings) =
        settings.as_ref().filter(|settings| is_wrong.is_empty() && settings.task_slots > 0)
    {
        findings.extend(look_at_tasks(settings));
    }
    findings
}

/// Whether tasks would run here. A server starts without that, and says it in its log.
fn look_at_tasks(settings: &Settings) -> Vec<Finding> {
    let open = match hosts::obstacle::obstacle(settings) {
        Ok(open) => open,
        Err(why) => return vec![Err(Runtime(format!("no task would run here: {why}")))],
    };
    let ends = if settings.stops_tasks() { "end with the server" } else { "outlive a server that stops" };
    let mode = settings.sandbox.name();
    let runs = format!("runs up to {} tasks at once, which {ends}; sandbox {mode}", settings.task_slots);
    let mut findings = vec![Ok(runs)];
    findings.extend(open.into_iter().map(|what| Ok(format!("open to tasks: {what}"))));
    // The server may be started otherwise, as by systemd.
    let held = cgroup::delegated().map(|_| ());
    findings.extend(held.err().map(|why| Ok(format!("started like this, {}", cgroup::not_held(why)))));
    findings
}

/// What a start would find of keys, and what tenants can be given.
fn look_at_rows(client: &mut Client, schema: &Schema, state: State) -> Result<Vec<String>, postgres::Error> {
    let mut found = keys::preflight::look(client, schema, state)?;
    if let Some(obstacle) = tenants::obstacle(client)? {
        found.push(format!("gives no tenant a role of its own: {obstacle}"));
    }
    Ok(found)
}

const WRITABLE: AccessFlags = AccessFlags::R_OK.union(AccessFlags::W_OK).union(AccessFlags::X_OK);

/// The home directory, and what a start reads or writes there.
fn look_at_home(home: &Path) -> Vec<Finding> {
    let wrong = |error: String| {
        vec![Err(Runtime(format!("cannot use {} as the home directory: {error}", home.display())))]
    };
    match fs::metadata(home) {
        Ok(metadata) if !metadata.is_dir() => {
            return wrong(io::Error::from(io::ErrorKind::NotADirectory).to_string());
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let nearest = home.ancestors().skip(1).find(|path| path.exists()).unwrap_or(Path::new("/"));
            return match try_out(nearest) {
                _ if !nearest.is_dir() => wrong(format!("{} is not a directory", nearest.display())),
                Ok(()) => vec![Ok(format!("home {} is made by a start", home.display()))],
                Err(error) => wrong(format!("it cannot be made in {}: {error}", nearest.display())),
            };
        }
        Err(error) => return wrong(error.to_string()),
    }
    if let Err(error) = try_out(home) {
        return wrong(error);
    }
    let key = home.join(bootstrap::FILE);
    let logs = home.join("logs");
    let mut findings = vec![Ok(format!("home {}{}", home.display(), open_to_others(home, "700")))];
    if key.exists() {
        findings.push(match fs::File::open(&key).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() => {
                Ok(format!("the file {}{}", key.display(), open_to_others(&key, "600")))
            }
            Ok(_) => Err(Runtime(format!("{} is not a file", key.display()))),
            Err(error) => Err(Runtime(format!("cannot read {}: {error}", key.display()))),
        });
    }
    if logs.exists()
        && let Err(error) = access(&logs, WRITABLE)
    {
        let error = error.desc();
        findings.push(Ok(format!(
            "the server would log to stderr alone: cannot write to {}: {error}",
            logs.display()
        )));
    }
    findings
}

/// Makes a directory and a file in it, as a start would, and takes both away again: permissions do not tell of a
/// read-only, full or special file system. One that was killed midway leaves the directory, and in a container the next
/// one may have the same process id.
fn try_out(parent: &Path) -> Result<(), String> {
    access(parent, WRITABLE).map_err(|error| error.desc().to_owned())?;
    let make = || {
        let number = getrandom::u64().map_err(io::Error::other)?;
        let directory = parent.join(format!(".cloacinactl-check-{number:016x}"));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let written = fs::write(directory.join("file"), "a try\n");
        written.and(fs::remove_dir_all(&directory))
    };
    make().map_err(|error| error.to_string())
}

/// What to do about a mode that lets others in, if it does.
fn open_to_others(path: &Path, mode: &str) -> String {
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            format!(" (others may look into it or change it: chmod {mode} {})", path.display())
        }
        _ => String::new(),
    }
}
