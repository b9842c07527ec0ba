//! `scripts/keys.sh` through the shells that small systems have: what it prints, and what it never shows.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::keys::{hash, insert_key, unknown_key};
use crate::keys_command::id_of;
use crate::scratch::{Outcome, outcome};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::Server;

const SHELLS: [&[&str]; 2] = [&["dash"], &["busybox", "sh"]];

/// Somebody with a shell, a home, and an environment that holds nothing else.
struct Caller {
    shell: &'static [&'static str],
    home: Directory,
    environment: Vec<(&'static str, String)>,
}

impl Caller {
    /// The key is in the environment.
    fn of(shell: &'static [&'static str], server: &Server, key: &str) -> Caller {
        let url = format!("http://{}", server.address);
        let environment = vec![("CLOACINA_URL", url), ("CLOACINA_API_KEY", key.to_owned())];
        Caller { shell, home: Directory::new(), environment }
    }

    fn with(mut self, name: &'static str, value: &str) -> Caller {
        self.environment.retain(|(given, _)| *given != name);
        self.environment.push((name, value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Caller {
        self.environment.retain(|(given, _)| *given != name);
        self
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let path = std::env::var("PATH").unwrap_or_default();
        self.run_with_path(&path, arguments)
    }

    fn run_with_path(&self, path: &str, arguments: &[&str]) -> Outcome {
        let shell = program(self.shell[0]);
        let mut command = Command::new(shell);
        command.args(&self.shell[1..]).arg(script()).args(arguments);
        command.env_clear().env("PATH", path).env("HOME", self.home.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        outcome(command.output().unwrap())
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/keys.sh")
}

/// Where the system has a program.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("the tests need {name}: run scripts/install-tools.sh {name}"))
}

/// It worked, and this is what it printed.
#[track_caller]
fn printed(outcome: &Outcome) -> &str {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout.trim_end()
}

#[track_caller]
fn refused(outcome: &Outcome, code: i32, text: &str) {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{outcome:?}");
    let last = outcome.stderr.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("keys.sh: ") && last.contains(text), "no {text:?}: {outcome:?}");
}

#[test]
fn the_life_of_a_key() {
    for shell in SHELLS {
        let database = Database::new();
        let server = Server::start(&database);
        let admin = server.bootstrap_key();
        let caller = Caller::of(shell, &server, &admin);

        let outcome = caller.run(&["create", "say \"hi\" & $(id) é\\n", "read", "90d"]);
        let key = printed(&outcome).to_owned();
        let (id, name): (String, String) = {
            let row = database
                .client()
                .query_one("SELECT id::text, name::text FROM api_keys WHERE key_hash = $1", &[&hash(&key)])
                .unwrap();
            (row.get(0), row.get(1))
        };
        assert_eq!(name, "say \"hi\" & $(id) é\\n");
        assert_eq!(outcome.stderr, format!("keys.sh: created {name} {id}\n"));
        assert_eq!(outcome.stdout, format!("{key}\n"));

        let own = Caller::of(shell, &server, &key).run(&["whoami"]);
        let own: Value = serde_json::from_str(printed(&own)).unwrap();
        assert_eq!((&own["id"], &own["permissions"]), (&id.as_str().into(), &"read".into()));
        assert!(own["expires_at"].is_string());

        let outcome = caller.run(&["rotate", &id, "1h"]);
        let next = printed(&outcome).to_owned();
        assert!(outcome.stderr.starts_with(&format!("keys.sh: rotated {id} to say ")), "{outcome:?}");
        for key in [&key, &next] {
            server.get("/auth/verify", Some(key)).expect_status(204);
        }
        let next_id: String =
            database.value(&format!("SELECT id::text FROM api_keys WHERE rotated_from = '{id}'"));
        let newest = printed(&caller.run(&["rotate", &next_id])).to_owned();
        server.get("/auth/verify", Some(&next)).expect_status(401);
        server.get("/auth/verify", Some(&newest)).expect_status(204);

        caller.run(&["revoke", &id]).printed(&format!("revoked {id}\n"));
        server.get("/auth/verify", Some(&key)).expect_status(401);
        refused(&caller.run(&["revoke", &id]), 1, "key not found or already revoked");

        let listed = caller.run(&["list"]);
        let listed: Vec<Value> =
            printed(&listed).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(listed.len(), 4);
        assert_eq!(listed[3]["name"], "bootstrap");
        assert_eq!(listed[2]["name"], name.as_str());
    }
}

#[test]
fn a_list_follows_its_pages_and_obeys_no_name() {
    for shell in SHELLS {
        let database = Database::new();
        let server = Server::start(&database);
        let admin = server.bootstrap_key();
        database.execute(
            "INSERT INTO api_keys (id, key_hash, name, permissions, created_at)
             SELECT gen_random_uuid(), lpad(to_hex(i), 64, '0'), E'k\\u001b[31m\\u009b ' || i, 'read', now()
             FROM generate_series(1, 1099) i",
        );
        let listed = Caller::of(shell, &server, &admin).run(&["list"]);
        let lines: Vec<&str> = printed(&listed).lines().collect();
        assert_eq!((lines.len(), listed.stderr.as_str()), (1100, ""));
        assert!(!listed.stdout.contains(|c: char| c != '\n' && c.is_control()));
        let ids: std::collections::BTreeSet<String> = lines
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids.len(), 1100);
    }
}

#[test]
fn where_the_key_comes_from() {
    for shell in SHELLS {
        let database = Database::new();
        let server = Server::start(&database);
        let admin = server.bootstrap_key();
        insert_key(&database, "a-key-from-the-environment", "environment", "read");
        insert_key(&database, "a-key-from-a-file#'\"\\%$x`", "file", "read");
        let whoami = |caller: &Caller| {
            let outcome = caller.run(&["whoami"]);
            serde_json::from_str::<Value>(printed(&outcome)).unwrap()["name"].as_str().unwrap().to_owned()
        };
        let nobody = || Caller::of(shell, &server, "").without("CLOACINA_API_KEY");
        let caller = nobody();
        refused(&caller.run(&["whoami"]), 1, "CLOACINA_API_KEY_FILE");
        fs::create_dir(caller.home.join(".cloacina")).unwrap();
        fs::write(caller.home.join(".cloacina/bootstrap-key"), format!("{admin}\n")).unwrap();
        assert_eq!(whoami(&caller), "bootstrap");
        let file = caller.home.join("key file");
        fs::write(&file, "a-key-from-a-file#'\"\\%$x`").unwrap();
        let caller = caller.with("CLOACINA_API_KEY_FILE", file.to_str().unwrap());
        assert_eq!(whoami(&caller), "file");
        let caller = caller.with("CLOACINA_API_KEY", "a-key-from-the-environment");
        assert_eq!(whoami(&caller), "environment");
        // The end of an URL does not matter.
        let url = format!("http://{}/", server.address);
        assert_eq!(whoami(&caller.with("CLOACINA_URL", &url)), "environment");
        refused(&nobody().with("CLOACINA_API_KEY_FILE", "/nowhere").run(&["list"]), 1, "CLOACINA_API_KEY");
        // As an editor on Windows leaves it.
        let directory = Directory::new();
        let file = directory.join("key file");
        fs::write(&file, "a-key-from-a-file#'\"\\%$x`\r\n").unwrap();
        let windows = nobody().with("CLOACINA_API_KEY_FILE", file.to_str().unwrap());
        assert_eq!(whoami(&windows), "file");
        assert_eq!(
            whoami(&nobody().with("CLOACINA_API_KEY", "a-key-from-the-environment\r\n")),
            "environment"
        );
        let quoted = nobody().with("CLOACINA_API_KEY", &format!("\"{admin}\"")).run(&["list"]);
        refused(&quoted, 1, "remove the quotes");
        assert!(!quoted.stderr.contains(&admin));
        let two_lines = format!("{}\n{}", &admin[..20], &admin[20..]);
        refused(&nobody().with("CLOACINA_API_KEY", &two_lines).run(&["list"]), 1, "line break in the key");
        fs::write(&file, "\r\n").unwrap();
        refused(
            &nobody().with("CLOACINA_API_KEY_FILE", file.to_str().unwrap()).run(&["list"]),
            1,
            "is empty",
        );
        for broken in ["two words", "a\nX-Forged: yes", "caf\u{e9}-caf\u{e9}-caf\u{e9}"] {
            let outcome = nobody().with("CLOACINA_API_KEY", broken).run(&["list"]);
            refused(&outcome, 1, "visible characters");
            assert!(!outcome.stderr.contains(broken));
        }
    }
}

#[test]
fn what_goes_wrong_is_said_and_has_a_code() {
    for shell in SHELLS {
        let database = Database::new();
        let server = Server::start(&database);
        let admin = server.bootstrap_key();
        insert_key(&database, "a-key-that-may-only-read", "reader", "read");
        let caller = Caller::of(shell, &server, &admin);
        refused(&caller.run(&["create", ""]), 1, "name: must not be empty");
        refused(&caller.run(&["create", "x", "root"]), 1, "permissions: `root` is unknown");
        refused(&caller.run(&["create", "x", "", "soon"]), 1, "expires_in: expected");
        let id = id_of(&database, "reader");
        refused(&caller.run(&["rotate", &id, "soon"]), 1, "grace: expected");
        let reader = Caller::of(shell, &server, "a-key-that-may-only-read");
        refused(&reader.run(&["list"]), 1, "insufficient permissions");
        let stranger = unknown_key();
        let outcome = Caller::of(shell, &server, &stranger).run(&["list"]);
        refused(&outcome, 1, "invalid or revoked API key");
        assert!(!outcome.stderr.contains(&stranger));
        let wrong_path = caller.environment[0].1.clone() + "/api";
        refused(
            &Caller::of(shell, &server, &admin).with("CLOACINA_URL", &wrong_path).run(&["list"]),
            1,
            "not found",
        );
        let nobody = Caller::of(shell, &server, &admin).with("CLOACINA_URL", "http://127.0.0.1:1");
        refused(&nobody.run(&["list"]), 1, "no answer from http://127.0.0.1:1");
        let outcome =
            Caller::of(shell, &server, &admin).with("CLOACINA_URL", "http://u:topsecret@h").run(&["list"]);
        refused(&outcome, 2, "CLOACINA_URL");
        assert!(!outcome.stderr.contains("topsecret"));
        refused(
            &Caller::of(shell, &server, &admin).with("CLOACINA_URL", "localhost").run(&["list"]),
            2,
            "http://",
        );
        for usage in [
            [].as_slice(),
            &["lst"],
            &["create"],
            &["create", "a", "b", "c", "d"],
            &["list", "x"],
            &["revoke"],
            &["revoke", "../health"],
            &["rotate", "x"],
            &["whoami", "x"],
        ] {
            refused(&caller.run(usage), 2, "--help");
        }
        for help in ["--help", "-h", "help"] {
            let outcome = caller.run(&[help]);
            assert!(printed(&outcome).contains("usage: keys.sh create NAME"), "{outcome:?}");
            assert!(
                !outcome.stdout.contains("set -eu") && outcome.stdout.contains("Exit code"),
                "{outcome:?}"
            );
        }
    }
}

/// Programs that note their arguments and environment, and then do what they are called for.
#[test]
fn no_process_shows_a_key() {
    for shell in SHELLS {
        let database = Database::new();
        let server = Server::start(&database);
        let admin = server.bootstrap_key();
        let caller = Caller::of(shell, &server, &admin);
        let programs = Directory::new();
        let notes = programs.join("notes");
        for name in ["curl", "jq", "cat", "sed", "printf"] {
            let wrapper = format!(
                "#!/bin/sh\ncat /proc/$$/cmdline /proc/$$/environ | tr '\\0' '\\n' >>'{}'\nexec '{}' \"$@\"\n",
                notes.display(),
                program(name).display()
            )
            .replace("\ncat ", &format!("\n'{}' ", program("cat").display()));
            fs::write(programs.join(name), wrapper).unwrap();
            fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
        let key = printed(&caller.run_with_path(&path, &["create", "seen"])).to_owned();
        let rotated =
            printed(&caller.run_with_path(&path, &["rotate", &id_of(&database, "seen")])).to_owned();
        for arguments in [["list"], ["whoami"]] {
            printed(&caller.run_with_path(&path, &arguments));
        }
        let file = programs.join("key");
        fs::write(&file, &admin).unwrap();
        let caller = caller.without("CLOACINA_API_KEY").with("CLOACINA_API_KEY_FILE", file.to_str().unwrap());
        printed(&caller.run_with_path(&path, &["list"]));
        let notes = fs::read_to_string(&notes).unwrap();
        assert!(notes.contains("/auth/keys") && notes.contains("--header\n@-"), "nothing was noted: {notes}");
        for key in [&admin, &key, &rotated] {
            assert!(!notes.contains(&key[..20]), "a process showed a key: {notes}");
        }
    }
}
