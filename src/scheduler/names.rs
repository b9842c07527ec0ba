//! What lies in `HOME/attempts`, told by its name alone.

use uuid::Uuid;

/// What a directory is called from when it is to be removed.
const REMOVED: &str = "removed-";
/// And when it is kept, since another version of this program has written it.
const KEPT: &str = "other-format-";

#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// All that a supervisor needs has been in it.
    Attempt(Uuid),
    /// Not all that a supervisor needs is in it, so none has been started.
    HalfMade(Uuid),
    /// The same, before the system was started anew: it may have had its other name already when that was lost.
    HalfMadeBefore(Uuid),
    Removed,
    /// Its attempt is over, and what is in it cannot be read.
    Kept,
    Unknown,
}

impl Name {
    /// `boot` is that of the system that runs now.
    pub fn of(name: &str, boot: Uuid) -> Name {
        let id = |text: &str| Uuid::parse_str(text).ok().filter(|id| id.to_string() == text);
        if name.strip_prefix(REMOVED).and_then(id).is_some() {
            return Name::Removed;
        }
        if name.strip_prefix(KEPT).and_then(id).is_some() {
            return Name::Kept;
        }
        match name.split_once('.') {
            None => id(name).map_or(Name::Unknown, Name::Attempt),
            Some((attempt, its_boot)) => match (id(attempt), id(its_boot)) {
                (Some(attempt), Some(its_boot)) if its_boot == boot => Name::HalfMade(attempt),
                (Some(attempt), Some(_)) => Name::HalfMadeBefore(attempt),
                _ => Name::Unknown,
            },
        }
    }
}

/// What an attempt's directory is called until all is in it.
pub fn half_made(attempt: Uuid, boot: Uuid) -> String {
    format!("{attempt}.{boot}")
}

pub fn removed(attempt: Uuid) -> String {
    format!("{REMOVED}{attempt}")
}

pub fn kept(attempt: Uuid) -> String {
    format!("{KEPT}{attempt}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_how_far_a_directory_has_come() {
        let [attempt, boot, other] = [1, 2, 3].map(Uuid::from_u128);
        for (name, expected) in [
            (attempt.to_string(), Name::Attempt(attempt)),
            (half_made(attempt, boot), Name::HalfMade(attempt)),
            (half_made(attempt, other), Name::HalfMadeBefore(attempt)),
            (removed(attempt), Name::Removed),
            (kept(attempt), Name::Kept),
            ("lost+found".to_owned(), Name::Unknown),
            (String::new(), Name::Unknown),
            (attempt.simple().to_string(), Name::Unknown),
            (attempt.braced().to_string(), Name::Unknown),
            (format!("{attempt}."), Name::Unknown),
            (format!("{attempt}.{boot}.x"), Name::Unknown),
            ("removed-1".to_owned(), Name::Unknown),
        ] {
            assert_eq!(Name::of(&name, boot), expected, "{name}");
        }
    }
}
