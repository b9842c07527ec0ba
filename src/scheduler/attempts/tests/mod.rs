//! Attempts with a supervisor that is a shell script, since the program of unit tests is no supervisor.

mod ends;
mod found;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Map;

use super::*;
use crate::engine::attempt::End;
use crate::workflows::manifest::{Found as Anything, Manifest};

/// `supervise-task DIR`: what every supervisor does first.
const BEGIN: &str = r#"#!/bin/sh
dir=$2
exec 9<>"$dir/attempt.lock"
flock 9
read secrets || exit 1
[ -s "$dir/attempt.lock" ] && exit 1
printf %s $$ >"$dir/attempt.lock"
end() {
    printf '{"format":1,"end":%s,"output":null,"started_at_ms":1,"ended_at_ms":2,"log_bytes":0,"log_kept_bytes":0,
        "warnings":[]}' "$1" >"$dir/outcome.new"
    mv "$dir/outcome.new" "$dir/outcome.json"
    exit 0
}
"#;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Home(pub PathBuf);

impl Home {
    pub fn new() -> Home {
        let path = std::env::temp_dir().join(format!("cloacinactl-attempts-{}", Uuid::new_v4()));
        fs::create_dir(&path).unwrap();
        Home(fs::canonicalize(path).unwrap())
    }

    pub fn open(&self, script: &str) -> Attempts {
        self.open_in(script, Uuid::from_u128(1))
    }

    /// With a supervisor that goes on like this.
    pub fn open_in(&self, script: &str, boot: Uuid) -> Attempts {
        let program = self.0.join(format!("program-{}", Uuid::new_v4()));
        write_program(&program, &format!("{BEGIN}{script}\n"));
        Attempts::open(self.settings(program, boot)).unwrap()
    }

    pub fn settings(&self, program: PathBuf, boot: Uuid) -> AttemptSettings {
        AttemptSettings {
            home: self.0.clone(),
            boot,
            sandbox: Mode::Off,
            user: None,
            cgroups: None,
            log_limit_bytes: 1 << 20,
            grace: Duration::from_secs(10),
            read_package: Arc::new(|_, _| Err(io::Error::other("the database is away"))),
            program,
        }
    }

    pub fn attempt(&self, id: Uuid) -> PathBuf {
        self.0.join("attempts").join(id.to_string())
    }

    pub fn is_package(&self, claimed: &Claimed) -> PathBuf {
        let path = self.0.join("packages").join(claimed.tenant.to_string()).join(&claimed.package_sha256);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn claimed(&self) -> Claimed {
        let claimed = claimed();
        self.is_package(&claimed);
        claimed
    }
}

/// By a process of its own: a program that this process has open for writing could not be executed, also where it is a
/// child of another thread that has it open for a moment.
pub fn write_program(path: &Path, text: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", "cat >\"$0\" && chmod 700 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn claimed() -> Claimed {
    let manifest =
        "[package]\nname = \"w\"\nversion = \"1.0.0\"\n[[tasks]]\nid = \"t\"\ncommand = [\"true\"]\n";
    let manifest = Manifest::parse(manifest, &|_| Anything::Known).unwrap();
    Claimed {
        attempt: Uuid::new_v4(),
        tenant: Uuid::from_u128(7),
        tenant_name: "acme".to_owned(),
        execution: Uuid::new_v4(),
        manifest: Arc::new(manifest),
        task: 0,
        number: 1,
        context: Map::new(),
        package: Uuid::from_u128(8),
        package_sha256: "0123456789abcdef".repeat(4),
        readable: Vec::new(),
        writable: Vec::new(),
        scratch_limit_bytes: None,
        waited: Duration::ZERO,
    }
}

/// The next event, which is to be another one than that it has started.
pub fn end_of(attempts: &mut Attempts) -> Event {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let mut events = attempts.wait(Duration::from_secs(1));
        events.retain(|event| !matches!(event, Event::Started(_)));
        if let Some(event) = events.pop() {
            assert!(events.is_empty(), "{events:?}");
            return event;
        }
    }
    panic!("no attempt ends");
}

pub fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_there() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn expect_end(event: &Event, id: Uuid, end: &End) {
    match event {
        Event::Ended(its, outcome) if *its == id && outcome.end == *end => {}
        event => panic!("{event:?}"),
    }
}
