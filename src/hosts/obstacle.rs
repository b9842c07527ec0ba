//! What keeps a host from running tasks, and what tasks could reach on it that they should not.

use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::engine::attempt::TaskUser;
use crate::engine::sandbox::{self, Mode, Sandbox};
use crate::engine::task_user;
use crate::postgres_link::open_without_password;

/// What is said with each obstacle that there is only in the mode `required`.
const INSTEAD: &str = "`--sandbox partial` runs tasks all the same, and lists what stays open";

/// Looks at all of it, which takes a process of its own and connections to the database. What stays open to tasks, a line
/// each, for the log: nothing with `required`.
///
/// # Errors
/// Why no task may run here, and what to change.
pub fn obstacle(settings: &Settings) -> Result<Vec<String>, String> {
    let user = task_user::of_process(settings.task_user.as_deref())?;
    if let Some(directory) = user.as_ref().and_then(|user| closed_above(&settings.home, user)) {
        return Err(format!(
            "the user of tasks cannot pass through {} to what the server keeps for them in its home {}: put that elsewhere \
             with --home, such as below /var/lib",
            directory.display(),
            settings.home.display()
        ));
    }
    let mode = settings.sandbox;
    let mut open = sandbox::probe(mode)?;
    if mode == Mode::Off {
        return Ok(open);
    }
    let mut add = |found: Option<(String, String)>| match found {
        // Each obstacle says what to change; what is only listed says what it is.
        Some((what, to_do)) if mode == Mode::Required => Err(format!("{what}: {to_do}. {INSTEAD}")),
        found => {
            open.extend(found.map(|(what, _)| what));
            Ok(())
        }
    };
    add(secrets_on_command_line(settings))?;
    // Another user is kept out by the modes of the files.
    if user.is_none() {
        add(readable_home(settings))?;
    }
    add(open_database(settings)?)?;
    Ok(open)
}

/// Says in the log what stays open, where that is anything.
pub fn tell(mode: Mode, open: &[String]) {
    match (mode, open) {
        (Mode::Off, _) => log::warn!(
            "--sandbox off: tasks may do whatever their user may: read the server's files, keys and memory, and end it"
        ),
        (_, []) => log::info!("--sandbox {}: tasks are kept to what is theirs", mode.name()),
        (_, open) => log::warn!("--sandbox {}: open to tasks: {}", mode.name(), open.join("; ")),
    }
}

/// The directory above the home that lets this user not pass, by its mode. The home itself is the server's to open.
fn closed_above(home: &Path, user: &TaskUser) -> Option<PathBuf> {
    let home = fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    let lets_pass = |metadata: &Metadata| {
        let bit = match (metadata.uid(), metadata.gid()) {
            (owner, _) if owner == user.uid => 0o100,
            (_, group) if group == user.gid || user.groups.contains(&group) => 0o010,
            _ => 0o001,
        };
        metadata.mode() & bit != 0
    };
    let is_closed = |path: &&Path| fs::metadata(path).is_ok_and(|metadata| !lets_pass(&metadata));
    home.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).find(is_closed).map(Path::to_owned)
}

fn secrets_on_command_line(settings: &Settings) -> Option<(String, String)> {
    let (first, others) = settings.exposed.split_first()?;
    let mut flags = format!("`{first}`");
    for flag in others {
        let _ = write!(flags, " and `{flag}`");
    }
    Some((
        format!("the secret in {flags} on the server's command line, which every process can read"),
        "give it in a file or in the environment, such as by --database-url-file or DATABASE_URL".to_owned(),
    ))
}

fn readable_home(settings: &Settings) -> Option<(String, String)> {
    let required = Sandbox { mode: Mode::Required, readable: Vec::new(), writable: Vec::new() };
    required.expect_closed(&settings.home).err()?;
    Some((
        format!(
            "the server's home {}, which lies in a directory that every task can read",
            settings.home.display()
        ),
        "put it elsewhere with --home, such as below /var/lib".to_owned(),
    ))
}

/// # Errors
/// The database URL is wrong, which the start would have said.
fn open_database(settings: &Settings) -> Result<Option<(String, String)>, String> {
    let open = open_without_password(&settings.database_url).map_err(|error| error.to_string())?;
    if open.is_empty() {
        return Ok(None);
    }
    Ok(Some((
        format!("the database, which lets the server's user in without a password at {}", open.join(", ")),
        "let its pg_hba.conf ask for one (scram-sha-256) in every line `host`, or listen on a Unix socket alone \
         (listen_addresses = '')"
            .to_owned(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_says_what_to_change() {
        let settings = Settings { exposed: vec!["--database-url", "--bootstrap-key"], ..Settings::default() };
        let (what, to_do) = secrets_on_command_line(&settings).unwrap();
        assert!(what.contains("`--database-url` and `--bootstrap-key`"), "{what}");
        assert!(to_do.contains("DATABASE_URL"), "{to_do}");
        let at = |home: &str| readable_home(&Settings { home: home.into(), ..Settings::default() });
        assert!(at("/opt/cloacina").unwrap().0.contains("/opt/cloacina"));
        assert_eq!(at("/var/lib/cloacina"), None);
    }

    #[test]
    fn a_directory_that_the_user_of_tasks_cannot_pass_is_found() {
        use std::os::unix::fs::PermissionsExt as _;
        let top = std::env::temp_dir().join(format!("cloacina-closed-{}", std::process::id()));
        let home = top.join("closed/home");
        fs::create_dir_all(&home).unwrap();
        let set = |mode| fs::set_permissions(top.join("closed"), fs::Permissions::from_mode(mode)).unwrap();
        let metadata = fs::metadata(&home).unwrap();
        let stranger = TaskUser { uid: metadata.uid() + 1, gid: metadata.gid() + 1, groups: Vec::new() };
        let of_group = TaskUser { groups: vec![metadata.gid()], ..stranger.clone() };
        set(0o711);
        assert_eq!(closed_above(&home, &stranger), None);
        set(0o710);
        assert_eq!(closed_above(&home, &stranger), Some(fs::canonicalize(top.join("closed")).unwrap()));
        assert_eq!(closed_above(&home, &of_group), None);
        set(0o700);
        assert!(closed_above(&home, &of_group).is_some());
        fs::remove_dir_all(&top).unwrap();
    }
}
