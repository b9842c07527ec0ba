//! Log lines: on stderr for people, in `logs/cloacina-server.log` as JSON for machines.

mod file;
mod sink;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use env_filter::{Builder, Filter};
use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;
use simplelog::{ConfigBuilder, WriteLogger};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::command_error::{CommandError, runtime};
use crate::terminal::shown;
use file::LogFile;
use sink::{Line, Sink};

/// Our own lines have targets that begin like this.
const OURS: &str = env!("CARGO_CRATE_NAME");

/// What waits to be written when the process ends gets so long.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The server's outputs, each with a thread of its own: one that is not read keeps nothing from the others. Commands
/// that end by themselves have none of this, and wait for their output as every program does.
struct Outputs {
    stdout: Sink,
    stderr: Sink,
    file: Sink,
}

static OUTPUTS: OnceLock<Outputs> = OnceLock::new();
static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Begins to log: what `RUST_LOG` says, else from INFO on; with `verbose` also our own DEBUG lines. What does not work
/// is said on stderr. From here on nothing that the program says is waited for, but by `flush`.
///
/// # Errors
/// The system has no thread left.
pub fn start(home: &Path, verbose: bool) -> Result<(), CommandError> {
    let outputs = Outputs::start(home).map_err(runtime("cannot start a thread"))?;
    let outputs = OUTPUTS.get_or_init(|| outputs);
    start_without_file(verbose);
    // Nothing to write opens the file, so that what is wrong with it is known from the start.
    outputs.file.push(|_| Vec::new());
    log::debug!(home:% = home.display(); "logging started");
    Ok(())
}

/// Waits until everything that was logged or printed is written, for no longer than `LAST_LINES`.
pub fn flush() {
    let until = Instant::now() + LAST_LINES;
    if let Some(outputs) = OUTPUTS.get() {
        // The file first: it may have something to say on stderr.
        for sink in [&outputs.file, &outputs.stderr, &outputs.stdout] {
            sink.flush(until);
        }
    }
}

/// Ends the process with this code, its last lines written.
pub fn exit(code: i32) -> ! {
    flush();
    std::process::exit(code)
}

/// Writes whole lines on stderr, in their order among log lines. Where stderr is gone, so are they.
pub fn write_stderr(lines: &[u8]) {
    match OUTPUTS.get() {
        Some(outputs) => outputs.stderr.push(|_| lines.to_vec()),
        None => _ = io::stderr().lock().write_all(lines),
    }
}

/// Writes whole lines on stdout, after `start`. That they are not read is no failure of a server.
pub fn write_stdout(lines: String) {
    if let Some(outputs) = OUTPUTS.get() {
        outputs.stdout.push(|_| lines.into_bytes());
    }
}

/// The same on stderr alone, and with waiting: the file is the server's, who may be another user.
pub fn start_without_file(verbose: bool) {
    let (filter, warning) = filter(env::var_os("RUST_LOG"), verbose);
    let level = filter.filter();
    let logger = LOGGER.get_or_init(|| Logger { filter, stderr: stderr_logger() });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
    std::panic::set_hook(Box::new(log_panic));
    if let Some(warning) = warning {
        log::warn!("{warning}");
    }
}

/// A panic is a line like any other, with its thread and its place.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let why = without_text(panic.payload_as_str().unwrap_or("no message"));
    log::error!(thread = thread; "panicked at {place}: {why}");
}

/// The first line of a panic's message, without the text that a wrong index of a string repeats: that may be secret. The
/// operands of a failed assertion stand on further lines.
fn without_text(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default();
    line.find(" of `").map_or(line, |text| &line[..text])
}

impl Outputs {
    fn start(home: &Path) -> io::Result<Outputs> {
        let mut file = LogFile::new(home);
        let write_file = move |line: &Line| {
            for report in file.write(line.at, &line.bytes) {
                if let Some(logger) = LOGGER.get() {
                    logger.to_stderr(Level::Warn, module_path!(), &report);
                }
            }
        };
        // Where stdout or stderr is gone, so are the lines.
        let write_stdout = |line: &Line| {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(&line.bytes).and_then(|()| stdout.flush());
        };
        let write_stderr = |line: &Line| _ = io::stderr().lock().write_all(&line.bytes);
        Ok(Outputs {
            stdout: Sink::start("stdout", write_stdout, |_| {})?,
            stderr: Sink::start("log-stderr", write_stderr, |lost| tell_loss("on stderr", lost))?,
            file: Sink::start("log-file", write_file, |lost| tell_loss("in the log file", lost))?,
        })
    }
}

/// Written whatever RUST_LOG says, and to all outputs: the one that lost lines may lose this one too.
fn tell_loss(place: &str, lost: u64) {
    if let Some(logger) = LOGGER.get() {
        let text = format!("{lost} lines are missing {place}, which took none for too long");
        logger.write(Level::Warn, module_path!(), &text, &Fields::default());
    }
}

struct Logger {
    filter: Filter,
    stderr: Box<WriteLogger<Stderr>>,
}

impl Logger {
    fn write(&self, level: Level, target: &str, message: &str, fields: &Fields) {
        self.to_stderr(level, target, &format!("{message}{}", fields.text));
        if let Some(outputs) = OUTPUTS.get() {
            outputs.file.push(|now| json_line(now, level, target, message, &fields.json).into_bytes());
        }
    }

    fn to_stderr(&self, level: Level, target: &str, text: &str) {
        let text = shown(text);
        self.stderr
            .log(&Record::builder().level(level).target(&shown(target)).args(format_args!("{text}")).build());
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.filter.matches(record) {
            let mut fields = Fields::default();
            let _ = record.key_values().visit(&mut fields);
            self.write(record.level(), record.target(), &record.args().to_string(), &fields);
        }
    }

    fn flush(&self) {
        flush();
    }
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
        .set_target_level(LevelFilter::Error)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    WriteLogger::new(LevelFilter::Trace, config, Stderr::default())
}

/// Hands on each line in one piece.
#[derive(Default)]
struct Stderr {
    line: Vec<u8>,
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.ends_with(b"\n") {
            write_stderr(&self.line);
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

/// A field's value as JSON: numbers, booleans and null as such, all else as text.
struct ToJson(String);

impl<'v> VisitValue<'v> for ToJson {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        let number = value.to_u64().map(json).or_else(|| value.to_i64().map(json));
        let number = number.or_else(|| value.to_f64().map(json));
        self.0 = number.or_else(|| value.to_bool().map(json)).unwrap_or_else(|| json(value.to_string()));
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.0 = json(());
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
            ("none", Value::null()),
        ];
        kv::Source::visit(&pairs, &mut fields).unwrap();
        assert_eq!(
            fields.text,
            r#" n=5 b=true f=0.5 nan=null s=plain q="two \"words\"\n" e="" p="C:\\x" level=x none=null"#
        );
        let now = time::macros::datetime!(2026-04-02 12:00:00.000_001 UTC);
        assert_eq!(
            json_line(now, Level::Info, "t", "a\n\"b\"", &fields.json),
            "{\"timestamp\":\"2026-04-02T12:00:00.000001+00:00\",\"level\":\"INFO\",\"target\":\"t\",\
             \"message\":\"a\\n\\\"b\\\"\",\"n\":5,\"b\":true,\"f\":0.5,\"nan\":null,\"s\":\"plain\",\
             \"q\":\"two \\\"words\\\"\\n\",\"e\":\"\",\"p\":\"C:\\\\x\",\"level_\":\"x\",\"none\":null}\n"
        );
    }

    #[test]
    fn a_panic_shows_no_text_that_it_was_about() {
        let text = "topsecret\u{e9}".to_owned();
        for wrong in [0..100, 0..10, 50..60] {
            let payload = std::panic::catch_unwind(|| text[wrong.clone()].len()).unwrap_err();
            let message = payload.downcast_ref::<String>().unwrap();
            assert!(message.contains("topsecret"), "as std has it: {message}");
            assert!(!without_text(message).contains("topsecret"), "{message}");
        }
        let payload = std::panic::catch_unwind(|| assert_eq!(text, "other")).unwrap_err();
        let message = payload.downcast_ref::<String>().unwrap();
        assert_eq!(without_text(message), "assertion `left == right` failed");
        assert_eq!(without_text(""), "");
    }

    /// What the next test looks at: a process of its own, since loggers and hooks are the process's.
    #[test]
    #[ignore = "is run by the next test"]
    fn a_process_that_panics() {
        let home = env::var_os("PANIC_HOME").unwrap();
        start(Path::new(&home), false).unwrap();
        std::thread::Builder::new().name("doomed".to_owned()).spawn(|| panic!("on purpose")).unwrap();
        while !std::fs::read_to_string(Path::new(&home).join("logs/cloacina-server.log"))
            .is_ok_and(|log| log.contains("on purpose"))
        {
            std::thread::yield_now();
        }
        log::info!("the last line");
        exit(7);
    }

    #[test]
    fn a_panic_is_a_line_and_an_exit_writes_the_rest() {
        let home = std::env::temp_dir().join(format!("cloacinactl-panic-test-{}", std::process::id()));
        let name = concat!(module_path!(), "::a_process_that_panics");
        let name = name.split_once("::").unwrap().1;
        let child = std::process::Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env("PANIC_HOME", &home)
            .output()
            .unwrap();
        let stderr = String::from_utf8(child.stderr).unwrap();
        assert_eq!(child.status.code(), Some(7), "{stderr}");
        let log = std::fs::read_to_string(home.join("logs/cloacina-server.log")).unwrap();
        std::fs::remove_dir_all(&home).unwrap();
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert_eq!((&lines[0]["level"], &lines[0]["thread"]), (&"ERROR".into(), &"doomed".into()), "{log}");
        let message = lines[0]["message"].as_str().unwrap();
        assert!(message.starts_with("panicked at src/logging/mod.rs:"), "{message}");
        assert!(message.ends_with(": on purpose"), "{message}");
        assert_eq!(lines[1]["message"], "the last line");
        assert!(stderr.contains("[ERROR] cloacinactl::logging: panicked at "), "{stderr}");
        assert!(stderr.contains("the last line\n"), "{stderr}");
    }
}
