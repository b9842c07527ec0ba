//! A role with a schema that comes first on the server's usual path, in which everything has the name of something that
//! the server uses: none of it is ever looked at.

use postgres::{Client, NoTls};

use crate::keys_command::{keys_at, worked};
use crate::rotation::rotate;
use crate::servers::{passes, warm};
use crate::support::postgres::{Database, MADE_UP_PASSWORD};
use crate::support::server::Start;

const TABLES: [&str; 5] =
    ["api_keys", "auth_caches", "refinery_schema_history", "cloacina_tenants", "pg_class"];

const FUNCTIONS: &[&str] = &[
    "now() RETURNS timestamptz",
    "clock_timestamp() RETURNS timestamptz",
    "gen_random_uuid() RETURNS pg_catalog.uuid",
    "set_config(text, text, boolean) RETURNS text",
    "current_setting(text) RETURNS text",
    "current_schemas(boolean) RETURNS pg_catalog.name[]",
    "pg_notify(text, text) RETURNS void",
    "nextval(regclass) RETURNS bigint",
    "to_regclass(text) RETURNS regclass",
    "quote_ident(text) RETURNS text",
    "pg_has_role(oid, text) RETURNS boolean",
    "pg_is_in_recovery() RETURNS boolean",
    "date_trunc(text, timestamptz) RETURNS timestamptz",
    "to_char(timestamp, text) RETURNS text",
    "format(text, pg_catalog.name) RETURNS text",
    "format(text, text, text) RETURNS text",
    "count(pg_catalog.uuid) RETURNS bigint",
];

const OPERATORS: &[(&str, &str)] = &[
    ("=", "pg_catalog.uuid"),
    ("<>", "pg_catalog.uuid"),
    ("<", "pg_catalog.uuid"),
    ("=", "text"),
    ("=", "varchar"),
    ("<", "timestamptz"),
    (">", "timestamptz"),
    ("<=", "bigint"),
];

/// What the role does, in the schema that is current.
pub fn names() -> String {
    let mut statements = String::new();
    let body = "LANGUAGE plpgsql AS $$ BEGIN RAISE 'the wrong one'; END $$;";
    for function in FUNCTIONS {
        statements += &format!("CREATE FUNCTION {function} {body}");
    }
    for (number, (operator, kind)) in OPERATORS.iter().enumerate() {
        statements += &format!(
            "CREATE FUNCTION operator_{number}({kind}, {kind}) RETURNS boolean {body}
             CREATE OPERATOR {operator} (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = operator_{number});"
        );
    }
    for table in TABLES {
        statements += &format!("CREATE TABLE {table} (id pg_catalog.uuid, wrong text);");
    }
    statements +=
        "CREATE SEQUENCE api_key_changes; CREATE DOMAIN uuid AS text; CREATE DOMAIN text AS pg_catalog.int4";
    statements
}

#[test]
fn what_has_the_server_s_names_elsewhere_is_not_used() {
    let database = Database::new();
    let (url, role) = database.url_of_new_role();
    let (name, tenant) = (database.name(), format!("{}_tenant", database.name()));
    database.execute(&format!(
        "ALTER DATABASE {name} OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role};
         CREATE ROLE {tenant} LOGIN PASSWORD '{MADE_UP_PASSWORD}'"
    ));
    let start = || Start::without_database().database_url(&url).serving();
    let one = start();
    let admin = one.bootstrap_key();
    database.execute(&format!("CREATE SCHEMA {role} AUTHORIZATION {tenant}"));
    let mut config: postgres::Config = url.parse().unwrap();
    let mut client = config.user(&tenant).connect(NoTls).unwrap();
    client.batch_execute(&format!("SET search_path = {role}; {}", names())).unwrap();
    client.batch_execute(&format!("GRANT ALL ON SCHEMA {role} TO public")).unwrap();
    client.batch_execute(&format!("GRANT ALL ON ALL TABLES IN SCHEMA {role} TO public")).unwrap();
    // A session that pins nothing does meet them.
    let mut usual = Client::connect(&url, NoTls).unwrap();
    assert!(usual.batch_execute("SELECT wrong FROM api_keys").is_ok());

    let other = start();
    for _ in 0..3 {
        let (id, key) = one.create_key(&admin, "shared");
        warm(&one, &key);
        warm(&other, &key);
        other.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
        assert!(!passes(&one, &key) && !passes(&other, &key));
        let (id, key) = other.create_key(&admin, "shared");
        let made = rotate(&one, &id, &admin, "{}");
        assert!(passes(&other, made.key()) && !passes(&other, &key));
        one.get("/auth/keys", Some(&admin)).expect_status(200);
        one.get("/auth/whoami", Some(&admin)).expect_status(200);
        worked(&keys_at(&url, &["list"], ""));
        worked(&keys_at(&url, &["create", "--name", "x"], ""));
    }
    for server in [one, other] {
        assert!(!server.log().contains("the wrong one"), "{}", server.log());
        server.terminate().expect_code(0);
    }
    for table in TABLES {
        assert_eq!(database.value::<i64>(&format!("SELECT count(*) FROM {role}.{table}")), 0, "{table}");
    }
    database.execute(&format!(
        "ALTER DATABASE {name} OWNER TO CURRENT_USER; DROP OWNED BY {role}, {tenant}; DROP ROLE {role}, {tenant}"
    ));
}
