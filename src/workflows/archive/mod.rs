//! A package as one file: a tar archive, compressed with gzip. What may be in it is in `tree`; checking an archive,
//! unpacking it and packing a directory all go by that.

mod directory;
mod gzip;
mod members;
mod names;
mod pack;
mod pax;
mod problems;
mod process;
mod resolve;
mod tree;
mod unpack;
mod walk;

#[cfg(test)]
mod tests;

pub use directory::scan;
pub use pack::pack;
pub use process::{main as unpack_main, unpack_by, unpack_in_process};
pub use tree::Tree;
pub use walk::{Nowhere, WalkError, Walked, walk};

/// Entries of an archive, and files, directories and links of a package.
pub const MOST_ENTRIES: usize = 10_000;
/// Of what all entries of an archive, or all files of a package, contain.
pub const MOST_BYTES: u64 = 1 << 30;
pub const MOST_MANIFEST_BYTES: u64 = 1 << 20;
