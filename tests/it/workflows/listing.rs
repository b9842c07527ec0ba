//! Which versions a listing shows, in which order, page by page.

use serde_json::Value;

use super::upload::site;
use crate::support::package::{package, upload};
use crate::tenants::site::Site;

/// Names and versions of a page, and the next one's address.
fn page(site: &Site, key: &str, path: &str) -> (Vec<String>, Option<String>) {
    let response = site.server.get(path, Some(key)).expect_status(200);
    let link = response.header("Link").map(|link| {
        let (target, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert_eq!(rest, "; rel=\"next\"");
        target.to_owned()
    });
    let body = response.json();
    assert_eq!(link.is_some(), body["next"].is_string());
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    let items = body["workflows"].as_array().unwrap().iter();
    (items.map(|item| text(item, "package_name") + " " + &text(item, "version")).collect(), link)
}

#[test]
fn the_highest_release_is_what_counts() {
    let (site, key) = site();
    for version in ["1.9.0", "1.10.0", "2.0.0-rc.1", "1.2.0"] {
        upload(site.server.address, "acme", &key, &package("a", version)).expect_status(201);
    }
    for version in ["0.1.0-beta.2", "0.1.0-beta.11", "0.1.0-alpha"] {
        upload(site.server.address, "acme", &key, &package("b", version)).expect_status(201);
    }
    let list = "/tenants/acme/workflows";
    assert_eq!(page(&site, &key, list).0, ["b 0.1.0-beta.11", "a 1.10.0"]);
    let expected = [
        "b 0.1.0-alpha",
        "b 0.1.0-beta.11",
        "b 0.1.0-beta.2",
        "a 1.2.0",
        "a 2.0.0-rc.1",
        "a 1.10.0",
        "a 1.9.0",
    ];
    assert_eq!(page(&site, &key, &format!("{list}?all=true")).0, expected);
    for limit in [1, 2, 3] {
        for (query, expected) in [("", &["b 0.1.0-beta.11", "a 1.10.0"][..]), ("&all=true", &expected)] {
            let (mut found, mut next) = (Vec::new(), Some(format!("{list}?limit={limit}{query}")));
            while let Some(path) = next {
                let (items, link) = page(&site, &key, &path);
                assert!((1..=limit).contains(&items.len()));
                found.extend(items);
                next = link;
            }
            assert_eq!(found, expected, "{limit} {query}");
        }
    }
    let show = |query: &str| site.server.get(&format!("{list}/a{query}"), Some(&key));
    let newest = show("").expect_status(200).json();
    assert_eq!(newest["version"], "1.10.0");
    assert_eq!(newest["versions"], serde_json::json!(["2.0.0-rc.1", "1.10.0", "1.9.0", "1.2.0"]));
    assert_eq!(show("?version=2.0.0-rc.1").expect_status(200).json()["version"], "2.0.0-rc.1");
    for version in ["3.0.0", "1.0", "1.9.0%2B1", ""] {
        let error = show(&format!("?version={version}")).expect_status(404).error();
        let shown = version.replace("%2B", "+");
        assert_eq!(error, format!("version '{shown}' of workflow 'a' not found"));
    }
    show("?version=1.9.0&version=1.2.0").expect_status(400);
    site.server.get(&format!("{list}?all=yes"), Some(&key)).expect_status(400);
    site.server.delete(&format!("{list}/a/1.10.0"), &key).expect_status(200);
    assert_eq!(show("").json()["version"], "1.9.0");
    for version in ["1.9.0", "1.2.0"] {
        site.server.delete(&format!("{list}/a/{version}"), &key).expect_status(200);
    }
    assert_eq!(show("").json()["version"], "2.0.0-rc.1");
}

/// Thousands of tasks in each of thousands of versions are not one answer.
#[test]
fn a_page_ends_before_it_is_too_large() {
    let (site, key) = site();
    site.database.execute(
        "INSERT INTO cloacina_packages (id, tenant, name, version, precedence, is_pre_release, manifest, tasks, sha256, size)
         SELECT gen_random_uuid(), cloacina_tenants.id, 'n' || number, '1.0.0', '~', false, '', tasks, '', 1
         FROM cloacina_tenants, generate_series(1, 20) AS number,
              (SELECT array_agg('task-' || number) AS tasks FROM generate_series(1, 5000) AS number) AS made;
         INSERT INTO cloacina_workflows (tenant, name) SELECT tenant, name FROM cloacina_packages",
    );
    for query in ["limit=1000", "all=true"] {
        let (mut found, mut next) = (0, Some(format!("/tenants/acme/workflows?{query}")));
        while let Some(path) = next {
            let (items, link) = page(&site, &key, &path);
            assert!((1..=5).contains(&items.len()), "{} items", items.len());
            found += items.len();
            next = link;
        }
        assert_eq!(found, 20);
    }
}

#[test]
fn a_listing_asks_indexes_alone() {
    let (site, key) = site();
    site.database.execute(
        "INSERT INTO cloacina_packages (id, tenant, name, version, precedence, is_pre_release, manifest, tasks, sha256, size)
         SELECT gen_random_uuid(), cloacina_tenants.id, 'n' || number, version || '.0.0', lpad(version::text, 4, '0'), false,
                '', '{a}', '', 1
         FROM cloacina_tenants, generate_series(1, 1000) AS number, generate_series(1, 100) AS version;
         INSERT INTO cloacina_workflows (tenant, name) SELECT DISTINCT tenant, name FROM cloacina_packages;
         ANALYZE cloacina_packages; ANALYZE cloacina_workflows",
    );
    let scans = || -> (i64, i64) {
        let of = |what: &str| {
            site.database.value(&format!(
                "SELECT {what}::bigint FROM pg_stat_user_tables WHERE relname = 'cloacina_packages'"
            ))
        };
        (of("seq_scan"), of("idx_scan"))
    };
    let before = scans();
    for query in ["limit=1000", "limit=10", "all=true&limit=1000"] {
        let began = std::time::Instant::now();
        let (items, _) = page(&site, &key, &format!("/tenants/acme/workflows?{query}"));
        assert!(items.len() >= 10);
        eprintln!("{query}: {} items in {:?}", items.len(), began.elapsed());
    }
    crate::support::wait_for("the scans to be counted", || (scans().1 > before.1 + 1000).then_some(()));
    assert_eq!(scans().0, before.0);
}
