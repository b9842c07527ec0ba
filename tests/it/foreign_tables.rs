//! Tables of other programs that have the names of ours, and databases that the server may not work in: a start and
//! `serve --check` refuse them with the same words, before anything is changed.

use crate::check::{check, check_database, says};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

/// Every table, column, index, constraint, sequence and function there is, in all schemas.
fn everything(database: &Database) -> String {
    database.contents()
        + &database.value::<String>(
            "SELECT concat(
                 (SELECT string_agg(concat_ws(' ', relnamespace::regnamespace, relname, relkind, relacl, relrowsecurity), E'\\n' ORDER BY pg_class.oid)
                  FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)'), E'\\n',
                 (SELECT string_agg(concat_ws(' ', attrelid::regclass, attname, atttypid::regtype, attnotnull), E'\\n' ORDER BY attrelid, attnum)
                  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)'), E'\\n',
                 (SELECT string_agg(pg_get_constraintdef(oid), E'\\n' ORDER BY oid) FROM pg_constraint))",
        )
}

/// Asserts that both refuse this database as this role, name all of `parts`, and change nothing.
#[track_caller]
fn refused_at(database: &Database, url: &str, parts: &[&str]) {
    let before = everything(database);
    let home = Directory::new();
    let checked = says(check(home.path(), &["--bind", "127.0.0.1:0", "--database-url", url]), 1, parts);
    let started = Start::without_database().database_url(url).failing().expect_code(1);
    for part in parts {
        assert!(started.last_words().contains(part), "{part:?} is not in {started:#?}");
    }
    let reason = started.last_words().strip_prefix("cloacinactl: ").unwrap();
    assert!(checked.stderr.contains(reason), "{reason}: {checked:#?}");
    assert_eq!(everything(database), before);
}

#[track_caller]
fn refused(statements: &str, parts: &[&str]) {
    let database = Database::new();
    database.execute(statements);
    refused_at(&database, &database.url(), parts);
}

const COLUMNS: [&str; 6] = [
    "id uuid PRIMARY KEY",
    "key_hash text NOT NULL UNIQUE",
    "name text NOT NULL",
    "permissions text NOT NULL",
    "created_at timestamptz NOT NULL",
    "revoked_at timestamptz",
];

/// A table as it is adopted, but for one column, and one more.
fn table(changed: usize, column: &str) -> String {
    let mut columns = COLUMNS;
    columns[changed] = column;
    format!("CREATE TABLE api_keys ({})", columns.join(", "))
}

fn table_with(column: &str) -> String {
    format!("CREATE TABLE api_keys ({}, {column})", COLUMNS.join(", "))
}

#[test]
fn columns_of_other_types() {
    for (changed, column, found, right) in [
        (0, "id bigserial PRIMARY KEY", "bigint", "uuid"),
        (0, "id text PRIMARY KEY", "text", "uuid"),
        (1, "key_hash bytea NOT NULL UNIQUE", "bytea", "text or character varying"),
        (1, "key_hash varchar(63) NOT NULL UNIQUE", "character varying(63)", "64 characters"),
        (2, "name jsonb", "jsonb", "text"),
        (2, "name varchar(80) NOT NULL", "character varying(80)", "255 characters"),
        (3, "permissions text[] NOT NULL", "text[]", "text"),
        (3, "permissions bigint NOT NULL", "bigint", "text"),
        (4, "created_at timestamp NOT NULL", "timestamp without time zone", "timestamp with time zone"),
        (4, "created_at bigint NOT NULL", "bigint", "timestamp with time zone"),
        (5, "revoked_at timestamp", "timestamp without time zone", "timestamp with time zone"),
        (5, "revoked_at boolean", "boolean", "timestamp with time zone"),
        (
            5,
            "revoked_at timestamptz NOT NULL DEFAULT 'infinity'",
            "not null or has a default",
            "null in a new row",
        ),
        (5, "revoked_at timestamptz DEFAULT now()", "not null or has a default", "null in a new row"),
        (2, "name text GENERATED ALWAYS AS ('x') STORED", "generated", "what the server writes"),
    ] {
        let name = column.split(' ').next().unwrap();
        refused(&table(changed, column), &["public.api_keys", &format!("the column {name}"), found, right]);
    }
}

#[test]
fn further_columns_that_stand_in_the_way() {
    for (column, parts) in [
        ("expires_at timestamp", ["the column expires_at", "timestamp without time zone"]),
        ("last_used_at bigint", ["the column last_used_at", "bigint"]),
        ("prefix varchar(8)", ["the column prefix", "12 characters"]),
        ("declared text", ["the column declared", "boolean"]),
        ("is_admin integer NOT NULL DEFAULT 0", ["the column is_admin", "boolean"]),
        (
            "is_admin boolean GENERATED ALWAYS AS (permissions = 'admin') STORED",
            ["the column is_admin", "generated"],
        ),
        ("tenant_id bigint", ["the column tenant_id", "text or character varying or uuid"]),
        ("tenant_id text NOT NULL", ["the column tenant_id", "null in a new row"]),
        ("tenant_id text DEFAULT 'public'", ["the column tenant_id", "null in a new row"]),
        ("user_id bigint NOT NULL", ["the column user_id", "has no default"]),
    ] {
        refused(&table_with(column), &[&["public.api_keys"], parts.as_slice()].concat());
    }
}

/// With any of these a request would be answered with 500, or a revoked key would go on working.
#[test]
fn what_changes_or_refuses_new_rows() {
    let function = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.revoked_at = NULL; RETURN NEW; END $$;";
    let whole = table_with("note text");
    for (more, what) in [
        ("CREATE UNIQUE INDEX one_name ON api_keys (name)", "the unique index one_name"),
        (
            "CREATE UNIQUE INDEX one_valid ON api_keys (name) WHERE revoked_at IS NULL",
            "the unique index one_valid",
        ),
        ("CREATE UNIQUE INDEX one_lower ON api_keys (lower(name))", "the unique index one_lower"),
        ("CREATE UNIQUE INDEX including_it ON api_keys (name) INCLUDE (id)", "the unique index including_it"),
        (
            "ALTER TABLE api_keys ADD CONSTRAINT no_two EXCLUDE USING btree (name WITH =)",
            "the unique index no_two",
        ),
        (
            "ALTER TABLE api_keys ADD CONSTRAINT admins CHECK (permissions = 'admin')",
            "the check constraint admins",
        ),
        (
            "ALTER TABLE api_keys ADD CONSTRAINT short CHECK (length(key_hash) = 32)",
            "the check constraint short",
        ),
        ("ALTER TABLE api_keys ADD CONSTRAINT closed CHECK (false)", "the check constraint closed"),
        (
            "CREATE TABLE people (name text PRIMARY KEY);
             ALTER TABLE api_keys ADD CONSTRAINT person FOREIGN KEY (name) REFERENCES people",
            "the foreign key constraint person",
        ),
        (
            "CREATE TRIGGER keeping BEFORE UPDATE ON api_keys FOR EACH ROW EXECUTE FUNCTION keep()",
            "the trigger keeping",
        ),
        (
            "CREATE TRIGGER keeping AFTER INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION keep()",
            "the trigger keeping",
        ),
        ("CREATE RULE nothing_more AS ON UPDATE TO api_keys DO INSTEAD NOTHING", "the rule nothing_more"),
    ] {
        refused(&format!("{function} {whole}; {more}"), &["public.api_keys", what]);
    }
    refused(
        &format!("CREATE UNLOGGED {}", whole.trim_start_matches("CREATE ")),
        &["public.api_keys is unlogged", "ALTER TABLE public.api_keys SET LOGGED"],
    );
}

/// And of our own tables, when they have been made.
#[test]
fn what_was_added_to_the_server_s_own_tables() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute("ALTER TABLE auth_caches ADD CONSTRAINT none_there CHECK (seen < 0) NOT VALID");
    refused_at(&database, &database.url(), &["the check constraint none_there", "public.auth_caches"]);
    database.execute("ALTER TABLE auth_caches DROP CONSTRAINT none_there, SET UNLOGGED");
    refused_at(&database, &database.url(), &["public.auth_caches is unlogged"]);
}

#[test]
fn what_leaves_new_rows_as_they_are() {
    let database = Database::new();
    database.execute(&table_with(
        "number bigint GENERATED ALWAYS AS IDENTITY UNIQUE, note text CHECK (length(note) < 9), token uuid UNIQUE DEFAULT gen_random_uuid(),
         tenant_id text, UNIQUE (id, name), UNIQUE (tenant_id, name)",
    ));
    database.execute(
        "CREATE TABLE tenants (id text PRIMARY KEY); ALTER TABLE api_keys ADD FOREIGN KEY (tenant_id) REFERENCES tenants;
         CREATE TABLE uses (key uuid REFERENCES api_keys (id));
         CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'stopped'; END $$;
         CREATE TRIGGER off BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION stop();
         ALTER TABLE api_keys DISABLE TRIGGER off",
    );
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (id, key) = server.create_key(&admin, "same");
    let (_, other) = server.create_key(&admin, "same");
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    assert!(!server.knows(&key) && server.lets_in(&other));
}

#[test]
fn further_columns_that_do_not() {
    let database = Database::new();
    database.execute(&table_with(
        "number bigint GENERATED ALWAYS AS IDENTITY, note text NOT NULL DEFAULT '', issued_via text,
         shout text GENERATED ALWAYS AS (upper(name)) STORED, expires_at timestamptz",
    ));
    let server = Server::start(&database);
    assert!(server.lets_in(&server.bootstrap_key()));
}

#[test]
fn what_is_no_table_of_one_s_own() {
    let columns = COLUMNS.join(", ");
    for (statements, kind) in [
        (format!("CREATE TABLE kept ({columns}); CREATE VIEW api_keys AS SELECT * FROM kept"), "is a view"),
        (
            format!("CREATE TABLE kept ({columns}); CREATE MATERIALIZED VIEW api_keys AS SELECT * FROM kept"),
            "is a materialized view",
        ),
        (
            format!("CREATE TABLE api_keys ({}) PARTITION BY HASH (id)", columns.replace(" UNIQUE", "")),
            "is a partitioned table",
        ),
        ("CREATE SEQUENCE api_keys".to_owned(), "is a sequence"),
        ("CREATE VIEW auth_caches AS SELECT 1 AS server".to_owned(), "is a view"),
        ("CREATE TABLE api_key_changes (id int)".to_owned(), "has to be a sequence"),
        ("CREATE VIEW refinery_schema_history AS SELECT 1 AS version".to_owned(), "is a view"),
    ] {
        refused(&statements, &["public.", kind]);
    }
}

/// No role can read this one, not even that of the test that looks whether it has changed.
#[test]
fn a_foreign_table() {
    let database = Database::new();
    database.execute(&format!(
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;
         CREATE FOREIGN TABLE api_keys ({}) SERVER elsewhere",
        COLUMNS.join(", ").replace(" UNIQUE", "").replace(" PRIMARY KEY", "")
    ));
    let home = Directory::new();
    let words = "public.api_keys is a foreign table, and has to be a table";
    says(check_database(home.path(), &database, &[]), 1, &[words]);
    let started = Start::on(&database).failing().expect_code(1);
    assert!(started.last_words().contains(words), "{started:#?}");
    assert!(database.value::<bool>("SELECT to_regclass('refinery_schema_history') IS NULL"));
}

#[test]
fn names_of_ours_that_others_have() {
    for (statements, parts) in [
        (
            "CREATE TABLE auth_caches (key text PRIMARY KEY, value jsonb)",
            ["public.auth_caches", "no column server"],
        ),
        (
            "CREATE TABLE auth_caches (server uuid PRIMARY KEY, seen bigint, since timestamptz, region text NOT NULL)",
            ["the column region", "public.auth_caches"],
        ),
        ("CREATE SEQUENCE api_key_changes AS int CYCLE", ["public.api_key_changes", "bigint"]),
        (
            "CREATE TABLE other (id int); CREATE INDEX api_keys_by_hash ON other (id)",
            ["public.api_keys_by_hash", "another table"],
        ),
        ("CREATE TABLE api_keys_by_id (id int)", ["public.api_keys_by_id", "is a table"]),
    ] {
        refused(statements, &parts);
    }
    refused(&table(0, "id uuid"), &["public.api_keys", "the column id", "primary key"]);
    let twice = table(1, "key_hash text NOT NULL")
        + "; INSERT INTO api_keys SELECT gen_random_uuid(), 'x', '', 'read', now() FROM generate_series(1, 2)";
    refused(&twice, &["public.api_keys", "key_hash twice"]);
}

const HISTORY: &str = "CREATE TABLE refinery_schema_history (version int4 PRIMARY KEY, name varchar(255),
    applied_on varchar(255), checksum varchar(255));";

#[test]
fn histories_of_other_programs() {
    for names in [
        &["users"][..],
        &["users", "orders", "a", "b", "c", "d", "e"],
        &["a", "b", "c", "d", "e", "f", "g", "h", "i"],
    ] {
        let rows: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(index, name)| format!("({}, '{name}', 'today', 'no number')", index + 1))
            .collect();
        let statements = format!("{HISTORY} INSERT INTO refinery_schema_history VALUES {}", rows.join(", "));
        refused(&statements, &["public.refinery_schema_history", &format!("V1__{}", names[0]), "not ours"]);
    }
    refused(
        "CREATE TABLE refinery_schema_history (version int8 PRIMARY KEY, name text, applied_on text, checksum text)",
        &["public.refinery_schema_history", "the column version", "bigint"],
    );
    refused(
        "CREATE TABLE refinery_schema_history (id serial, script text)",
        &["public.refinery_schema_history", "no column version"],
    );
}

#[test]
fn an_earlier_schema_of_the_path() {
    let database = Database::new();
    let (url, role) = database.url_of_new_role();
    database.execute(&format!(
        "CREATE SCHEMA theirs; CREATE SCHEMA ours AUTHORIZATION {role}; GRANT USAGE ON SCHEMA theirs TO {role};
         ALTER ROLE {role} SET search_path = theirs, ours; CREATE TABLE theirs.api_keys (id int PRIMARY KEY)"
    ));
    refused_at(&database, &url, &["theirs.api_keys", "the column id", "integer"]);
    database.execute(&format!(
        "DROP TABLE theirs.api_keys; GRANT CREATE ON SCHEMA theirs TO {role};
        CREATE TABLE theirs.refinery_schema_history (version int)"
    ));
    refused_at(&database, &url, &["theirs.refinery_schema_history", "no column name"]);
    database.execute(&format!("ALTER ROLE {role} SET search_path = nowhere"));
    refused_at(&database, &url, &[&role, "no schema of its search_path", "nowhere"]);
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_history_in_a_later_schema_of_the_path() {
    let database = Database::new();
    let (url, role) = database.url_of_new_role();
    database.execute(&format!(
        "CREATE SCHEMA ours AUTHORIZATION {role}; CREATE SCHEMA theirs; GRANT USAGE ON SCHEMA theirs TO {role};
         CREATE TABLE theirs.refinery_schema_history (version int); GRANT SELECT ON theirs.refinery_schema_history TO {role};
         ALTER ROLE {role} SET search_path = ours, theirs"
    ));
    let home = Directory::new();
    says(check(home.path(), &["--bind", "127.0.0.1:0", "--database-url", &url]), 0, &["made in schema ours"]);
    let server = Start::without_database().database_url(&url).serving();
    assert!(server.lets_in(&server.bootstrap_key()));
    server.terminate().expect_code(0);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM ours.api_keys"), 1);
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn row_security_that_hides_keys() {
    let database = Database::new();
    let (url, role) = database.url_of_new_role();
    database.execute(&format!(
        "CREATE SCHEMA ours AUTHORIZATION {role}; ALTER ROLE {role} SET search_path = ours"
    ));
    drop(Start::without_database().database_url(&url).serving());
    for table in ["api_keys", "auth_caches", "refinery_schema_history"] {
        database.execute(&format!(
            "ALTER TABLE ours.{table} ENABLE ROW LEVEL SECURITY; ALTER TABLE ours.{table} FORCE ROW LEVEL SECURITY"
        ));
        refused_at(&database, &url, &["row security", &format!("ours.{table}"), &role]);
        database.execute(&format!("ALTER TABLE ours.{table} NO FORCE ROW LEVEL SECURITY"));
        drop(Start::without_database().database_url(&url).serving());
        database.execute(&format!("ALTER TABLE ours.{table} DISABLE ROW LEVEL SECURITY"));
    }
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn what_a_role_may_not_do() {
    let database = Database::new();
    let (url, role) = database.url_of_new_role();
    database.execute("REVOKE CREATE ON SCHEMA public FROM public");
    refused_at(&database, &url, &["may not create tables in schema public", &role]);
    drop(Server::start(&database));
    refused_at(&database, &url, &["SELECT on refinery_schema_history", "INSERT on api_keys", &role]);
    database.execute(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"));
    refused_at(&database, &url, &["USAGE on api_key_changes"]);
    database.execute(&format!("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"));
    drop(Start::without_database().database_url(&url).serving());
    database.execute("DELETE FROM refinery_schema_history WHERE version >= 7");
    refused_at(&database, &url, &[&role, "has to own", "api_keys"]);
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn another_program_s_database_is_not_called_empty() {
    let database = Database::new();
    let home = Directory::new();
    says(
        check_database(home.path(), &database, &[]),
        0,
        &["is empty; the server's tables are made in schema public"],
    );
    database.execute(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int); CREATE VIEW shop.recent AS SELECT * FROM shop.orders;
         CREATE TABLE users (id int)",
    );
    let ended = says(
        check_database(home.path(), &database, &[]),
        0,
        &[
            "has no table api_keys, but other tables and views (1 in schema public, 2 in schema shop)",
            "a bootstrap key is made",
        ],
    );
    assert!(!ended.stdout.contains("is empty"), "{ended:#?}");
}
