//! A server with tenants and their keys, as these tests need one.

use serde_json::json;

use crate::keys::{hash, insert_key};
use crate::support::made::Made;
use crate::support::postgres::Database;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// What a key may be allowed to do, the least first.
pub const PERMISSIONS: [&str; 3] = ["read", "write", "admin"];

/// A server, its database, and its admin's key.
pub struct Site {
    pub database: Database,
    pub server: Server,
    pub admin: String,
}

impl Site {
    #[track_caller]
    pub fn start() -> Site {
        let database = Database::new();
        let server = Server::start(&database);
        Site::of(database, server)
    }

    /// With these arguments, on a database that no server has used.
    #[track_caller]
    pub fn start_with<const N: usize>(database: Database, arguments: [&str; N]) -> Site {
        let server = Start::on(&database).arguments(arguments).serving();
        Site::of(database, server)
    }

    fn of(database: Database, server: Server) -> Site {
        let admin = server.bootstrap_key();
        Site { database, server, admin }
    }

    /// Makes a tenant that has nothing in PostgreSQL.
    #[track_caller]
    pub fn tenant(&self, name: &str) {
        let body = json!({ "schema_name": name }).to_string();
        self.server.post("/tenants", &self.admin, &body).expect_status(201);
    }

    /// Removes a tenant, and waits until nothing of it is left.
    #[track_caller]
    pub fn remove(&self, tenant: &str) {
        self.server.delete(&format!("/tenants/{tenant}"), &self.admin).expect_status(200);
        wait_for("the rows of removed tenants to go", || {
            let left = "SELECT count(*) FROM cloacina_tenants WHERE removed_at IS NOT NULL";
            (self.database.value::<i64>(left) == 0).then_some(())
        });
    }

    /// Makes a key of a tenant.
    #[track_caller]
    pub fn key_of(&self, tenant: &str, permissions: &str) -> Made {
        let body = json!({ "name": format!("{tenant}-{permissions}"), "permissions": permissions });
        let made = self.server.post(&format!("/tenants/{tenant}/keys"), &self.admin, &body.to_string());
        Made(made.expect_status(201).json())
    }

    /// Makes a key of the server's.
    #[track_caller]
    pub fn key(&self, permissions: &str) -> Made {
        let body = json!({ "name": format!("server-{permissions}"), "permissions": permissions });
        self.server.make_key(&self.admin, &body.to_string())
    }

    /// Puts a key into the table, its columns set as this says.
    pub fn insert(&self, key: &str, permissions: &str, set: &str) -> String {
        let id = insert_key(&self.database, key, "inserted", permissions);
        self.database.execute(&format!("UPDATE api_keys SET {set} WHERE key_hash = '{}'", hash(key)));
        id
    }

    /// Every key and every tenant, but for when keys were last used.
    pub fn rows(&self) -> String {
        self.database.value(
            "SELECT concat((SELECT string_agg((to_jsonb(k) - 'last_used_at')::text, ' ' ORDER BY id) FROM api_keys k),
                           (SELECT string_agg(t::text, ' ' ORDER BY id) FROM cloacina_tenants t))",
        )
    }
}

/// Uses a valid key, whatever it may do, until it is in the cache.
pub fn remember(server: &Server, key: &str) {
    wait_for("the key to be remembered", || {
        let before = server.metric("cloacina_auth_cache_hits_total", &[]);
        let status = server.get("/auth/verify?tenant=*", Some(key)).status;
        assert!([204, 403].contains(&status), "{status}");
        (server.metric("cloacina_auth_cache_hits_total", &[]) > before).then_some(())
    });
}
