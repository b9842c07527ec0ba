//! The image that `scripts/deploy/Dockerfile` describes, without a container engine: its lines are followed to the
//! letter, on a base of this system's own busybox, and what runs in it runs in a chroot as the image's user. An
//! instruction that nobody has followed here yet fails the test.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::directory::Directory;
use super::program::{Ended, Process, binary};

const DOCKERFILE: &str = include_str!("../../../scripts/deploy/Dockerfile");

/// What scripts/build-static.sh leaves in the directory that the image is built from.
const PROGRAM: &str = concat!("cloacinactl-", env!("CARGO_PKG_VERSION"), "-x86_64-linux-musl");

/// What a container engine gives to a process that its image gives no other.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub struct Image {
    directory: Directory,
    /// `UID:GID`; root until the Dockerfile says otherwise.
    pub user: String,
    pub environment: Vec<(String, String)>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// The words of the HEALTHCHECK, and what it says before them.
    pub health: Vec<String>,
    pub health_options: Vec<(String, String)>,
    pub stop_signal: String,
    pub ports: Vec<String>,
    /// Of the build.
    arguments: Vec<(String, String)>,
}

/// A chroot and other people's files take root. Whoever is not has the test done by sudo: whether it was.
#[track_caller]
pub fn done_as_root(test: &str) -> bool {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    if id == b"0\n" {
        return false;
    }
    let mut sudo = Command::new("sudo");
    // A database's URL may have a password in it; the PATH is what sudo does not let through.
    sudo.args(["--non-interactive", "--preserve-env=CLOACINACTL_BIN,TEST_DATABASE_URL", "env"]);
    sudo.arg(format!("PATH={}", std::env::var("PATH").unwrap())).arg(std::env::current_exe().unwrap());
    let output = sudo.args(["--exact", test, "--nocapture"]).output();
    let output = output.unwrap_or_else(|error| panic!("{test} needs root, and there is no sudo: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test} needs root, by sudo: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

impl Image {
    pub fn build() -> Image {
        let mut image = Image {
            directory: Directory::new(),
            user: "0:0".to_owned(),
            environment: vec![("PATH".to_owned(), PATH.to_owned())],
            entrypoint: Vec::new(),
            command: Vec::new(),
            health: Vec::new(),
            health_options: Vec::new(),
            stop_signal: "SIGTERM".to_owned(),
            ports: Vec::new(),
            arguments: Vec::new(),
        };
        for (number, line) in instructions(DOCKERFILE).iter().enumerate() {
            let (instruction, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no words: {line}"));
            assert_eq!(number == 0, instruction == "FROM", "one FROM, at the top: {line}");
            image.follow(instruction, rest);
        }
        image
    }

    /// A path of the image, as it is seen from outside.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.directory.join("root").join(path.trim_start_matches('/'))
    }

    /// These words with this in the environment besides what the image has, as the image's user.
    pub fn command(&self, words: &[String], environment: &[(String, String)]) -> Command {
        let mut command = Command::new("chroot");
        command
            .arg(format!("--userspec={}", self.user))
            .arg("--groups=")
            .arg(self.outside("/"))
            .args(words)
            .env_clear()
            .envs(self.environment.iter().chain(environment).map(|(name, value)| (name, value)))
            .current_dir("/");
        command
    }

    /// What `docker compose exec` does.
    pub fn exec(&self, words: &[&str], environment: &[(String, String)]) -> Ended {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Process::start(self.command(&words, environment)).ended()
    }

    fn follow(&mut self, instruction: &str, rest: &str) {
        match instruction {
            "FROM" => {
                let tag = rest.strip_prefix("busybox:").unwrap_or_else(|| panic!("not busybox: {rest}"));
                let version = tag.split('-').next().unwrap().split('.');
                assert_eq!(
                    version.filter_map(|part| part.parse::<u32>().ok()).count(),
                    3,
                    "not exact: {tag}"
                );
                self.lay_busybox();
            }
            "ARG" => self.arguments.push(assignment(rest)),
            "ENV" => {
                let (name, value) = assignment(rest);
                self.environment.retain(|(known, _)| *known != name);
                self.environment.push((name, value));
            }
            "COPY" => self.copy(rest),
            "RUN" => {
                let run = ["/bin/sh", "-c", rest];
                self.exec(&run, &self.arguments).expect_code(0);
            }
            "USER" => self.user = rest.to_owned(),
            "EXPOSE" => self.ports.push(rest.to_owned()),
            "STOPSIGNAL" => self.stop_signal = rest.to_owned(),
            "HEALTHCHECK" => {
                let (options, words) = rest.split_once("CMD ").unwrap_or_else(|| panic!("no CMD: {rest}"));
                let options = options.split_whitespace().map(|option| option.trim_start_matches("--"));
                self.health_options = options.map(assignment).collect();
                self.health = exec_form(words);
            }
            "ENTRYPOINT" => self.entrypoint = exec_form(rest),
            "CMD" => self.command = exec_form(rest),
            _ => panic!("nobody has followed this instruction here yet: {instruction} {rest}"),
        }
    }

    /// One file out of the build's directory, root's, with the mode that it has there.
    fn copy(&self, rest: &str) {
        let mut rest = rest.to_owned();
        for (name, value) in &self.arguments {
            rest = rest.replace(&format!("${{{name}}}"), value);
        }
        let words: Vec<&str> = rest.split(' ').collect();
        let [source, destination] = words[..] else { panic!("not one file and a place: COPY {rest}") };
        assert_eq!(source, PROGRAM, "the build's directory has no other file");
        let destination = self.outside(destination);
        make_directories(destination.parent().unwrap());
        place(&binary(), &destination);
        self.lay_libraries(&binary());
    }

    fn lay_busybox(&self) {
        for (directory, mode) in [
            ("/", 0o755),
            ("/bin", 0o755),
            ("/etc", 0o755),
            ("/dev", 0o755),
            ("/proc", 0o755),
            ("/run", 0o755),
            ("/root", 0o700),
            ("/tmp", 0o1777),
            ("/usr", 0o755),
        ] {
            fs::create_dir(self.outside(directory)).unwrap();
            fs::set_permissions(self.outside(directory), fs::Permissions::from_mode(mode)).unwrap();
        }
        for (file, text) in
            [("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("/etc/group", "root:x:0:\n")]
        {
            fs::write(self.outside(file), text).unwrap();
            fs::set_permissions(self.outside(file), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let which = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap().stdout;
        let busybox = PathBuf::from(String::from_utf8(which).unwrap().trim());
        assert!(busybox.is_absolute(), "the tests need busybox: run scripts/install-tools.sh busybox");
        place(&busybox, &self.outside("/bin/busybox"));
        self.lay_libraries(&busybox);
        let applets = Command::new(&busybox).arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8(applets).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", self.outside("/bin").join(applet)).unwrap();
        }
    }

    /// What a program that is not static needs. The real image has none of it.
    fn lay_libraries(&self, program: &Path) {
        // Of a static program it says so, and fails.
        let said = Command::new("ldd").arg(program).output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        for library in said.split_whitespace().filter(|word| word.starts_with('/')) {
            let destination = self.outside(library);
            make_directories(destination.parent().unwrap());
            place(Path::new(library), &destination);
        }
    }
}

/// Without comments and empty lines, what goes on in the next line put together.
fn instructions(text: &str) -> Vec<String> {
    let mut instructions = Vec::new();
    let mut unfinished = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_suffix('\\') {
            Some(begun) => unfinished += begun,
            None => instructions.push(std::mem::take(&mut unfinished) + line),
        }
    }
    assert_eq!(unfinished, "", "the last line goes on");
    instructions
}

fn assignment(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or_else(|| panic!("no assignment: {text}"));
    assert!(!value.contains(['"', '\'', '$', ' ', '\\']), "not taken literally: {text}");
    (name.to_owned(), value.to_owned())
}

/// An array of JSON: no shell takes part.
fn exec_form(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not in exec form: {text}: {error}"))
}

/// Where it is not there yet, and open to everybody whatever our umask is.
fn make_directories(path: &Path) {
    if !path.exists() {
        make_directories(path.parent().unwrap());
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn place(file: &Path, destination: &Path) {
    fs::copy(file, destination).unwrap_or_else(|error| panic!("cannot copy {}: {error}", file.display()));
    fs::set_permissions(destination, fs::Permissions::from_mode(0o755)).unwrap();
    chown(destination, Some(0), Some(0)).unwrap();
}
