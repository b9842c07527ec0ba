//! What starts tasks on this host, follows them, and writes down what comes of them.

pub mod attempts;
pub mod host;
