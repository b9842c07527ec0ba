//! Names that come with a package, checked once: a path, a variable or a log line can be made of each without a further
//! look.

use std::fmt;

use crate::terminal::start_of;

const MOST_CHARACTERS: usize = 63;
/// Of a version, which SemVer itself does not bound.
const MOST_VERSION_BYTES: usize = 100;

/// Which rule a name breaks. Shown after the place where it stands: "`a b` has ' ' in it; …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError(String);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// # Errors
            /// It is not 1 to 63 ASCII letters, digits, `-` and `_` with a letter first.
            pub fn parse(text: &str) -> Result<$name, NameError> {
                check_name(text).map(|()| $name(text.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// What a workflow, and the package that it comes in, is called.
    WorkflowName
}
name! {
    /// What a task is called, once in its workflow.
    TaskId
}
name! {
    /// What a schedule or a trigger is called, once in its tenant.
    TriggerName
}

/// The version of a package (SemVer 2.0.0), without build metadata, which have no precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(semver::Version);

impl Version {
    /// # Errors
    /// It is no SemVer version, has build metadata, or is longer than 100 bytes.
    pub fn parse(text: &str) -> Result<Version, NameError> {
        let wrong = |line: &str| {
            NameError(format!("`{}` {line}; a version is such as 1.2.0 (SemVer)", start_of(text)))
        };
        if text.len() > MOST_VERSION_BYTES {
            return Err(wrong(&format!("has {} bytes, and {MOST_VERSION_BYTES} are allowed", text.len())));
        }
        let version = semver::Version::parse(text).map_err(|error| {
            let meant = [text.to_owned(), format!("{text}.0"), format!("{text}.0.0")];
            let meant = meant.map(|text| text.trim_start_matches(['v', 'V', '=', ' ']).to_owned());
            match meant.iter().find(|text| semver::Version::parse(text).is_ok()) {
                Some(meant) => wrong(&format!("is no version: write {meant}")),
                None => wrong(&format!("is no version: {error}")),
            }
        })?;
        match version.build.is_empty() {
            true => Ok(Version(version)),
            false => Err(wrong("has build metadata behind `+`, which no version can be told apart by")),
        }
    }

    /// A text whose bytes sort as SemVer's precedence does (SemVer 2.0.0, 11). A number has its count of digits before it;
    /// what ends an identifier sorts below all that can stand in one, and a release above all of its pre-releases.
    pub fn precedence(&self) -> String {
        let semver::Version { major, minor, patch, pre, .. } = &self.0;
        let number = |digits: &str| format!("{:02}{digits}", digits.len());
        let mut text: String =
            [major, minor, patch].into_iter().map(|part| number(&part.to_string())).collect();
        if pre.is_empty() {
            return text + "~";
        }
        for identifier in pre.split('.') {
            match identifier.bytes().all(|byte| byte.is_ascii_digit()) {
                true => text += &format!("0{}", number(identifier)),
                false => text += &format!("1{identifier} "),
            }
        }
        text
    }

    /// Whether it runs only where it is asked for by name: it has a part behind `-`.
    pub fn is_pre_release(&self) -> bool {
        !self.0.pre.is_empty()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn check_name(text: &str) -> Result<(), NameError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let characters = text.chars().count();
    let rule = "a name is 1 to 63 ASCII letters, digits, - and _, with a letter first";
    let line = match text.chars().next() {
        None => "an empty name".to_owned(),
        Some(first) if !first.is_ascii_alphabetic() => format!("`{}` begins with {first:?}", start_of(text)),
        Some(_) if characters > MOST_CHARACTERS => {
            format!("`{}` has {characters} characters", start_of(text))
        }
        Some(_) => match text.chars().find(|c| !is_allowed(*c)) {
            Some(other) => format!("`{}` has {other:?} in it", start_of(text)),
            None => return Ok(()),
        },
    };
    Err(NameError(format!("{line}; {rule}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_a_path() {
        for good in ["a", "Z9-_", &"a".repeat(63)] {
            assert_eq!(TaskId::parse(good).unwrap().as_str(), good);
        }
        for (bad, part) in [
            ("", "an empty name"),
            ("-a", "begins with '-'"),
            ("1a", "begins with '1'"),
            ("../x", "begins with '.'"),
            ("a/b", "has '/' in it"),
            ("a\0", "has '\\0' in it"),
            ("ä", "begins with 'ä'"),
            (&"a".repeat(64), "has 64 characters"),
        ] {
            let error = TaskId::parse(bad).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_text_of_a_precedence_sorts_as_it_does() {
        let numbers = ["0", "1", "2", "9", "10", "11", "99", "100", "18446744073709551615"];
        let identifiers = [
            "0",
            "2",
            "10",
            "123456789012345678901234567890",
            "-",
            "--",
            "-1",
            "1a",
            "A",
            "Z9",
            "a",
            "a-",
            "a1",
            "aa",
            "b",
        ];
        let mut texts = Vec::new();
        for one in numbers {
            texts.extend(numbers.map(|other| format!("{one}.{other}.1")));
            texts.extend([format!("1.0.{one}-rc.{one}"), format!("{one}.0.0-0")]);
        }
        for one in identifiers {
            texts.push(format!("1.0.0-{one}"));
            for other in identifiers {
                texts.push(format!("1.0.0-{one}.{other}"));
                texts.extend(["0", "a"].map(|third| format!("1.0.0-{one}.{other}.{third}")));
            }
        }
        let versions: Vec<_> = texts.iter().map(|text| Version::parse(text).unwrap()).collect();
        for one in &versions {
            for other in &versions {
                let (expected, found) = (one.cmp(other), one.precedence().cmp(&other.precedence()));
                assert_eq!(found, expected, "{one} {other}");
            }
        }
    }

    #[test]
    fn versions_have_an_order_and_no_build() {
        let version = |text| Version::parse(text).unwrap();
        let ordered = [
            "0.9.0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-rc.2",
            "1.0.0-rc.10",
            "1.0.0",
        ];
        assert!(ordered.windows(2).all(|pair| version(pair[0]) < version(pair[1])));
        assert!(ordered.windows(2).all(|pair| version(pair[0]).precedence() < version(pair[1]).precedence()));
        assert!(version("1.0.0-rc.1").is_pre_release() && !version("1.0.0").is_pre_release());
        for bad in [
            "1",
            "1.0",
            "v1.0.0",
            "1.0.0+build",
            "01.0.0",
            "1.0.0-",
            "",
            &format!("1.0.0-{}", "a".repeat(95)),
        ] {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
    }
}
