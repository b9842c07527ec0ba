//! Databases for the tests: in the PostgreSQL that `TEST_DATABASE_URL` names, else in a private cluster that the run
//! shares. Tests that break PostgreSQL start clusters of their own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use postgres::{Client, NoTls};

use super::cluster::Cluster;

/// The URL of a role that may create databases.
fn shared_url() -> &'static str {
    static SHARED: OnceLock<(String, Option<Cluster>)> = OnceLock::new();
    let (url, _) = SHARED.get_or_init(|| match std::env::var("TEST_DATABASE_URL") {
        Ok(url) => {
            drop_old_databases(&url);
            (url, None)
        }
        Err(_) => {
            let cluster = Cluster::start();
            (cluster.url("postgres"), Some(cluster))
        }
    });
    url
}

/// A fresh, empty database, dropped at the end of the test.
pub struct Database {
    admin_url: String,
    name: String,
}

/// What the names of all our databases start with; the second of their creation follows.
const DATABASE_PREFIX: &str = "cloacinactl_it_";

/// A password for where PostgreSQL looks at none.
pub const MADE_UP_PASSWORD: &str = "correct-horse-battery";

impl Database {
    /// In the cluster that all tests share.
    pub fn new() -> Database {
        Database::create(shared_url(), "")
    }

    /// The same with these words of CREATE DATABASE.
    pub fn with(options: &str) -> Database {
        Database::create(shared_url(), options)
    }

    /// In a cluster of the test's own.
    pub fn in_cluster(cluster: &Cluster) -> Database {
        Database::create(&cluster.url("postgres"), "")
    }

    fn create(admin_url: &str, options: &str) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{DATABASE_PREFIX}{now}_{}_{count}", std::process::id());
        connect(admin_url).batch_execute(&format!("CREATE DATABASE {name} {options}")).unwrap();
        Database { admin_url: admin_url.to_owned(), name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn url(&self) -> String {
        with_database(&self.admin_url, &self.name)
    }

    /// The same with a password in it, and that password. PostgreSQL looks at it only where `TEST_DATABASE_URL`
    /// names one that wants it, so one is made up if there is none.
    pub fn url_with_password(&self) -> (String, String) {
        let url = self.url();
        let (scheme, rest) = url.split_once("://").unwrap();
        let (user, place) = rest.split_once('@').expect("the database URL should name a user");
        if let Some((_, password)) = user.split_once(':') {
            return (url.clone(), password.to_owned());
        }
        (format!("{scheme}://{user}:{MADE_UP_PASSWORD}@{place}"), MADE_UP_PASSWORD.to_owned())
    }

    /// The same for a role that was made just now and may do nothing yet, and that role's name.
    pub fn url_of_new_role(&self) -> (String, String) {
        let role = format!("{}_role", self.name);
        self.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{MADE_UP_PASSWORD}'"));
        let url = self.url();
        let (scheme, rest) = url.split_once("://").unwrap();
        let (_, place) = rest.split_once('@').expect("the database URL should name a user");
        (format!("{scheme}://{role}:{MADE_UP_PASSWORD}@{place}"), role)
    }

    /// The same as seen through a proxy at another port of this host.
    pub fn url_through(&self, port: u16) -> String {
        let url = self.url();
        let (before, rest) = url.split_once('@').expect("the database URL should name a user");
        let (_, path) = rest.split_once('/').unwrap();
        format!("{before}@127.0.0.1:{port}/{path}")
    }

    /// Where PostgreSQL listens, as `host:port`.
    pub fn host_and_port(&self) -> String {
        let url = self.url();
        let (_, rest) = url.split_once('@').expect("the database URL should name a user");
        let (place, _) = rest.split_once('/').unwrap();
        if place.contains(':') { place.to_owned() } else { format!("{place}:5432") }
    }

    /// A session of the test's own, to look behind the server's back.
    pub fn client(&self) -> Client {
        connect(&self.url())
    }

    /// The one value that a query gives.
    pub fn value<T>(&self, query: &str) -> T
    where
        T: for<'a> postgres::types::FromSql<'a>,
    {
        self.client().query_one(query, &[]).unwrap().get(0)
    }

    pub fn execute(&self, statements: &str) {
        self.client().batch_execute(statements).unwrap();
    }

    /// Runs a statement that locks something, which stays so until it is released.
    pub fn hold(&self, statement: &str) -> Lock {
        let mut session = self.client();
        session.batch_execute(&format!("BEGIN; {statement}")).unwrap();
        Lock(session)
    }

    /// Has whatever reads or writes keys wait.
    pub fn lock_keys(&self) -> Lock {
        self.hold("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
    }

    /// Whether the server has made its table yet.
    pub fn has_keys_table(&self) -> bool {
        self.value("SELECT to_regclass('api_keys') IS NOT NULL")
    }

    /// All there is in it, as text: tables, columns and rows. Two that are equal say that nothing was changed.
    pub fn contents(&self) -> String {
        let mut client = self.client();
        let columns = client
            .query(
                "SELECT table_name::text, column_name::text, data_type::text, column_default::text
                 FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position",
                &[],
            )
            .unwrap();
        let mut contents = String::new();
        let mut tables = Vec::new();
        for row in columns {
            let table: String = row.get(0);
            let default: Option<String> = row.get(3);
            contents +=
                &format!("{table}.{} {} {default:?}\n", row.get::<_, String>(1), row.get::<_, String>(2));
            if tables.last() != Some(&table) {
                tables.push(table);
            }
        }
        for table in tables {
            for row in client.query(&format!("SELECT t::text FROM \"{table}\" t ORDER BY 1"), &[]).unwrap() {
                contents += &format!("{table}: {}\n", row.get::<_, String>(0));
            }
        }
        contents
    }
}

/// A transaction that holds a lock.
pub struct Lock(Client);

impl Lock {
    pub fn release(mut self) {
        self.0.batch_execute("ROLLBACK").unwrap();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The cluster of a fault test may be down by now; its databases go with it.
        if let Ok(mut client) = Client::connect(&self.admin_url, NoTls) {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

fn connect(url: &str) -> Client {
    Client::connect(url, NoTls).unwrap_or_else(|error| panic!("cannot connect to {url}: {error:?}"))
}

/// The URL with another database in its path; what follows a `?` stays.
fn with_database(url: &str, name: &str) -> String {
    let (before, query) = match url.split_once('?') {
        Some((before, query)) => (before, format!("?{query}")),
        None => (url, String::new()),
    };
    let (scheme, rest) = before.split_once("://").expect("TEST_DATABASE_URL should be postgresql://…");
    let place = rest.split('/').next().unwrap_or(rest);
    format!("{scheme}://{place}/{name}{query}")
}

/// Removes what killed runs left in a PostgreSQL that outlives them. An hour is longer than any run.
fn drop_old_databases(url: &str) {
    let mut client = connect(url);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for row in client.query("SELECT datname::text FROM pg_database", &[]).unwrap() {
        let name: String = row.get(0);
        let made = name
            .strip_prefix(DATABASE_PREFIX)
            .and_then(|rest| rest.split('_').next())
            .and_then(|second| second.parse::<u64>().ok());
        if made.is_some_and(|made| made + 3600 < now) {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        }
    }
}
