//! Settings that a role or a database imposes on each session: they change nothing in what the server answers, or stop
//! the start with a line that says why.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

/// Longer than the imposed `idle_session_timeout`.
const IDLE: Duration = Duration::from_millis(60);

/// What a database may impose on its sessions, and what is worst for us.
const OF_DATABASE: &[(&str, &str)] = &[
    ("idle_session_timeout", "'30ms'"),
    ("idle_in_transaction_session_timeout", "'5ms'"),
    ("statement_timeout", "'20ms'"),
    ("lock_timeout", "'1ms'"),
    ("default_transaction_isolation", "'serializable'"),
    ("default_transaction_deferrable", "on"),
    ("exit_on_error", "on"),
    ("DateStyle", "'SQL, DMY'"),
    ("IntervalStyle", "'iso_8601'"),
    ("TimeZone", "'Asia/Kathmandu'"),
    ("timezone_abbreviations", "'India'"),
    ("bytea_output", "'escape'"),
    ("client_encoding", "'LATIN1'"),
    ("extra_float_digits", "-15"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("escape_string_warning", "on"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("quote_all_identifiers", "on"),
    ("synchronous_commit", "off"),
    ("row_security", "off"),
    ("plan_cache_mode", "'force_generic_plan'"),
    ("xmlbinary", "'hex'"),
    ("xmloption", "'document'"),
];

/// And what a role may.
const OF_ROLE: &[(&str, &str)] = &[
    ("search_path", "evil, pg_catalog"),
    ("session_replication_role", "'replica'"),
    ("client_min_messages", "'debug5'"),
    ("log_statement", "'all'"),
    ("log_min_duration_statement", "0"),
    ("tcp_keepalives_idle", "1"),
    ("tcp_user_timeout", "1000"),
    ("jit", "on"),
    ("jit_above_cost", "0"),
    ("enable_indexscan", "off"),
    ("enable_seqscan", "off"),
    ("enable_sort", "off"),
    ("enable_hashjoin", "off"),
    ("enable_nestloop", "off"),
    ("work_mem", "'64kB'"),
    ("default_statistics_target", "1"),
    ("default_toast_compression", "'pglz'"),
    ("default_table_access_method", "'nothing'"),
    ("default_tablespace", "''"),
    ("temp_tablespaces", "''"),
    ("check_function_bodies", "off"),
    ("application_name", "'imposed'"),
    ("password_encryption", "'md5'"),
    ("commit_siblings", "1000"),
];

/// Functions and operators of a schema that comes before `pg_catalog`.
const EVIL: &str = "CREATE SCHEMA evil;
     GRANT ALL ON SCHEMA evil TO public;
     CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '1999-01-01Z'::timestamptz $$;
     CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'on' $$;
     CREATE FUNCTION evil.differ(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
     CREATE OPERATOR evil.> (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.differ)";

/// A role that owns the database, and its URL.
fn owner(database: &Database) -> (String, String) {
    let (url, role) = database.url_of_new_role();
    database.execute(&format!("ALTER DATABASE {} OWNER TO {role}", database.name()));
    (url, role)
}

fn impose(database: &Database, role: &str) {
    let name = database.name();
    // One session, which was made before: they are imposed on the test's sessions as well.
    let mut client = database.client();
    let mut execute = |statement: String| client.batch_execute(&statement).unwrap();
    for (setting, value) in OF_DATABASE {
        execute(format!("ALTER DATABASE {name} SET {setting} = {value}"));
    }
    for (setting, value) in OF_ROLE {
        execute(format!("ALTER ROLE {role} IN DATABASE {name} SET {setting} = {value}"));
    }
    // Of later versions. It counts from BEGIN on, so no session could be made under much less on a busy machine.
    let has_more = "SELECT current_setting('transaction_timeout', true) IS NOT NULL";
    if client.query_one(has_more, &[]).unwrap().get(0) {
        client.batch_execute(&format!("ALTER DATABASE {name} SET transaction_timeout = '100ms'")).unwrap();
    }
}

/// Status and body of every endpoint, in an order in which a person may use them. What differs from run to run is
/// replaced by its form.
fn tour(server: &Server) -> Vec<(String, u16, Value)> {
    let admin = server.bootstrap_key();
    let mut seen = Vec::new();
    let mut ask = |method: &str, path: &str, key: &str, body: Option<&str>| -> Value {
        std::thread::sleep(IDLE);
        let response = match (method, body) {
            ("POST", body) => server.post(path, key, body.unwrap_or("{}")),
            ("DELETE", _) => server.delete(path, key),
            _ => server.get(path, Some(key)),
        };
        let answer: Value = match response.text() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap(),
        };
        let mut form = answer.clone();
        blank(&mut form);
        let pattern = path.split('/').map(|part| if part.len() == 36 { "ID" } else { part });
        let pattern = pattern.collect::<Vec<_>>().join("/");
        let pattern = pattern.split("after=").next().unwrap().to_owned();
        seen.push((format!("{method} {pattern}"), response.status, form));
        answer
    };
    let names = [r"plain", r"it's \' E'\\n", "naïve 😀 ключ", "2001-02-03", "NULL", "{NULL}"];
    let mut made = Vec::new();
    for name in names {
        let body = json!({ "name": name, "permissions": "admin", "expires_in": "3d" }).to_string();
        made.push(ask("POST", "/auth/keys", &admin, Some(&body)));
    }
    let id = |value: &Value| value["id"].as_str().unwrap_or_default().to_owned();
    let key = |value: &Value| value["key"].as_str().unwrap_or_default().to_owned();
    ask("POST", "/auth/keys", &admin, Some(r#"{"name":"dated","expires_at":"2099-12-31T23:59:59+05:45"}"#));
    ask("GET", "/auth/keys", &admin, None);
    let first = ask("GET", "/auth/keys?limit=2", &admin, None);
    let next = first["next"].as_str().unwrap_or_default();
    ask("GET", &format!("/auth/keys?limit=2&after={next}"), &admin, None);
    ask("GET", "/auth/whoami", &key(&made[2]), None);
    ask("GET", "/auth/verify", &key(&made[1]), None);
    let rotate = format!("/auth/keys/{}/rotate", id(&made[0]));
    let rotated = ask("POST", &rotate, &admin, Some(r#"{"grace":"2h"}"#));
    ask("GET", "/auth/whoami", &key(&rotated), None);
    ask("GET", "/auth/whoami", &key(&made[0]), None);
    ask("DELETE", &format!("/auth/keys/{}", id(&made[1])), &admin, None);
    ask("DELETE", &format!("/auth/keys/{}", id(&made[1])), &admin, None);
    ask("DELETE", "/auth/keys/self", &key(&made[2]), None);
    ask("GET", "/auth/verify", &key(&made[1]), None);
    ask("GET", "/auth/verify", &key(&made[2]), None);
    ask("GET", "/auth/keys?revoked=false", &admin, None);
    for path in ["/health", "/ready", "/openapi.json"] {
        ask("GET", path, &admin, None);
    }
    seen
}

/// Puts the form of a value in place of one that is never the same twice.
fn blank(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(blank),
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field.as_str()) {
                    ("id" | "key" | "prefix" | "rotated_from" | "next", Some(text)) => {
                        *field = json!(text.len());
                    }
                    (name, Some(text)) if name.ends_with("_at") && !text.starts_with("2099") => {
                        let year = if text.starts_with("20") { "20" } else { "another century" };
                        *field = json!((text.len() > 24, year, text.ends_with("+00:00")));
                    }
                    // Written now and then.
                    ("last_used_at", None) => *field = Value::Null,
                    _ => blank(field),
                }
                if name == "last_used_at" {
                    *field = Value::Null;
                }
            }
        }
        _ => {}
    }
}

#[test]
fn a_hostile_database_and_a_hostile_role_change_nothing() {
    let plain = Database::new();
    let expected = tour(&Server::start(&plain));
    let database = Database::new();
    let (url, role) = owner(&database);
    database.execute(EVIL);
    impose(&database, &role);
    let server = Start::without_database().database_url(&url).serving();
    let seen = tour(&server);
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.into_iter().zip(expected) {
        assert_eq!(seen, expected);
    }
    assert!(!server.stderr().contains("[ERROR]"), "{}", server.stderr());
}

/// Settings that come when there are keys already, for sessions that are made later.
#[test]
fn a_search_path_that_leads_elsewhere() {
    let database = Database::new();
    let (url, role) = owner(&database);
    let start = || Start::without_database().database_url(&url);
    let server = start().serving();
    let admin = server.bootstrap_key();
    drop(server);
    let name = database.name();
    // A schema of the role's own name comes first on the usual path.
    database.execute(&format!(
        "CREATE SCHEMA {role} AUTHORIZATION {role};
         CREATE TABLE {role}.api_keys (LIKE public.api_keys); ALTER TABLE {role}.api_keys OWNER TO {role}"
    ));
    let server = start().serving();
    assert!(server.lets_in(&admin), "another table of that name is in the role's schema");
    server.create_key(&admin, "made");
    drop(server);
    for path in ["nowhere", "pg_catalog", "''"] {
        database.execute(&format!("ALTER ROLE {role} IN DATABASE {name} SET search_path = {path}"));
        let server = start().serving();
        assert!(server.lets_in(&admin), "search_path = {path}");
        server.create_key(&admin, "made");
    }
    assert_eq!(database.value::<i64>("SELECT count(*) FROM public.api_keys"), 5);
}

/// A new database's tables are made in the schema that is current.
#[test]
fn a_schema_of_ones_own() {
    let database = Database::new();
    let (url, role) = owner(&database);
    let name = database.name();
    database.execute(&format!(
        "CREATE SCHEMA \"Odd, 'name'\" AUTHORIZATION {role};
         ALTER ROLE {role} IN DATABASE {name} SET search_path = \"Odd, 'name'\", public"
    ));
    let server = Start::without_database().database_url(&url).serving();
    server.create_key(&server.bootstrap_key(), "made");
    let rows = "SELECT count(*) FROM \"Odd, 'name'\".api_keys";
    assert_eq!(database.value::<i64>(rows), 2);
    assert!(!database.has_keys_table());
}

#[test]
fn an_encoding_that_cannot_hold_every_name() {
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let database =
            Database::with(&format!("ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"));
        let ended = Start::on(&database).failing().expect_code(1);
        let line = ended.last_words();
        assert!(line.contains(&format!("encoding is {encoding}")) && line.contains("UTF8"), "{ended:#?}");
        let checked = Start::on(&database).arguments(["--check"]).failing().expect_code(1);
        assert!(checked.stderr.contains(&format!("encoding is {encoding}")), "{checked:#?}");
        assert!(!database.has_keys_table());
    }
}
