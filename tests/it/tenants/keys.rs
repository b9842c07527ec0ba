//! A tenant's keys over HTTP: made, listed, replaced and revoked as the server's own, within the tenant.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::site::{PERMISSIONS, Site};
use crate::support::made::Made;

/// Ids and tenants of all pages of a listing, as it orders them.
#[track_caller]
fn listed(site: &Site, key: &str, target: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let mut next = Some(target.to_owned());
    while let Some(target) = next {
        let page = site.server.get(&target, Some(key)).expect_status(200);
        let body = page.json();
        let keys = body["keys"].as_array().unwrap();
        found.extend(keys.iter().map(|key| (key["id"].as_str().unwrap().to_owned(), key["tenant"].clone())));
        next = page.header("Link").map(|link| {
            let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
            target.unwrap_or_else(|| panic!("{link}")).to_owned()
        });
        assert_eq!(next.is_some(), body["next"].is_string(), "{body}");
    }
    let once: BTreeSet<_> = found.iter().map(|(id, _)| id).collect();
    assert_eq!(once.len(), found.len(), "{target} shows a key twice");
    found
}

#[test]
fn listings_show_whose_keys_they_are() {
    let site = Site::start();
    ["acme", "other"].iter().for_each(|tenant| site.tenant(tenant));
    let whoami = site.server.get("/auth/whoami", Some(&site.admin)).expect_status(200).json();
    assert_eq!(whoami["tenant"], json!(null));
    // Newest first.
    let mut all = vec![(whoami["id"].as_str().unwrap().to_owned(), json!(null))];
    let mut admin_of_acme = None;
    for permissions in PERMISSIONS {
        let (acme, other, own) =
            (site.key_of("acme", permissions), site.key_of("other", permissions), site.key(permissions));
        for (made, tenant) in [(&acme, json!("acme")), (&other, json!("other")), (&own, json!(null))] {
            all.insert(0, (made.id().to_owned(), tenant.clone()));
            let who = site.server.get("/auth/whoami", Some(made.key())).expect_status(200).json();
            assert_eq!((&who["tenant"], &who["permissions"]), (&tenant, &json!(permissions)));
        }
        admin_of_acme = Some(acme);
    }
    let of = |tenants: &[&Value]| -> Vec<_> {
        all.iter().filter(|(_, tenant)| tenants.contains(&tenant)).cloned().collect()
    };
    let (acme, other, none) = (json!("acme"), json!("other"), json!(null));
    let admin_of_acme = admin_of_acme.unwrap();
    for page in ["", "limit=1", "limit=2&revoked=false", "limit=1000"] {
        for (key, path, query, expected) in [
            (&*site.admin, "/auth/keys", "", of(&[&none])),
            (&site.admin, "/auth/keys", "tenant=acme", of(&[&none, &acme])),
            (&site.admin, "/auth/keys", "tenant=other", of(&[&none, &other])),
            (&site.admin, "/auth/keys", "tenant=*", all.clone()),
            (&site.admin, "/auth/keys", "tenant=%2A", all.clone()),
            (&site.admin, "/tenants/acme/keys", "", of(&[&acme])),
            (admin_of_acme.key(), "/tenants/acme/keys", "", of(&[&acme])),
            // It takes no such parameter.
            (admin_of_acme.key(), "/tenants/acme/keys", "tenant=other", of(&[&acme])),
            (&site.admin, "/tenants/other/keys", "", of(&[&other])),
        ] {
            let target = format!("{path}?{query}&{page}");
            assert_eq!(listed(&site, key, &target), expected, "{target}");
        }
    }
    for (query, status) in
        [("tenant=ghost", 404), ("tenant=ACME", 404), ("tenant=", 404), ("tenant=acme&tenant=other", 400)]
    {
        let refused = site.server.get(&format!("/auth/keys?{query}"), Some(&site.admin));
        assert_eq!(refused.status, status, "{query}: {}", refused.text());
    }
}

#[test]
fn a_key_is_made_for_the_tenant_of_the_path_alone() {
    let site = Site::start();
    ["acme", "other"].iter().for_each(|tenant| site.tenant(tenant));
    let admin = site.key_of("acme", "admin");
    for body in [
        r#"{"name":"x","tenant":"other"}"#,
        r#"{"name":"x","tenant":null}"#,
        r#"{"name":"x","tenant_id":"other"}"#,
        r#"{"name":"x","is_admin":true}"#,
    ] {
        site.server.post("/tenants/acme/keys", admin.key(), body).expect_status(422);
        site.server.post("/auth/keys", &site.admin, body).expect_status(422);
    }
    // As under /auth/keys: without a word on permissions it is an admin, here of the tenant.
    let made =
        Made(site.server.post("/tenants/acme/keys", admin.key(), r#"{"name":"a","expires_in":"1h"}"#).json());
    assert_eq!(made.text("permissions"), "admin");
    let who = site.server.get("/auth/whoami", Some(made.key())).expect_status(200);
    assert!(who.header("X-Auth-Key-Expires").is_some());
    assert_eq!((&who.json()["tenant"], &who.json()["expires_at"]), (&json!("acme"), &made.0["expires_at"]));
}

#[test]
fn keys_are_replaced_and_revoked_by_their_tenant_and_by_the_server_s_admin() {
    let site = Site::start();
    site.tenant("acme");
    let admin = site.key_of("acme", "admin");
    for (by, path) in [
        (admin.key(), "/tenants/acme/keys"),
        (&*site.admin, "/tenants/acme/keys"),
        (&site.admin, "/auth/keys"),
    ] {
        for permissions in PERMISSIONS {
            let old = site.key_of("acme", permissions);
            let rotation = format!("{path}/{}/rotate", old.id());
            let new = Made(site.server.post(&rotation, by, r#"{"grace":"1h"}"#).expect_status(201).json());
            assert_eq!((new.text("rotated_from"), new.text("permissions")), (old.id(), permissions));
            site.server.post(&rotation, by, "{}").expect_status(409);
            for key in [old.key(), new.key()] {
                let who = site.server.get("/auth/whoami", Some(key)).expect_status(200).json();
                assert_eq!(who["tenant"], "acme");
            }
            let revocation = format!("{path}/{}", new.id());
            let revoked = format!(r#"{{"status":"revoked","id":"{}"}}"#, new.id());
            site.server.delete(&revocation, by).expect(200, &revoked);
            site.server
                .delete(&revocation, by)
                .expect(404, r#"{"error":"key not found or already revoked"}"#);
            assert!(!site.server.knows(new.key()) && site.server.knows(old.key()));
        }
    }
    let line = site.server.log_line(&["key revoked", "\"tenant\":\"acme\""]);
    assert_eq!(line["level"], "INFO", "{line}");
    // The server's keys are no keys of the tenant's, under its path.
    let own = site.key("read");
    site.server.delete(&format!("/tenants/acme/keys/{}", own.id()), &site.admin).expect_status(404);
    assert!(site.server.knows(own.key()));
}
