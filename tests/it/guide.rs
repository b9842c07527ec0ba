//! Every command of the users' guide, as printed, typed into a shell by somebody who has only the program and `jq`.
//! Replaced are the address and the database URL, which the guide's reader has to replace as well.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::Value;

use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::{Ended, Process, binary, send_signal};
use crate::support::wait_for;

/// What the guide says about starting a server. The first word is what it shows with it.
const SERVE: &[(&str, &str)] = &[
    ("default", "cloacinactl serve --database-url postgresql://cloacina:cloacina@localhost:5432/cloacina"),
    (
        "another address",
        "cloacinactl serve \\
--database-url postgresql://cloacina:cloacina@localhost:5432/cloacina \\
--bind 127.0.0.1:9090",
    ),
    (
        "a key by flag",
        "cloacinactl serve \\
--database-url postgresql://... \\
--bootstrap-key \"my-secret-admin-key-here\"",
    ),
    (
        "a key by environment",
        "export CLOACINA_BOOTSTRAP_KEY=\"my-secret-admin-key-here\"
cloacinactl serve --database-url postgresql://...",
    ),
    ("all interfaces", "cloacinactl serve --bind 0.0.0.0:8080"),
    ("this host only", "cloacinactl serve --bind 127.0.0.1:8080"),
    ("verbosity", "RUST_LOG=info cloacinactl serve --database-url postgresql://..."),
];

const CONFIG_SET: &str =
    "cloacinactl config set database_url \"postgresql://cloacina:secret@db.example.com:5432/cloacina\"";

const CREATE: &str = "curl -s -X POST http://localhost:8080/auth/keys \\
-H \"Authorization: Bearer $(cat ~/.cloacina/bootstrap-key)\" \\
-H \"Content-Type: application/json\" \\
-d '{\"name\": \"ci-deploy\"}' | jq";

const HEALTH: &str = "curl -s http://localhost:8080/health | jq";

const READY: &str = "curl -s http://localhost:8080/ready | jq";

const LIST: &str = "curl -s http://localhost:8080/auth/keys \\
-H \"Authorization: Bearer $API_KEY\" | jq";

const REVOKE: &str = "curl -s -X DELETE http://localhost:8080/auth/keys/a1b2c3d4-e5f6-7890-abcd-ef1234567890 \\
-H \"Authorization: Bearer $API_KEY\" | jq";

const ID: &str = "a1b2c3d4-e5f6-7890-abcd-ef1234567890";

/// The reader's shell: a home of its own, and the program on its PATH.
struct Shell {
    home: Directory,
    programs: Directory,
    database_url: String,
}

impl Shell {
    fn new(database: &Database) -> Shell {
        let programs = Directory::new();
        std::os::unix::fs::symlink(fs::canonicalize(binary()).unwrap(), programs.join("cloacinactl"))
            .unwrap();
        Shell { home: Directory::new(), programs, database_url: database.url() }
    }

    /// The command with this reader's own database and a server's own address in it.
    fn command(&self, printed: &str, address: &str) -> Command {
        let mut typed = printed.to_owned();
        for url in [
            "postgresql://cloacina:cloacina@localhost:5432/cloacina",
            "postgresql://cloacina:secret@db.example.com:5432/cloacina",
            "postgresql://...",
        ] {
            typed = typed.replace(url, &self.database_url);
        }
        for port in [":8080", ":9090"] {
            typed = typed.replace(port, address);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command
            .args(["-c", &typed])
            .env_clear()
            .env("PATH", format!("{}:{path}", self.programs.path().display()))
            .env("HOME", self.home.path())
            .current_dir(self.home.path());
        command
    }

    /// Types a command that ends by itself.
    fn run(&self, printed: &str, port: &str, variables: &[(&str, &str)]) -> String {
        let mut command = self.command(printed, port);
        command.envs(variables.iter().copied());
        let ended = Process::start(command).ended().expect_code(0);
        assert_eq!(ended.stderr, "", "{printed}");
        ended.stdout
    }

    /// Types a command that starts a server. Where the guide leaves the address at its default, which can be there
    /// but once, the tests say that any port will do.
    fn serve(&self, printed: &str) -> Served {
        let bind = if printed.contains("--bind") { "" } else { " --bind 0.0.0.0:0" };
        let mut command = self.command(&format!("{printed}{bind}"), ":0");
        // The shell and the server together are what Ctrl-C would reach.
        command.process_group(0);
        let process = Process::start(command);
        let port = process.stdout.wait(|printed| {
            let address = printed.split_once("API server is running on http://")?.1.split_once('\n')?.0;
            Some(format!(":{}", address.trim_end().rsplit_once(':')?.1))
        });
        let Some(port) = port else {
            panic!("{printed}\n{}\n{}", process.stdout.text(), process.stderr.text());
        };
        Served { process, port }
    }

    fn bootstrap_key(&self) -> String {
        self.run("cat ~/.cloacina/bootstrap-key", "", &[]).trim_end().to_owned()
    }
}

struct Served {
    process: Process,
    /// With the colon before it.
    port: String,
}

impl Served {
    fn press_ctrl_c(self) -> Ended {
        send_signal("INT", &format!("-{}", self.process.pid()));
        self.process.ended()
    }
}

#[test]
fn every_command_that_starts_a_server() {
    for (name, printed) in SERVE {
        let database = Database::new();
        let shell = Shell::new(&database);
        if !printed.contains("--database-url") {
            shell.run(CONFIG_SET, "", &[]);
        }
        let served = shell.serve(printed);
        let key = shell.bootstrap_key();
        if printed.contains("my-secret-admin-key-here") {
            assert_eq!(key, "my-secret-admin-key-here", "{name}");
        }
        let listed = shell.run(LIST, &served.port, &[("API_KEY", &key)]);
        let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
        assert_eq!(listed["keys"].as_array().map(Vec::len), Some(1), "{name}: {listed}");
        assert_eq!(shell.run(HEALTH, &served.port, &[]), "{\n  \"status\": \"ok\"\n}\n", "{name}");
        wait_for("the log file that the guide names", || {
            shell.home.join(".cloacina/logs/cloacina-server.log").exists().then_some(())
        });
        let ended = served.press_ctrl_c();
        assert!(!ended.stderr.contains("panicked"), "{name}: {ended:#?}");
    }
}

#[test]
fn every_curl() {
    let database = Database::new();
    let shell = Shell::new(&database);
    let served = shell.serve(SERVE[0].1);
    assert_eq!(shell.run(HEALTH, &served.port, &[]), "{\n  \"status\": \"ok\"\n}\n");
    assert_eq!(shell.run(READY, &served.port, &[]), "{\n  \"status\": \"ready\"\n}\n");

    let created = shell.run(CREATE, &served.port, &[]);
    let made: Value = serde_json::from_str(&created).unwrap_or_else(|error| panic!("{error}: {created}"));
    let field = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("no {name}: {made}")).to_owned();
    let (id, key) = (field("id"), field("key"));
    assert_eq!(
        created,
        format!(
            "{{\n  \"id\": \"{id}\",\n  \"name\": \"ci-deploy\",\n  \"key\": \"{key}\",\n  \
             \"permissions\": \"admin\",\n  \"created_at\": \"{}\"\n}}\n",
            field("created_at")
        )
    );

    let api_key = [("API_KEY", key.as_str())];
    let listed: Value = serde_json::from_str(&shell.run(LIST, &served.port, &api_key)).unwrap();
    assert_eq!(listed["keys"][0]["name"], "ci-deploy");
    assert_eq!(listed["keys"].as_array().map(Vec::len), Some(2));

    let admin = shell.bootstrap_key();
    let revoke = REVOKE.replace(ID, &id);
    let revoked = shell.run(&revoke, &served.port, &[("API_KEY", &admin)]);
    assert_eq!(revoked, format!("{{\n  \"status\": \"revoked\",\n  \"id\": \"{id}\"\n}}\n"));
    let refused = shell.run(LIST, &served.port, &api_key);
    assert_eq!(refused, "{\n  \"error\": \"invalid or revoked API key\"\n}\n");
    // The guide's own id is nobody's.
    let unknown = shell.run(REVOKE, &served.port, &[("API_KEY", &admin)]);
    assert_eq!(unknown, "{\n  \"error\": \"key not found or already revoked\"\n}\n");
    served.press_ctrl_c();
}

#[test]
fn the_database_url_has_three_sources() {
    let database = Database::new();
    let shell = Shell::new(&database);
    // A URL that leads nowhere shows which of two was taken: the one that serves came first.
    let nowhere = "postgresql://nobody@127.0.0.1:1/nothing";
    shell.run(CONFIG_SET, "", &[]);
    let by_config = shell.serve("cloacinactl serve --bind 127.0.0.1:8080");
    by_config.press_ctrl_c();

    shell.run(&format!("cloacinactl config set database_url {nowhere}"), "", &[]);
    let by_environment =
        format!("DATABASE_URL={} cloacinactl serve --bind 127.0.0.1:8080", shell.database_url);
    shell.serve(&by_environment).press_ctrl_c();

    let by_flag = format!(
        "DATABASE_URL={nowhere} cloacinactl serve --bind 127.0.0.1:8080 --database-url postgresql://..."
    );
    shell.serve(&by_flag).press_ctrl_c();
}
