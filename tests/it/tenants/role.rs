//! What a tenant's role can do is tried, not believed: all that it could want of others and of the server. Each attempt
//! has its expected result, and what the server answers and shows to others stays as it was.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex};

use postgres::error::DbError;
use postgres::{Client, NoTls, SimpleQueryMessage};

use super::walls::Walls;
use crate::support::rust_source::sources;

/// See there for how they are written.
const ATTEMPTS: &str = include_str!("role/attempts.sql");

/// Statements with what is expected of each.
struct Attempt {
    expected: &'static str,
    statement: String,
}

/// What PostgreSQL said to one.
struct Outcome {
    /// The SQLSTATE of an error.
    refused: Option<String>,
    rows: Vec<Vec<String>>,
    /// All of it, notices and the error's own parts too.
    text: String,
}

/// A role's session, of which no word is lost.
struct Session {
    client: Client,
    notices: Arc<Mutex<String>>,
}

impl Session {
    fn open(connection_string: &str) -> Session {
        let notices = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&notices);
        let mut config: postgres::Config = connection_string.parse().unwrap();
        config.notice_callback(move |notice| *heard.lock().unwrap() += &told(&notice));
        Session { client: config.connect(NoTls).unwrap(), notices }
    }

    fn attempt(&mut self, statement: &str) -> Outcome {
        let outcome = match statement.ends_with("TO STDOUT") {
            true => self.copied(statement),
            false => self.client.simple_query(statement).map(|messages| values(&messages)),
        };
        let mut text = std::mem::take(&mut *self.notices.lock().unwrap());
        let (mut rows, mut refused) = (Vec::new(), None);
        match outcome {
            Ok(values) => {
                text += &format!("{values:?}");
                rows = values;
            }
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{statement}: {error:?}"));
                text += &told(error);
                refused = Some(error.code().code().to_owned());
            }
        }
        // Roles, settings and transactions that one leaves are not for the next.
        let _ = self.client.simple_query("ROLLBACK");
        self.client.batch_execute("RESET SESSION AUTHORIZATION; RESET ALL").unwrap();
        self.notices.lock().unwrap().clear();
        Outcome { refused, rows, text }
    }

    fn copied(&mut self, statement: &str) -> Result<Vec<Vec<String>>, postgres::Error> {
        let mut copied = String::new();
        self.client.copy_out(statement)?.read_to_string(&mut copied).unwrap();
        Ok(copied.lines().map(|line| vec![line.to_owned()]).collect())
    }
}

/// All that PostgreSQL tells in an error or a notice.
fn told(error: &DbError) -> String {
    let parts = [Some(error.message()), error.detail(), error.hint(), error.where_()];
    let parts = parts.into_iter().flatten().collect::<Vec<_>>();
    format!("{} {}\n", error.code().code(), parts.join(" / "))
}

fn values(messages: &[SimpleQueryMessage]) -> Vec<Vec<String>> {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| (0..row.len()).map(|index| row.get(index).unwrap_or("").to_owned()).collect()).collect()
}

/// Every number that the server takes an advisory lock with, as far as its source tells.
pub fn advisory_locks() -> Vec<String> {
    let files = sources()
        .into_iter()
        .filter(|source| source.code.contains("EARLIER_RELEASES") || source.text.contains("advisory"));
    let numbers = files.flat_map(|source| {
        let is_between = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        source.text.split(is_between).filter_map(number).collect::<Vec<_>>()
    });
    let mut numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
    numbers.sort();
    numbers.dedup();
    assert!(numbers.contains(&"7164223571309981281".to_owned()), "{numbers:?}");
    numbers
}

fn number(word: &str) -> Option<i64> {
    let digits = word.replace('_', "");
    match digits.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => digits.trim_end_matches("i64").parse().ok(),
    }
}

/// The attempts of the file by their headings, each with the names of this place, once for each of what it says one of.
fn groups(walls: &Walls) -> Vec<(&'static str, Vec<Attempt>)> {
    let lists = [
        ("{table}", walls.relations("'r', 'p', 'm', 'v', 'f'")),
        ("{sequence}", walls.relations("'S'")),
        ("{lock}", advisory_locks()),
    ];
    let mut groups = Vec::new();
    for line in ATTEMPTS.lines().filter(|line| !line.is_empty() && !line.starts_with("-- ")) {
        if let Some(heading) = line.strip_prefix("== ") {
            groups.push((heading, Vec::new()));
            continue;
        }
        let (expected, statement) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
        let statement = walls.named(statement);
        let list = lists.iter().find(|(placeholder, _)| statement.contains(placeholder));
        let statements = match list {
            Some((placeholder, names)) => {
                names.iter().map(|name| statement.replace(placeholder, name)).collect()
            }
            None => vec![statement],
        };
        let attempts = statements.into_iter().map(|statement| Attempt { expected, statement });
        groups.last_mut().unwrap().1.extend(attempts);
    }
    groups
}

/// What is wrong about an outcome.
fn problem(secrets: &[String], attempt: &Attempt, outcome: &Outcome) -> Option<String> {
    if let Some(secret) = secrets.iter().find(|secret| outcome.text.contains(*secret)) {
        return Some(format!("shows {secret}"));
    }
    let is_own = || outcome.rows.len() == 1 && outcome.text.contains("acme");
    let is_as_expected = match (attempt.expected, &outcome.refused) {
        ("own", None) => is_own(),
        ("nothing", None) => outcome.rows.is_empty(),
        ("allowed", None) => true,
        (codes, Some(code)) => codes.split(',').any(|one| one == code),
        (_, None) => false,
    };
    (!is_as_expected).then(|| "is not as expected".to_owned())
}

fn tries(walls: &mut Walls) {
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut wrong = Vec::new();
    let secrets = walls.secrets();
    for (heading, attempts) in groups(walls) {
        let before = walls.state_of_others();
        let mut session = Session::open(&walls.acme.connection_string);
        for attempt in &attempts {
            let outcome = session.attempt(&attempt.statement);
            if let Some(problem) = problem(&secrets, attempt, &outcome) {
                wrong.push(format!(
                    "{}: {} ({problem}): {}",
                    attempt.expected, attempt.statement, outcome.text
                ));
            }
            let kind = if outcome.refused.is_some() { "refused" } else { attempt.expected };
            *counts.entry(kind).or_default() += 1;
        }
        walls.expect_well(heading);
        let after = walls.state_of_others();
        let changed = before.lines().zip(after.lines()).find(|(before, after)| before != after);
        assert_eq!(changed, None, "{heading}");
    }
    // What is left of it keeps no later release from adding to tables and views.
    for table in walls.relations("'r'") {
        walls.database.execute(&format!("ALTER TABLE {table} ADD COLUMN later int NOT NULL DEFAULT 5"));
    }
    walls.database.execute(
        "DO $$ BEGIN EXECUTE format('CREATE OR REPLACE VIEW cloacina_views.tenant AS SELECT *, 5 AS later FROM (%s) AS now',
                                    rtrim(pg_get_viewdef('cloacina_views.tenant'::regclass), ';')); END $$",
    );
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let all: usize = counts.values().sum();
    eprintln!("PostgreSQL {}, server {}: {all} attempts: {counts:?}", walls.version, walls.server_role);
}

#[test]
fn nothing_is_within_reach_of_a_role_where_the_server_creates_roles() {
    tries(&mut Walls::of_a_server_that_creates_roles());
}

#[test]
fn nothing_is_within_reach_of_a_role_where_the_server_is_a_superuser() {
    tries(&mut Walls::of_a_superuser());
}
