//! Tenants: what they are given, what they can do with it, and what they cannot.

mod adoption;
mod command;
mod creation;
mod crossing;
mod held_locks;
mod keys;
mod keys_command;
mod lookups;
mod neighbours;
mod notifications;
mod outcomes;
mod password;
mod pooler;
mod proxies;
mod removal;
mod removal_across_servers;
mod rights;
mod role;
mod same_names;
pub mod site;
mod verify;
mod walls;
