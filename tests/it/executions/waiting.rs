//! Clients that wait for an execution.

use super::{Idle, text};
use crate::support::http::{Connection, Response, request};
use crate::support::postgres::Database;
use crate::support::wait_for;
use crate::tenants::site::Site;

/// A request whose answer is still to come.
struct Asked(Connection, &'static str);

impl Idle {
    fn ask(&self, path: &str) -> Asked {
        self.ask_as(&self.key, "GET", path)
    }

    fn ask_as(&self, key: &str, method: &'static str, path: &str) -> Asked {
        let mut connection = Connection::open(self.site.server.address);
        connection.send(&request(method, &format!("/tenants/acme/{path}"), Some(key), None));
        Asked(connection, method)
    }

    /// Waits until so many clients wait.
    fn wait_for_waiting(&self, count: usize) {
        wait_for("clients to wait", || {
            let in_flight = self.site.server.metric("cloacina_http_requests_in_flight", &[]);
            (in_flight == count as f64).then_some(())
        });
    }
}

impl Asked {
    #[track_caller]
    fn answer(mut self) -> Response {
        self.0.receive(self.1)
    }
}

#[test]
fn a_client_hears_of_the_end() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let attempt = idle.attempt(&id, 1, false);
    let count = idle.get(&format!("executions/{id}/events")).json().as_array().unwrap().len();
    let asked: Vec<Asked> =
        ["?wait=60", &format!("/events?wait=60&after={count}"), "/tasks/only/log?wait=60&attempt=1"]
            .iter()
            .map(|rest| idle.ask(&format!("executions/{id}{rest}")))
            .collect();
    idle.wait_for_waiting(3);
    idle.sql(&format!("UPDATE cloacina_attempts SET ended_at = now() WHERE id = '{attempt}'"));
    idle.end(&id, "Completed");
    let mut answers = asked.into_iter().map(|asked| asked.answer().expect_status(200));
    assert_eq!(text(&answers.next().unwrap().json(), "status"), "Completed");
    assert_eq!(answers.next().unwrap().text(), "[]");
    let log = answers.next().unwrap();
    assert_eq!(
        (log.text(), log.header("X-Log-Next"), log.header("X-Log-Attempt")),
        ("", Some("0"), Some("1"))
    );
    // What has ended is told at once.
    idle.get(&format!("executions/{id}?wait=60")).expect_status(200);
    idle.get(&format!("executions/{id}/events?wait=60&after={count}")).expect(200, "[]");
}

#[test]
fn a_client_hears_of_more() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let count = idle.get(&format!("executions/{id}/events")).json().as_array().unwrap().len();
    let events = idle.ask(&format!("executions/{id}/events?wait=60&after={count}"));
    let log = idle.ask(&format!("executions/{id}/tasks/only/log?wait=60"));
    idle.wait_for_waiting(2);
    let attempt = idle.attempt(&id, 1, false);
    idle.print(&attempt, 0, "more\n");
    assert_eq!(log.answer().expect_status(200).text(), "more\n");
    let log = idle.ask(&format!("executions/{id}/tasks/only/log?wait=60&after=5"));
    idle.sql(&format!(
        "UPDATE cloacina_executions SET last_event = last_event + 1 WHERE id = '{id}';
         INSERT INTO cloacina_events (execution, number, event_type) VALUES ('{id}', {}, 'task_started')",
        count + 1
    ));
    let told = events.answer().expect_status(200).json();
    assert_eq!((told.as_array().unwrap().len(), text(&told[0], "event_type")), (1, "task_started"));
    idle.print(&attempt, 5, "and more\n");
    assert_eq!(log.answer().expect_status(200).text(), "and more\n");
    // A change through this server is told without a look that comes from time to time.
    let shown = idle.ask(&format!("executions/{id}?wait=60"));
    idle.wait_for_waiting(1);
    idle.sql(&format!("UPDATE cloacina_attempts SET ended_at = now() WHERE id = '{attempt}'"));
    idle.post(&format!("executions/{id}/cancel"), None).expect_status(202);
    idle.end(&id, "Cancelled");
    assert_eq!(text(&shown.answer().expect_status(200).json(), "status"), "Cancelled");
}

#[test]
fn a_wait_that_is_over_is_told_how_it_is() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let shown = idle.get(&format!("executions/{id}?wait=1")).expect_status(200).json();
    assert_eq!(text(&shown, "status"), "Pending");
    let log = idle.get(&format!("executions/{id}/tasks/only/log?wait=1")).expect_status(200);
    assert_eq!((log.text(), log.header("X-Log-Next")), ("", Some("0")));
    let made = idle.post("workflows/nightly/execute?wait=1", None).expect_status(202);
    let body = made.json();
    assert_eq!((text(&body, "status"), text(&body["tasks"][0], "id")), ("Pending", "only"));
    let location = format!("/tenants/acme/executions/{}", text(&body, "execution_id"));
    assert_eq!(made.header("Location"), Some(&*location));
}

#[test]
fn executing_may_wait_for_the_end() {
    let idle = Idle::start();
    let asked = idle.ask_as(&idle.key, "POST", "workflows/nightly/execute?wait=60");
    let id: String = wait_for("the execution", || {
        let mut client = idle.site.database.client();
        client.query_opt("SELECT id::text FROM cloacina_executions", &[]).unwrap().map(|row| row.get(0))
    });
    idle.end(&id, "Failed");
    let answer = asked.answer().expect_status(202).json();
    assert_eq!((text(&answer, "execution_id"), text(&answer, "status")), (&*id, "Failed"));
}

/// Longer than any answer that does not wait may take.
#[test]
fn a_wait_outlives_the_time_of_the_database() {
    let database = Database::new();
    let site = Site::start_with(database, ["--database-timeout", "1s"]);
    site.tenant("acme");
    let key = site.key_of("acme", "write").key().to_owned();
    let idle = Idle::of(site, key);
    let id = idle.execute("nightly");
    let shown = idle.get(&format!("executions/{id}?wait=4")).expect_status(200).json();
    assert_eq!(text(&shown, "status"), "Pending");
}

#[test]
fn a_key_that_is_revoked_meanwhile_is_told_nothing() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let made = idle.site.key_of("acme", "read");
    let asked = idle.ask_as(made.key(), "GET", &format!("executions/{id}?wait=60"));
    idle.wait_for_waiting(1);
    idle.site
        .server
        .delete(&format!("/tenants/acme/keys/{}", made.id()), &idle.site.admin)
        .expect_status(200);
    assert_eq!(asked.answer().expect_status(401).error(), "invalid or revoked API key");
}

/// They hold no worker, and what is beyond their number is answered at once.
#[test]
fn so_many_may_wait() {
    let database = Database::new();
    let site = Site::start_with(database, ["--workers", "2"]);
    site.tenant("acme");
    let key = site.key_of("acme", "write").key().to_owned();
    let idle = Idle::of(site, key);
    let id = idle.execute("nightly");
    let path = format!("executions/{id}?wait=60");
    // In groups that two workers get through in time, whatever else the machine does.
    let mut asked: Vec<Asked> = Vec::new();
    for waiting in (10..=100).step_by(10) {
        asked.extend((0..10).map(|_| idle.ask(&path)));
        idle.wait_for_waiting(waiting);
    }
    asked.extend((0..5).map(|_| idle.ask(&path)));
    wait_for("all places to be taken", || {
        let labels = [("route", "/tenants/{tenant}/executions/{id}")];
        (idle.site.server.metric("cloacina_http_requests_total", &labels) == 5.0).then_some(())
    });
    // Another key has places of its own.
    let other = idle.site.key_of("acme", "read").key().to_owned();
    let of_other = idle.ask_as(&other, "GET", &path);
    idle.wait_for_waiting(101);
    idle.get("executions").expect_status(200);
    idle.end(&id, "Completed");
    let answers = asked.into_iter().map(|asked| asked.answer().expect_status(200).json());
    let statuses: Vec<String> = answers.map(|answer| text(&answer, "status").to_owned()).collect();
    let count = |status: &str| statuses.iter().filter(|one| *one == status).count();
    assert_eq!((count("Pending"), count("Completed")), (5, 100));
    assert_eq!(text(&of_other.answer().expect_status(200).json(), "status"), "Completed");
    // Their places are free again.
    let id = idle.execute("nightly");
    let asked = idle.ask(&format!("executions/{id}?wait=60"));
    idle.wait_for_waiting(1);
    idle.end(&id, "Completed");
    asked.answer().expect_status(200);
}

#[test]
fn a_server_that_ends_tells_what_it_knows() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let asked = idle.ask(&format!("executions/{id}?wait=60"));
    let executed = idle.ask_as(&idle.key, "POST", "workflows/nightly/execute?wait=60");
    idle.wait_for_waiting(2);
    let Idle { site, .. } = idle;
    site.server.signal("TERM");
    assert_eq!(text(&asked.answer().expect_status(200).json(), "status"), "Pending");
    assert_eq!(text(&executed.answer().expect_status(202).json(), "status"), "Pending");
    assert_eq!(site.server.ended().status.code(), Some(0));
}

/// A database that goes away costs an execution that was made no answer.
#[test]
fn without_a_database_a_wait_is_over_in_time() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let asked = idle.ask(&format!("executions/{id}?wait=3"));
    let executed = idle.ask_as(&idle.key, "POST", "workflows/nightly/execute?wait=3");
    idle.wait_for_waiting(2);
    wait_for("the execution to be made", || {
        (idle.site.server.log().matches("execution scheduled").count() == 2).then_some(())
    });
    let Idle { site: Site { database, server, .. }, .. } = idle;
    drop(database);
    asked.answer().expect_status(503);
    assert_eq!(text(&executed.answer().expect_status(202).json(), "status"), "scheduled");
    drop(server);
}

#[test]
fn several_clients_are_told_the_whole_of_a_large_answer() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    idle.sql(&format!(
        "UPDATE cloacina_executions SET context = '{{\"a\":\"' || repeat('x', 900001) || '\"}}' WHERE id = '{id}'"
    ));
    let path = format!("executions/{id}?wait=60");
    let asked: Vec<Asked> = (0..5).map(|_| idle.ask(&path)).collect();
    let head = idle.ask_as(&idle.key, "HEAD", &path);
    idle.wait_for_waiting(6);
    idle.end(&id, "Completed");
    let answers: Vec<Response> = asked.into_iter().map(|asked| asked.answer().expect_status(200)).collect();
    let expected = idle.get(&path).expect_status(200);
    assert!(expected.body.len() > 900_000);
    assert!(answers.iter().all(|answer| answer.body == expected.body));
    let head = head.answer().expect_status(200);
    assert_eq!(head.header("Content-Length"), Some(&*expected.body.len().to_string()));
}
