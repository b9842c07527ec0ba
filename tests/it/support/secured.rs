//! A PostgreSQL with TLS, passwords and rules of who may come in how, which all tests of such things share.

use std::sync::OnceLock;

use super::authority::{Authority, P256, in_url};
use super::cluster::Cluster;
use super::postgres::Database;

/// The cluster, and who signed its certificate, which is for `db.example`.
pub struct Secured {
    pub cluster: Cluster,
    pub authority: Authority,
    /// Signed nothing.
    pub stranger: Authority,
}

/// What the role `scram` has to say.
pub const PASSWORD: &str = "p:w\\ord";
const ROLES: &str = "CREATE ROLE tls_only LOGIN SUPERUSER; CREATE ROLE plain_only LOGIN SUPERUSER;
                     CREATE ROLE certified LOGIN SUPERUSER; CREATE ROLE scram LOGIN SUPERUSER PASSWORD 'p:w\\ord';
                     CREATE ROLE with_password;";
const RULES: &str = "
local all postgres trust
local all scram scram-sha-256
local all all peer
host all postgres 127.0.0.1/32 trust
hostssl all tls_only 127.0.0.1/32 trust
hostnossl all plain_only 127.0.0.1/32 trust
host all scram 127.0.0.1/32 scram-sha-256
host all +with_password 127.0.0.1/32 scram-sha-256
hostssl all certified 127.0.0.1/32 cert
";

impl Secured {
    pub fn shared() -> &'static Secured {
        static SHARED: OnceLock<Secured> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (authority, stranger) = (Authority::new(P256), Authority::new(P256));
            let name = "subjectAltName = DNS:db.example";
            let server = authority.issue("server", P256, "/CN=postgres", name, &[]);
            let cluster = Cluster::start();
            cluster.put("server.crt", &server.certificate);
            cluster.put("server.key", &server.key);
            cluster.put("root.crt", &authority.certificate());
            cluster.configure("ssl = on\nssl_ca_file = 'root.crt'\n", RULES);
            Database::in_cluster(&cluster).execute(ROLES);
            Secured { cluster, authority, stranger }
        })
    }

    pub fn database(&self) -> Database {
        Database::in_cluster(&self.cluster)
    }

    /// The URL of a database in it under the name that its certificate has, with `R` and `S` in the parameters
    /// standing for the files of the authority and of the stranger.
    pub fn url(&self, database: &Database, user: &str, parameters: &str) -> String {
        self.url_by_name("db.example", database, user, parameters)
    }

    /// The same under another name.
    pub fn url_by_name(&self, name: &str, database: &Database, user: &str, parameters: &str) -> String {
        let (right, wrong) = (self.authority.certificate(), self.stranger.certificate());
        let parameters = parameters
            .replace("=R", &format!("={}", in_url(&right)))
            .replace("=S", &format!("={}", in_url(&wrong)));
        let (port, database) = (self.cluster.port(), database.name());
        format!("postgresql://{user}@{name}:{port}/{database}?hostaddr=127.0.0.1&{parameters}")
    }
}

/// How many sessions of the program a database has: with TLS, and without.
pub fn sessions(database: &Database) -> (i64, i64) {
    let count = |with: bool| {
        database.value(&format!(
            "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
             WHERE datname = current_database() AND application_name = 'cloacinactl' AND ssl = {with}"
        ))
    };
    (count(true), count(false))
}
