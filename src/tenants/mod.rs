//! Tenants: customers or teams with keys of their own and, if wished, a role and a schema in the database.

mod connection_string;
mod limits;
mod login_trial;
mod name;
mod password;
