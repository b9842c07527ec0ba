//! Log lines: on stderr for people, in `logs/cloacina-server.log` as JSON for machines.

mod file;

use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use env_filter::{Builder, Filter};
use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;
use simplelog::{ConfigBuilder, WriteLogger};
use time::OffsetDateTime;
use time::macros::format_description;

use file::LogFile;

/// Our own lines have targets that begin like this.
const OURS: &str = env!("CARGO_CRATE_NAME");

/// Begins to log: what `RUST_LOG` says, else from INFO on; with `verbose` also our own DEBUG lines. Never fails: what
/// does not work is said on stderr.
pub fn start(home: &Path, verbose: bool) {
    begin(Some(LogFile::new(home)), verbose);
    log::debug!(home:% = home.display(); "logging started");
}

/// The same on stderr alone: the file is the server's, who may be another user.
pub fn start_without_file(verbose: bool) {
    begin(None, verbose);
}

fn begin(mut file: Option<LogFile>, verbose: bool) {
    let (filter, warning) = filter(env::var_os("RUST_LOG"), verbose);
    let level = filter.filter();
    let reports = file.as_mut().map_or(Vec::new(), |file| file.write(OffsetDateTime::now_utc(), b""));
    let logger = Logger { filter, stderr: stderr_logger(), file: file.map(Mutex::new) };
    for report in reports {
        logger.report(&report);
    }
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
    if let Some(warning) = warning {
        log::warn!("{warning}");
    }
}

struct Logger {
    filter: Filter,
    stderr: Box<WriteLogger<Stderr>>,
    file: Option<Mutex<LogFile>>,
}

impl Logger {
    fn to_stderr(&self, level: Level, target: &str, text: &str) {
        let text = one_line(text);
        self.stderr.log(
            &Record::builder().level(level).target(&one_line(target)).args(format_args!("{text}")).build(),
        );
    }

    /// What the file has to say of itself goes past every filter.
    fn report(&self, text: &str) {
        self.to_stderr(Level::Warn, module_path!(), text);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        let message = record.args().to_string();
        let mut fields = Fields::default();
        let _ = record.key_values().visit(&mut fields);
        self.to_stderr(record.level(), record.target(), &format!("{message}{}", fields.text));
        let Some(file) = &self.file else { return };
        let reports = {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // Taken under the lock, so that the file's lines are in the order of their times.
            let now = OffsetDateTime::now_utc();
            file.write(
                now,
                json_line(now, record.level(), record.target(), &message, &fields.json).as_bytes(),
            )
        };
        for report in reports {
            self.report(&report);
        }
    }

    fn flush(&self) {}
}

/// The filter, and what to say of directives that are not understood.
fn filter(directives: Option<OsString>, verbose: bool) -> (Filter, Option<String>) {
    let directives = directives.unwrap_or_default();
    let directives = directives.to_string_lossy();
    // What follows a slash is a text that messages must have in them.
    let (targets, text) = match directives.split_once('/') {
        Some((targets, text)) => (targets, Some(text)),
        None => (directives.as_ref(), None),
    };
    // One by one, so that one that is wrong does not take the others with it.
    let parts = targets.split(',').map(str::trim).filter(|part| !part.is_empty());
    let (mut right, mut wrong): (Vec<_>, Vec<_>) =
        parts.partition(|part| Builder::new().try_parse(part).is_ok());
    if right.is_empty() {
        right.push("warn,cloacinactl=info");
    }
    let mut all = right.join(",");
    match text {
        Some(text) if text.contains('/') => wrong.push(text),
        Some(text) => all = format!("{all}/{text}"),
        None => {}
    }
    let builder = || {
        let mut builder = Builder::new();
        let _ = builder.try_parse(&all);
        builder
    };
    let mut filter = builder().build();
    if verbose && !filter.enabled(&Metadata::builder().level(Level::Debug).target(OURS).build()) {
        filter = builder().filter_module(OURS, LevelFilter::Debug).build();
    }
    let warning = (!wrong.is_empty()).then(|| {
        format!("RUST_LOG: cannot understand `{}`; it is like info,cloacinactl=debug", wrong.join(","))
    });
    (filter, warning)
}

fn stderr_logger() -> Box<WriteLogger<Stderr>> {
    let config = ConfigBuilder::new()
        .set_time_format_custom(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .set_time_level(LevelFilter::Error)
        .set_target_level(LevelFilter::Error)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    WriteLogger::new(LevelFilter::Trace, config, Stderr::default())
}

/// Hands each line to stderr in one piece. Where stderr is gone, so is the line.
#[derive(Default)]
struct Stderr {
    line: Vec<u8>,
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.ends_with(b"\n") {
            let _ = io::stderr().lock().write_all(&self.line);
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Without anything that could begin another line or move the cursor of a terminal.
fn one_line(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        // Line and paragraph separators, and what turns the direction of a text.
        let forges = matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            c if c.is_control() || forges => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    Cow::Owned(line)
}

fn json_line(now: OffsetDateTime, level: Level, target: &str, message: &str, fields: &str) -> String {
    let timestamp = now
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00"
        ))
        .unwrap_or_default();
    let (target, message) = (json(target), json(message));
    format!(
        "{{\"timestamp\":\"{timestamp}\",\"level\":\"{level}\",\"target\":{target},\"message\":{message}{fields}}}\n"
    )
}

fn json(value: impl Serialize) -> String {
    serde_json::to_string(&value).unwrap_or_default()
}

/// A record's fields in both forms, each with what parts it from the message.
#[derive(Default)]
struct Fields {
    /// `,"key":value`…
    json: String,
    /// ` key=value`…
    text: String,
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let mut as_json = ToJson(String::new());
        value.visit(&mut as_json)?;
        let (key, value) = (key.as_str(), as_json.0);
        // An object with the same name twice is read differently by everyone.
        let is_taken = ["timestamp", "level", "target", "message"].contains(&key);
        let name = if is_taken { json(format!("{key}_")) } else { json(key) };
        self.json.extend([",", &name, ":", &value]);
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !['"', '=', '\\'].contains(&c);
        let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let unquoted = unquoted.filter(|text| !text.is_empty() && text.chars().all(plain));
        self.text.extend([" ", key, "=", unquoted.unwrap_or(&value)]);
        Ok(())
    }
}

/// A field's value as JSON: numbers and booleans as such, all else as text.
struct ToJson(String);

impl<'v> VisitValue<'v> for ToJson {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.visit_str(&value.to_string())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.0 = json(());
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = json(value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = json(value);
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        self.0 = json(value);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = json(value);
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.0 = json(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets(directives: Option<&str>, verbose: bool, level: Level, target: &str) -> bool {
        let (filter, _) = filter(directives.map(OsString::from), verbose);
        filter.enabled(&Metadata::builder().level(level).target(target).build())
    }

    #[test]
    fn info_without_rust_log() {
        for unset in [None, Some(""), Some(" , ")] {
            assert!(lets(unset, false, Level::Info, "cloacinactl::serve"));
            assert!(!lets(unset, false, Level::Debug, "cloacinactl::serve"));
            assert!(lets(unset, false, Level::Warn, "postgres"));
            assert!(!lets(unset, false, Level::Info, "postgres"));
        }
    }

    #[test]
    fn verbose_raises_our_own_lines_only() {
        assert!(lets(None, true, Level::Debug, "cloacinactl::serve"));
        assert!(!lets(None, true, Level::Debug, "postgres"));
        assert!(lets(Some("warn"), true, Level::Debug, "cloacinactl"));
        assert!(!lets(Some("warn"), true, Level::Info, "postgres"));
        assert!(lets(Some("cloacinactl=error"), true, Level::Debug, "cloacinactl"));
        assert!(lets(Some("trace"), true, Level::Trace, "cloacinactl"));
        assert!(lets(Some("cloacinactl::http=warn"), true, Level::Debug, "cloacinactl::serve"));
    }

    #[test]
    fn one_wrong_directive_leaves_the_others() {
        let (_, warning) = filter(Some("postgres=debug,cloacinactl=loud,a=b=c".into()), false);
        let warning = warning.unwrap();
        assert!(warning.contains("`cloacinactl=loud,a=b=c`"), "{warning}");
        assert!(lets(Some("postgres=debug,cloacinactl=loud"), false, Level::Debug, "postgres"));
        assert!(lets(Some("cloacinactl=loud"), false, Level::Info, "cloacinactl"));
        assert!(filter(Some("info".into()), false).1.is_none());
        assert!(filter(Some("a/b/c".into()), false).1.is_some());
        let (words, warning) = filter(Some("/word".into()), false);
        assert!(warning.is_none());
        let record = |text: &'static str| {
            words.matches(
                &Record::builder().target(OURS).level(Level::Info).args(format_args!("{text}")).build(),
            )
        };
        assert!(record("a word") && !record("another"));
    }

    #[test]
    fn fields_in_both_forms() {
        let mut fields = Fields::default();
        let pairs: &[(&str, Value<'_>)] = &[
            ("n", Value::from(5)),
            ("b", Value::from(true)),
            ("f", Value::from(0.5)),
            ("nan", Value::from(f64::NAN)),
            ("s", Value::from("plain")),
            ("q", Value::from("two \"words\"\n")),
            ("e", Value::from("")),
            ("p", Value::from("C:\\x")),
            ("level", Value::from("x")),
        ];
        kv::Source::visit(&pairs, &mut fields).unwrap();
        assert_eq!(
            fields.text,
            r#" n=5 b=true f=0.5 nan=null s=plain q="two \"words\"\n" e="" p="C:\\x" level=x"#
        );
        let now = time::macros::datetime!(2026-04-02 12:00:00.000_001 UTC);
        assert_eq!(
            json_line(now, Level::Info, "t", "a\n\"b\"", &fields.json),
            "{\"timestamp\":\"2026-04-02T12:00:00.000001+00:00\",\"level\":\"INFO\",\"target\":\"t\",\
             \"message\":\"a\\n\\\"b\\\"\",\"n\":5,\"b\":true,\"f\":0.5,\"nan\":null,\"s\":\"plain\",\
             \"q\":\"two \\\"words\\\"\\n\",\"e\":\"\",\"p\":\"C:\\\\x\",\"level_\":\"x\"}\n"
        );
    }

    #[test]
    fn no_character_forges_a_line() {
        assert_eq!(one_line("a\nb\r\t\u{1b}[2K\u{9b}\u{2028}é"), "a\\nb\\r\\t\\u{1b}[2K\\u{9b}\\u{2028}é");
    }
}
