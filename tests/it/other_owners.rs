//! Tables with the names of ours that another role of the database made: none of its keys is ever let in.

use crate::check::{check, says};
use crate::keys_command::{keys_at, worked};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

/// A database, a role that owns it, another that may make schemas there, and their URLs.
struct Two {
    database: Database,
    role: String,
    url: String,
    other: String,
    other_url: String,
}

impl Two {
    fn new() -> Two {
        let database = Database::new();
        let (url, role) = database.url_of_new_role();
        let name = database.name();
        let other = format!("{name}_mallory");
        let other_url = url.replacen(&role, &other, 1);
        database.execute(&format!(
            "ALTER DATABASE {name} OWNER TO {role}; CREATE ROLE {other} LOGIN PASSWORD '{}';
             GRANT CREATE ON DATABASE {name} TO {other}",
            crate::support::postgres::MADE_UP_PASSWORD
        ));
        Two { database, role, url, other, other_url }
    }

    /// A schema that comes first on the usual path of the role.
    fn make_schema(&self) {
        let Two { database, role, other, .. } = self;
        database.execute(&format!(
            "CREATE SCHEMA {role} AUTHORIZATION {other}; GRANT ALL ON SCHEMA {role} TO public;
             ALTER ROLE {other} IN DATABASE {} SET search_path = {role}",
            database.name()
        ));
    }

    /// The same with every table of a server in it. The result is an admin key there.
    fn plant(&self) -> String {
        let Two { database, role, other_url, .. } = self;
        self.make_schema();
        let server = Start::without_database().database_url(other_url).serving();
        let planted = server.bootstrap_key();
        assert!(server.lets_in(&planted));
        server.terminate().expect_code(0);
        database.execute(&format!(
            "GRANT ALL ON ALL TABLES IN SCHEMA {role} TO public; GRANT ALL ON ALL SEQUENCES IN SCHEMA {role} TO public"
        ));
        planted
    }

    fn serve(&self) -> Server {
        Start::without_database().database_url(&self.url).serving()
    }

    fn count(&self, schema: &str) -> i64 {
        self.database.value(&format!("SELECT count(*) FROM {schema}.api_keys"))
    }

    #[track_caller]
    fn refused(&self, url: &str) {
        let table = format!("{}.api_keys", self.role);
        let parts = [table.as_str(), &format!("user {} owns", self.other)];
        let home = Directory::new();
        says(check(home.path(), &["--bind", "127.0.0.1:0", "--database-url", url]), 1, &parts);
        let ended = Start::without_database().database_url(url).failing().expect_code(1);
        assert!(parts.iter().all(|part| ended.last_words().contains(part)), "{ended:#?}");
        keys_at(url, &["list"], "").failed(1, &parts);
        keys_at(url, &["create", "--name", "x"], "").failed(1, &parts);
        assert_eq!(self.count(&self.role), 1);
        assert!(!self.database.has_keys_table());
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        let Two { database, role, other, .. } = self;
        let name = database.name();
        database.execute(&format!(
            "ALTER DATABASE {name} OWNER TO CURRENT_USER; DROP OWNED BY {role}, {other}; DROP ROLE {role}, {other}"
        ));
    }
}

#[test]
fn tables_of_another_role_are_refused() {
    let two = Two::new();
    two.plant();
    two.refused(&two.url);
    // Up to PostgreSQL 15 a role may give itself to others.
    let mut client = postgres::Client::connect(&two.other_url, postgres::NoTls).unwrap();
    let _ = client.batch_execute(&format!("GRANT {} TO {}", two.other, two.role));
    two.refused(&two.url);
}

/// A superuser may do everything with everyone's tables, which makes them no more its own.
#[test]
fn tables_of_another_role_are_refused_to_a_superuser() {
    let two = Two::new();
    two.plant();
    let joint = if two.database.url().contains('?') { '&' } else { '?' };
    two.refused(&format!("{}{joint}options=-csearch_path%3D{}", two.database.url(), two.role));
}

#[test]
fn tables_of_a_role_that_the_server_was_made_a_member_of() {
    let two = Two::new();
    let planted = two.plant();
    two.database.execute(&format!("GRANT {} TO {}", two.other, two.role));
    assert!(two.serve().lets_in(&planted));
}

#[test]
fn tables_of_another_role_do_not_hide_the_server_s_own() {
    let two = Two::new();
    let server = two.serve();
    let admin = server.bootstrap_key();
    server.terminate().expect_code(0);
    let planted = two.plant();
    let server = two.serve();
    assert!(server.lets_in(&admin) && !server.knows(&planted));
    let listed = keys_at(&two.url, &["list", "--json"], "");
    assert_eq!(worked(&listed).join("").matches("\"name\"").count(), 1);
    worked(&keys_at(&two.url, &["create", "--name", "x"], ""));
    assert_eq!((two.count("public"), two.count(&two.role)), (2, 1));
}

/// Its owner could drop what is in it.
#[test]
fn no_table_is_made_in_a_schema_of_another_role() {
    let two = Two::new();
    two.make_schema();
    let server = two.serve();
    assert!(server.lets_in(&server.bootstrap_key()));
    assert_eq!(two.count("public"), 1);
}
