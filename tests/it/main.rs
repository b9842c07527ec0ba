//! Black-box tests: the real program, a real PostgreSQL, port 0. Each test has a database and a home of its own, so that
//! all of them can run at once and in any order.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod scratch;
mod support;

mod access_log;
mod adoption;
mod backup;
mod bare_host;
mod bodies;
mod certificate_makers;
mod check;
mod cli;
mod clocks;
mod completions;
mod config;
mod connections;
mod containers;
mod database_faults;
mod database_tls;
mod database_url;
mod database_url_forms;
mod deadlines;
mod engine;
mod errors;
mod executions;
mod expiry;
mod expiry_rules;
mod first_start;
mod floods;
mod foreign_tables;
mod framing;
mod guide;
mod health;
mod hosts;
mod impostors;
mod install;
mod keys;
mod keys_apply;
mod keys_command;
mod keys_script;
mod last_use;
mod listing;
mod log_faults;
mod logging;
mod looking;
mod lost_answers;
mod manual;
mod migration_locks;
mod odd_values;
mod openapi;
mod other_owners;
mod permissions;
mod plain_files;
mod protected;
mod proxies;
mod quickstart;
mod readme;
mod release;
mod revocation;
mod rotation;
mod rotation_rules;
mod run_script;
mod scheduler;
mod scripts;
mod secrets;
mod semantics;
mod servers;
mod session_settings;
mod sessions;
mod shutdown;
mod signals;
mod slow_clients;
mod slow_links;
mod standbys;
mod start;
mod systemd;
mod tenants;
mod tenants_of_later_servers;
mod tidy;
mod unpacking;
mod upgrades;
mod verify;
mod waiting;
mod workflow_run;
mod workflows;
