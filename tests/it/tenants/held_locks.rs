//! Roles of tenants whose open transactions are in the way of a start: their sessions are ended, and no others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls};

use crate::support::postgres::{Database, MADE_UP_PASSWORD};
use crate::support::server::{Server, Start};

/// A database whose server has no first key yet, and may create roles.
struct Served {
    database: Database,
    url: String,
    role: String,
    roles: Vec<String>,
}

/// Keeps a server from making its first key.
const HOLD: &str = "BEGIN; LOCK TABLE api_keys IN ROW EXCLUSIVE MODE";

/// As SQL writes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Served {
    /// By a role with these attributes.
    fn by(attributes: &str) -> Served {
        let database = Database::new();
        let (url, role) = database.url_of_new_role();
        database.execute(&format!(
            "ALTER ROLE {role} {attributes}; ALTER DATABASE {} OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}",
            database.name()
        ));
        let served = Served { database, url, role, roles: Vec::new() };
        drop(Start::without_database().database_url(&served.url).serving());
        served.as_server("DELETE FROM api_keys");
        served
    }

    fn as_server(&self, statements: &str) {
        Client::connect(&self.url, NoTls).unwrap().batch_execute(statements).unwrap();
    }

    /// A role that the server's has made, and which may lock as much as a session of the server.
    fn make_role(&mut self, name: &str) {
        let role = quoted(name);
        self.as_server(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{MADE_UP_PASSWORD}'; GRANT UPDATE ON api_keys TO {role}"
        ));
        self.roles.push(name.to_owned());
    }

    fn make_tenant(&mut self, name: &str) {
        self.make_role(name);
        let add = "INSERT INTO cloacina_tenants (id, name, username) VALUES (gen_random_uuid(), 'n' || md5($1), $1)";
        Client::connect(&self.url, NoTls).unwrap().execute(add, &[&name]).unwrap();
    }

    /// A session of such a role, in a transaction that is in the way of the server.
    fn holder(&self, name: &str) -> Client {
        let mut client = self.connect(name);
        client.batch_execute(HOLD).unwrap();
        client
    }

    fn connect(&self, name: &str) -> Client {
        let mut config: postgres::Config = self.url.parse().unwrap();
        config.user(name).password(MADE_UP_PASSWORD).connect(NoTls).unwrap()
    }

    fn start(&self) -> Start {
        Start::without_database().database_url(&self.url)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let Served { database, role, roles, .. } = self;
        let roles: Vec<_> = roles.iter().map(|name| quoted(name)).chain([role.clone()]).collect();
        let roles = roles.join(", ");
        database.execute(&format!(
            "ALTER DATABASE {} OWNER TO CURRENT_USER; DROP OWNED BY {roles}; DROP ROLE {roles}",
            database.name()
        ));
    }
}

fn lets_its_first_key_in(server: &Server) -> bool {
    server.lets_in(&server.bootstrap_key())
}

/// Whatever its name.
#[test]
fn a_tenant_s_open_transaction_is_ended() {
    ends_tenants_transactions("CREATEROLE");
    ends_tenants_transactions("SUPERUSER");
}

fn ends_tenants_transactions(attributes: &str) {
    let mut served = Served::by(attributes);
    let database = served.database.name().to_owned();
    let names = [
        database.clone() + "_t",
        database.clone() + " \"quoted\" \\ 'twice' %s $1",
        database.clone() + " Übergrößé 租户",
        format!("{database}{}", "x".repeat(63 - database.len())),
        // Of a keyword there is one in a cluster.
        "select".to_owned(),
    ];
    let names = &names[..if std::env::var_os("TEST_DATABASE_URL").is_some() { 4 } else { 5 }];
    names.iter().for_each(|name| served.make_tenant(name));
    let mut holders: Vec<_> = names.iter().map(|name| served.holder(name)).collect();
    // One that holds nothing goes on.
    let mut other = served.holder(&names[0]);
    other.batch_execute("ROLLBACK").unwrap();
    let server = served.start().serving();
    assert!(lets_its_first_key_in(&server));
    for (holder, name) in holders.iter_mut().zip(names) {
        assert!(holder.simple_query("SELECT 1").is_err(), "{name}");
    }
    other.simple_query("SELECT 1").unwrap();
    // What was needed for that is gone again.
    let member = "SELECT count(*) FROM pg_auth_members WHERE member = $1::text::regrole
                  AND (grantor = member OR roleid IN ('pg_signal_backend'::regrole, 'pg_read_all_stats'::regrole))";
    let members: i64 = served.database.client().query_one(member, &[&served.role]).unwrap().get(0);
    assert_eq!(members, 0);
}

/// Nor that of a role whose name a removed tenant had.
#[test]
fn another_role_s_open_transaction_is_not_ended() {
    let mut served = Served::by("CREATEROLE");
    let removed = served.database.name().to_owned() + "_removed";
    served.make_tenant(&removed);
    served.as_server("UPDATE cloacina_tenants SET removed_at = now()");
    let other = served.database.name().to_owned() + "_other";
    served.make_role(&other);
    let mut holders = [served.holder(&removed), served.holder(&other)];
    let ended = served.start().arguments(["--database-wait", "3s"]).failing().expect_code(1);
    assert!(ended.last_words().contains("holds a lock that is needed"), "{ended:#?}");
    holders.iter_mut().for_each(|holder| holder.batch_execute("COMMIT").unwrap());
}

/// One that always has a transaction open, each for less than a second, is in the way of a few attempts.
#[test]
fn a_tenant_that_comes_back_at_once_does_not_stop_a_start() {
    let mut served = Served::by("CREATEROLE");
    let tenant = served.database.name().to_owned() + "_t";
    served.make_tenant(&tenant);
    let mut holder = served.holder(&tenant);
    let starting = served.start().starting();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(700));
                // Ended while it waits for the lock, it has none.
                let mut next = served.connect(&tenant);
                let _ = next.batch_execute(HOLD);
                holder = next;
            }
        });
        let server = starting.serving();
        is_over.store(true, Ordering::Release);
        assert!(lets_its_first_key_in(&server));
    });
}
