//! Where a path in a package leads, with links followed as the kernel would.

use super::names::MOST_PATH_BYTES;
use super::tree::{Node, Tree};
use crate::workflows::manifest::Found;

/// As the kernel.
const MOST_LINKS_FOLLOWED: usize = 40;
/// Of paths, for all links and all questions of one package.
const MOST_STEPS: usize = 1_000_000;

/// What a path leads to.
pub enum Resolved<'a> {
    Node(&'a Node),
    Nothing,
    Outside,
    Circle,
}

impl Tree {
    /// What is at a path relative to where the package begins; links are followed. Of an archive that
    /// could not be read to its end nothing is said to be missing.
    pub fn found(&self, path: &str) -> Found {
        if !self.is_finished {
            return Found::Known;
        }
        match self.resolve(path) {
            Resolved::Node(Node::Directory { .. }) => Found::Directory,
            Resolved::Node(Node::File { is_executable, .. }) => Found::File { is_executable: *is_executable },
            _ => Found::Nothing,
        }
    }

    pub(super) fn resolve(&self, path: &str) -> Resolved<'_> {
        if path.len() > MOST_PATH_BYTES {
            return Resolved::Nothing;
        }
        let mut links = 0;
        let mut here = self.root.clone();
        // How long `here` is without each of its parts, and after how many of them the first is missing.
        let mut ends: Vec<usize> = Vec::new();
        let mut missing = None;
        let mut left: Vec<&str> = path.rsplit('/').collect();
        self.take_steps(left.len());
        let top = &Node::Directory { is_implied: true };
        let mut node = Some(top);
        while let Some(part) = left.pop() {
            if self.steps.get() > MOST_STEPS {
                return Resolved::Circle;
            }
            match part {
                "" | "." => continue,
                ".." => match ends.pop() {
                    Some(end) => here.truncate(end),
                    None => return Resolved::Outside,
                },
                _ => {
                    let end = here.len();
                    here.push_str(if ends.is_empty() { "" } else { "/" });
                    here.push_str(part);
                    ends.push(end);
                }
            }
            missing = missing.filter(|depth| *depth <= ends.len());
            node = match ends.len() {
                0 => Some(top),
                _ if missing.is_some() => None,
                _ => self.nodes.get(&here),
            };
            match node {
                Some(Node::Symlink { target }) => {
                    links += 1;
                    if links > MOST_LINKS_FOLLOWED {
                        return Resolved::Circle;
                    }
                    here.truncate(ends.pop().unwrap_or_default());
                    let before = left.len();
                    left.extend(target.rsplit('/'));
                    self.take_steps(left.len() - before);
                    node = None;
                }
                Some(Node::HardLink { target }) => node = self.nodes.get(target),
                Some(_) => {}
                None => missing = missing.or(Some(ends.len())),
            }
        }
        node.map_or(Resolved::Nothing, Resolved::Node)
    }

    /// Parts of a path cost time when they are taken apart, whether or not they are gone through.
    fn take_steps(&self, steps: usize) {
        self.steps.set(self.steps.get() + steps);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Entry, Kind};
    use super::*;

    fn tree(directories: &[&str], links: &[(&str, String)]) -> Tree {
        let mut tree = Tree::default();
        for name in directories {
            let name = name.as_bytes().to_vec();
            tree.add(Entry { name, kind: Kind::Directory, mode: 0o755 }).unwrap();
        }
        for (name, target) in links {
            let kind = Kind::Symlink { target: target.as_bytes().to_vec() };
            tree.add(Entry { name: name.as_bytes().to_vec(), kind, mode: 0o777 }).unwrap();
        }
        tree.finish();
        tree
    }

    #[test]
    fn a_path_that_no_entry_can_have_takes_no_steps() {
        let tree = tree(&["a/a"], &[]);
        assert_eq!(tree.found(&"a/".repeat(500_000)), Found::Nothing);
        assert_eq!(tree.steps.get(), 0);
        assert_eq!(tree.found("a/a/"), Found::Directory);
        assert_eq!(tree.steps.get(), 3);
    }

    #[test]
    fn behind_what_is_missing_there_is_nothing_until_the_path_is_above_it_again() {
        let tree = tree(&["a/b", "b"], &[("a/l", "../missing/b/../../a".to_owned())]);
        for (path, found) in [
            ("a/b", Found::Directory),
            ("x/b", Found::Nothing),
            ("x/../b", Found::Directory),
            ("x/y/../b", Found::Nothing),
            ("x/y/../../a/b", Found::Directory),
            ("a/x/..", Found::Directory),
            ("a/l/b", Found::Directory),
            ("a/l/b/x/..", Found::Directory),
            ("a/l/../x/b", Found::Nothing),
            ("..", Found::Nothing),
        ] {
            assert_eq!(tree.found(path), found, "{path}");
        }
    }

    #[test]
    fn the_parts_of_a_target_count_though_none_is_gone_through() {
        let next = |number: usize| format!("l{}{}", (number + 1) % 50, "/x".repeat(400));
        let links: Vec<_> = (0..50).map(|number| (format!("l{number}"), next(number))).collect();
        let links: Vec<_> = links.iter().map(|(name, target)| (name.as_str(), target.clone())).collect();
        let steps = tree(&[], &links).steps.get();
        assert!((50 * 40 * 400..51 * 41 * 410).contains(&steps), "{steps}");
    }
}
