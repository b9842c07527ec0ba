//! A task without a supervisor: what `exec-task` is given, and what comes of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::directory::Directory;
use crate::support::program::{Ended, Process, binary};

/// Whom tasks of root's tests run as: no user of the system, and one for each test process.
pub fn made_up_user() -> u32 {
    60_000 + std::process::id() % 5_000
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0)
}

pub struct Task {
    pub directory: Directory,
    /// What `exec-task` reads.
    pub spec: Value,
    /// A shell script that runs the program it is given, in front of the command.
    pub started_by: &'static str,
    pub variables: Vec<(&'static str, &'static str)>,
}

/// What a task printed, and why it could not be started.
#[derive(Debug)]
pub struct Outcome {
    pub ended: Ended,
    pub report: String,
}

impl Task {
    /// In a package directory that it can read, beside a directory of its own. Of another user where we are root.
    pub fn new(command: &[&str]) -> Task {
        let directory = Directory::new();
        let [package, own] = ["package", "task"].map(|name| directory.join(name));
        let user = is_root().then(|| json!({"uid": made_up_user(), "gid": made_up_user(), "groups": []}));
        let spec = json!({
            "format": 1, "command": command, "working_directory": package,
            "environment": {
                "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": own, "TMPDIR": own,
            },
            "timeout_ms": 60_000, "grace_ms": 1_000, "log_limit_bytes": 1_048_576, "output_limit_bytes": 1_048_576,
            "scratch_limit_bytes": null, "open_files": 512, "user": user,
            "sandbox": {"mode": "required", "readable": [package], "writable": [own]},
            "ends_with_parent": false,
        });
        let task = Task { directory, spec, started_by: r#"exec "$@""#, variables: Vec::new() };
        for made in [&package, &own] {
            fs::create_dir(made).unwrap();
            task.give(made);
        }
        fs::set_permissions(task.directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        task
    }

    /// Runs a script of bash.
    pub fn script(script: &str) -> Task {
        Task::new(&["bash", "-c", script])
    }

    fn give(&self, path: &PathBuf) {
        if is_root() {
            chown(path, Some(made_up_user()), Some(made_up_user())).unwrap();
        }
    }

    /// With a file in its package.
    pub fn with(self, name: &str, mode: u32, bytes: impl AsRef<[u8]>) -> Task {
        let path = self.directory.join("package").join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        self.give(&path);
        self
    }

    pub fn run(&self) -> Outcome {
        let [spec, report] = ["spec.json", "report"].map(|name| self.directory.join(name));
        fs::write(&spec, self.spec.to_string()).unwrap();
        let mut command = Command::new("sh");
        command.env_clear().envs(self.variables.iter().copied());
        let script = format!(
            r#"spec=$1 report=$2; shift 2; set -- "$@" exec-task "$spec" "$PPID"; exec 3>"$report"; {}"#,
            self.started_by
        );
        command.arg("-c").arg(script).arg("sh").args([&spec, &report]).arg(binary());
        let ended = Process::start(command).ended();
        Outcome { ended, report: fs::read_to_string(report).unwrap() }
    }

    /// Runs it, and it must succeed; what it printed.
    #[track_caller]
    pub fn succeeds(&self) -> String {
        let outcome = self.run();
        assert!(outcome.ended.status.success() && outcome.report.is_empty(), "{outcome:#?}");
        outcome.ended.stdout
    }

    /// It must not be started; why.
    #[track_caller]
    pub fn is_not_started(&self) -> String {
        let outcome = self.run();
        assert_eq!(outcome.ended.status.code(), Some(127), "{outcome:#?}");
        assert_eq!(outcome.report.lines().count(), 1, "{outcome:#?}");
        outcome.report.trim_end().to_owned()
    }
}
