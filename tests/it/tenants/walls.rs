//! A PostgreSQL of its own with two tenants that have roles, and what must stay as it is whatever one of them does.

use std::path::PathBuf;

use postgres::{Client, NoTls};
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

/// Roles of tenants have to say their passwords.
const RULES: &str = "local all all trust
host all postgres 127.0.0.1/32 trust
host all +is_trusted 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
";

/// A tenant with a role.
pub struct WithRole {
    pub name: &'static str,
    pub role: String,
    pub password: String,
    pub connection_string: String,
    /// One of its keys, and what was shown of it.
    pub key: Made,
    shown: Value,
}

pub struct Walls {
    // Dropped before what it runs on.
    pub server: Server,
    home: Directory,
    pub admin: String,
    pub acme: WithRole,
    pub other: WithRole,
    pub server_role: String,
    pub version: i32,
    /// A session of the other tenant that is there all the while.
    session_of_other: Client,
    url: String,
    pub database: Database,
    cluster: Cluster,
}

impl Walls {
    pub fn of_a_superuser() -> Walls {
        let cluster = Cluster::start();
        let database = Database::in_cluster(&cluster);
        let url = database.url();
        Walls::new(cluster, database, url, "postgres".to_owned())
    }

    /// Which has, besides, a right to create schemas, and owns its tables.
    pub fn of_a_server_that_creates_roles() -> Walls {
        let cluster = Cluster::start();
        let database = Database::in_cluster(&cluster);
        let (url, role) = database.url_of_new_role();
        database.execute(&format!(
            "CREATE ROLE is_trusted; GRANT is_trusted TO {role}; ALTER ROLE {role} CREATEROLE;
             GRANT CREATE ON DATABASE {} TO {role}; GRANT CREATE ON SCHEMA public TO {role}",
            database.name()
        ));
        Walls::new(cluster, database, url, role)
    }

    fn new(cluster: Cluster, database: Database, url: String, server_role: String) -> Walls {
        cluster.configure("", RULES);
        let home = Directory::new();
        let server = Start::without_database().home(&home).database_url(&url).serving();
        let admin = server.bootstrap_key();
        let [acme, other] = ["acme", "beta"].map(|name| WithRole::make(&server, &admin, name));
        let mut session_of_other = other.connect();
        session_of_other
            .batch_execute(
                "CREATE TABLE orders (n int);
                 CREATE FUNCTION secret() RETURNS int LANGUAGE sql AS 'SELECT 42';
                 SELECT lo_create(4711)",
            )
            .unwrap();
        // What a planner could tell of.
        database.execute("ANALYZE");
        let version: i32 = database.value("SELECT current_setting('server_version_num')::int / 10000");
        Walls {
            server,
            home,
            admin,
            acme,
            other,
            server_role,
            version,
            session_of_other,
            url,
            database,
            cluster,
        }
    }

    /// Starts another server on the same database.
    pub fn start(&self) -> Start {
        Start::without_database().database_url(&self.url)
    }

    /// Starts the server anew.
    pub fn restart(self) -> Walls {
        self.server.terminate().expect_code(0);
        let server = Start::without_database().home(&self.home).database_url(&self.url).serving();
        Walls { server, ..self }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// A program that is of the same version.
    pub fn program(&self, name: &str) -> PathBuf {
        self.cluster.program(name)
    }

    /// A statement with the names that there are here.
    pub fn named(&self, statement: &str) -> String {
        let Walls { acme, other, .. } = self;
        let names = [
            ("{role}", &*acme.role),
            ("{password}", &acme.password),
            ("{schema}", acme.name),
            ("{other}", &other.role),
            ("{theirs}", other.name),
            ("{server}", &self.server_role),
            ("{home}", "public"),
            ("{database}", self.database.name()),
            ("{channel}", "api_key_changes"),
        ];
        names.iter().fold(statement.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// What there is of these kinds where the server's tables lie.
    pub fn relations(&self, kinds: &str) -> Vec<String> {
        let query = format!(
            "SELECT relname::text FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND relkind IN ({kinds}) ORDER BY 1"
        );
        let rows = self.database.client().query(&query, &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// What no tenant may ever see: values of another's row, passwords, hashes of keys, and where servers notify.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets =
            vec!["secret-of-beta".to_owned(), LIMIT_OF_BETA.to_owned(), self.other.password.clone()];
        let query = "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL
                     UNION ALL SELECT key_hash FROM api_keys UNION ALL SELECT channel FROM cloacina_notifications";
        let rows = self.database.client().query(query, &[]).unwrap();
        secrets.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        secrets
    }

    /// All that the server and the other tenant have, and what others may do with it.
    pub fn state_of_others(&self) -> String {
        let query = self.named(
            "SELECT concat_ws(E'\\n',
                (SELECT string_agg((to_jsonb(k) - 'last_used_at')::text, ' ' ORDER BY id) FROM {home}.api_keys AS k),
                (SELECT string_agg(t::text, ' ' ORDER BY id) FROM {home}.cloacina_tenants AS t),
                (SELECT string_agg(concat(nspname, nspowner::regrole, COALESCE(nspacl, acldefault('n', nspowner))), ' ' ORDER BY nspname)
                 FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'),
                (SELECT string_agg(concat(oid::regclass, relowner::regrole, COALESCE(relacl, acldefault('r', relowner)), reloptions), ' ' ORDER BY oid)
                 FROM pg_class WHERE relowner <> '{role}'::regrole),
                (SELECT string_agg(concat(oid::regprocedure, proowner::regrole, COALESCE(proacl, acldefault('f', proowner))), ' ' ORDER BY oid)
                 FROM pg_proc WHERE proowner <> '{role}'::regrole),
                (SELECT string_agg(concat(rolname, rolsuper, rolcreaterole, rolcanlogin, rolconnlimit,
                                          CASE WHEN rolname <> '{role}' THEN rolpassword END), ' ' ORDER BY rolname)
                 FROM pg_authid),
                (SELECT string_agg(concat(roleid::regrole, member::regrole, to_jsonb(m) - 'oid'), ' '
                                   ORDER BY roleid, member, grantor) FROM pg_auth_members AS m),
                (SELECT string_agg(concat(setdatabase, setrole::regrole, setconfig), ' ' ORDER BY setdatabase, setrole)
                 FROM pg_db_role_setting WHERE setrole <> '{role}'::regrole),
                (SELECT string_agg(concat(datname, datdba, COALESCE(datacl, acldefault('d', datdba)), datconnlimit), ' '
                                   ORDER BY datname) FROM pg_database),
                (SELECT string_agg(concat(m.oid, lomowner, lomacl), ' ' ORDER BY m.oid)
                 FROM pg_largeobject_metadata AS m WHERE lomowner <> '{role}'::regrole))",
        );
        self.database.value(&query)
    }

    /// The server answers as ever, and each tenant sees itself and nothing else.
    #[track_caller]
    pub fn expect_well(&mut self, after: &str) {
        self.server.expect_well(after);
        let Walls { server, admin, acme, other, session_of_other, .. } = self;
        session_of_other.simple_query("SELECT secret(), lo_get(4711)").unwrap();
        let verified = server.get("/auth/verify?tenant=*", Some(other.key.key()));
        assert_eq!(
            (verified.status, verified.header("X-Auth-Tenant")),
            (204, Some(other.name)),
            "after {after}"
        );
        assert_eq!(server.get("/auth/verify", Some(admin)).status, 204, "after {after}");
        assert!(!server.knows(&crate::keys::unknown_key()), "after {after}");
        let tenants = server.get("/tenants", Some(admin)).expect_status(200).json();
        let names: Vec<_> =
            tenants["tenants"].as_array().unwrap().iter().map(|one| &one["schema_name"]).collect();
        assert_eq!(names, [other.name, acme.name], "after {after}");
        for tenant in [acme, other] {
            let shown = server.get(&format!("/tenants/{}", tenant.name), Some(tenant.key.key()));
            assert_eq!(shown.expect_status(200).json(), tenant.shown, "after {after}");
            let keys = server.get(&format!("/tenants/{}/keys", tenant.name), Some(tenant.key.key()));
            assert_eq!(keys.expect_status(200).json()["keys"].as_array().unwrap().len(), 1, "after {after}");
            assert_eq!(tenant.sees(&mut tenant.connect()), [tenant.name], "after {after}");
        }
    }
}

/// As a number of bytes.
const LIMIT_OF_BETA: &str = "987654321987";

impl WithRole {
    fn make(server: &Server, admin: &str, name: &'static str) -> WithRole {
        let role = format!("{name}_role");
        let body = json!({ "schema_name": name, "username": role }).to_string();
        let made = server.post("/tenants", admin, &body).expect_status(201).json();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        let body = json!({ "name": name, "permissions": "admin" }).to_string();
        let key = server.post(&format!("/tenants/{name}/keys"), admin, &body).expect_status(201).json();
        let limits = json!({
            "max_log_bytes": if name == "beta" { LIMIT_OF_BETA.parse::<i64>().unwrap() } else { 5 },
            "paths": { format!("/srv/secret-of-{name}"): "r" },
        });
        let path = format!("/tenants/{name}");
        let shown = change(server, admin, &path, &limits.to_string());
        WithRole {
            name,
            password: text("password"),
            connection_string: text("connection_string"),
            role,
            key: Made(key),
            shown,
        }
    }

    pub fn connect(&self) -> Client {
        self.try_connect().unwrap()
    }

    pub fn try_connect(&self) -> Result<Client, postgres::Error> {
        Client::connect(&self.connection_string, NoTls)
    }

    /// The schemas of the rows that it sees.
    pub fn sees(&self, client: &mut Client) -> Vec<String> {
        let rows = client.query("SELECT schema_name FROM cloacina_views.tenant", &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// Changes a tenant's limits.
#[track_caller]
pub fn change(server: &Server, admin: &str, path: &str, limits: &str) -> Value {
    let changed = crate::support::http::request("PATCH", path, Some(admin), Some(limits));
    crate::support::http::exchange(server.address, &changed).expect_status(200).json()
}
