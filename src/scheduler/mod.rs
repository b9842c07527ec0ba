//! What starts tasks on this host, follows them, and writes down what comes of them.

pub mod attempts;
mod cleanup;
pub mod disk;
pub mod host;
mod leftovers;
mod names;
mod own_children;
pub mod packages;
mod permissions;
mod recovery;
mod starter;
mod wake;
