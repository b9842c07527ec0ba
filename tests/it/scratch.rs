//! A home of its own for every test, and the program run in it with nothing else in its environment.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::program::binary;

/// The directory that is `HOME`; it goes when it is dropped.
pub struct Scratch(PathBuf);

/// How the program ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cloacina-it-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in `~/.cloacina`.
    pub fn home(&self, name: &str) -> PathBuf {
        self.0.join(".cloacina").join(name)
    }

    pub fn write_config(&self, text: &str) {
        fs::create_dir_all(self.home("")).unwrap();
        fs::write(self.home("config.toml"), text).unwrap();
    }

    pub fn config(&self) -> String {
        fs::read_to_string(self.home("config.toml")).unwrap()
    }

    /// The program, with `HOME` and nothing else in its environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().env("HOME", &self.0).current_dir(&self.0);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        outcome(self.command(arguments).output().unwrap())
    }

    pub fn run_with<V: AsRef<OsStr>>(&self, variables: &[(&str, V)], arguments: &[&str]) -> Outcome {
        let variables = variables.iter().map(|(name, value)| (name, value.as_ref()));
        outcome(self.command(arguments).envs(variables).output().unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Outcome {
    /// It worked, and said nothing but this.
    #[track_caller]
    pub fn printed(&self, stdout: &str) {
        assert_eq!((self.code, self.stdout.as_str(), self.stderr.as_str()), (Some(0), stdout, ""));
    }

    /// It failed with this code and one line on stderr that has all of these texts in it.
    #[track_caller]
    pub fn failed(&self, code: i32, texts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        assert!(self.stderr.starts_with("cloacinactl: "), "{self:?}");
        assert_eq!(self.stderr.matches('\n').count(), 1, "{self:?}");
        for text in texts {
            assert!(self.stderr.contains(text), "no {text:?} in {:?}", self.stderr);
        }
    }
}

pub fn outcome(output: Output) -> Outcome {
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}
