//! What a package may hold: the rules for its paths, links, kinds of files and sizes, whether they come out of an archive
//! or a directory.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::names::{path_of, target_of};
use super::problems::Problems;
use super::resolve::Resolved;
use super::{MOST_BYTES, MOST_ENTRIES, MOST_MANIFEST_BYTES};
use crate::terminal::start_of;
use crate::workflows::manifest::FILE_NAME;

/// As an archive or a directory has it: nothing of it is checked yet.
#[derive(Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
}

#[derive(Debug)]
pub enum Kind {
    Directory,
    File {
        size: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    HardLink {
        target: Vec<u8>,
    },
    /// What no package holds, in words, and the size of its content.
    Other {
        what: &'static str,
        size: u64,
    },
}

/// An entry that is as it should be, but for where links lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory {
        is_implied: bool,
    },
    File {
        is_executable: bool,
        size: u64,
    },
    Symlink {
        target: String,
    },
    /// To a file that is in the tree.
    HardLink {
        target: String,
    },
}

/// There is too much of it to go on; the problem is noted.
#[derive(Debug)]
pub struct TooMuch;

#[derive(Default)]
pub struct Tree {
    /// By their paths without `.` and empty parts. A path's parents are directories here.
    pub(super) nodes: BTreeMap<String, Node>,
    has_root_entry: bool,
    entries: usize,
    bytes: u64,
    pub problems: Problems,
    /// Whether all entries are there.
    pub(super) is_finished: bool,
    /// Empty, or the one top folder with a `/` behind it.
    pub(super) root: String,
    pub(super) steps: Cell<usize>,
}

impl Tree {
    /// Its path, where it is as it should be.
    ///
    /// # Errors
    /// The package is larger than packages may be.
    pub fn add(&mut self, entry: Entry) -> Result<Option<String>, TooMuch> {
        let added = self.check(&entry).and_then(|path| self.insert(path, entry.kind, entry.mode));
        let added = added.map_err(|message| self.problems.add(&entry.name, message)).ok();
        self.entries += 1;
        if self.entries > MOST_ENTRIES || self.nodes.len() > MOST_ENTRIES {
            return self
                .too_much(&entry.name, format!("comes after {MOST_ENTRIES} others; no more are allowed"));
        }
        if self.bytes > MOST_BYTES {
            let line = format!(
                "makes the package larger than {} MiB, which is all that is allowed",
                MOST_BYTES >> 20
            );
            return self.too_much(&entry.name, line);
        }
        Ok(added)
    }

    fn too_much<T>(&mut self, name: &[u8], message: String) -> Result<T, TooMuch> {
        self.problems.add(name, message);
        Err(TooMuch)
    }

    fn check(&mut self, entry: &Entry) -> Result<String, String> {
        // An archive is inflated for all of it, whatever becomes of it.
        if let Kind::File { size } | Kind::Other { size, .. } = entry.kind {
            self.bytes = self.bytes.saturating_add(size);
        }
        let path = path_of(&entry.name)?;
        match entry.kind {
            Kind::Other { what, .. } => {
                return Err(format!("is {what}; a package holds files, directories and links"));
            }
            Kind::File { .. } if entry.name.ends_with(b"/") => {
                return Err("is a file, and its name ends with `/`".to_owned());
            }
            _ => {}
        }
        // A directory may have got the others from the one above it; they mean nothing in a package.
        let forbidden = if matches!(entry.kind, Kind::Directory) { 0o4000 } else { 0o7000 };
        if !matches!(entry.kind, Kind::Symlink { .. }) && entry.mode & forbidden != 0 {
            let mode = entry.mode & 0o7777;
            return Err(format!("is setuid, setgid or sticky (mode {mode:04o}); take that away with chmod"));
        }
        Ok(path)
    }

    fn insert(&mut self, path: String, kind: Kind, mode: u32) -> Result<String, String> {
        if path.is_empty() {
            return match kind {
                Kind::Directory if !std::mem::replace(&mut self.has_root_entry, true) => Ok(path),
                Kind::Directory => Err("is there twice".to_owned()),
                _ => Err("is the package itself, and no directory".to_owned()),
            };
        }
        // All that are above a directory are directories too.
        let mut missing = Vec::new();
        for parent in path.rmatch_indices('/').map(|(at, _)| &path[..at]) {
            match self.nodes.get(parent) {
                None => missing.push(parent),
                Some(Node::Directory { .. }) => break,
                Some(Node::Symlink { .. }) => {
                    return Err(format!("is below `{}`, which is a link", start_of(parent)));
                }
                Some(_) => return Err(format!("is below `{}`, which is a file", start_of(parent))),
            }
        }
        let node = match kind {
            Kind::Directory => Node::Directory { is_implied: false },
            Kind::File { size } => Node::File { is_executable: mode & 0o111 != 0, size },
            Kind::Symlink { target } => Node::Symlink { target: target_of(&target)? },
            Kind::HardLink { target } => Node::HardLink { target: self.linked_file(&target)? },
            Kind::Other { .. } => return Err("cannot be in a package".to_owned()),
        };
        match (self.nodes.get(&path), &node) {
            (None, _) => {}
            (Some(Node::Directory { is_implied: true }), Node::Directory { .. }) => {}
            (Some(Node::Directory { .. }), Node::Directory { .. }) => return Err("is there twice".to_owned()),
            (Some(Node::Directory { .. }), _) => return Err("is there twice, once as a directory".to_owned()),
            _ => return Err("is there twice".to_owned()),
        }
        for parent in missing {
            self.nodes.insert(parent.to_owned(), Node::Directory { is_implied: true });
        }
        self.nodes.insert(path.clone(), node);
        Ok(path)
    }

    fn linked_file(&self, target: &[u8]) -> Result<String, String> {
        let path = path_of(target).map_err(|line| {
            format!("is a hard link to `{}`, which {line}", start_of(&String::from_utf8_lossy(target)))
        })?;
        match self.nodes.get(&path) {
            Some(Node::File { .. }) => Ok(path),
            Some(Node::HardLink { target }) => Ok(target.clone()),
            _ => Err(format!("is a hard link to `{}`, which is no file before it", start_of(&path))),
        }
    }

    /// Once all entries are there: where the package begins, whether it has a manifest, and whether each link stays inside.
    pub fn finish(&mut self) {
        self.is_finished = true;
        self.root = self.find_root();
        match self.nodes.get(&self.manifest_path()) {
            Some(Node::File { size, .. }) if *size <= MOST_MANIFEST_BYTES => {}
            Some(Node::File { .. }) => {
                self.problems.add(
                    FILE_NAME.as_bytes(),
                    "has more than 1 MiB, which is all that is allowed".to_owned(),
                );
            }
            Some(_) => self.problems.add(FILE_NAME.as_bytes(), "is not a plain file".to_owned()),
            None => self.problems.add(FILE_NAME.as_bytes(), self.missing_manifest()),
        }
        let links = self.nodes.iter().filter_map(|(path, node)| match node {
            Node::Symlink { target } => Some((path, target)),
            _ => None,
        });
        let mut wrong = Vec::new();
        for (path, target) in links {
            let line = match path.strip_prefix(&self.root).map(|path| self.resolve(path)) {
                Some(Resolved::Outside) | None => "which is outside of the package",
                Some(Resolved::Circle) => "which leads through too many links, or round in a circle",
                Some(Resolved::Node(_) | Resolved::Nothing) => continue,
            };
            wrong.push((path.clone(), format!("is a link to `{}`, {line}", start_of(target))));
        }
        for (path, line) in wrong {
            self.problems.add(path.as_bytes(), line);
        }
    }

    fn find_root(&self) -> String {
        if self.nodes.contains_key(FILE_NAME) {
            return String::new();
        }
        let mut top = self.nodes.iter().filter(|(path, _)| !path.contains('/'));
        match (top.next(), top.next()) {
            (Some((folder, Node::Directory { .. })), None)
                if self.nodes.contains_key(&format!("{folder}/{FILE_NAME}")) =>
            {
                format!("{folder}/")
            }
            _ => String::new(),
        }
    }

    fn missing_manifest(&self) -> String {
        let below = format!("/{FILE_NAME}");
        let line = "is missing; it has to be at the top of the package, or in its one top folder";
        match self.nodes.keys().find(|path| path.ends_with(&below)) {
            None => line.to_owned(),
            Some(path) => format!("{line}, and there is one at `{}`", start_of(path)),
        }
    }

    /// Empty, or the one top folder with a `/` behind it.
    pub fn root(&self) -> &str {
        &self.root
    }

    pub fn manifest_path(&self) -> String {
        format!("{}{FILE_NAME}", self.root)
    }

    /// In the order of their paths, so that a directory is before what is in it.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }
}
