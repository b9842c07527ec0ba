//! What a tenant may use up, how long its executions are kept, and which directories its tasks may use.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::json_body::{know, wrong, wrong_kind};
use crate::keys::expiry;
use crate::terminal::start_of;

const MOST_RUNNING_TASKS: i64 = 100_000;
const MOST_PATHS: usize = 100;
/// PATH_MAX of Linux.
const LONGEST_PATH_BYTES: usize = 4096;

/// `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// On all hosts together.
    pub max_running_tasks: Option<i64>,
    pub max_pending_executions: Option<i64>,
    /// Of all packages together.
    pub max_package_bytes: Option<i64>,
    /// Of all logs together.
    pub max_log_bytes: Option<i64>,
    /// Of one attempt's files.
    pub max_scratch_bytes: Option<i64>,
    /// For how long an execution is kept that has ended; `None`: for ever.
    pub retention: Option<Retention>,
    /// Further directories that tasks may use.
    pub paths: Paths,
}

/// Absolute paths without `.`, `..` or an empty component.
pub type Paths = BTreeMap<String, Access>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    #[serde(rename = "r")]
    Read,
    #[serde(rename = "rw")]
    ReadWrite,
}

/// A number of whole seconds, an hour or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub seconds: i64,
}

impl Retention {
    const SHORTEST_SECONDS: i64 = 3_600;
    /// A hundred years, which PostgreSQL can take from any timestamp of today.
    const LONGEST_SECONDS: i64 = 36_500 * 86_400;

    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Retention, &'static str> {
        let seconds = expiry::duration(text).ok().map(time::Duration::whole_seconds);
        seconds
            .filter(|seconds| (Retention::SHORTEST_SECONDS..=Retention::LONGEST_SECONDS).contains(seconds))
            .map(|seconds| Retention { seconds })
            .ok_or("expected a duration from 1h to 36500d, such as 90d or 12h")
    }
}

/// In the largest unit that leaves nothing over, such as `90d`.
impl fmt::Display for Retention {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
        let (length, unit) =
            units.into_iter().find(|(length, _)| self.seconds % length == 0).unwrap_or((1, "s"));
        write!(formatter, "{}{unit}", self.seconds / length)
    }
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which limits to change; `None` leaves one as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LimitsChange {
    pub max_running_tasks: Option<Option<i64>>,
    pub max_pending_executions: Option<Option<i64>>,
    pub max_package_bytes: Option<Option<i64>>,
    pub max_log_bytes: Option<Option<i64>>,
    pub max_scratch_bytes: Option<Option<i64>>,
    pub retention: Option<Option<Retention>>,
    /// All of them anew.
    pub paths: Option<Paths>,
}

impl Limits {
    pub fn change(&mut self, change: &LimitsChange) {
        fn take<T: Clone>(limit: &mut T, to: &Option<T>) {
            if let Some(to) = to {
                limit.clone_from(to);
            }
        }
        take(&mut self.max_running_tasks, &change.max_running_tasks);
        take(&mut self.max_pending_executions, &change.max_pending_executions);
        take(&mut self.max_package_bytes, &change.max_package_bytes);
        take(&mut self.max_log_bytes, &change.max_log_bytes);
        take(&mut self.max_scratch_bytes, &change.max_scratch_bytes);
        take(&mut self.retention, &change.retention);
        take(&mut self.paths, &change.paths);
    }
}

impl LimitsChange {
    const FIELDS: &[&str] = &[
        "max_running_tasks",
        "max_pending_executions",
        "max_package_bytes",
        "max_log_bytes",
        "max_scratch_bytes",
        "retention",
        "paths",
    ];

    /// # Errors
    /// 422 with the field, its value, and what would be right.
    pub fn read(fields: &Map<String, Value>) -> Result<LimitsChange, Error> {
        know(fields, LimitsChange::FIELDS)?;
        Ok(LimitsChange {
            max_running_tasks: whole_number(fields, "max_running_tasks", 1..=MOST_RUNNING_TASKS)?,
            max_pending_executions: whole_number(fields, "max_pending_executions", 0..=i64::MAX)?,
            max_package_bytes: whole_number(fields, "max_package_bytes", 0..=i64::MAX)?,
            max_log_bytes: whole_number(fields, "max_log_bytes", 0..=i64::MAX)?,
            max_scratch_bytes: whole_number(fields, "max_scratch_bytes", 0..=i64::MAX)?,
            retention: fields.get("retention").map(retention).transpose()?,
            paths: fields.get("paths").map(paths).transpose()?,
        })
    }
}

/// A field that may be null.
fn whole_number(
    fields: &Map<String, Value>,
    name: &str,
    range: RangeInclusive<i64>,
) -> Result<Option<Option<i64>>, Error> {
    let expected = || format!("a whole number from {} to {}, or null for none", range.start(), range.end());
    match fields.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(Value::Number(number)) => {
            let taken = number.as_i64().filter(|number| range.contains(number));
            let refused = || wrong(name, format_args!("`{number}` is not {}", expected()));
            taken.ok_or_else(refused).map(|number| Some(Some(number)))
        }
        Some(other) => Err(wrong_kind(name, &expected(), other)),
    }
}

fn retention(value: &Value) -> Result<Option<Retention>, Error> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Retention::parse(text)
            .map(Some)
            .map_err(|right| wrong("retention", format_args!("`{}`: {right}", start_of(text)))),
        other => Err(wrong_kind("retention", "a duration such as \"90d\", or null for ever", other)),
    }
}

fn paths(value: &Value) -> Result<Paths, Error> {
    let given = match value {
        Value::Null => return Ok(Paths::new()),
        Value::Object(given) => given,
        other => {
            return Err(wrong_kind(
                "paths",
                "an object such as {\"/srv/acme\":\"rw\"}, or null for none",
                other,
            ));
        }
    };
    if given.len() > MOST_PATHS {
        let count = given.len();
        return Err(wrong("paths", format_args!("has {count} paths; at most {MOST_PATHS} are allowed")));
    }
    let refused =
        |path: &str, line: &dyn fmt::Display| wrong("paths", format_args!("`{}` {line}", start_of(path)));
    let read = |(path, access): (&String, &Value)| {
        check_path(path).map_err(|line| refused(path, &line))?;
        let access = Access::deserialize(access).map_err(|_| {
            refused(path, &format_args!("has {}; expected \"r\" or \"rw\"", start_of(&access.to_string())))
        })?;
        Ok((path.clone(), access))
    };
    given.iter().map(read).collect()
}

/// What is not one plain spelling of a directory below the root is refused, so that two entries are two directories.
fn check_path(path: &str) -> Result<(), String> {
    let Some(below) = path.strip_prefix('/') else {
        return Err("is no absolute path; expected one such as /srv/acme".to_owned());
    };
    if below.is_empty() {
        return Err("is all there is; expected a directory below it".to_owned());
    }
    if path.len() > LONGEST_PATH_BYTES {
        return Err(format!("has {} bytes; at most {LONGEST_PATH_BYTES} are allowed", path.len()));
    }
    if path.contains('\0') {
        return Err("has a zero byte in it".to_owned());
    }
    if below.split('/').any(|component| ["", ".", ".."].contains(&component)) {
        return Err("has `.`, `..`, a doubled slash or one at its end; expected a path without".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_body::refused;

    fn read(body: &str) -> Result<LimitsChange, String> {
        let Value::Object(fields) = serde_json::from_str(body).unwrap() else { panic!("{body}") };
        LimitsChange::read(&fields).map_err(|error| {
            let (status, line) = refused(error);
            assert_eq!(status, 422, "{line}");
            line
        })
    }

    #[test]
    fn changes_that_will_do() {
        assert_eq!(read("{}"), Ok(LimitsChange::default()));
        let change = read(
            r#"{"max_running_tasks":1,"max_pending_executions":0,"max_package_bytes":9223372036854775807,
                "max_log_bytes":null,"retention":"36h","paths":{"/srv/acme":"rw","/opt/a b/.c..":"r"}}"#,
        );
        let paths = [("/srv/acme", Access::ReadWrite), ("/opt/a b/.c..", Access::Read)]
            .map(|(path, access)| (path.to_owned(), access));
        let expected = LimitsChange {
            max_running_tasks: Some(Some(1)),
            max_pending_executions: Some(Some(0)),
            max_package_bytes: Some(Some(i64::MAX)),
            max_log_bytes: Some(None),
            max_scratch_bytes: None,
            retention: Some(Some(Retention { seconds: 129_600 })),
            paths: Some(paths.into()),
        };
        assert_eq!(change, Ok(expected));
        let none = read(r#"{"max_running_tasks":null,"retention":null,"paths":null}"#).unwrap();
        assert_eq!(
            (none.max_running_tasks, none.retention, none.paths),
            (Some(None), Some(None), Some(Paths::new()))
        );
    }

    #[test]
    fn changes_that_will_not() {
        let path = |path: &str| serde_json::json!({ "paths": { path: "r" } }).to_string();
        let many: Map<_, _> = (0..101).map(|number| (format!("/{number}"), "r".into())).collect();
        for (body, line) in [
            (r#"{"max_tasks":1}"#.to_owned(), "max_tasks: unknown field; known are max_running_tasks, "),
            (
                r#"{"max_running_tasks":0}"#.to_owned(),
                "max_running_tasks: `0` is not a whole number from 1 to 100000, or null for none",
            ),
            (r#"{"max_running_tasks":100001}"#.to_owned(), "max_running_tasks: `100001` is not "),
            (r#"{"max_running_tasks":4294967297}"#.to_owned(), "max_running_tasks: `4294967297` is not "),
            (
                r#"{"max_pending_executions":-1}"#.to_owned(),
                "max_pending_executions: `-1` is not a whole number from 0 to ",
            ),
            (r#"{"max_package_bytes":1.5}"#.to_owned(), "max_package_bytes: `1.5` is not "),
            (
                r#"{"max_log_bytes":9223372036854775808}"#.to_owned(),
                "max_log_bytes: `9223372036854775808` is not a whole number from 0 to 9223372036854775807, or null",
            ),
            (
                r#"{"max_scratch_bytes":"1G"}"#.to_owned(),
                "max_scratch_bytes: expected a whole number from 0 to 9223372036854775807, or null for none, not a string",
            ),
            (
                r#"{"retention":"59m"}"#.to_owned(),
                "retention: `59m`: expected a duration from 1h to 36500d, such as 90d",
            ),
            (r#"{"retention":"36501d"}"#.to_owned(), "retention: `36501d`: expected"),
            (r#"{"retention":"7776000"}"#.to_owned(), "retention: `7776000`: expected"),
            (
                r#"{"retention":7776000}"#.to_owned(),
                "retention: expected a duration such as \"90d\", or null for ever, not a number",
            ),
            (
                r#"{"paths":["/srv"]}"#.to_owned(),
                "paths: expected an object such as {\"/srv/acme\":\"rw\"}, or null for none, not an array",
            ),
            (r#"{"paths":{"/srv":"w"}}"#.to_owned(), "paths: `/srv` has \"w\"; expected \"r\" or \"rw\""),
            (r#"{"paths":{"/srv":null}}"#.to_owned(), "paths: `/srv` has null; expected"),
            (
                serde_json::json!({ "paths": many }).to_string(),
                "paths: has 101 paths; at most 100 are allowed",
            ),
            (path(""), "paths: `` is no absolute path; expected one such as /srv/acme"),
            (path("srv"), "paths: `srv` is no absolute path"),
            (path("/"), "paths: `/` is all there is"),
            (path("/srv/"), "paths: `/srv/` has `.`, `..`, a doubled slash or one at its end"),
            (path("/srv//acme"), "paths: `/srv//acme` has "),
            (path("/srv/./acme"), "paths: `/srv/./acme` has "),
            (path("/srv/../etc"), "paths: `/srv/../etc` has "),
            (path("/.."), "paths: `/..` has "),
            (path("/a\0b"), "paths: `/a\\u{0}b` has a zero byte in it"),
            (path(&format!("/{}", "x".repeat(4096))), "paths: `/xxxxxx"),
        ] {
            let got = read(&body).expect_err(&body);
            assert!(got.starts_with(line), "{body:.80}: {got}");
        }
        assert!(read(&path(&format!("/{}", "x".repeat(4095)))).is_ok());
    }

    #[test]
    fn limits_are_shown_as_they_are_set() {
        let limits = Limits {
            max_running_tasks: None,
            max_pending_executions: Some(10_000),
            max_package_bytes: None,
            max_log_bytes: None,
            max_scratch_bytes: Some(1024 * 1024 * 1024),
            retention: Some(Retention { seconds: 90 * 86_400 }),
            paths: [("/srv".to_owned(), Access::ReadWrite)].into(),
        };
        assert_eq!(
            serde_json::to_string(&limits).unwrap(),
            r#"{"max_running_tasks":null,"max_pending_executions":10000,"max_package_bytes":null,"max_log_bytes":null,"max_scratch_bytes":1073741824,"retention":"90d","paths":{"/srv":"rw"}}"#
        );
        for (given, shown) in
            [("90d", "90d"), ("48h", "2d"), ("36h", "36h"), ("90m", "90m"), ("3601s", "3601s")]
        {
            assert_eq!(Retention::parse(given).unwrap().to_string(), shown);
        }
    }
}
