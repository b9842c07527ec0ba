//! `scripts/install.sh` on a root directory of its own: what it puts where, that it may be run again, and what it leaves
//! when it takes everything away.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::directory::Directory;
use crate::support::program::binary;

const INSTALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install.sh");
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deploy");
const URL: &str = "postgresql://cloacina:s3cret@db.example.com:5432/cloacina";

/// Each file that it installs, where from, and with which mode.
const FILES: [(&str, &str, u32); 3] = [
    ("etc/systemd/system/cloacinactl.service", "cloacinactl.service", 0o644),
    ("etc/systemd/system/cloacinactl.socket", "cloacinactl.socket", 0o644),
    ("etc/sysusers.d/cloacinactl.conf", "cloacinactl.sysusers", 0o644),
];
const PROGRAM: &str = "usr/local/bin/cloacinactl";
const SECRET: &str = "etc/cloacina/database-url";

/// The files of a system that is not this one.
struct Root(Directory);

/// How the script ended.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn expect(self, code: i32, said: &str) -> Outcome {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let said_on = if code == 0 { &self.stdout } else { &self.stderr };
        assert!(said_on.contains(said), "not said: {said}\n{self:#?}");
        assert!(!self.stdout.contains("s3cret") && !self.stderr.contains("s3cret"), "{self:#?}");
        self
    }
}

impl Root {
    fn new() -> Root {
        Root(Directory::new())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }

    /// Runs it with this on its standard input, which is no terminal.
    fn run_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut child = Command::new(INSTALL)
            .args(["--root".as_ref(), self.0.path().as_os_str()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It need not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_input(arguments, "")
    }

    #[track_caller]
    fn install(&self) -> Outcome {
        let program = binary();
        let arguments = ["--database-url-file", "/dev/stdin", program.to_str().unwrap()];
        self.run_with_input(&arguments, &format!("{URL}\n"))
    }

    /// Everything about everything in it.
    fn snapshot(&self) -> BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.0.path().to_owned()];
        while let Some(path) = left.pop() {
            let about = fs::symlink_metadata(&path).unwrap();
            let content = match about.is_dir() {
                true => {
                    left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                    Vec::new()
                }
                // The password files that nobody may read are not the script's own.
                false => fs::read(&path).unwrap_or_default(),
            };
            found.insert(path, (about.mode(), about.ino(), about.mtime(), about.mtime_nsec(), content));
        }
        found
    }

    #[track_caller]
    fn expect_installed(&self) {
        for (path, source, mode) in FILES {
            assert_eq!(
                self.text(path),
                fs::read_to_string(Path::new(DEPLOY).join(source)).unwrap(),
                "{path}"
            );
            assert_eq!(self.mode(path), mode, "{path}");
        }
        assert!(
            fs::read(self.path(PROGRAM)).unwrap() == fs::read(binary()).unwrap(),
            "it is another program"
        );
        assert_eq!(self.mode(PROGRAM), 0o755);
        assert_eq!(self.text(SECRET).trim_end(), URL);
        assert_eq!((self.mode(SECRET), self.mode("etc/cloacina")), (0o600, 0o700));
        assert!(
            self.text("etc/passwd").contains("\ncloacina:")
                || self.text("etc/passwd").starts_with("cloacina:")
        );
    }

    /// Without root nobody may read them, and the program that removes a user has to.
    fn open_password_files(&self) {
        for name in ["etc/shadow", "etc/gshadow"] {
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn a_second_run_changes_nothing_and_says_so() {
    let root = Root::new();
    root.install().expect(0, "systemctl enable --now cloacinactl");
    root.expect_installed();
    let before = root.snapshot();
    root.install().expect(0, "nothing to change");
    assert_eq!(root.snapshot(), before);
    // The secret of the first run is enough.
    root.run(&[binary().to_str().unwrap()]).expect(0, "nothing to change");
    assert_eq!(root.snapshot(), before);
}

/// A file with the URL that an editor on Windows wrote, and one that it left in the place of the last time.
#[test]
fn an_url_may_end_like_on_windows() {
    let root = Root::new();
    let program = binary();
    let arguments = ["--database-url-file", "/dev/stdin", program.to_str().unwrap()];
    root.run_with_input(&arguments, &format!("{URL}\r\n\r\n")).expect(0, "write");
    assert_eq!(root.text(SECRET), format!("{URL}\n"));
    fs::write(root.path(SECRET), format!("{URL}\r\n")).unwrap();
    root.run(&[program.to_str().unwrap()]).expect(0, "write");
    assert_eq!(root.text(SECRET), format!("{URL}\n"));
}

/// The program of the last time runs, so that writing to its file would be `Text file busy`.
#[test]
fn a_program_that_runs_is_replaced() {
    let root = Root::new();
    root.install();
    fs::remove_file(root.path(PROGRAM)).unwrap();
    fs::copy("/bin/sleep", root.path(PROGRAM)).unwrap();
    let mut running = Command::new(root.path(PROGRAM)).arg("600").spawn().unwrap();
    let busy = fs::File::options().write(true).open(root.path(PROGRAM));
    let outcome = root.install();
    let runs = running.try_wait().unwrap().is_none();
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(busy.is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy));
    outcome.expect(0, "write");
    assert!(runs, "it goes on as it was");
    root.expect_installed();
}

#[test]
fn a_dry_run_changes_nothing() {
    let root = Root::new();
    let empty = root.snapshot();
    let program = binary();
    let program = program.to_str().unwrap();
    let said = root.run(&["--dry-run", program]).expect(0, "would make the user cloacina").stdout;
    for path in FILES.iter().map(|(path, ..)| *path).chain([PROGRAM, SECRET]) {
        assert!(said.contains(&format!("would write {}\n", root.path(path).display())), "{said}");
    }
    assert_eq!(root.snapshot(), empty);
    root.install().expect(0, "");
    let installed = root.snapshot();
    root.run(&["--dry-run", program]).expect(0, "nothing to change");
    root.run(&["--uninstall", "--dry-run"]).expect(0, "would remove");
    let said = root.run(&["--uninstall", "--purge", "--dry-run"]).expect(0, "would remove the user").stdout;
    assert!(said.contains(&format!("would remove {}\n", root.path("etc/cloacina").display())), "{said}");
    assert_eq!(root.snapshot(), installed);
}

#[test]
fn what_has_changed_is_put_right() {
    let root = Root::new();
    root.install().expect(0, "");
    let old = root.path(PROGRAM);
    // A server runs from the old file, which therefore must not be written to.
    let running = fs::File::open(&old).unwrap();
    fs::write(root.path("older"), "an older program").unwrap();
    fs::rename(root.path("older"), &old).unwrap();
    fs::set_permissions(root.path(SECRET), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(root.path(FILES[0].0), "[Service]\n").unwrap();
    let before = fs::metadata(&old).unwrap().ino();
    let said = root.install().expect(0, "write").stdout;
    root.expect_installed();
    assert_ne!(fs::metadata(&old).unwrap().ino(), before, "replaced, not overwritten");
    assert!(!said.contains("cloacinactl.socket") && !said.contains("make the user"), "{said}");
    drop(running);
    // Another database.
    let other = "postgresql:///cloacina?host=/run/postgresql";
    let program = binary();
    let arguments = ["--database-url-file", "/dev/stdin", program.to_str().unwrap()];
    root.run_with_input(&arguments, other).expect(0, "database-url");
    assert_eq!(root.text(SECRET), format!("{other}\n"));
}

#[test]
fn uninstalling_keeps_what_cannot_be_had_again() {
    let root = Root::new();
    root.run(&["--uninstall"]).expect(0, "nothing to remove");
    root.install().expect(0, "");
    let kept = ["var/lib/cloacina/bootstrap-key", "etc/systemd/system/cloacinactl.service.d/override.conf"];
    for path in kept {
        fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
        fs::write(root.path(path), "kept").unwrap();
    }
    let said = root.run(&["--uninstall"]).expect(0, "stays").stdout;
    for path in FILES.iter().map(|(path, ..)| *path).chain([PROGRAM]) {
        assert!(!root.path(path).exists(), "{path} is still there: {said}");
    }
    assert!(kept.iter().all(|path| root.text(path) == "kept"));
    assert_eq!(root.text(SECRET).trim_end(), URL);
    let before = root.snapshot();
    root.run(&["--uninstall"]).expect(0, "nothing to remove");
    assert_eq!(root.snapshot(), before);
    // Back again, with all that was kept.
    root.run(&[binary().to_str().unwrap()]).expect(0, "write");
    root.expect_installed();

    root.open_password_files();
    root.run(&["--uninstall", "--purge"]).expect(0, "remove the user cloacina");
    for gone in ["etc/cloacina", "var/lib/cloacina", "etc/systemd/system/cloacinactl.service.d", PROGRAM] {
        assert!(!root.path(gone).exists(), "{gone}");
    }
    assert!(!root.text("etc/passwd").contains("cloacina"));
    root.run(&["--uninstall", "--purge"]).expect(0, "nothing to remove");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_changed() {
    let root = Root::new();
    let empty = root.snapshot();
    let program = binary();
    let program = program.to_str().unwrap();
    for (arguments, input, code, said) in [
        (&[][..], "", 2, "which BINARY?"),
        (&["--prefix", program], "", 2, "unknown flag --prefix"),
        (&[program, program], "", 2, "one BINARY is enough"),
        (&["--purge", program], "", 2, "--purge goes with --uninstall"),
        (&["--uninstall", program], "", 2, "neither a BINARY"),
        (&["--database-url-file"], "", 2, "--database-url-file needs a value"),
        (&["--database-url-file", "", program], "", 2, "is empty"),
        (&["nonexistent"], "", 1, "nonexistent is not a program"),
        (&["/nonexistent"], "", 1, "/nonexistent is not a program"),
        (&["/bin/true"], "", 1, "/bin/true is no cloacinactl"),
        (&[program], "", 1, "--database-url-file FILE"),
        (&["--database-url-file", "/nonexistent", program], "", 1, "/nonexistent"),
        (&["--database-url-file", "/dev/stdin", program], "", 1, "must be like postgresql://"),
        (
            &["--database-url-file", "/dev/stdin", program],
            "mysql://u:s3cret@h/d",
            1,
            "must be like postgresql://",
        ),
        (&["--database-url-file", "/dev/stdin", program], "postgresql://u:s3cret@h/d\nmore", 1, "line break"),
    ] {
        root.run_with_input(arguments, input).expect(code, said);
        assert_eq!(root.snapshot(), empty, "{arguments:?}");
    }
}

/// What the README has a person type, on a terminal, where the URL is asked for.
#[test]
fn the_command_of_the_readme() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme.split("## Under systemd\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let typed =
        section.lines().find_map(|line| line.trim().strip_prefix("sudo scripts/install.sh ")).unwrap();
    let url = section.split("(here `").nth(1).unwrap().split('`').next().unwrap();
    let root = Root::new();
    let program = typed.replace("target/release/cloacinactl", binary().to_str().unwrap());
    let line = format!("{INSTALL} --root {} {program}", root.0.path().display());
    // `script` makes the terminal.
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut terminal = child.stdin.take().unwrap();
    writeln!(terminal, "{url}").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(terminal);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("URL of the database"), "{said}");
    assert_eq!(root.text(SECRET), format!("{url}\n"));
    for setting in ["/var/lib/cloacina", "/etc/cloacina/database-url", "127.0.0.1:8080", "30 s"] {
        assert!(section.contains(setting), "{setting}");
    }
    let unit = |name: &str| fs::read_to_string(Path::new(DEPLOY).join(name)).unwrap();
    assert!(unit("cloacinactl.socket").contains("\nListenStream=127.0.0.1:8080\n"));
    assert!(unit("cloacinactl.service").contains("\nWatchdogSec=30s\n"));
}
