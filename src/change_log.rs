//! Lines of the log that say who has changed what of a tenant's.

use uuid::Uuid;

use crate::app::Call;
use crate::auth::Tenant;
use crate::http::request::Request;

/// Who asks for a change, for its line in the log, which may come after the request's own time.
pub struct ChangeLog {
    by: Uuid,
    by_name: String,
    client: std::net::IpAddr,
    request_id: String,
}

impl ChangeLog {
    pub fn of(call: &Call<'_>) -> ChangeLog {
        let Request { client, id, .. } = call.request;
        let principal = &call.principal;
        ChangeLog {
            by: principal.id,
            by_name: principal.name.clone(),
            client: *client,
            request_id: (*id).to_owned(),
        }
    }

    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Who did what to which workflow, and to which version where it was one.
    pub fn log(&self, tenant: &Tenant, what: &str, workflow: &str, version: Option<&str>) {
        log::info!(
            tenant = tenant.name(),
            workflow = workflow,
            version = version,
            by:% = self.by,
            by_name = &*self.by_name,
            client:% = self.client,
            request_id = &*self.request_id;
            "{what}"
        );
    }

    /// Who did what to which execution.
    pub fn log_execution(&self, tenant: &Tenant, what: &str, execution: Uuid, workflow: &str) {
        log::info!(
            tenant = tenant.name(),
            execution:% = execution,
            workflow = workflow,
            by:% = self.by,
            by_name = &*self.by_name,
            client:% = self.client,
            request_id = &*self.request_id;
            "{what}"
        );
    }
}
