//! Tenants: customers or teams with keys of their own and, if wished, a role and a schema in the database.

mod limits;
mod name;
mod password;
