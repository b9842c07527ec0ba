//! Every operation that the server describes, one by one, with every kind of key that may not carry it out: the answer
//! is the same whatever the path and the body name, and nothing is changed.

use serde_json::Value;

use super::site::{PERMISSIONS, Site};
use crate::keys::{INVALID, MALFORMED, hash, unknown_key};
use crate::support::http::{Connection, Response};
use crate::support::made::Made;

/// An operation of the document.
#[derive(Debug)]
struct Operation {
    method: String,
    pattern: String,
    takes_body: bool,
    is_public: bool,
}

impl Operation {
    /// All of the document, and `HEAD` where there is `GET`.
    fn all(site: &Site) -> Vec<Operation> {
        let document = site.server.get("/openapi.json", None).expect_status(200).json();
        let mut all = Vec::new();
        for (pattern, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let is_public = operation["security"] == Value::Array(Vec::new());
                let takes_body = operation["requestBody"].is_object();
                let methods = if method == "get" { &["GET", "HEAD"][..] } else { &[&*method.to_uppercase()] };
                all.extend(methods.iter().map(|method| Operation {
                    method: (*method).to_owned(),
                    pattern: pattern.clone(),
                    takes_body,
                    is_public,
                }));
            }
        }
        all
    }

    fn is_of_tenant(&self) -> bool {
        self.pattern.starts_with("/tenants/{tenant}")
    }

    fn names_something(&self) -> bool {
        self.pattern.replace("{tenant}", "").contains('{')
    }

    /// A path of this tenant, with this id for whatever else it names.
    fn path(&self, tenant: &str, id: &str) -> String {
        let path = self.pattern.replace("{tenant}", tenant);
        let parts = path.split('/').map(|part| if part.starts_with('{') { id } else { part });
        parts.collect::<Vec<_>>().join("/")
    }

    /// Ids that its path can have, where it has any, each with every body.
    fn variants<'a>(
        &self,
        ids: &'a [String],
    ) -> impl Iterator<Item = (&'a str, (&'static str, &'static str))> {
        let ids = if self.names_something() { ids } else { &ids[..1] };
        let bodies = self.bodies();
        ids.iter().flat_map(move |id| bodies.iter().map(move |body| (&**id, *body)))
    }

    /// Field lines and body: right ones for some operations, wrong ones for all others.
    fn bodies(&self) -> &'static [(&'static str, &'static str)] {
        const BODIES: [(&str, &str); 5] = [
            ("", ""),
            ("Content-Type: application/json\r\n", r#"{"name":"x"}"#),
            ("Content-Type: application/json\r\n", "{}"),
            ("Content-Type: application/json\r\n", "{"),
            ("Content-Type: text/plain\r\n", "x"),
        ];
        if self.takes_body { &BODIES } else { &BODIES[..2] }
    }

    fn ask(
        &self,
        connection: &mut Connection,
        authorization: &str,
        path: &str,
        (fields, body): (&str, &str),
    ) -> Response {
        let length = body.len();
        connection.send(
            format!(
                "{} {path} HTTP/1.1\r\nHost: a\r\n{authorization}{fields}Content-Length: {length}\r\n\r\n{body}",
                self.method
            )
            .as_bytes(),
        );
        let response = connection.receive(&self.method);
        // Where the client may not send its upload.
        if response.closes() {
            *connection = connection.again();
        }
        response
    }
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

/// Status, field lines and body.
type Essence = (u16, Vec<(String, String)>, String);

/// All of a response but what is another one each time, and whether the connection goes on: it ends where the body stays
/// unread of an upload that is refused.
fn essence(method: &str, response: &Response) -> Essence {
    let is_own = |name: &str| ["Date", "X-Request-Id", "Connection"].contains(&name);
    let headers = response.headers.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
    let body = if method == "HEAD" { String::new() } else { response.text().to_owned() };
    (response.status, headers, body)
}

/// A valid key, and whose it is.
struct Key {
    owner: Owner,
    permissions: &'static str,
    key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Tenant(&'static str),
    Server,
    /// A tenant that is not there.
    Nothing,
}

/// Tenants and keys of which none of those that ask is one.
struct World {
    site: Site,
    /// Of acme, of the other tenant, of a removed one, of the server; one that no key has, and what is no id.
    ids: [String; 6],
    keys: Vec<Key>,
    /// Keys of the removed one.
    removed: [String; 3],
}

/// What paths call a tenant: the first two are there.
const NAMES: [&str; 12] =
    ["acme", "other", "ghost", "gone", "ACME", "Other", "%61cme", "acme%2F", "-", "*", "a%00", LONG];
const LONG: &str = "x2345678901234567890123456789012345678901234567890123456789012345678901234567890";

impl World {
    fn new() -> World {
        let site = Site::start();
        ["acme", "other", "gone"].iter().for_each(|tenant| site.tenant(tenant));
        let of = |tenant| site.key_of(tenant, "write").id().to_owned();
        let (acme, other, gone) = (of("acme"), of("other"), of("gone"));
        let nothing = "00000000-0000-4000-8000-000000000000".to_owned();
        let ids = [acme, other, gone, site.key("write").id().to_owned(), nothing, "x".to_owned()];
        let mut keys = Vec::new();
        for tenant in ["acme", "other"] {
            let owner = Owner::Tenant(tenant);
            for permissions in PERMISSIONS {
                keys.push(Key { owner, permissions, key: site.key_of(tenant, permissions).key().to_owned() });
            }
            let id = format!("(SELECT id FROM cloacina_tenants WHERE name = '{tenant}')");
            let set = format!("tenant = {id}, tenant_id = '{tenant}', is_admin = false");
            keys.push(inserted(&site, owner, "root", &set));
        }
        for permissions in &PERMISSIONS[..2] {
            let key = site.key(permissions).key().to_owned();
            keys.push(Key { owner: Owner::Server, permissions, key });
        }
        keys.push(inserted(&site, Owner::Server, "root", "is_admin = true"));
        for (permissions, set) in [
            ("admin", "is_admin = false"),
            ("admin", "tenant_id = 'acme', is_admin = true"),
            ("admin", "tenant_id = 'nowhere', is_admin = true"),
            ("read", "tenant_id = 'nowhere', is_admin = false"),
        ] {
            keys.push(inserted(&site, Owner::Nothing, permissions, set));
        }
        let removed = PERMISSIONS.map(|permissions| site.key_of("gone", permissions).key().to_owned());
        site.remove("gone");
        World { site, ids, keys, removed }
    }

    fn key(&self, owner: Owner, permissions: &str) -> &str {
        let found = self.keys.iter().find(|key| key.owner == owner && key.permissions == permissions);
        &found.unwrap().key
    }

    fn connect(&self) -> Connection {
        Connection::open(self.site.server.address)
    }
}

/// A key that another program put into the table.
fn inserted(site: &Site, owner: Owner, permissions: &'static str, set: &str) -> Key {
    let key = format!("a-key-in-the-table-{}", hash(&format!("{owner:?} {permissions} {set}")));
    site.insert(&key, permissions, set);
    Key { owner, permissions, key }
}

/// Whether an operation is not of the rule that a key which is not the server's is refused.
fn is_for_any_key(operation: &Operation, owner: Owner) -> bool {
    match &*operation.pattern {
        "/auth/whoami" | "/auth/keys/self" => true,
        // A tenant's must be asked for.
        "/auth/verify" => owner == Owner::Server,
        _ => operation.is_public,
    }
}

#[test]
fn a_key_that_has_no_business_there_is_told_the_same_everywhere() {
    let world = World::new();
    let mut connection = world.connect();
    let refusals = ["GET", "HEAD"].map(|method| {
        let refused = connection.ask(method, "/auth/keys", Some(world.key(Owner::Server, "read")), None);
        assert_eq!(refused.status, 403);
        essence(method, &refused)
    });
    assert_eq!(refusals[0].2, r#"{"error":"insufficient permissions"}"#);
    let before = world.site.rows();
    let (mut pairs, mut requests) = (0, 0);
    for operation in &Operation::all(&world.site) {
        let method = &operation.method;
        let expected = &refusals[usize::from(method == "HEAD")];
        for key in world.keys.iter().filter(|key| !is_for_any_key(operation, key.owner)) {
            pairs += 1;
            let tenants = if operation.is_of_tenant() { &NAMES[..] } else { &NAMES[..1] };
            for tenant in
                tenants.iter().filter(|name| !operation.is_of_tenant() || key.owner != Owner::Tenant(name))
            {
                for (id, body) in operation.variants(&world.ids) {
                    let path = operation.path(tenant, id);
                    let answer = operation.ask(&mut connection, &bearer(&key.key), &path, body);
                    requests += 1;
                    let asked = || format!("{:?} {}: {method} {path} {body:?}", key.owner, key.permissions);
                    assert_eq!(essence(method, &answer), *expected, "{}", asked());
                }
            }
        }
    }
    assert_eq!(world.site.rows(), before);
    eprintln!("403: {pairs} pairs of operation and key, {requests} requests");
}

#[test]
fn without_a_valid_key_all_is_401() {
    let world = World::new();
    let site = &world.site;
    let revoked = |key: &str, set: &str| {
        site.insert(key, "admin", set);
        bearer(key)
    };
    let acme = "tenant = (SELECT id FROM cloacina_tenants WHERE name = 'acme'), tenant_id = 'acme', is_admin = false";
    let mistyped = format!("{}x", &site.admin[..site.admin.len() - 1]);
    let mut credentials = vec![
        (String::new(), MALFORMED),
        ("Authorization: Bearer\r\n".to_owned(), MALFORMED),
        (format!("Authorization: Basic {}\r\n", site.admin), MALFORMED),
        (bearer(&format!("{} x", site.admin)), MALFORMED),
        (bearer(&mistyped), INVALID),
        (bearer(&unknown_key()), INVALID),
        (bearer("acme"), INVALID),
        (revoked("a-revoked-key-of-acme", &format!("{acme}, revoked_at = now()")), INVALID),
        (revoked("an-expired-key-of-acme", &format!("{acme}, expires_at = now() - interval '1 s'")), INVALID),
        (revoked("a-revoked-key-of-none", "tenant_id = 'nowhere', revoked_at = now()"), INVALID),
    ];
    credentials.extend(world.removed.iter().map(|key| (bearer(key), INVALID)));
    let before = site.rows();
    let mut connection = world.connect();
    let (mut pairs, mut requests) = (0, 0);
    for operation in Operation::all(site).iter().filter(|operation| !operation.is_public) {
        for (authorization, text) in &credentials {
            pairs += 1;
            let tenants = if operation.is_of_tenant() { &NAMES[..] } else { &NAMES[..1] };
            for tenant in tenants {
                for (id, body) in operation.variants(&world.ids) {
                    let path = operation.path(tenant, id);
                    let answer = operation.ask(&mut connection, authorization, &path, body);
                    requests += 1;
                    let (status, _, said) = essence(&operation.method, &answer);
                    let expected = if operation.method == "HEAD" { "" } else { text };
                    assert_eq!(
                        (status, &*said),
                        (401, expected),
                        "{authorization} {} {path}",
                        operation.method
                    );
                }
            }
        }
    }
    assert_eq!(site.rows(), before);
    eprintln!("401: {pairs} pairs of operation and key, {requests} requests");
}

/// The least permission of a tenant's key that an operation takes, none where only the server's admin may: that of every
/// tenant's path, also of one that a later release adds.
fn least(operation: &Operation) -> Option<&'static str> {
    let rest = operation.pattern.trim_start_matches("/tenants/{tenant}");
    match (&*operation.method, rest) {
        ("PATCH" | "DELETE", "") | ("POST", "/password") => None,
        (_, keys) if keys == "/keys" || keys.starts_with("/keys/") => Some("admin"),
        ("GET" | "HEAD", _) => Some("read"),
        _ => Some("write"),
    }
}

#[test]
fn an_operation_takes_its_own_tenant_s_keys_from_one_permission_on() {
    let world = World::new();
    let nothing = &world.ids[4..];
    let mut connection = world.connect();
    let before = world.site.rows();
    for operation in Operation::all(&world.site).iter().filter(|operation| operation.is_of_tenant()) {
        let least = least(operation);
        for (id, body) in operation.variants(nothing) {
            // What finds something to do is tried by its room's tests.
            if operation.takes_body && body.1.contains("name") && operation.pattern.ends_with("keys") {
                continue;
            }
            let path = operation.path("acme", id);
            let mut ask = |permissions: &str| {
                let key = world.key(Owner::Tenant("acme"), permissions);
                operation.ask(&mut connection, &bearer(key), &path, body).status
            };
            let statuses = PERMISSIONS.map(&mut ask);
            let place = format!("{} {path} {body:?}: {statuses:?}", operation.method);
            assert_eq!(ask("root"), 403, "{place}");
            let taken = PERMISSIONS.iter().position(|name| Some(*name) == least).unwrap_or(PERMISSIONS.len());
            let (refused, let_in) = statuses.split_at(taken);
            assert!(refused.iter().all(|status| *status == 403), "{place}");
            assert!(let_in.iter().all(|status| ![401, 403].contains(status)), "{place}");
            assert!(let_in.windows(2).all(|two| two[0] == two[1]), "{place}");
        }
    }
    assert_eq!(world.site.rows(), before);
}

#[test]
fn what_is_another_s_is_not_there() {
    let world = World::new();
    let mut connection = world.connect();
    let all = Operation::all(&world.site);
    let named = all.iter().filter(|operation| operation.is_of_tenant() && operation.names_something());
    let admins = [world.key(Owner::Tenant("acme"), "admin"), &*world.site.admin];
    let before = world.site.rows();
    let mut requests = 0;
    for operation in named {
        for (key, body) in
            admins.iter().flat_map(|key| operation.bodies().iter().map(move |body| (key, *body)))
        {
            let mut ask = |id: &str| {
                let answer = operation.ask(&mut connection, &bearer(key), &operation.path("acme", id), body);
                requests += 1;
                let (status, headers, text) = essence(&operation.method, &answer);
                (status, headers, text.replace(id, "ID"))
            };
            let expected = ask(&world.ids[4]);
            assert_ne!(expected.0, 403);
            for id in &world.ids[1..4] {
                assert_eq!(ask(id), expected, "{operation:?} {id} {body:?}");
            }
        }
    }
    assert_eq!(world.site.rows(), before);
    eprintln!("ids of others: {requests} requests");
}

#[test]
fn the_server_s_admin_reaches_each_tenant_that_there_is() {
    let world = World::new();
    let mut connection = world.connect();
    let all = Operation::all(&world.site);
    let before = world.site.rows();
    for operation in all.iter().filter(|operation| operation.is_of_tenant()) {
        for (tenant, (id, body)) in NAMES[2..]
            .iter()
            .flat_map(|name| operation.variants(&world.ids).map(move |variant| (name, variant)))
        {
            let path = operation.path(tenant, id);
            let answer = operation.ask(&mut connection, &bearer(&world.site.admin), &path, body);
            let place = format!("{} {path} {body:?}", operation.method);
            assert_eq!(answer.status, 404, "{place}");
            if operation.method != "HEAD" {
                assert!(answer.error().starts_with("tenant '"), "{place}: {}", answer.text());
            }
        }
    }
    assert_eq!(world.site.rows(), before);
    for (number, operation) in all.iter().enumerate().filter(|(_, operation)| operation.is_of_tenant()) {
        // Of its own each: what an operation does is done.
        let tenant = format!("tenant_{number}");
        world.site.tenant(&tenant);
        for (id, body) in operation.variants(&world.ids[4..]) {
            let path = operation.path(&tenant, id);
            let status = operation.ask(&mut connection, &bearer(&world.site.admin), &path, body).status;
            assert!(![401, 403, 500].contains(&status), "{} {path} {body:?}: {status}", operation.method);
        }
    }
}

/// Its own key is what a tenant may replace and revoke outside its own path.
#[test]
fn a_tenant_s_key_may_end_and_replace_itself() {
    let site = Site::start();
    site.tenant("acme");
    for permissions in PERMISSIONS {
        for id in ["self", "its own"] {
            let key = site.key_of("acme", permissions);
            let id = if id == "self" { id } else { key.id() };
            let path = format!("/auth/keys/{id}/rotate");
            let made = Made(site.server.post(&path, key.key(), "{}").expect_status(201).json());
            let who = site.server.get("/auth/whoami", Some(made.key())).expect_status(200).json();
            assert_eq!((&who["tenant"], &who["permissions"]), (&"acme".into(), &permissions.into()));
            site.server.delete("/auth/keys/self", made.key()).expect_status(200);
            assert!(!site.server.knows(made.key()));
        }
    }
}
