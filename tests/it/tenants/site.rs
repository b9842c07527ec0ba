//! A server with tenants and their keys, as these tests need one.

use std::sync::OnceLock;

use postgres::{Client, NoTls};
use serde_json::{Value, json};

use crate::keys::{hash, insert_key};
use crate::support::cluster::Cluster;
use crate::support::http::Response;
use crate::support::made::Made;
use crate::support::postgres::{Database, MADE_UP_PASSWORD};
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// What a key may be allowed to do, the least first.
pub const PERMISSIONS: [&str; 3] = ["read", "write", "admin"];

/// A server, its database, and its admin's key.
pub struct Site {
    pub database: Database,
    pub server: Server,
    pub admin: String,
}

impl Site {
    #[track_caller]
    pub fn start() -> Site {
        let database = Database::new();
        let server = Server::start(&database);
        Site::of(database, server)
    }

    /// On the PostgreSQL that roles have to log in to.
    #[track_caller]
    pub fn guarded() -> Site {
        Site::start_with(Database::in_cluster(guarded()), [])
    }

    /// With these arguments, on a database that no server has used.
    #[track_caller]
    pub fn start_with<const N: usize>(database: Database, arguments: [&str; N]) -> Site {
        let server = Start::on(&database).arguments(arguments).serving();
        Site::of(database, server)
    }

    /// The same, with a role of its own that has these attributes and may make schemas.
    #[track_caller]
    pub fn of_role(attributes: &str) -> Site {
        let database = Database::in_cluster(guarded());
        let (url, role) = database.url_of_new_role();
        database.execute(&format!(
            "ALTER ROLE {role} {attributes}; GRANT CREATE ON SCHEMA public TO {role};
             GRANT CREATE ON DATABASE {} TO {role}",
            database.name()
        ));
        let server = Start::without_database().database_url(&url).serving();
        Site::of(database, server)
    }

    /// Of the connections of such a server.
    pub fn url_of_role(&self) -> String {
        let (role, place) = (self.name("role"), self.database.host_and_port());
        format!("postgresql://{role}:{MADE_UP_PASSWORD}@{place}/{}", self.database.name())
    }

    fn of(database: Database, server: Server) -> Site {
        let admin = server.bootstrap_key();
        Site { database, server, admin }
    }

    /// How many roles of tenants the server's is a member of, but for the right to give that to others.
    pub fn memberships_of_server(&self) -> i64 {
        self.database.value(&format!(
            "SELECT count(*) FROM pg_auth_members WHERE member IN (SELECT oid FROM pg_roles WHERE rolname = '{}')
               AND COALESCE((to_jsonb(pg_auth_members) ->> 'inherit_option')::boolean
                            OR (to_jsonb(pg_auth_members) ->> 'set_option')::boolean, true)",
            self.name("role")
        ))
    }

    /// How many tenants there are, roles and schemas, and all their names.
    pub fn catalog(&self) -> String {
        self.database.value(
            "SELECT concat_ws(' ', (SELECT count(*) FROM cloacina_tenants), count(*) FILTER (WHERE kind = 'role'),
                              count(*) FILTER (WHERE kind = 'schema'), string_agg(name, ' ' ORDER BY name))
             FROM (SELECT 'role' AS kind, rolname AS name FROM pg_roles WHERE starts_with(rolname, current_database())
                   UNION ALL SELECT 'schema', nspname FROM pg_namespace
                   WHERE nspname ~ '^cloacina_removed_' OR starts_with(nspname, current_database())) AS named",
        )
    }

    /// Makes a tenant that has nothing in PostgreSQL.
    #[track_caller]
    pub fn tenant(&self, name: &str) {
        let body = json!({ "schema_name": name }).to_string();
        self.server.post("/tenants", &self.admin, &body).expect_status(201);
    }

    /// Removes a tenant, and waits until nothing of it is left.
    #[track_caller]
    pub fn remove(&self, tenant: &str) {
        self.server.delete(&format!("/tenants/{tenant}"), &self.admin).expect_status(200);
        wait_for("the rows of removed tenants to go", || {
            let left = "SELECT count(*) FROM cloacina_tenants WHERE removed_at IS NOT NULL";
            (self.database.value::<i64>(left) == 0).then_some(())
        });
    }

    /// A name that no other test has, for roles are all of one cluster.
    pub fn name(&self, short: &str) -> String {
        format!("{}_{short}", self.database.name())
    }

    /// Asks for a tenant.
    #[track_caller]
    pub fn create(&self, body: &Value) -> Response {
        self.server.post("/tenants", &self.admin, &body.to_string())
    }

    /// Makes a tenant whose schema and role have this name, which is made longer.
    #[track_caller]
    pub fn tenant_with_role(&self, short: &str) -> MadeTenant {
        let name = self.name(short);
        let made = self.create(&json!({ "schema_name": name, "username": name }));
        MadeTenant(made.expect_status(201).json())
    }

    #[track_caller]
    pub fn delete(&self, tenant: &str) -> Response {
        self.server.delete(&format!("/tenants/{tenant}"), &self.admin)
    }

    /// Makes a key of a tenant.
    #[track_caller]
    pub fn key_of(&self, tenant: &str, permissions: &str) -> Made {
        let body = json!({ "name": format!("{tenant}-{permissions}"), "permissions": permissions });
        let made = self.server.post(&format!("/tenants/{tenant}/keys"), &self.admin, &body.to_string());
        Made(made.expect_status(201).json())
    }

    /// Makes a key of the server's.
    #[track_caller]
    pub fn key(&self, permissions: &str) -> Made {
        let body = json!({ "name": format!("server-{permissions}"), "permissions": permissions });
        self.server.make_key(&self.admin, &body.to_string())
    }

    /// Puts a key into the table, its columns set as this says.
    pub fn insert(&self, key: &str, permissions: &str, set: &str) -> String {
        let id = insert_key(&self.database, key, "inserted", permissions);
        self.database.execute(&format!("UPDATE api_keys SET {set} WHERE key_hash = '{}'", hash(key)));
        id
    }

    /// Every key and every tenant, but for when keys were last used.
    pub fn rows(&self) -> String {
        self.database.value(
            "SELECT concat((SELECT string_agg((to_jsonb(k) - 'last_used_at')::text, ' ' ORDER BY id) FROM api_keys k),
                           (SELECT string_agg(t::text, ' ' ORDER BY id) FROM cloacina_tenants t))",
        )
    }
}

/// What was answered when a tenant was made, or its role got another password.
#[derive(Debug, Clone)]
pub struct MadeTenant(pub Value);

impl MadeTenant {
    #[track_caller]
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_else(|| panic!("no text in {field}: {}", self.0))
    }

    pub fn name(&self) -> &str {
        self.text("schema_name")
    }

    pub fn login(&self) -> Result<Client, postgres::Error> {
        log_in(self.text("connection_string"))
    }

    /// A session of its role, which must be let in.
    #[track_caller]
    pub fn session(&self) -> Client {
        self.login().unwrap_or_else(|error| panic!("{}: {error:?}", self.0))
    }
}

/// Logs in with a connection string as it stands.
pub fn log_in(connection_string: &str) -> Result<Client, postgres::Error> {
    Client::connect(connection_string, NoTls)
}

/// A PostgreSQL that asks all but `postgres` for their password, writes down every statement, and takes prepared
/// transactions. Tests of roles share it.
pub fn guarded() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let cluster = Cluster::start();
        let available: i64 = Client::connect(&cluster.url("postgres"), NoTls)
            .and_then(|mut client| {
                let find = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
                client.query_one(find, &[])
            })
            .unwrap()
            .get(0);
        let libraries = if available == 1 { "shared_preload_libraries = 'pg_stat_statements'" } else { "" };
        let settings = "log_statement = all\nlog_min_duration_statement = 0\nmax_prepared_transactions = 10\n";
        let rules = "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        cluster.configure(&format!("{settings}{libraries}"), rules);
        cluster
    })
}

/// Uses a valid key, whatever it may do, until it is in the cache.
pub fn remember(server: &Server, key: &str) {
    wait_for("the key to be remembered", || {
        let before = server.metric("cloacina_auth_cache_hits_total", &[]);
        let status = server.get("/auth/verify?tenant=*", Some(key)).status;
        assert!([204, 403].contains(&status), "{status}");
        (server.metric("cloacina_auth_cache_hits_total", &[]) > before).then_some(())
    });
}
