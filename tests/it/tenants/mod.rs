//! Tenants: what they are given, what they can do with it, and what they cannot.

mod held_locks;
mod keys_command;
mod notifications;
mod password;
