//! Proxies that ask `/auth/verify`: one that was set up before there were tenants lets no tenant's key through, one that
//! asks for a tenant lets that tenant's through and tells the service whose it is.

use super::site::{PERMISSIONS, Site};
use crate::support::front::{Front, Kind, protection, replaced, shipped, with_both};
use crate::support::made::Made;
use crate::support::upstream::Upstream;

with_both! {
    no_tenant_s_key_gets_through_before_the_proxy_asks_for_it
    the_keys_of_the_tenant_that_the_proxy_asks_for
    the_keys_of_all_tenants
}

/// The files of the release before tenants.
fn before_tenants(kind: Kind) -> &'static str {
    match kind {
        Kind::Nginx => include_str!("before/nginx-verify.conf"),
        Kind::Caddy => include_str!("before/Caddyfile-verify"),
    }
}

/// The file of today with its line for a tenant instead of the one before it.
fn asking_for_a_tenant(kind: Kind) -> String {
    let (plain, asking) = match kind {
        Kind::Nginx => (
            "        proxy_pass http://service_keys/auth/verify?require=$service_permission;\n",
            "proxy_pass http://service_keys/auth/verify?require=$service_permission&tenant=acme;",
        ),
        Kind::Caddy => (
            "\t\t\turi /auth/verify?require={needed_permission}\n",
            "uri /auth/verify?require={needed_permission}&tenant=acme",
        ),
    };
    let text = replaced(&shipped(protection(kind)), plain, "");
    replaced(&text, &format!("# {asking}"), asking)
}

/// Keys of acme, of another tenant and of the server: read, write, admin.
struct Keys {
    acme: [Made; 3],
    other: [Made; 3],
    server: [Made; 3],
}

fn site_with_keys() -> (Site, Keys) {
    let site = Site::start();
    ["acme", "other"].iter().for_each(|tenant| site.tenant(tenant));
    let of = |tenant| PERMISSIONS.map(|permissions| site.key_of(tenant, permissions));
    let keys = Keys { acme: of("acme"), other: of("other"), server: PERMISSIONS.map(|name| site.key(name)) };
    (site, keys)
}

/// What a client may say of itself.
const FORGED: [&str; 5] = [
    "X-Auth-Tenant: forged",
    "x-auth-tenant: other",
    "X_Auth_Tenant: forged",
    "X.Auth.Tenant: forged",
    "Connection: X-Auth-Tenant",
];

/// Targets with which a client may try to ask for a tenant itself.
const TARGETS: [&str; 3] = ["/", "/a?tenant=*", "/auth/verify?tenant=acme&require=read"];

#[track_caller]
fn expect_refused(front: &Front, service: &Upstream, keys: &[Made]) {
    for key in keys {
        let key = format!("Authorization: Bearer {}", key.key());
        for target in TARGETS {
            let fields = [&[&*key][..], &FORGED].concat();
            front.ask(&format!("GET {target}"), &fields).expect_status(403);
            front.ask(&format!("POST {target}"), &[&*key, "Content-Length: 0"]).expect_status(403);
        }
    }
    assert_eq!(service.take_seen().len(), 0);
}

/// Asserts that these keys pass as far as their permissions go, and that the service hears whose they are.
#[track_caller]
fn expect_through(front: &Front, service: &Upstream, keys: &[Made], tenant: &str) {
    for (key, permissions) in keys.iter().zip(PERMISSIONS) {
        let line = format!("Authorization: Bearer {}", key.key());
        for target in TARGETS {
            let fields = [&FORGED[..], &[&*line], &FORGED].concat();
            front.ask(&format!("GET {target}"), &fields).expect_status(200);
            let seen = service.take_one();
            let mut said = seen.fields_like("x-auth");
            said.sort_unstable();
            let expected = [
                ("x-auth-key-id", key.id()),
                ("x-auth-key-name", key.text("name")),
                ("x-auth-permissions", permissions),
                ("x-auth-tenant", tenant),
            ];
            assert_eq!(said, expected.map(|(name, value)| (name.to_owned(), value)));
            let status = front.ask(&format!("POST {target}"), &[&*line, "Content-Length: 0"]).status;
            assert_eq!(
                (status, service.take_seen().len()),
                if permissions == "read" { (403, 0) } else { (200, 1) }
            );
        }
    }
}

fn no_tenant_s_key_gets_through_before_the_proxy_asks_for_it(kind: Kind) {
    let (site, keys) = site_with_keys();
    let service = Upstream::start();
    let address = site.server.address;
    let front = Front::protecting_by(kind, before_tenants(kind), address, service.address);
    expect_refused(&front, &service, &keys.acme);
    expect_refused(&front, &service, &keys.other);
    for (key, permissions) in keys.server.iter().zip(PERMISSIONS) {
        front.ask("GET /", &[&format!("Authorization: Bearer {}", key.key())]).expect_status(200);
        assert_eq!(service.take_one().fields_like("x-auth-permissions")[0].1, permissions);
    }
    drop(front);

    let front = Front::protecting(kind, address, service.address);
    expect_refused(&front, &service, &keys.acme);
    expect_refused(&front, &service, &keys.other);
    expect_through(&front, &service, &keys.server, "-");
}

fn the_keys_of_the_tenant_that_the_proxy_asks_for(kind: Kind) {
    let (site, keys) = site_with_keys();
    let service = Upstream::start();
    let front = Front::protecting_by(kind, &asking_for_a_tenant(kind), site.server.address, service.address);
    expect_through(&front, &service, &keys.acme, "acme");
    expect_through(&front, &service, &keys.server, "-");
    expect_refused(&front, &service, &keys.other);
}

fn the_keys_of_all_tenants(kind: Kind) {
    let (site, keys) = site_with_keys();
    let service = Upstream::start();
    let text = replaced(&asking_for_a_tenant(kind), "tenant=acme", "tenant=*");
    let front = Front::protecting_by(kind, &text, site.server.address, service.address);
    expect_through(&front, &service, &keys.acme, "acme");
    expect_through(&front, &service, &keys.other, "other");
    expect_through(&front, &service, &keys.server, "-");
}
