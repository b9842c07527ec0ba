//! `config.toml`: read with every mistake pointed at, changed with every other byte kept.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item, Value};

use super::table::{Form, Setting, unknown_key};
use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::plain_file;

/// Room for many comments.
const MOST_BYTES: u64 = 1024 * 1024;

/// What `config.toml` says; nothing at all where there is none.
#[derive(Debug)]
pub struct ConfigFile {
    pub path: PathBuf,
    text: String,
    entries: BTreeMap<&'static str, Entry>,
}

/// A value as a user would write it after a flag, and where it stands.
#[derive(Debug)]
struct Entry {
    value: String,
    /// Where its key begins.
    key_at: usize,
    span: Range<usize>,
}

impl ConfigFile {
    /// Reads and checks `config.toml` in `home`.
    ///
    /// # Errors
    /// `Usage` with file, line and column for what is wrong in it, `Runtime` when it cannot be read.
    pub fn read(home: &Path) -> Result<ConfigFile, CommandError> {
        let path = home.join("config.toml");
        let bytes = match plain_file::read(&path, MOST_BYTES) {
            Ok(bytes) => bytes,
            Err(_) if is_null_device(&path) => Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                return Err(Runtime(format!("cannot read {}: {error}", path.display())));
            }
        };
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let (line, column) = position(&String::from_utf8_lossy(error.as_bytes()), at);
            Usage(format!("{}, line {line}, column {column}: not UTF-8", path.display()))
        })?;
        let mut file = ConfigFile { path, text: String::new(), entries: BTreeMap::new() };
        file.parse(text)?;
        for (key, entry) in &file.entries {
            if let Some(setting) = Setting::of_key(key) {
                setting.check(&entry.value, &file.place(key, entry))?;
            }
        }
        Ok(file)
    }

    /// The value of a key, and its name for messages.
    pub fn value(&self, key: &str) -> Option<(&str, String)> {
        self.entries.get(key).map(|entry| (entry.value.as_str(), self.place(key, entry)))
    }

    /// Changes one value, or adds it at the end. Everything else stays as it is, byte for byte.
    ///
    /// # Errors
    /// `Usage` when the file is not right for another reason.
    pub fn set(&mut self, setting: &Setting, value: &str) -> Result<(), CommandError> {
        let toml = match (setting.form, value.parse::<i64>()) {
            (Form::Number | Form::Duration | Form::Size, Ok(number)) => Value::from(number),
            (Form::Switch, _) => Value::from(value == "true"),
            _ => Value::from(value),
        };
        let toml = toml.to_string();
        let mut text = self.text.clone();
        if let Some(entry) = self.entries.get(setting.key) {
            text.replace_range(entry.span.clone(), toml.trim());
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text += &format!("{} = {}\n", setting.key, toml.trim());
        }
        self.parse(text)
    }

    /// Takes out the line of one value, or the lines, with the comment behind it; everything else stays as it is, byte
    /// for byte. Whether there was one.
    ///
    /// # Errors
    /// `Usage` when the file is not right for another reason.
    pub fn unset(&mut self, setting: &Setting) -> Result<bool, CommandError> {
        let Some(entry) = self.entries.get(setting.key) else { return Ok(false) };
        let (key_at, value_end) = (entry.key_at, entry.span.end);
        let mut text = self.text.clone();
        let mut from = text[..key_at].rfind('\n').map_or(0, |newline| newline + 1);
        if text[from..].starts_with('\u{feff}') {
            from += '\u{feff}'.len_utf8();
        }
        let to = text[value_end..].find('\n').map_or(text.len(), |newline| value_end + newline + 1);
        text.replace_range(from..to, "");
        self.parse(text)?;
        Ok(true)
    }

    /// Writes the file whole: a reader sees the old one or the new one, also after a power cut. A symlink stays one,
    /// and its target is written.
    ///
    /// # Errors
    /// `Runtime`; the old file is untouched then.
    pub fn write(&self) -> Result<(), CommandError> {
        self.replace().map_err(|error| Runtime(format!("cannot write {}: {error}", self.path.display())))
    }

    fn replace(&self) -> io::Result<()> {
        let target = target_of(&self.path)?;
        let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let mut new_name = std::ffi::OsString::from(".");
        new_name.push(name);
        new_name.push(format!(".{}.new", std::process::id()));
        let new_path = directory.join(new_name);
        // Left over from a process with our id that died in the middle.
        let _ = fs::remove_file(&new_path);
        let written = write_new(&new_path, &target, &self.text).and_then(|()| fs::rename(&new_path, &target));
        if written.is_err() {
            let _ = fs::remove_file(&new_path);
        }
        written?;
        File::open(directory)?.sync_all()
    }

    fn place(&self, key: &str, entry: &Entry) -> String {
        let (line, _) = position(&self.text, entry.key_at);
        format!("`{key}` in {}, line {line}", self.path.display())
    }

    /// Takes `text` for the file's; checks syntax, keys and types, not yet values.
    fn parse(&mut self, text: String) -> Result<(), CommandError> {
        let path = self.path.display();
        let wrong = |at: usize, what: &str| {
            let (line, column) = position(&text, at);
            Usage(format!("{path}, line {line}, column {column}: {what}"))
        };
        // The error's own display would repeat the line, and with it perhaps a password.
        let document = Document::parse(text.as_str()).map_err(|error| {
            let at = error.span().map_or(text.len(), |span| span.start);
            wrong(at, error.message())
        })?;
        let mut entries = BTreeMap::new();
        for (name, item) in document.iter() {
            let key_at =
                document.as_table().key(name).and_then(|key| key.span()).map_or(0, |span| span.start);
            let setting = Setting::of_key(name).ok_or_else(|| wrong(key_at, &unknown_key(name)))?;
            let value = as_written(setting.form, item).ok_or_else(|| {
                let right = match setting.form {
                    Form::Text => "a string",
                    Form::Number => "an integer",
                    Form::Duration => "a string such as \"30s\", or an integer of seconds",
                    Form::Size => "a string such as \"100M\", or an integer of bytes",
                    Form::Switch => "true or false",
                };
                wrong(key_at, &format!("`{name}` must be {right}, and is of type {}", item.type_name()))
            })?;
            let span = item.span().unwrap_or_default();
            entries.insert(setting.key, Entry { value, key_at, span });
        }
        drop(document);
        self.entries = entries;
        self.text = text;
        Ok(())
    }
}

/// Keeps other processes from changing the file between our reading and our writing it, as long as it is held.
///
/// # Errors
/// Whatever opening the directory fails with. One that cannot be locked is no error: some network file systems can't.
pub fn lock(home: &Path) -> io::Result<File> {
    let directory = File::open(home)?;
    let _ = directory.lock();
    Ok(directory)
}

/// Makes a directory that only its owner may enter, and those above it where they are missing. One that is there
/// already stays as it is.
///
/// # Errors
/// As `mkdir(2)`, and `NotADirectory` when something else has the name.
pub fn private_directory(path: &Path) -> io::Result<()> {
    let made = fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| DirBuilder::new().mode(0o700).create(path));
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(io::Error::from(io::ErrorKind::NotADirectory))
        }
        other => other,
    }
}

/// Where `path` leads. A link to a file that is not there yet counts.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => Ok(path.parent().unwrap_or(Path::new("")).join(target)),
            Err(_) => Ok(path.to_owned()),
        },
        other => other,
    }
}

fn write_new(new_path: &Path, target: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new_path)?;
    file.write_all(text.as_bytes())?;
    if let Ok(old) = fs::metadata(target) {
        // root may change the file of the user who runs the server; that user has to be able to read it afterwards.
        let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    file.sync_all()
}

/// Whether this is `/dev/null`, linked or mounted here to have no configuration.
fn is_null_device(path: &Path) -> bool {
    let device = |path: &Path| {
        let there = fs::metadata(path).ok().filter(|there| there.file_type().is_char_device());
        there.map(|there| there.rdev())
    };
    device(path).is_some_and(|number| device(Path::new("/dev/null")) == Some(number))
}

/// The value as a user would write it after a flag; `None` when it is of another type.
fn as_written(form: Form, item: &Item) -> Option<String> {
    let number = || item.as_integer().map(|number| number.to_string());
    let text = || item.as_str().map(str::to_owned);
    match form {
        Form::Text => text(),
        Form::Number => number(),
        Form::Duration | Form::Size => text().or_else(number),
        Form::Switch => item.as_bool().map(|switch| switch.to_string()),
    }
}

/// Line and column of a byte, both from 1, the column in characters.
pub fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ConfigFile, CommandError> {
        let mut file = ConfigFile { path: "c.toml".into(), text: String::new(), entries: BTreeMap::new() };
        file.parse(text.to_owned()).map(|()| file)
    }

    fn changed(text: &str, key: &str, value: &str) -> String {
        let mut file = parsed(text).unwrap();
        file.set(Setting::of_key(key).unwrap(), value).unwrap();
        assert_eq!(file.value(key).unwrap().0, value);
        file.text
    }

    #[test]
    fn a_change_keeps_every_other_byte() {
        assert_eq!(changed("", "workers", "4"), "workers = 4\n");
        assert_eq!(changed("# mine", "workers", "4"), "# mine\nworkers = 4\n");
        assert_eq!(
            changed("# a\n\n  workers=  0x10 # b\r\nbind = '1.1.1.1:1'\n# c\n", "workers", "4"),
            "# a\n\n  workers=  4 # b\r\nbind = '1.1.1.1:1'\n# c\n"
        );
        assert_eq!(
            changed("\u{feff}'bind' = \"\"\"1.1.1.1:1\"\"\" # é\nqueue = 1", "bind", "0.0.0.0:8080"),
            "\u{feff}'bind' = \"0.0.0.0:8080\" # é\nqueue = 1"
        );
        assert_eq!(changed("queue = 1 # é", "idle_timeout", "5m"), "queue = 1 # é\nidle_timeout = \"5m\"\n");
        assert_eq!(changed("idle_timeout = \"5m\"", "idle_timeout", "5"), "idle_timeout = 5");
    }

    #[test]
    fn a_value_that_is_taken_out_leaves_every_other_byte() {
        for (before, after) in [
            ("workers = 4", ""),
            ("# a\nworkers = 4 # b\n# c\n", "# a\n# c\n"),
            ("bind = '1.1.1.1:1'\r\n  'workers'\t=  0x10\r\n\r\n# c", "bind = '1.1.1.1:1'\r\n\r\n# c"),
            ("\u{feff}workers = 4\nqueue = 1", "\u{feff}queue = 1"),
            ("queue = 1\n", "queue = 1\n"),
        ] {
            let mut file = parsed(before).unwrap();
            assert_eq!(file.unset(Setting::of_key("workers").unwrap()).unwrap(), before != after);
            assert_eq!((file.text.as_str(), file.value("workers").is_some()), (after, false));
        }
        let text = "bootstrap_key = \"\"\"line\nline\"\"\"\nqueue = 1\n";
        let mut file = parsed(text).unwrap();
        assert!(file.unset(Setting::of_key("bootstrap_key").unwrap()).unwrap());
        assert_eq!(file.text, "queue = 1\n");
    }

    #[test]
    fn any_text_survives() {
        for text in ["a\"b\\c", "'''", "line\nline", "\u{1b}\u{7f}\0", "é\u{2028}", " # = "] {
            changed("bootstrap_key = 'x' # c\n", "bootstrap_key", text);
        }
    }

    #[test]
    fn mistakes_have_a_place() {
        for (text, message) in [
            ("a = 1", "c.toml, line 1, column 1: unknown key `a`"),
            ("\n  é = 1", "c.toml, line 2, column 3: "),
            ("bind = '1'\nbind = '2'", "c.toml, line 2, column 1: "),
            ("# é\nbind = oops", "c.toml, line 2, column 8: "),
            ("bind", "c.toml, line 1, column 5: "),
            ("workers = '4'", "line 1, column 1: `workers` must be an integer, and is of type string"),
            ("workers = 1.5", "of type float"),
            ("[workers]\na = 1", "line 1, column 2: `workers` must be an integer, and is of type table"),
            ("workers.a = 1", "of type table"),
            ("idle_timeout = true", "of type boolean"),
            ("bind = 8080", "`bind` must be a string, and is of type integer"),
            ("\n[server]\nbind = ''", "line 2, column 2: unknown key `server`"),
        ] {
            let failure = parsed(text).expect_err(text).to_string();
            assert!(failure.contains(message), "{failure}");
            assert!(!failure.contains('\n'), "{failure}");
        }
    }
}
