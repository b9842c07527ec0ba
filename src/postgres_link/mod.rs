//! A database URL becomes a session that is encrypted, verified and writable, with its settings pinned.

pub mod cancel;
mod certificate_fields;
mod certificate_verifier;
mod connect_error;
mod connector;
mod credentials;
mod driver_error;
mod host_route;
mod hosts;
mod identifier;
mod password_file;
mod pinned;
pub mod role_sessions;
mod session_factory;
mod stream;
mod text_query;
mod tls;
mod without_password;

pub use connect_error::ConnectError;
pub use connector::Connector;
pub use driver_error::{describe, ends_session, is_fatal, is_passing};
pub use hosts::Hosts;
pub use identifier::quote_identifier;
pub use pinned::{TRUSTED_OWNERS, time_limits};
pub use role_sessions::end_sessions;
pub use session_factory::{NewSession, SessionFactory, release};
pub use stream::Limit;
pub use text_query::{first_value, is_true, rows};
pub use without_password::open_without_password;
