//! Databases that were there before this server: adopted as they are, or left as they are.

use crate::keys::hash;
use crate::keys_command::{keys, worked};
use crate::rotation::rotate;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};

/// Of an older server: 47 characters, no checksum.
const OLD_KEY: &str = "clk_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE";

fn insert_rows(database: &Database) {
    let mut client = database.client();
    for (key, name, revoked) in [(OLD_KEY, "old", false), ("revoked-long-ago", "gone", true)] {
        client
            .execute(
                "INSERT INTO api_keys (id, key_hash, name, permissions, created_at, revoked_at)
                 VALUES (gen_random_uuid(), $1, $2, 'admin', '2024-02-29T12:00:00Z',
                         CASE WHEN $3 THEN '2024-03-01T12:00:00Z'::timestamptz END)",
                &[&hash(key), &name, &revoked],
            )
            .unwrap();
    }
}

const ROWS: &str =
    "SELECT string_agg(concat_ws('|', id, key_hash, name, permissions, created_at, revoked_at), E'\\n'
                    ORDER BY name) FROM api_keys";

fn assert_adopted(database: &Database) {
    let before: String = database.value(ROWS);
    let server = Server::start(database);
    assert!(!server.home().join("bootstrap-key").exists(), "there are keys, so none is made");
    assert!(server.lets_in(OLD_KEY));
    assert!(!server.lets_in("revoked-long-ago"));
    let after: String = database.value(ROWS);
    assert_eq!(after, before);

    let listed = server.get("/auth/keys", Some(OLD_KEY)).expect_status(200);
    let keys = listed.json()["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 2, "{keys:?}");
    let gone = keys.iter().find(|key| key["name"] == "gone").unwrap();
    assert_eq!(gone["revoked"], true);
    assert!(listed.text().contains(r#""created_at":"2024-02-29T12:00:00+00:00""#), "{}", listed.text());

    // New keys live beside the old ones, and the old one may be revoked like any other.
    let (_, new) = server.create_key(OLD_KEY, "new");
    let old_id: String = database.value("SELECT id::text FROM api_keys WHERE name = 'old'");
    server.delete(&format!("/auth/keys/{old_id}"), &new).expect_status(200);
    assert!(!server.lets_in(OLD_KEY));
    assert!(server.lets_in(&new));
    server.terminate().expect_code(0);

    let again = Server::start(database);
    assert!(again.lets_in(&new));
    assert!(!again.lets_in(OLD_KEY));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM api_keys"), 3);
}

#[test]
fn a_table_of_six_columns_is_adopted() {
    let database = Database::new();
    database.execute(
        "CREATE TABLE api_keys (
             id uuid PRIMARY KEY,
             key_hash text NOT NULL UNIQUE,
             name text NOT NULL,
             permissions text NOT NULL,
             created_at timestamptz NOT NULL,
             revoked_at timestamptz
         )",
    );
    insert_rows(&database);
    assert_adopted(&database);
}

#[test]
fn varchar_columns_and_defaults_are_adopted() {
    let database = Database::new();
    database.execute(
        "CREATE TABLE api_keys (
             id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
             key_hash varchar(64) NOT NULL UNIQUE,
             name varchar(255) NOT NULL,
             permissions varchar(50) NOT NULL DEFAULT 'admin',
             created_at timestamptz NOT NULL DEFAULT now(),
             revoked_at timestamptz DEFAULT NULL
         )",
    );
    insert_rows(&database);
    assert_adopted(&database);
}

#[test]
fn an_adopted_table_without_keys_gets_its_first() {
    let database = Database::new();
    database.execute(
        "CREATE TABLE api_keys (
             id uuid PRIMARY KEY, key_hash text NOT NULL UNIQUE, name text NOT NULL,
             permissions text NOT NULL, created_at timestamptz NOT NULL, revoked_at timestamptz
         )",
    );
    let server = Server::start(&database);
    assert!(server.lets_in(&server.bootstrap_key()));
}

/// As the first release left it: its two migrations, word for word in what they made, and the names and checksums
/// under which they were noted.
const FIRST_RELEASE: &str = "
    CREATE TABLE refinery_schema_history (
        version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255)
    );
    INSERT INTO refinery_schema_history VALUES
        (1, 'api_keys', '2026-01-01T00:00:00Z', '7921703056539843872'),
        (2, 'key_life', '2026-01-01T00:00:00Z', '1657772359568096442');
    CREATE TABLE api_keys (
        id uuid PRIMARY KEY,
        key_hash text NOT NULL UNIQUE,
        name text NOT NULL,
        permissions text NOT NULL DEFAULT 'admin',
        created_at timestamptz NOT NULL DEFAULT now(),
        revoked_at timestamptz,
        prefix text,
        expires_at timestamptz,
        last_used_at timestamptz
    );
    CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (key_hash);
    CREATE UNIQUE INDEX api_keys_by_id ON api_keys (id);
    CREATE INDEX api_keys_newest_first ON api_keys (created_at DESC, id DESC);";

#[test]
fn a_database_of_the_first_release_goes_on_working() {
    let database = Database::new();
    database.execute(FIRST_RELEASE);
    insert_rows(&database);
    assert_adopted(&database);
    assert_eq!(
        database.value::<i64>("SELECT count(*) FROM refinery_schema_history WHERE version <= 2"),
        2,
        "the history is continued, not begun anew"
    );
    assert!(database.value::<i32>("SELECT max(version) FROM refinery_schema_history") > 2);
    assert!(!database.value::<bool>("SELECT bool_or(declared) FROM api_keys"));
}

#[test]
fn the_command_goes_on_with_a_database_of_the_first_release() {
    let database = Database::new();
    database.execute(FIRST_RELEASE);
    insert_rows(&database);
    drop(Server::start(&database));
    let listed = keys(&database, &["list"]);
    assert_eq!(worked(&listed).len(), 3);
    let old_id: String = database.value("SELECT id::text FROM api_keys WHERE name = 'old'");
    let rotated = keys(&database, &["rotate", &old_id]);
    let server = Server::start(&database);
    assert!(server.lets_in(worked(&rotated)[0]));
    assert!(!server.lets_in(OLD_KEY));
}

#[test]
fn what_else_is_in_the_database_stays() {
    let database = Database::new();
    database.execute("CREATE TABLE workflows (id int PRIMARY KEY); INSERT INTO workflows VALUES (1), (2)");
    let server = Server::start(&database);
    assert!(server.lets_in(&server.bootstrap_key()));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM workflows"), 2);
}

#[test]
fn a_database_newer_than_the_binary_stops_the_start() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    server.terminate().expect_code(0);
    database.execute(
        "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
         VALUES (9999, 'of_a_later_release', '2030-01-01T00:00:00Z', '1')",
    );
    let before = database.contents();
    let ended = Start::on(&database).failing().expect_code(1);
    let last = ended.last_words();
    assert!(last.contains("newer") && last.contains("database"), "{last}");
    assert_eq!(database.contents(), before);
    assert_eq!(ended.stdout, "");
    for arguments in [["list"].as_slice(), &["create", "--name", "x"], &["apply", "/dev/null"]] {
        let outcome = keys(&database, arguments);
        assert!(outcome.code.is_some_and(|code| code > 0) && outcome.stdout.is_empty(), "{outcome:?}");
    }
    keys(&database, &["list"]).failed(1, &["newer", "database"]);
    assert_eq!(database.contents(), before);

    database.execute("DELETE FROM refinery_schema_history WHERE version = 9999");
    assert!(Server::start(&database).lets_in(&admin));
}

/// The columns of an older server's table need not be NOT NULL, and its moments may be any.
#[test]
fn rows_without_a_name_or_a_writable_moment() {
    let database = Database::new();
    database.execute(&format!(
        "CREATE TABLE api_keys (id uuid PRIMARY KEY, key_hash text UNIQUE NOT NULL, name text, permissions text,
             created_at timestamptz, revoked_at timestamptz);
         INSERT INTO api_keys VALUES
             (gen_random_uuid(), '{}', 'admin', 'admin', now(), NULL), (gen_random_uuid(), '{}', NULL, 'admin', now(), NULL),
             (gen_random_uuid(), '{}', 'old', 'read', NULL, NULL), (gen_random_uuid(), '{}', 'ever', 'read', 'infinity', NULL),
             (gen_random_uuid(), '{}', 'never', NULL, '-infinity', NULL), (gen_random_uuid(), '{}', 'bc', 'read', '0400-01-01 BC', NULL)",
        hash("an-admin-of-old"), hash("a-nameless-one"), hash("an-ageless-one"), hash("an-endless-one"),
        hash("a-beginningless-one"), hash("an-ancient-one"),
    ));
    let server = Server::start(&database);
    let admin = Some("an-admin-of-old");
    for key in ["a-nameless-one", "an-ageless-one", "an-endless-one", "a-beginningless-one", "an-ancient-one"]
    {
        assert!(server.knows(key), "{key}");
    }
    let listing = server.get("/auth/keys", admin).expect_status(200).json();
    let keys = listing["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 6);
    for key in keys {
        let created_at = key["created_at"].as_str().unwrap();
        assert!(created_at.len() >= 25 && created_at.ends_with("+00:00"), "{key}");
    }
    let nameless = keys.iter().find(|key| key["name"] == "").unwrap()["id"].as_str().unwrap();
    // Also one that an older server beside this one adds later.
    database.execute("UPDATE api_keys SET name = NULL WHERE name = ''");
    let answer =
        server.delete(&format!("/auth/keys/{nameless}"), "an-admin-of-old").expect_status(200).json();
    assert_eq!(answer["status"], "revoked");
    assert!(!server.knows("a-nameless-one"));
    server.log_line(&["key revoked", nameless]);
}

/// Another program may add rows at any time, and its table may allow what ours does not.
#[test]
fn rows_that_come_later_with_no_writable_moment() {
    let database = Database::new();
    database.execute(
        "CREATE TABLE api_keys (id uuid PRIMARY KEY, key_hash text UNIQUE NOT NULL, name text, permissions text,
             created_at timestamptz, revoked_at timestamptz)",
    );
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let moments = [
        ("infinity", "9999-12-31T23:59:59+00:00"),
        ("-infinity", "1970-01-01T00:00:00+00:00"),
        ("294276-12-31 23:59:59+00", "9999-12-31T23:59:59+00:00"),
        ("10000-01-01 00:00:00+00", "9999-12-31T23:59:59+00:00"),
        ("4714-11-24 00:00:00+00 BC", "1970-01-01T00:00:00+00:00"),
        ("1969-12-31 23:59:59+00", "1970-01-01T00:00:00+00:00"),
    ];
    let rows = moments.iter().map(|(moment, shown)| (format!("'{moment}'"), *shown));
    let rows: Vec<_> = rows.chain([("NULL".to_owned(), "1970-01-01T00:00:00+00:00")]).collect();
    let mut expected = Vec::new();
    for (row, (moment, shown)) in rows.iter().enumerate() {
        // Two of each, so that pages end between rows of one moment.
        for number in 0..2 {
            let name = format!("row-{row}-{number}");
            database.execute(&format!(
                "INSERT INTO api_keys (id, key_hash, name, permissions, created_at, expires_at)
                 VALUES (gen_random_uuid(), '{}', '{name}', 'read', {moment}, now() + interval '1 day')",
                hash(&format!("key-of-{name}"))
            ));
            expected.push((name, (*shown).to_owned()));
        }
    }
    for (name, shown) in &expected {
        let key = format!("key-of-{name}");
        assert!(server.knows(&key), "{name}");
        assert_eq!(server.get("/auth/whoami", Some(&key)).json()["created_at"], **shown, "{name}");
    }
    for limit in [1, 2, 3, 5, 1000] {
        let (mut listed, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/auth/keys?limit={limit}{after}");
            let page = server.get(&path, Some(&admin)).expect_status(200).json();
            for key in page["keys"].as_array().unwrap() {
                let text = |field: &str| key[field].as_str().unwrap().to_owned();
                listed.push((text("name"), text("created_at")));
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert!(listed.is_sorted_by(|(_, a), (_, b)| a >= b), "{limit}: {listed:?}");
        listed.retain(|(name, _)| expected.iter().any(|(known, _)| known == name));
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected, "{limit}");
    }
    let listed = keys(&database, &["list", "--json"]);
    assert_eq!(worked(&listed).join("").matches("\"name\"").count(), expected.len() + 1);
    for (name, _) in &expected {
        let id: String = database.value(&format!("SELECT id::text FROM api_keys WHERE name = '{name}'"));
        let made = rotate(&server, &id, &admin, "");
        let life = made.moment("expires_at") - made.moment("created_at");
        assert!(life <= time::Duration::days(1), "{name}: {life}");
        assert!(server.knows(made.key()) && !server.knows(&format!("key-of-{name}")), "{name}");
    }
}
