//! `GET /auth/verify` and tenants' keys: they pass where the proxy asks for their tenant or for all, and nowhere else.

use super::site::{PERMISSIONS, Site, remember};
use crate::permissions::forbidden;
use crate::support::http::Response;
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::verify::vouched_of;

/// Queries, and whether they let in a key of acme and a key of the server's.
const QUERIES: [(&str, bool, bool); 35] = [
    ("", false, true),
    ("tenant=acme", true, true),
    ("tenant=*", true, true),
    ("tenant=other", false, true),
    ("tenant=ghost", false, true),
    // Another name, although no second tenant can have it.
    ("tenant=ACME", false, true),
    ("tenant=Acme", false, true),
    ("tenant=%61cme", true, true),
    ("%74enant=acme", true, true),
    ("tenant=%2a", true, true),
    ("x=1&tenant=acme&y", true, true),
    ("tenants=acme", false, true),
    ("tenant", false, false),
    ("tenant=", false, false),
    ("tenant=%", false, false),
    ("tenant=%ff", false, false),
    ("tenant==acme", false, false),
    ("tenant=acme%00", false, false),
    ("tenant=acme%20", false, false),
    ("tenant=+acme", false, false),
    ("tenant=%20acme", false, false),
    ("tenant=acme,other", false, false),
    ("tenant=acme/", false, false),
    ("tenant=-", false, false),
    ("tenant=**", false, false),
    ("tenant=%25", false, false),
    ("tenant=1acme", false, false),
    ("tenant=acme&tenant=acme", false, false),
    ("tenant=*&tenant=*", false, false),
    ("tenant=other&tenant=acme", false, false),
    ("tenant=acme&%74enant=other", false, false),
    ("tenant=acme&tenant", false, false),
    ("Tenant=acme", false, false),
    ("TENANT=*", false, false),
    ("tenant=acme&tenanT=other", false, false),
];

struct Keys {
    /// Of acme and of the server: read, write, admin.
    acme: [Made; 3],
    server: [Made; 3],
}

const SHUT_OUT: &str = "a-key-of-a-tenant-that-is-not-here";

fn keys(site: &Site) -> Keys {
    ["acme", "other"].iter().for_each(|tenant| site.tenant(tenant));
    site.insert(SHUT_OUT, "admin", "tenant_id = 'ghost', is_admin = true");
    let acme = PERMISSIONS.map(|permissions| site.key_of("acme", permissions));
    Keys { acme, server: PERMISSIONS.map(|permissions| site.key(permissions)) }
}

fn verify(site: &Site, query: &str, key: &str) -> Response {
    site.server.get(&format!("/auth/verify?{query}"), Some(key))
}

/// Tries each query alone and with each `require`, before it and behind it. Returns how many requests that were.
fn try_all(site: &Site, keys: &Keys) -> usize {
    let mut requests = 0;
    let tenants = [(&keys.acme, "acme"), (&keys.server, "-")];
    for (query, lets_acme, lets_server) in QUERIES {
        for ((made, tenant), is_let) in tenants.iter().zip([lets_acme, lets_server]) {
            for (has, key) in made.iter().enumerate() {
                for (required, needs) in [("", 0), ("read", 0), ("write", 1), ("admin", 2), ("root", 3)] {
                    let require = format!("require={required}");
                    let whole = match required {
                        "" => vec![query.to_owned()],
                        _ => vec![format!("{require}&{query}"), format!("{query}&{require}")],
                    };
                    for whole in whole {
                        requests += 1;
                        let response = verify(site, &whole, key.key());
                        let said = format!("{tenant} {whole}: {response:#?}");
                        if is_let && needs == 3 {
                            response.expect(403, r#"{"error":"unknown permission in require"}"#);
                        } else if is_let && has >= needs {
                            let who = [key.id(), key.text("name"), PERMISSIONS[has], tenant];
                            assert_eq!(response.status, 204, "{said}");
                            assert_eq!(vouched_of(&response), who, "{said}");
                        } else {
                            assert_eq!(response.status, 403, "{said}");
                            assert!(
                                response.headers.iter().all(|(name, _)| !name.starts_with("X-Auth")),
                                "{said}"
                            );
                            forbidden(response);
                        }
                    }
                }
            }
        }
        requests += 1;
        forbidden(verify(site, query, SHUT_OUT));
    }
    requests
}

#[test]
fn a_key_that_is_looked_up_each_time() {
    let site = Site::start_with(Database::new(), ["--auth-cache-size", "0"]);
    let keys = keys(&site);
    eprintln!("verify, looked up: {} requests", try_all(&site, &keys));
}

#[test]
fn a_key_that_is_remembered() {
    let site = Site::start();
    let keys = keys(&site);
    for key in keys.acme.iter().chain(&keys.server).map(Made::key).chain([SHUT_OUT]) {
        remember(&site.server, key);
    }
    // No answer can come from the database now.
    let lock = site.database.lock_keys();
    eprintln!("verify, remembered: {} requests", try_all(&site, &keys));
    lock.release();
}
