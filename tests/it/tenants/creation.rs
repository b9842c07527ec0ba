//! Tenants are made whole or not at all, and what the answer says works as it stands.

use std::process::Command;
use std::thread;

use postgres::error::SqlState;
use serde_json::{Value, json};

use super::site::{MadeTenant, Site, guarded};
use crate::support::http::{self, Connection};
use crate::support::postgres::Database;
use crate::support::server::Start;
use crate::support::wait_for;

#[test]
fn what_is_asked_for_has_to_pass_the_rules() {
    let site = Site::guarded();
    let before = site.rows();
    let longest = "x".repeat(64);
    let named = |name: &str| json!({ "schema_name": name }).to_string();
    for (body, status, text) in [
        (
            "{".to_owned(),
            400,
            "request body is not valid JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            "[]".to_owned(),
            422,
            "invalid type: sequence, expected a JSON object such as {\"schema_name\":\"acme\"}",
        ),
        ("{}".to_owned(), 422, "schema_name: missing"),
        (json!({ "schema_name": 5 }).to_string(), 422, "schema_name: expected a string, not a number"),
        (json!({ "schema_name": null }).to_string(), 422, "schema_name: expected a string, not null"),
        (r#"{"schema_name":"a","schema_name":"b"}"#.to_owned(), 422, "schema_name: stands more than once"),
        (
            json!({ "schema_name": "a", "user": "b" }).to_string(),
            422,
            "user: unknown field; known are schema_name, username, password",
        ),
        (
            json!({ "schema_name": "a", "username": 1 }).to_string(),
            422,
            "username: expected a string, not a number",
        ),
        (json!({ "schema_name": "a", "username": "" }).to_string(), 422, "username: must not be empty"),
        (json!({ "schema_name": "a", "username": "none" }).to_string(), 422, "username: `none` is reserved"),
        (
            json!({ "schema_name": "a", "username": "PostGres" }).to_string(),
            422,
            "username: `PostGres` is reserved",
        ),
        (
            json!({ "schema_name": "a", "password": "secret" }).to_string(),
            422,
            "password: stands without username, whose it would be",
        ),
        (
            json!({ "schema_name": "a", "username": "b", "password": "x\ny" }).to_string(),
            422,
            "password: must have 1 to 128 characters, none of them a control character",
        ),
        (named(""), 422, "schema_name: must not be empty"),
        (named(&longest), 422, "schema_name: has 64 characters; at most 63 are allowed"),
        (named("2a"), 422, "schema_name: `2a` begins with `2`; it must begin with an ASCII letter or _"),
        (named("a-b"), 422, "schema_name: `a-b` has `-` in it; only ASCII letters, digits and _ are allowed"),
        (
            named("a\"b"),
            422,
            "schema_name: `a\"b` has `\"` in it; only ASCII letters, digits and _ are allowed",
        ),
        (named("é"), 422, "schema_name: `é` has `é` in it; only ASCII letters, digits and _ are allowed"),
        (named("Public"), 422, "schema_name: `Public` is reserved"),
        (named("cloacina_views"), 422, "schema_name: `cloacina_views` is reserved"),
        (named("PG_x"), 422, "schema_name: `PG_x` is reserved, as is every name that begins with pg_"),
        (
            named("cloacina_removed_1"),
            422,
            "schema_name: `cloacina_removed_1` is reserved, as is every name that begins with cloacina_removed_",
        ),
    ] {
        let response = site.server.post("/tenants", &site.admin, &body).expect_status(status);
        assert_eq!(response.error(), text, "{body}");
    }
    let request = http::request("POST", "/tenants", Some(&site.admin), None);
    http::exchange(site.server.address, &request)
        .expect(415, r#"{"error":"expected Content-Type: application/json"}"#);
    assert_eq!(site.rows(), before);
}

#[test]
fn no_tenant_has_the_names_of_the_server_s_own() {
    let database = Database::in_cluster(guarded());
    let (url, role) = database.url_of_new_role();
    database.execute(&format!(
        "CREATE SCHEMA own_tables AUTHORIZATION {role}; ALTER ROLE {role} CREATEROLE;
         ALTER ROLE {role} SET search_path = own_tables; GRANT CREATE ON DATABASE {} TO {role}",
        database.name()
    ));
    let server = Start::without_database().database_url(&url).serving();
    let admin = server.bootstrap_key();
    for (body, text) in [
        (
            json!({ "schema_name": "Own_Tables" }),
            "schema_name: `Own_Tables` is the name of the schema of the server's own tables".to_owned(),
        ),
        (
            json!({ "schema_name": "a", "username": role.to_uppercase() }),
            format!("username: `{}` is the name of the server's own database role", role.to_uppercase()),
        ),
    ] {
        let response = server.post("/tenants", &admin, &body.to_string()).expect_status(422);
        assert_eq!(response.error(), text);
    }
}

#[test]
fn what_exists_is_named() {
    let site = Site::guarded();
    let [one, two, schema, role] = ["one", "two", "schema", "role"].map(|short| site.name(short));
    site.create(&json!({ "schema_name": one, "username": two })).expect_status(201);
    site.create(&json!({ "schema_name": site.name("bare") })).expect_status(201);
    site.database.execute(&format!("CREATE SCHEMA {schema}; CREATE ROLE {role}"));
    let before = site.rows();
    let upper = |name: &str| name.to_uppercase();
    for (name, username, text) in [
        (one.clone(), None, format!("tenant '{one}' exists")),
        (upper(&one), None, format!("tenant '{one}' exists, which differs only in case")),
        (site.name("bare"), Some(site.name("free")), format!("tenant '{}' exists", site.name("bare"))),
        (schema.clone(), None, format!("schema '{schema}' exists")),
        (upper(&schema), None, format!("schema '{schema}' exists, which differs only in case")),
        (role.clone(), Some(site.name("free")), format!("role '{role}' exists")),
        (site.name("free"), Some(role.clone()), format!("role '{role}' exists")),
        (site.name("free"), Some(upper(&role)), format!("role '{role}' exists, which differs only in case")),
        (site.name("free"), Some(two.clone()), format!("role '{two}' exists")),
        (site.name("free"), Some(upper(&two)), format!("role '{two}' exists, which differs only in case")),
    ] {
        let response = site.create(&json!({ "schema_name": name, "username": username })).expect_status(409);
        assert_eq!(response.error(), text);
    }
    assert_eq!(site.rows(), before);
    // A role may be called like another's schema: its own comes first on its path all the same.
    site.create(&json!({ "schema_name": site.name("free"), "username": schema })).expect_status(201);
}

/// Whatever two requests share, the second of them is told so; and the first role in a database brings the views, which
/// several may bring at once.
#[test]
fn at_the_same_moment_there_is_one() {
    let site = &Site::guarded();
    let at_once = |body: &(dyn Fn(usize) -> Value + Sync)| {
        thread::scope(|scope| {
            let asked = |number| scope.spawn(move || site_create(site, &body(number)));
            let threads: Vec<_> = (0..8).map(asked).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        })
    };
    let name = |short: String| site.name(&short);
    let made = at_once(
        &|number| json!({ "schema_name": name(format!("n{number}")), "username": name(format!("n{number}")) }),
    );
    assert!(made.iter().all(|(status, _)| *status == 201), "{made:?}");
    for (what, body) in [
        ("tenant", &(|_| json!({ "schema_name": name("bare".into()) })) as &(dyn Fn(usize) -> Value + Sync)),
        ("tenant", &|_| json!({ "schema_name": name("same".into()), "username": name("same".into()) })),
        (
            "role",
            &|number| json!({ "schema_name": name(format!("s{number}")), "username": name("shared".into()) }),
        ),
    ] {
        let made = at_once(body);
        let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(|(status, _)| *status == 201);
        assert_eq!((won.len(), lost.len()), (1, 7), "{lost:?}");
        for (status, text) in &lost {
            assert!(*status == 409 && text.contains(what) && text.ends_with(" exists\"}"), "{status} {text}");
        }
    }
    let left: i64 = site.database.value(
        "SELECT (SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, current_database())) * 100
              + (SELECT count(*) FROM pg_roles WHERE starts_with(rolname, current_database()))",
    );
    assert_eq!(left, 10_10);
}

fn site_create(site: &Site, body: &Value) -> (u16, String) {
    let response = site.create(body);
    (response.status, response.text().to_owned())
}

#[test]
fn what_another_session_is_making_counts_when_it_is_committed() {
    let site = Site::guarded();
    for (what, statement) in [("schema", "CREATE SCHEMA"), ("role", "CREATE ROLE")] {
        let name = site.name(what);
        let mut other = site.database.client();
        other.batch_execute(&format!("BEGIN; {statement} {name}")).unwrap();
        let body = json!({ "schema_name": name, "username": name }).to_string();
        let mut connection = Connection::open(site.server.address);
        connection.send(&http::request("POST", "/tenants", Some(&site.admin), Some(&body)));
        wait_for("the creation to wait for it", || {
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN
                           (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
            (site.database.value::<i64>(waiting) > 0).then_some(())
        });
        other.batch_execute("COMMIT").unwrap();
        connection.receive("POST").expect(409, &format!(r#"{{"error":"{what} '{name}' exists"}}"#));
        assert!(!site.rows().contains(&name));
    }
}

#[test]
fn names_are_quoted() {
    let site = Site::guarded();
    let longest = format!("{}{}", site.database.name(), "_".repeat(63 - site.database.name().len()));
    for name in [&*longest, "select", "User", "table", "_", "__1"] {
        let made = site.create(&json!({ "schema_name": name, "username": name })).expect_status(201);
        let made = MadeTenant(made.json());
        assert_eq!((made.name(), made.text("username")), (name, name));
        let mut session = made.session();
        session.batch_execute("CREATE TABLE t (n int)").unwrap();
        let row = session.query_one("SELECT current_user::text, current_schema()::text", &[]).unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (name, name));
        site.delete(name).expect(200, &format!(r#"{{"status":"removed","schema_name":"{name}"}}"#));
    }
}

#[test]
fn without_username_there_is_nothing_in_postgresql() {
    let site = Site::guarded();
    let catalog = "SELECT concat((SELECT count(*) FROM pg_namespace),
                                 (SELECT count(*) FROM pg_roles WHERE starts_with(rolname, current_database())))";
    let before: String = site.database.value(catalog);
    let name = site.name("bare");
    for (number, body) in
        [json!({}), json!({ "username": null }), json!({ "username": null, "password": null })]
            .into_iter()
            .enumerate()
    {
        let mut body = body;
        body["schema_name"] = json!(format!("{name}{number}"));
        let expected = format!(
            r#"{{"schema_name":"{name}{number}","username":null,"password":null,"connection_string":null}}"#
        );
        site.create(&body).expect(201, &expected);
    }
    assert_eq!(site.database.value::<String>(catalog), before);
    let refused =
        site.server.post(&format!("/tenants/{name}0/password"), &site.admin, "{}").expect_status(409);
    assert_eq!(
        refused.error(),
        format!("tenant '{name}0' has no database role: it was made without username")
    );
    assert!(site.server.knows(site.key_of(&format!("{name}0"), "read").key()));
}

#[test]
fn the_connection_string_works_as_it_stands() {
    let site = Site::guarded();
    let [schema, username] = ["schema", "user"].map(|short| site.name(short));
    let made = site.create(&json!({ "schema_name": schema, "username": username })).expect_status(201);
    assert_eq!(made.header("Cache-Control"), Some("no-store"));
    let made = MadeTenant(made.json());
    let [string, password] = ["connection_string", "password"].map(|field| made.text(field));
    assert!(password.len() == 32 && password.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{password}");
    let (place, database) = (site.database.host_and_port(), site.database.name());
    assert_eq!(string, format!("postgresql://{username}:{password}@{place}/{database}"));

    let mut session = made.session();
    session.batch_execute("CREATE TABLE orders AS SELECT 42 AS number").unwrap();
    let row = session
        .query_one("SELECT 'orders'::regclass::oid::regclass::text, current_schemas(false)::text", &[])
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("orders", &*format!("{{{schema}}}")));
    assert_eq!(site.database.value::<i32>(&format!("SELECT number FROM {schema}.orders")), 42);
    let psql = Command::new(guarded().program("psql"))
        .args([
            "-XAtwc",
            "SELECT number, (SELECT schema_name || username || max_pending_executions
                                          || retention || paths FROM cloacina_views.tenant) FROM orders",
            string,
        ])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&psql.stdout),
        format!(
            "42|{schema}{username}100002160:00:00{{}}
"
        ),
        "{psql:?}"
    );
    let attributes: String = site.database.value(&format!(
        "SELECT concat_ws(' ', rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin,
                          rolconnlimit, (SELECT count(*) FROM pg_auth_members WHERE member = pg_roles.oid))
         FROM pg_roles WHERE rolname = '{username}'"
    ));
    assert_eq!(attributes, "f f f f f t 10 0");
    for field in ["password", "connection_string"] {
        assert!(
            !site.server.log().contains(made.text(field)) && !site.server.stderr().contains(made.text(field))
        );
    }
}

#[test]
fn no_password_is_written_down() {
    let site = Site::guarded();
    let has_statements: bool =
        site.database.value("SELECT current_setting('shared_preload_libraries') = 'pg_stat_statements'");
    if has_statements {
        site.database.execute("CREATE EXTENSION pg_stat_statements SCHEMA public");
    }
    let name = site.name("t");
    let chosen = "chosen-by-a-person-4711";
    let path = format!("/tenants/{name}/password");
    let first = site.create(&json!({ "schema_name": name, "username": name })).expect_status(201).json();
    let second = site
        .server
        .post(&path, &site.admin, &json!({ "password": chosen }).to_string())
        .expect_status(200)
        .json();
    let third = site
        .server
        .post(&path, &site.admin, &json!({ "password": "" }).to_string())
        .expect_status(200)
        .json();
    let statement = format!("CREATE ROLE \"{name}\"");
    wait_for("PostgreSQL's log to have the statements", || {
        guarded().log().contains(&statement).then_some(())
    });
    let mut texts = vec![guarded().log(), site.server.log(), site.server.stderr(), site.rows()];
    if has_statements {
        let seen: String = site.database.value("SELECT string_agg(query, ' ') FROM pg_stat_statements");
        assert!(seen.contains("CREATE ROLE"), "{seen}");
        texts.push(seen);
    }
    assert_eq!(second["password"], chosen);
    for made in [&first, &second, &third] {
        let password = made["password"].as_str().unwrap();
        assert!(texts.iter().all(|text| !text.contains(password)), "{password} is written down");
    }
    assert!(texts[0].contains("SCRAM-SHA-256$4096:"));
}

#[test]
fn passwords_are_anything_that_programs_read_alike() {
    let site = Site::guarded();
    let longest = "\u{1f511}".repeat(128);
    for (number, password) in
        ["x", " ", "it's \"q\" \\ $1 :pw %s @/?#&=+,", "p\u{e4}ssw\u{f6}rd", "\u{5bc6}\u{7801}", &longest]
            .into_iter()
            .enumerate()
    {
        let name = site.name(&format!("t{number}"));
        let body = json!({ "schema_name": name, "username": name, "password": password });
        let made = MadeTenant(site.create(&body).expect_status(201).json());
        assert_eq!(made.text("password"), password);
        made.session();
        let psql = Command::new(guarded().program("psql"))
            .args(["-XAtwc", "SELECT 1", made.text("connection_string")])
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&psql.stdout), "1\n", "{password}: {psql:?}");
    }
}

/// Also when the answer to the creation was lost, and while the role keeps its own row from being changed.
#[test]
fn a_new_password_takes_the_place_of_the_old_one() {
    let site = Site::guarded();
    let made = site.tenant_with_role("t");
    let path = format!("/tenants/{}/password", made.name());
    let mut holder = made.session();
    let new_password = |body: Option<&str>| {
        let request = http::request("POST", &path, Some(&site.admin), body);
        MadeTenant(http::exchange(site.server.address, &request).expect_status(200).json())
    };
    let mut last = made.clone();
    for (body, holds) in [(None, false), (Some(r#"{"password":null}"#), true), (Some("{}"), false)] {
        if holds {
            holder.batch_execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'mine'").unwrap();
        }
        let new = new_password(body);
        assert_eq!((new.name(), new.text("username")), (made.name(), made.name()));
        let refused = last.login().err().unwrap();
        assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
        new.session();
        last = new;
    }
    assert!(holder.simple_query("SELECT 1").is_err());
    let missing = site.server.post("/tenants/not_there/password", &site.admin, "{}").expect_status(404);
    assert_eq!(missing.error(), "tenant 'not_there' not found");
    let unknown = site.server.post(&path, &site.admin, r#"{"pasword":"x"}"#).expect_status(422);
    assert_eq!(unknown.error(), "pasword: unknown field; known are password");
    last.session();
}

#[test]
fn limits_are_changed_one_by_one() {
    let site = Site::guarded();
    let name = site.tenant_with_role("t").name().to_owned();
    let path = format!("/tenants/{name}");
    let shown = || site.server.get(&path, Some(&site.admin)).expect_status(200).json();
    let before = shown();
    let keys: Vec<_> = before.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 14, "{keys:?}");
    for (field, value) in [
        ("username", json!(name)),
        ("max_running_tasks", json!(null)),
        ("max_pending_executions", json!(10_000)),
        ("max_scratch_bytes", json!(1_073_741_824)),
        ("retention", json!("90d")),
        ("paths", json!({})),
    ] {
        assert_eq!(before[field], value, "{field}");
    }
    let patch = |body: &str| {
        http::exchange(site.server.address, &http::request("PATCH", &path, Some(&site.admin), Some(body)))
    };
    let mut expected = before;
    for (field, value) in [
        ("max_running_tasks", json!(4)),
        ("max_pending_executions", json!(null)),
        ("max_package_bytes", json!(i64::MAX)),
        ("max_log_bytes", json!(0)),
        ("max_scratch_bytes", json!(null)),
        ("retention", json!("36h")),
        ("retention", json!(null)),
        ("paths", json!({ "/srv/acme": "rw", "/opt/tools": "r" })),
        ("paths", json!({})),
        ("max_running_tasks", json!(null)),
    ] {
        expected[field] = value.clone();
        assert_eq!(
            patch(&json!({ field: value }).to_string()).expect_status(200).json(),
            expected,
            "{field}"
        );
        assert_eq!(shown(), expected, "{field}");
    }
    assert_eq!(patch("{}").expect_status(200).json(), expected);
    for (body, text) in [
        (
            r#"{"max_running_tasks":0}"#,
            "max_running_tasks: `0` is not a whole number from 1 to 100000, or null for none",
        ),
        (
            r#"{"retention":"1m"}"#,
            "retention: `1m`: expected a duration from 1h to 36500d, such as 90d or 12h",
        ),
        (r#"{"paths":{"/a":"r","/a":"rw"}}"#, "/a: stands more than once"),
        (
            r#"{"max_running_tasks":4,"schema_name":"x"}"#,
            "schema_name: unknown field; known are max_running_tasks, max_pending_executions, max_package_bytes, max_log_bytes, max_scratch_bytes, retention, paths",
        ),
    ] {
        assert_eq!(patch(body).expect_status(422).error(), text);
    }
    assert_eq!(shown(), expected);
    for method in ["GET", "PATCH", "DELETE"] {
        let body = (method == "PATCH").then_some("{}");
        let request = http::request(method, "/tenants/not_there", Some(&site.admin), body);
        let missing = http::exchange(site.server.address, &request).expect_status(404);
        assert_eq!(missing.error(), "tenant 'not_there' not found");
    }
}

#[test]
fn tenants_are_listed_newest_first_in_pages() {
    let site = Site::guarded();
    site.database.execute(
        "INSERT INTO cloacina_tenants (id, name, created_at) SELECT gen_random_uuid(), 'n' || n, to_timestamp(n / 2)
         FROM generate_series(1, 1500) AS n",
    );
    site.database.execute("UPDATE cloacina_tenants SET removed_at = now() WHERE name = 'n7'");
    let names = |body: &Value| -> Vec<String> {
        body["tenants"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["schema_name"].as_str().unwrap().into())
            .collect()
    };
    let whole = site.server.get("/tenants", Some(&site.admin)).expect_status(200).json();
    assert_eq!(names(&whole).len(), 1000);
    assert!(whole["next"].is_string());
    let (mut all, mut path) = (Vec::new(), "/tenants?limit=499".to_owned());
    loop {
        let response = site.server.get(&path, Some(&site.admin)).expect_status(200);
        let body = response.json();
        all.extend(names(&body));
        let Some(next) = body["next"].as_str() else { break };
        path = format!("/tenants?limit=499&after={next}");
        assert_eq!(response.header("Link"), Some(&*format!("<{path}>; rel=\"next\"")));
    }
    assert_eq!(all.len(), 1499);
    assert_eq!(names(&whole), all[..1000]);
    let seconds: Vec<u32> = all.iter().map(|name| name[1..].parse::<u32>().unwrap() / 2).collect();
    assert!(seconds.is_sorted_by(|a, b| a >= b), "{seconds:?}");
    let refused = site.server.get("/tenants?limit=0", Some(&site.admin)).expect_status(400);
    assert!(refused.error().starts_with("limit: "), "{}", refused.error());
}

/// A client that never saw the answer asks for a new password.
#[test]
fn a_creation_whose_answer_was_lost_is_no_loss() {
    let site = Site::guarded();
    let name = site.name("t");
    let body = json!({ "schema_name": name, "username": name });
    let mut connection = Connection::open(site.server.address);
    connection.send(&http::request("POST", "/tenants", Some(&site.admin), Some(&body.to_string())));
    drop(connection);
    wait_for("the tenant to be made", || site.rows().contains(&name).then_some(()));
    assert_eq!(site.create(&body).expect_status(409).error(), format!("tenant '{name}' exists"));
    let path = format!("/tenants/{name}/password");
    let new = MadeTenant(site.server.post(&path, &site.admin, "{}").expect_status(200).json());
    new.session();
}
