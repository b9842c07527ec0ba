//! The listing: newest first, in pages, with or without what was revoked.

use serde_json::Value;

use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::wait_for;

#[test]
fn newest_first_and_in_pages() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let mut expected = vec![id_of_only_key(&database)];
    for number in 0..25 {
        expected.insert(0, server.create_key(&admin, &format!("key-{number}")).0);
    }
    let ids = |page: &Value| -> Vec<String> {
        page["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    let whole = server.get("/auth/keys", Some(&admin)).expect_status(200);
    assert_eq!(ids(&whole.json()), expected);
    assert!(whole.json().get("next").is_none());
    assert_eq!(whole.header("Link"), None);

    let mut path = "/auth/keys?limit=10".to_owned();
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let page = server.get(&path, Some(&admin)).expect_status(200);
        let found = ids(&page.json());
        sizes.push(found.len());
        seen.extend(found);
        let Some(next) = page.json()["next"].as_str().map(str::to_owned) else {
            assert_eq!(page.header("Link"), None, "a link without a next page");
            break;
        };
        let link = page.header("Link").expect("a next page has a Link").to_owned();
        let target = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(r#">; rel="next""#));
        let target = target.unwrap_or_else(|| panic!("not a link to the next page: {link}"));
        assert!(target.starts_with("/auth/keys?") && target.contains("limit=10"), "{link}");
        // Both ways lead to the same page.
        let by_value = format!("/auth/keys?limit=10&after={next}");
        assert_eq!(
            server.get(target, Some(&admin)).text(),
            server.get(&by_value, Some(&admin)).text(),
            "{target} and {by_value}"
        );
        path = target.to_owned();
    }
    assert_eq!(sizes, [10, 10, 6]);
    assert_eq!(seen, expected);

    // A page that is just full has no next.
    let full = server.get("/auth/keys?limit=26", Some(&admin)).expect_status(200);
    assert!(full.json().get("next").is_none());
    assert_eq!(ids(&full.json()).len(), 26);
    server.get("/auth/keys?limit=1000", Some(&admin)).expect_status(200);
}

/// As after an import, or where a script makes them in one transaction.
#[test]
fn keys_of_one_moment_are_each_in_one_page() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    database.execute(
        "INSERT INTO api_keys (id, key_hash, name, permissions, created_at)
         SELECT gen_random_uuid(), number::text, number::text, 'read', '2024-02-29T12:00:00Z' FROM generate_series(1, 25) AS number",
    );
    let mut path = "/auth/keys?limit=4".to_owned();
    let mut names = Vec::new();
    loop {
        let page = server.get(&path, Some(&admin)).expect_status(200).json();
        names.extend(
            page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/auth/keys?limit=4&after={next}");
    }
    assert_eq!(names.remove(0), "bootstrap");
    names.sort_by_key(|name| name.parse::<u32>().unwrap());
    assert_eq!(names, (1..=25).map(|number| number.to_string()).collect::<Vec<_>>());
}

fn id_of_only_key(database: &Database) -> String {
    database.value("SELECT id::text FROM api_keys")
}

#[test]
fn revoked_keys_can_be_left_out() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let (gone, _) = server.create_key(&admin, "gone");
    let (stays, _) = server.create_key(&admin, "stays");
    server.delete(&format!("/auth/keys/{gone}"), &admin).expect_status(200);
    let names = |path: &str| -> Vec<String> {
        let page = server.get(path, Some(&admin)).expect_status(200).json();
        page["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/auth/keys").len(), 3);
    assert_eq!(names("/auth/keys?revoked=true").len(), 3);
    let left = names("/auth/keys?revoked=false");
    assert_eq!((left.len(), &left[0]), (2, &stays));
    // Together with pages: the key that is left out takes no place.
    let page = server.get("/auth/keys?revoked=false&limit=1", Some(&admin)).json();
    let next = page["next"].as_str().expect("there is a second page").to_owned();
    let second = names(&format!("/auth/keys?revoked=false&limit=1&after={next}"));
    assert_eq!(second, left[1..]);
}

#[test]
fn bad_values_in_the_query_are_named() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit", "limit"),
        ("limit=ten", "limit"),
        ("limit=1.5", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("after=nonsense", "after"),
        ("after=", "after"),
        ("after=%00", "after"),
        ("revoked=maybe", "revoked"),
        ("revoked=", "revoked"),
    ] {
        let response = server.get(&format!("/auth/keys?{query}"), Some(&admin)).expect_status(400);
        let message = response.error();
        assert!(message.contains(named), "{query}: {message}");
    }
}

/// However many keys there are, a page costs what its rows cost.
#[test]
fn pages_are_found_by_an_index() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    database.execute(
        "INSERT INTO api_keys (id, key_hash, name, permissions, created_at)
         SELECT gen_random_uuid(), md5(n::text) || md5(n::text), 'many', 'read', now() - n * interval '1 minute'
         FROM generate_series(1, 5000) AS n",
    );
    database.execute("ANALYZE api_keys");
    let page = server.get("/auth/keys?limit=1000", Some(&admin)).expect_status(200).json();
    let next = format!("/auth/keys?limit=5&after={}", page["next"].as_str().unwrap());
    server.get(&next, Some(&admin)).expect_status(200);
    server.terminate().expect_code(0);
    // Sessions tell what they have scanned when they end.
    let read: i64 = wait_for("the index to be used twice", || {
        database.value(
            "SELECT CASE WHEN idx_scan >= 2 THEN idx_tup_read END FROM pg_stat_user_indexes
             WHERE indexrelname = 'api_keys_by_creation'",
        )
    });
    assert!(read < 1100, "{read} rows were read for pages of 1000 and 5");
}
