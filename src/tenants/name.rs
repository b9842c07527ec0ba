//! What a tenant's schema and its role may be called.

use std::fmt;

use crate::terminal::start_of;

const MOST_CHARACTERS: usize = 63;

/// Names that PostgreSQL or the server uses, whatever the case of their letters.
const RESERVED: &[&str] = &["public", "information_schema", "postgres", "none", "cloacina_views"];
/// How names begin that PostgreSQL and the server keep for themselves. What is removed gets a name of the second kind.
const RESERVED_STARTS: &[&str] = &["pg_", "cloacina_removed_"];

/// The name of a tenant's schema, which is the tenant's own, or of its role. It has passed the rules.
#[derive(Debug, PartialEq)]
pub struct TenantName(String);

/// What the server itself has in the database.
#[derive(Debug, Clone, Copy)]
pub struct OwnNames<'a> {
    /// The role that it logs in as.
    pub role: &'a str,
    /// Where its tables lie.
    pub schema: &'a str,
}

/// Which rule a name breaks.
#[derive(Debug, PartialEq, Eq)]
pub enum NameError {
    Empty,
    TooLong {
        characters: usize,
    },
    /// It begins with this character.
    Start {
        name: String,
        character: char,
    },
    /// This character is in it.
    Character {
        name: String,
        character: char,
    },
    Reserved {
        name: String,
    },
    /// All names that begin so are reserved.
    ReservedStart {
        name: String,
        start: &'static str,
    },
    OwnRole {
        name: String,
    },
    OwnSchema {
        name: String,
    },
}

impl TenantName {
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str, own: &OwnNames<'_>) -> Result<TenantName, NameError> {
        let name = || start_of(text);
        let characters = text.chars().count();
        let Some(first) = text.chars().next() else { return Err(NameError::Empty) };
        if characters > MOST_CHARACTERS {
            return Err(NameError::TooLong { characters });
        }
        if let Some(character) = text.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '_') {
            return Err(NameError::Character { name: name(), character });
        }
        if first.is_ascii_digit() {
            return Err(NameError::Start { name: name(), character: first });
        }
        let starts_with =
            |start: &&&str| text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
        if RESERVED.iter().any(|reserved| text.eq_ignore_ascii_case(reserved)) {
            return Err(NameError::Reserved { name: name() });
        }
        if let Some(start) = RESERVED_STARTS.iter().find(starts_with) {
            return Err(NameError::ReservedStart { name: name(), start });
        }
        if text.eq_ignore_ascii_case(own.role) {
            return Err(NameError::OwnRole { name: name() });
        }
        if text.eq_ignore_ascii_case(own.schema) {
            return Err(NameError::OwnSchema { name: name() });
        }
        Ok(TenantName(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => formatter.write_str("must not be empty"),
            NameError::TooLong { characters } => {
                write!(formatter, "has {characters} characters; at most {MOST_CHARACTERS} are allowed")
            }
            NameError::Start { name, character } => {
                write!(
                    formatter,
                    "`{name}` begins with `{character}`; it must begin with an ASCII letter or _"
                )
            }
            NameError::Character { name, character } => {
                let character = start_of(&character.to_string());
                write!(
                    formatter,
                    "`{name}` has `{character}` in it; only ASCII letters, digits and _ are allowed"
                )
            }
            NameError::Reserved { name } => write!(formatter, "`{name}` is reserved"),
            NameError::ReservedStart { name, start } => {
                write!(formatter, "`{name}` is reserved, as is every name that begins with {start}")
            }
            NameError::OwnRole { name } => {
                write!(formatter, "`{name}` is the name of the server's own database role")
            }
            NameError::OwnSchema { name } => {
                write!(formatter, "`{name}` is the name of the schema of the server's own tables")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: OwnNames<'_> = OwnNames { role: "Cloacina", schema: "api" };

    #[test]
    fn names_that_will_do() {
        let longest = "x".repeat(63);
        for name in [
            "a",
            "_",
            "Acme",
            "acme_2",
            "_1",
            "pg",
            "pgx",
            "select",
            "user",
            "cloacina_views2",
            "apis",
            &longest,
        ] {
            let parsed = TenantName::parse(name, &OWN);
            assert_eq!(parsed.as_ref().map(TenantName::as_str), Ok(name));
        }
    }

    #[test]
    fn names_that_will_not() {
        let too_long = "x".repeat(64);
        for (name, text) in [
            ("", "must not be empty"),
            (&*too_long, "has 64 characters; at most 63 are allowed"),
            (&"\u{e9}".repeat(64), "has 64 characters; at most 63 are allowed"),
            ("1x", "`1x` begins with `1`; it must begin with an ASCII letter or _"),
            ("a-b", "`a-b` has `-` in it; only ASCII letters, digits and _ are allowed"),
            ("-", "`-` has `-` in it; only ASCII letters, digits and _ are allowed"),
            ("a b", "`a b` has ` ` in it; only ASCII letters, digits and _ are allowed"),
            ("a\"b", "`a\"b` has `\"` in it; only ASCII letters, digits and _ are allowed"),
            ("a\0", "`a\\u{0}` has `\\u{0}` in it; only ASCII letters, digits and _ are allowed"),
            ("caf\u{e9}", "`caf\u{e9}` has `\u{e9}` in it; only ASCII letters, digits and _ are allowed"),
            ("a\u{202e}", "`a\\u{202e}` has `\\u{202e}` in it; only ASCII letters, digits and _ are allowed"),
            ("public", "`public` is reserved"),
            ("Information_Schema", "`Information_Schema` is reserved"),
            ("POSTGRES", "`POSTGRES` is reserved"),
            ("None", "`None` is reserved"),
            ("cloacina_Views", "`cloacina_Views` is reserved"),
            ("pg_", "`pg_` is reserved, as is every name that begins with pg_"),
            ("PG_temp_1", "`PG_temp_1` is reserved, as is every name that begins with pg_"),
            (
                "cloacina_Removed_1",
                "`cloacina_Removed_1` is reserved, as is every name that begins with cloacina_removed_",
            ),
            ("cloacina", "`cloacina` is the name of the server's own database role"),
            ("API", "`API` is the name of the schema of the server's own tables"),
        ] {
            let error = TenantName::parse(name, &OWN).expect_err(name);
            assert_eq!(error.to_string(), text);
        }
    }
}
