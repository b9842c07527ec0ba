//! Tenants: their rooms, and the roles and schemas of theirs in the database.

mod held_locks;
