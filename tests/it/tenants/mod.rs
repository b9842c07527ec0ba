//! Tenants: what they are given, what they can do with it, and what they cannot.

mod crossing;
mod held_locks;
mod keys_command;
mod lookups;
mod notifications;
mod password;
mod proxies;
mod site;
mod verify;
