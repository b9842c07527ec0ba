//! Executions that really run: a server with slots, tasks that are processes, and what survives when something dies.

mod bad_ones;
mod cgroups;
mod claims;
mod database;
mod disk;
mod ends;
mod hosts;
mod life;
mod limits;
mod metrics;
mod removal;
mod restarts;
mod runs;
mod stop;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::engine::task::is_root;
use crate::support::directory::Directory;
use crate::support::http::Response;
use crate::support::package::{archive, upload};
use crate::support::postgres::Database;
use crate::support::program::send_signal;
use crate::support::server::{Server, Start};
use crate::support::wait_for;
use crate::tenants::site::Site;

/// A server with slots, the tenant acme, and a key of it that may write.
pub struct Lab {
    pub site: Site,
    pub key: String,
    /// Of the server, which the next one may have as well.
    pub home: Directory,
    /// Which tasks may write.
    pub shared: Directory,
}

/// Starts a server that runs tasks. Tests' databases let everyone in, which `required` refuses.
pub fn start(database: &Database, home: &Directory, slots: usize) -> Server {
    start_with(database, home, slots, [])
}

pub fn start_with<const N: usize>(
    database: &Database,
    home: &Directory,
    slots: usize,
    arguments: [&str; N],
) -> Server {
    starting(&database.url(), home, slots).arguments(arguments).serving()
}

/// The same on a database that is reached by this URL.
pub fn start_on(url: &str, home: &Directory, slots: usize) -> Server {
    starting(url, home, slots).serving()
}

fn starting(url: &str, home: &Directory, slots: usize) -> Start {
    let slots = slots.to_string();
    let start = Start::without_database().database_url(url).home(home);
    let start = start.arguments(["--task-slots", &slots, "--sandbox", "partial"]);
    if is_root() { start.arguments(["--task-user", "nobody"]) } else { start }
}

impl Lab {
    pub fn start(slots: usize) -> Lab {
        let (database, home) = (Database::new(), Directory::new());
        let server = start(&database, &home, slots);
        Lab::of(database, server, home)
    }

    pub fn of(database: Database, server: Server, home: Directory) -> Lab {
        let admin = server.bootstrap_key();
        let site = Site { database, server, admin };
        site.tenant("acme");
        let key = site.key_of("acme", "write").key().to_owned();
        let shared = Directory::new();
        fs::set_permissions(shared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let paths = json!({ "paths": { shared.path().to_str().unwrap(): "rw" } }).to_string();
        site.server.patch("/tenants/acme", &site.admin, &paths).expect_status(200);
        Lab { site, key, home, shared }
    }

    /// Kills the server, and starts another one in its place.
    pub fn restart(mut self, slots: usize) -> Lab {
        let pid = self.site.server.pid().to_string();
        send_signal("KILL", &pid);
        wait_for("the server to be gone", || (!self.site.server.is_running()).then_some(()));
        self.site.server = start(&self.site.database, &self.home, slots);
        self
    }

    /// Uploads a workflow of shell scripts: id, script, further lines of the task's table.
    #[track_caller]
    pub fn upload(&self, name: &str, head: &str, tasks: &[(&str, &str, &str)]) {
        self.upload_of("acme", &self.key, name, head, tasks);
    }

    #[track_caller]
    pub fn upload_of(&self, tenant: &str, key: &str, name: &str, head: &str, tasks: &[(&str, &str, &str)]) {
        let mut manifest = format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\n{head}\n");
        let mut files = Vec::new();
        for (id, script, lines) in tasks {
            manifest += &format!("[[tasks]]\nid = \"{id}\"\ncommand = [\"./{id}.sh\"]\n{lines}\n");
            let shared = self.shared.path().display();
            files.push((format!("{id}.sh"), format!("#!/bin/sh\nshared={shared}\n{script}\n").into_bytes()));
        }
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        upload(self.site.server.address, tenant, key, &archive(&manifest, &files)).expect_status(201);
    }

    pub fn post(&self, path: &str, body: &str) -> Response {
        self.site.server.post(&format!("/tenants/acme/{path}"), &self.key, body)
    }

    pub fn get(&self, path: &str) -> Response {
        self.site.server.get(&format!("/tenants/acme/{path}"), Some(&self.key))
    }

    /// Starts an execution: its id.
    #[track_caller]
    pub fn execute(&self, workflow: &str, body: &str) -> String {
        wait_for("a host that runs tasks", || {
            let response = self.post(&format!("workflows/{workflow}/execute"), body);
            (response.status != 503).then_some(response)
        })
        .expect_status(202)
        .json()["execution_id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[track_caller]
    pub fn execution(&self, id: &str) -> Value {
        self.get(&format!("executions/{id}")).expect_status(200).json()
    }

    /// Waits until it has ended, and returns what there is to see of it.
    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        wait_for("the execution to end", || {
            let execution = self.execution(id);
            let status = execution["status"].as_str().unwrap();
            (!["Pending", "Running"].contains(&status)).then_some(execution)
        })
    }

    #[track_caller]
    pub fn run(&self, workflow: &str, body: &str) -> Value {
        self.ended(&self.execute(workflow, body))
    }

    /// Waits until a task has this status.
    #[track_caller]
    pub fn wait_for_task(&self, id: &str, task: &str, status: &str) -> Value {
        wait_for(&format!("task {task} to be {status}"), || {
            let found = find(&self.execution(id), task);
            (found["status"] == status).then_some(found)
        })
    }

    /// Types of its events, each with its task, which have to be numbered without gaps.
    #[track_caller]
    pub fn events(&self, id: &str) -> Vec<String> {
        let events = self.get(&format!("executions/{id}/events")).expect_status(200).json();
        let events = events.as_array().unwrap();
        let numbers: Vec<_> = events.iter().map(|event| event["sequence_num"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
        events
            .iter()
            .map(|event| {
                let event_type = event["event_type"].as_str().unwrap();
                match event["event_data"]["task"].as_str() {
                    Some(task) => format!("{event_type} {task}"),
                    None => event_type.to_owned(),
                }
            })
            .collect()
    }

    #[track_caller]
    pub fn log(&self, id: &str, task: &str) -> String {
        let log = self.get(&format!("executions/{id}/tasks/{task}/log")).expect_status(200);
        String::from_utf8(log.body).unwrap()
    }

    /// What tasks have written into a file of theirs, once it is there.
    pub fn written(&self, name: &str) -> String {
        let path: PathBuf = self.shared.join(name);
        wait_for(&format!("{name} to be written"), || {
            fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
        })
    }

    pub fn has_written(&self, name: &str) -> bool {
        self.shared.join(name).exists()
    }

    /// Lets tasks go on that wait for this file.
    pub fn allow(&self, name: &str) {
        fs::write(self.shared.join(name), "").unwrap();
    }
}

/// Whether a process runs, rather than that it has ended and is not waited for yet.
pub fn runs(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// A task of an execution.
#[track_caller]
pub fn find(execution: &Value, task: &str) -> Value {
    let tasks = execution["tasks"].as_array().unwrap();
    tasks.iter().find(|found| found["id"] == task).unwrap_or_else(|| panic!("no {task}: {execution}")).clone()
}

/// The script of a task that says that it runs, waits for a file, and then says that it is done. It writes its lines into
/// `ledger`.
pub const WAITS: &str = r#"echo "begin $CLOACINA_TASK $CLOACINA_ATTEMPT $$" >>"$shared/ledger"
while [ ! -e "$shared/go" ]; do sleep 0.02; done
echo "end $CLOACINA_TASK $CLOACINA_ATTEMPT" >>"$shared/ledger""#;
