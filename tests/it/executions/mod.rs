//! Executions as clients see them, without a server that runs their tasks: what those would write is written by these tests.

mod bodies;
mod changes;
mod events;
mod execute;
mod listing;
mod log;
mod show;
mod views;
mod waiting;

use serde_json::Value;

use crate::support::http::{self, Response};
use crate::support::package::{archive, package, upload};
use crate::tenants::site::Site;
use crate::workflows::upload::site;

/// An id that no execution has.
pub const NOTHING: &str = "00000000-0000-4000-8000-000000000000";

/// A host, as one that starts tasks but never does.
pub const HOST: &str = "INSERT INTO cloacina_hosts (id, name, slots, session, timeline)
    VALUES (gen_random_uuid(), 'idle', 1, gen_random_uuid(), 0)";

/// A site with a host, the tenant acme, a key of it that may write, and the workflow `nightly` of one task, `only`.
pub struct Idle {
    pub site: Site,
    pub key: String,
}

impl Idle {
    #[track_caller]
    pub fn start() -> Idle {
        let (site, key) = site();
        Idle::of(site, key)
    }

    #[track_caller]
    pub fn of(site: Site, key: String) -> Idle {
        site.database.execute(HOST);
        upload(site.server.address, "acme", &key, &package("nightly", "1.0.0")).expect_status(201);
        Idle { site, key }
    }

    /// Uploads a workflow with these tasks: id and dependencies of each.
    #[track_caller]
    pub fn upload(&self, name: &str, version: &str, tasks: &[(&str, &str)]) {
        let task = |(id, dependencies): &(&str, &str)| {
            format!("[[tasks]]\nid = \"{id}\"\ncommand = [\"true\"]\ndependencies = [{dependencies}]\n")
        };
        let tasks: String = tasks.iter().map(task).collect();
        let manifest = format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\n{tasks}");
        let bytes = archive(&manifest, &[]);
        upload(self.site.server.address, "acme", &self.key, &bytes).expect_status(201);
    }

    pub fn get(&self, path: &str) -> Response {
        self.site.server.get(&format!("/tenants/acme/{path}"), Some(&self.key))
    }

    /// A POST, with a body or without.
    pub fn post(&self, path: &str, body: Option<&str>) -> Response {
        let request = http::request("POST", &format!("/tenants/acme/{path}"), Some(&self.key), body);
        http::exchange(self.site.server.address, &request)
    }

    /// A POST with further field lines, each with its line end.
    pub fn post_with(&self, path: &str, fields: &str, body: &[u8]) -> Response {
        let head = format!(
            "POST /tenants/acme/{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{fields}\
             Content-Length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        let mut connection = http::Connection::open(self.site.server.address);
        connection.send_what_goes(&[head.as_bytes(), body].concat());
        connection.receive("POST")
    }

    /// The id of a new execution.
    #[track_caller]
    pub fn execute(&self, workflow: &str) -> String {
        let made = self.post(&format!("workflows/{workflow}/execute"), None).expect_status(202).json();
        text(&made, "execution_id").to_owned()
    }

    pub fn sql(&self, statements: &str) {
        self.site.database.execute(statements);
    }

    /// Ends an execution, as a host would.
    pub fn end(&self, execution: &str, status: &str) {
        self.sql(&format!(
            "UPDATE cloacina_executions SET status = '{status}', completed_at = now() WHERE id = '{execution}';
             DELETE FROM cloacina_queue WHERE execution = '{execution}'"
        ));
    }

    /// The first task's attempt of this number, which runs unless it has ended.
    pub fn attempt(&self, execution: &str, number: i32, has_ended: bool) -> String {
        let ended = if has_ended { "now()" } else { "NULL" };
        self.site.database.value(&format!(
            "WITH task AS (
                 UPDATE cloacina_tasks SET attempts = {number} WHERE execution = '{execution}' AND number = 0
             ) INSERT INTO cloacina_attempts (id, tenant, execution, task, number, host, boot, ended_at)
             SELECT gen_random_uuid(), tenant, id, 0, {number}, gen_random_uuid(), gen_random_uuid(), {ended}
             FROM cloacina_executions WHERE id = '{execution}' RETURNING id::text"
        ))
    }

    /// A piece of a log.
    pub fn print(&self, attempt: &str, at: usize, text: &str) {
        self.sql(&format!(
            "INSERT INTO cloacina_log_pieces (attempt, at, bytes) VALUES ('{attempt}', {at}, convert_to('{text}', 'UTF8'));
             UPDATE cloacina_attempts SET log_bytes = {0}, log_kept_bytes = log_kept_bytes + {1} WHERE id = '{attempt}'",
            at + text.len(),
            text.len()
        ));
    }
}

#[track_caller]
pub fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("no text in {field}: {value}"))
}
