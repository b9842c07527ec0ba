//! `cloacinactl workflow`: checks, packs and runs packages here, without server or database.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::archive;
use super::local_run::{self, LocalRun, Message};
use super::manifest::{self, Manifest};
use super::package::{Package, PackageError};
use super::problem::Problem;
use crate::channel::channel;
use crate::cli::{self, RunFlags, WorkflowAction};
use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::command_error::runtime;
use crate::engine::cgroup;
use crate::engine::graph::ExecutionOutcome;
use crate::engine::remove_tree::remove_tree;
use crate::engine::sandbox::{self, Mode, Sandbox};
use crate::engine::task_user;
use crate::suggestion::did_you_mean;
use crate::terminal::start_of;

/// Of a package of the largest size on a slow disk.
const LONGEST_UNPACKING: Duration = Duration::from_secs(600);

/// # Errors
/// `Usage` for a flag's value, `Runtime` for what cannot be read or written.
pub fn run(action: WorkflowAction) -> Result<ExitCode, CommandError> {
    match action {
        WorkflowAction::Check { path } => check(Path::new(&path)),
        WorkflowAction::Pack { directory, output } => pack(Path::new(&directory), output.as_deref()),
        WorkflowAction::Run { path, flags } => run_here(Path::new(&path), flags),
        WorkflowAction::Schema => {
            let schema = serde_json::to_string_pretty(&manifest::schema())
                .map_err(runtime("cannot print the schema"))?;
            cli::print(&(schema + "\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(path: &Path) -> Result<ExitCode, CommandError> {
    let package = match read(path)? {
        Ok(package) => package,
        Err(problems) => return refused(path, &problems),
    };
    cli::print(&format!("{}\n", summary(&package.manifest)))?;
    Ok(ExitCode::SUCCESS)
}

fn pack(directory: &Path, output: Option<&str>) -> Result<ExitCode, CommandError> {
    if let Some(path) = output.filter(|path| *path != "-")
        && fs::metadata(path).is_ok_and(|found| !found.is_file())
    {
        return Err(Usage(format!("`--output {}` is no file; - is stdout", start_of(path))));
    }
    let packed = match output {
        Some("-") => archive::pack(directory, io::stdout().lock(), &[]).map(|_| None),
        _ => pack_into_file(directory, output.map(Path::new)).map(Some),
    };
    match packed {
        Ok(path) => {
            if let Some(path) = path {
                cli::print(&format!("{}\n", path.display()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(PackageError::Problems(problems)) => refused(directory, &problems),
        Err(PackageError::Read(error)) => {
            Err(Runtime(format!("cannot pack {}: {error}", directory.display())))
        }
    }
}

/// Beside it first, so that a file of that name is whole. A link is followed.
fn pack_into_file(directory: &Path, output: Option<&Path>) -> Result<PathBuf, PackageError> {
    let real = output.and_then(|path| fs::canonicalize(path).ok());
    let output = real.as_deref().or(output);
    let beside = output.and_then(Path::parent).unwrap_or(Path::new(""));
    let partial = beside.join(format!(".cloacinactl-pack-{}", Uuid::new_v4()));
    let packed = File::create_new(&partial).map_err(PackageError::Read).and_then(|file| {
        let left_out: Vec<&Path> = [Some(&*partial), output].into_iter().flatten().collect();
        let package = archive::pack(directory, file, &left_out)?;
        let Manifest { name, version, .. } = &package.manifest;
        let path = output.map_or_else(|| PathBuf::from(format!("{name}-{version}.tar.gz")), Path::to_owned);
        fs::rename(&partial, &path).map_err(PackageError::Read)?;
        Ok(path)
    });
    if packed.is_err() {
        let _ = fs::remove_file(&partial);
    }
    packed
}

fn run_here(path: &Path, flags: RunFlags) -> Result<ExitCode, CommandError> {
    let context = flags.context.as_deref().map_or_else(|| Ok(Map::new()), context)?;
    let mode = flags.sandbox.as_deref().map_or(Ok(Mode::Required), mode)?;
    let slots = flags.task_slots.as_deref().map_or_else(cpus, slots)?;
    let mut sandbox = Sandbox { mode, readable: Vec::new(), writable: Vec::new() };
    for path in &flags.allow_paths {
        allow(&mut sandbox, path)?;
    }
    let user = task_user::of_process(flags.task_user.as_deref()).map_err(Usage)?;
    let manifest = match read(path)? {
        Ok(package) => package.manifest,
        Err(problems) => return refused(path, &problems),
    };
    let only = flags.task.as_deref().map(|id| task(&manifest, id)).transpose()?;
    let secrets = secrets(&manifest, only)?;
    for line in sandbox::probe(mode).map_err(Runtime)? {
        cli::remark(&format!("cloacinactl: {line}"));
    }
    let (sender, messages) = channel();
    let stop = sender.clone();
    ctrlc::set_handler(move || drop(stop.send(Message::Stop))).map_err(runtime("cannot handle signals"))?;
    let scratch = Scratch::new(user.is_some())?;
    let package = package_directory(path, &scratch)?;
    let attempts = scratch.0.clone();
    let cgroups = cgroup::enter().ok();
    let run = LocalRun { manifest, package, context, attempts, sandbox, user, cgroups, slots, secrets, only };
    Ok(match local_run::run(run, &sender, &messages)? {
        ExecutionOutcome::Completed => ExitCode::SUCCESS,
        ExecutionOutcome::Failed { .. } | ExecutionOutcome::Cancelled => ExitCode::FAILURE,
    })
}

/// A directory for one run, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(has_task_user: bool) -> Result<Scratch, CommandError> {
        // What tasks are granted has no links in it.
        let temporary = fs::canonicalize(std::env::temp_dir())
            .map_err(runtime("cannot find the directory for temporary files"))?;
        let path = temporary.join(format!("cloacinactl-run-{}", Uuid::new_v4()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(runtime(&format!("cannot make {}", path.display())))?;
        let scratch = Scratch(path);
        if has_task_user {
            // A task passes through to its own directory, whatever the umask is.
            fs::set_permissions(&scratch.0, Permissions::from_mode(0o711))
                .map_err(runtime("cannot let the task's user in"))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.0) {
            cli::remark(&format!("cloacinactl: cannot remove {}: {error}", self.0.display()));
        }
    }
}

/// Where the files of a package are; those of an archive are unpacked first.
fn package_directory(path: &Path, scratch: &Scratch) -> Result<PathBuf, CommandError> {
    if path.is_dir() {
        return fs::canonicalize(path).map_err(runtime("cannot find the package"));
    }
    let package = scratch.0.join("package");
    let cannot_unpack =
        |error: &dyn fmt::Display| Runtime(format!("cannot unpack {}: {error}", path.display()));
    let archive = File::open(path).map_err(|error| cannot_unpack(&error))?;
    archive::unpack_in_process(archive, &package, Instant::now() + LONGEST_UNPACKING)
        .map_err(|error| cannot_unpack(&error))?;
    Ok(package)
}

/// A package, or all that is wrong with it.
fn read(path: &Path) -> Result<Result<Package, Vec<Problem>>, CommandError> {
    let cannot_read = |error: io::Error| Runtime(format!("cannot read {}: {error}", path.display()));
    let package = match fs::metadata(path).map_err(cannot_read)?.is_dir() {
        true => Package::from_directory(path),
        false => Package::from_archive(File::open(path).map_err(cannot_read)?),
    };
    match package {
        Ok(package) => Ok(Ok(package)),
        Err(PackageError::Problems(problems)) => Ok(Err(problems)),
        Err(PackageError::Read(error)) => Err(cannot_read(error)),
    }
}

/// Says what is wrong, with paths that an editor finds.
fn refused(path: &Path, problems: &[Problem]) -> Result<ExitCode, CommandError> {
    let mut text = String::new();
    for problem in problems {
        let file = path.join(&problem.file).to_string_lossy().into_owned();
        text += &format!("{}\n", Problem { file, ..problem.clone() });
    }
    cli::print(&text)?;
    Ok(ExitCode::FAILURE)
}

/// `nightly 1.2.0: 3 tasks, 1 schedule`.
fn summary(manifest: &Manifest) -> String {
    let counts = [
        (manifest.tasks.len(), "task"),
        (manifest.schedules.len(), "schedule"),
        (manifest.triggers.len(), "trigger"),
    ];
    let shown = |(count, what): &(usize, &str)| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        count => Some(format!("{count} {what}s")),
    };
    let counts: Vec<_> = counts.iter().filter_map(shown).collect();
    format!("{} {}: {}", manifest.name, manifest.version, counts.join(", "))
}

fn context(text: &str) -> Result<Map<String, Value>, CommandError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(context)) => Ok(context),
        Ok(_) => Err(Usage("`--context` must be a JSON object, such as {\"day\":\"2026-01-31\"}".to_owned())),
        Err(error) => Err(Usage(format!("`--context` is no JSON: {error}"))),
    }
}

fn mode(text: &str) -> Result<Mode, CommandError> {
    Mode::from_name(text).ok_or_else(|| {
        Usage(format!("`--sandbox` is required, partial or off, and not `{}`", start_of(text)))
    })
}

fn slots(text: &str) -> Result<usize, CommandError> {
    let count = text.parse().ok().filter(|count| (1..=1000).contains(count));
    count.ok_or_else(|| {
        Usage(format!("`--task-slots` is a number from 1 to 1000, and not `{}`", start_of(text)))
    })
}

fn cpus() -> Result<usize, CommandError> {
    Ok(std::thread::available_parallelism().map_or(1, usize::from))
}

/// Adds what `PATH:r` or `PATH:rw` opens.
fn allow(sandbox: &mut Sandbox, text: &str) -> Result<(), CommandError> {
    let wrong = |line: String| Usage(format!("`--allow-path {}`: {line}", start_of(text)));
    let (path, access) = text.rsplit_once(':').unwrap_or((text, ""));
    let paths = match access {
        "r" => &mut sandbox.readable,
        "rw" => &mut sandbox.writable,
        _ => return Err(wrong("it must end in :r or :rw, such as /srv/data:r".to_owned())),
    };
    let path = fs::canonicalize(path).map_err(|error| wrong(error.to_string()))?;
    paths.push(path);
    Ok(())
}

fn task(manifest: &Manifest, id: &str) -> Result<usize, CommandError> {
    manifest.graph.index_of(id).ok_or_else(|| {
        let meant = did_you_mean(id, manifest.tasks.iter().map(|task| task.id.as_str()));
        Usage(format!("`--task`: the package has no task `{}`{meant}", start_of(id)))
    })
}

/// What variables say of the secrets that tasks name.
fn secrets(manifest: &Manifest, only: Option<usize>) -> Result<BTreeMap<String, String>, CommandError> {
    let tasks = match only {
        None => &manifest.tasks[..],
        Some(only) => &manifest.tasks[only..=only],
    };
    let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
    for name in tasks.iter().flat_map(|task| &task.secrets) {
        match std::env::var(name) {
            Ok(value) => drop(found.insert(name.clone(), value)),
            Err(_) if missing.contains(name) => {}
            Err(_) => missing.push(name.clone()),
        }
    }
    match missing.as_slice() {
        [] => Ok(found),
        names => Err(Usage(format!(
            "tasks need secrets that no environment variable has: {}; set them to run it here",
            names.join(", ")
        ))),
    }
}
