//! What the server's own role may do, and what it says when that is not enough: nothing is done then, and the advice that
//! it gives helps.

use std::thread;

use serde_json::json;

use super::site::{MadeTenant, Site, guarded};
use crate::support::cluster::Cluster;
use crate::support::postgres::Database;
use crate::support::program::cloacinactl;
use crate::support::server::Start;

/// Makes a tenant, uses its role, and removes it.
#[track_caller]
fn gives_tenants_a_role(site: &Site) {
    let made = site.tenant_with_role("t");
    made.session().batch_execute("CREATE TABLE t (n int); SELECT * FROM cloacina_views.tenant").unwrap();
    let path = format!("/tenants/{}/password", made.name());
    let new = MadeTenant(site.server.post(&path, &site.admin, "{}").expect_status(200).json());
    assert!(made.login().is_err());
    new.session();
    site.remove(made.name());
}

#[test]
fn createrole_and_create_are_enough() {
    let site = Site::of_role("CREATEROLE");
    gives_tenants_a_role(&site);
    assert_eq!(site.memberships_of_server(), 0);
}

/// A setting by which a role that makes another becomes a member of it, from PostgreSQL 16 on.
#[test]
fn no_setting_makes_the_server_a_member() {
    let mut site = Site::of_role("CREATEROLE");
    if site.database.value::<i32>("SELECT current_setting('server_version_num')::int") < 160_000 {
        return;
    }
    site.database
        .execute(&format!("ALTER ROLE {} SET createrole_self_grant = 'set, inherit'", site.name("role")));
    site.server = Start::without_database().database_url(&site.url_of_role()).serving();
    gives_tenants_a_role(&site);
    site.tenant_with_role("u");
    assert_eq!(site.memberships_of_server(), 0);
}

#[test]
fn what_is_missing_is_said_and_helps() {
    let attributes = "CREATEROLE";
    for (take_away, give_back, text) in [
        (
            "ALTER ROLE SERVER NOCREATEROLE",
            None,
            "the server's database role cannot create roles: grant it CREATEROLE (ALTER ROLE SERVER CREATEROLE)",
        ),
        (
            "REVOKE CREATE ON DATABASE DATABASE FROM SERVER",
            None,
            "the server's database role cannot create schemas: grant it CREATE on the database (GRANT CREATE ON DATABASE DATABASE TO SERVER)",
        ),
        (
            "GRANT CREATE ON SCHEMA public TO PUBLIC",
            None,
            "every role may create objects in the schema public of the server's tables: REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        ),
        (
            "GRANT SELECT ON api_keys TO PUBLIC",
            None,
            "every role may use the server's own public.api_keys: REVOKE ALL ON public.api_keys FROM PUBLIC",
        ),
        (
            "GRANT UPDATE (name) ON cloacina_tenants TO PUBLIC; GRANT USAGE ON api_key_changes TO PUBLIC",
            None,
            "every role may use the server's own public.api_key_changes, public.cloacina_tenants: \
          REVOKE ALL ON public.api_key_changes, public.cloacina_tenants FROM PUBLIC",
        ),
        (
            "REVOKE CONNECT ON DATABASE DATABASE FROM PUBLIC; GRANT CONNECT ON DATABASE DATABASE TO SERVER",
            None,
            "no new role may connect to this database: GRANT CONNECT ON DATABASE DATABASE TO PUBLIC",
        ),
        (
            "CREATE SCHEMA cloacina_views",
            Some("DROP SCHEMA cloacina_views"),
            "the schema cloacina_views is another role's: the server needs one of its own",
        ),
    ] {
        let site = Site::of_role(attributes);
        let named = |text: &str| {
            text.replace("DATABASE DATABASE", &format!("DATABASE {}", site.database.name()))
                .replace("SERVER", &site.name("role"))
        };
        let text = named(text);
        site.database.execute(&named(take_away));
        let before = site.catalog();
        let name = site.name("t");
        let body = json!({ "schema_name": name, "username": name });
        let refused = site.create(&body).expect_status(503);
        assert_eq!(refused.error(), text);
        assert_eq!(site.catalog(), before, "{text}");
        if give_back.is_none() {
            let said = check(&site.url_of_role());
            assert!(said.contains(&format!("gives no tenant a role of its own: {text}")), "{said}");
        }
        // Without a role it works all the same.
        site.create(&json!({ "schema_name": site.name("bare") })).expect_status(201);
        let advice = text.rsplit_once(['(', ':']).unwrap().1.trim_end_matches(')');
        site.database.execute(give_back.unwrap_or(advice));
        gives_tenants_a_role(&site);
        let said = check(&site.url_of_role());
        assert!(!said.contains("gives no tenant"), "{said}");
    }
}

fn check(url: &str) -> String {
    let home = crate::support::directory::Directory::new();
    let arguments = [
        "--home",
        home.path().to_str().unwrap(),
        "serve",
        "--check",
        "--bind",
        "127.0.0.1:0",
        "--database-url",
        url,
    ];
    let output = cloacinactl(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Where PUBLIC may not connect, and the server may give that right: several at once, for PostgreSQL refuses the second of
/// two changes of it that meet.
#[test]
fn a_new_role_may_connect_where_others_may_not() {
    let site = Site::of_role("CREATEROLE");
    let (database, server) = (site.database.name(), site.name("role"));
    site.database.execute(&format!(
        "ALTER DATABASE {database} OWNER TO {server}; REVOKE CONNECT ON DATABASE {database} FROM PUBLIC"
    ));
    let shared = &site;
    thread::scope(|scope| {
        for number in 0..6 {
            scope.spawn(move || {
                for round in 0..3 {
                    let made = shared.tenant_with_role(&format!("t{number}_{round}"));
                    made.session();
                    shared.delete(made.name()).expect_status(200);
                }
            });
        }
    });
    gives_tenants_a_role(&site);
    let left: String =
        site.database.value("SELECT datacl::text FROM pg_database WHERE datname = current_database()");
    assert!(!left.contains("_t"), "{left}");
    site.database.execute(&format!("ALTER DATABASE {database} OWNER TO postgres"));
}

/// The role is made, and the rules of pg_hba.conf do not let it in.
#[test]
fn rules_that_let_no_new_role_in_are_named() {
    let cluster = Cluster::start();
    const RULES: &str = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n";
    cluster.configure("", RULES);
    let site = Site::start_with(Database::in_cluster(&cluster), []);
    let name = site.name("t");
    let body = json!({ "schema_name": name, "username": name });
    let line = format!("host {} {name} ADDRESS scram-sha-256", site.database.name());
    for _ in 0..2 {
        let refused = site.create(&body).expect_status(503).error();
        assert!(
            refused.starts_with("the database does not let the new role in: no pg_hba.conf entry for host"),
            "{refused}"
        );
        assert!(
            refused.contains(&format!("; add a line `{line}` to its pg_hba.conf, before others that match")),
            "{refused}"
        );
        crate::support::wait_for("nothing to be left", || site.catalog().starts_with("0 0 0").then_some(()));
    }
    cluster.configure("", &format!("{}\n{RULES}", line.replace("ADDRESS", "127.0.0.1/32")));
    let made = crate::support::wait_for("the server to be back", || {
        let response = site.create(&body);
        (response.status == 201).then(|| MadeTenant(response.json()))
    });
    made.session();
}

/// The server's own connections and those of tenants may lead to different addresses.
#[test]
fn tenants_may_have_an_address_of_their_own() {
    let cluster = guarded();
    let socket = cluster.socket_directory().to_str().unwrap();
    let port = cluster.port();
    for (set, place) in [
        (format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}/DATABASE")),
        ("localhost".to_owned(), format!("localhost:{port}/DATABASE")),
        // The rules let any role in there without a password.
        (socket.to_owned(), format!("/DATABASE?host={socket}&port={port}")),
    ] {
        let database = Database::in_cluster(cluster);
        let place = place.replace("DATABASE", database.name());
        let site = Site::start_with(database, ["--tenant-database-host", &set]);
        let made = site.tenant_with_role("t");
        let string = made.text("connection_string");
        assert!(string.ends_with(&format!("@{place}")), "{string}");
        made.session();
    }
}
