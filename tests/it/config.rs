//! Settings: where they come from, which of them counts, and `config get`, `set`, `unset` and `list`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;
use std::thread;

use crate::scratch::{Outcome, Scratch, mode, outcome};

const URL: &str = "postgresql://cloacina:topsecret@127.0.0.1:1/cloacina";

/// `serve` with flags that are found wrong before anything is done.
fn serve(scratch: &Scratch, flags: &[&str]) -> Outcome {
    scratch.run(&["serve"].iter().chain(flags).copied().collect::<Vec<_>>())
}

#[test]
fn a_database_url_is_required() {
    let scratch = Scratch::new();
    scratch.run(&["serve"]).failed(2, &["--database-url", "DATABASE_URL", "database_url", "config set"]);
    scratch.run_with(&[("DATABASE_URL", "")], &["serve"]).failed(2, &["no database URL"]);
    assert!(!scratch.home("").exists());
}

#[test]
fn a_wrong_database_url_is_named_and_not_shown() {
    let scratch = Scratch::new();
    for url in ["postgresql://u:topsecret", "postgresql://u:topsecret@h:port/d", "topsecret", ""] {
        let outcome = serve(&scratch, &["--database-url", url]);
        outcome.failed(2, &["`--database-url`", "postgresql://USER:PASSWORD@HOST:5432/DATABASE"]);
        assert!(!outcome.stderr.contains("topsecret"), "{outcome:?}");
    }
    scratch.run_with(&[("DATABASE_URL", "x")], &["serve"]).failed(2, &["`DATABASE_URL`"]);
    scratch.write_config("database_url = 'x'");
    scratch.run(&["serve"]).failed(2, &["`database_url` in ", "config.toml, line 1"]);
}

#[test]
fn precedence() {
    let scratch = Scratch::new();
    let get = |variables: &[(&str, &str)]| scratch.run_with(variables, &["config", "get", "workers"]);
    get(&[]).printed("8\n");
    scratch.write_config("workers = 2");
    get(&[]).printed("2\n");
    get(&[("CLOACINA_WORKERS", "")]).printed("2\n");
    get(&[("CLOACINA_WORKERS", "3")]).printed("3\n");
    // A flag that is right hides a variable that is not; the complaint is of the next setting then.
    let serve = |flags: &[&str]| {
        let arguments: Vec<_> = ["serve"].iter().chain(flags).copied().collect();
        scratch.run_with(&[("CLOACINA_WORKERS", "many"), ("DATABASE_URL", "x")], &arguments)
    };
    serve(&[]).failed(2, &["`DATABASE_URL`"]);
    serve(&["--database-url", URL]).failed(2, &["invalid value `many` for `CLOACINA_WORKERS`"]);
    serve(&["--database-url", URL, "--workers", "0"])
        .failed(2, &["invalid value `0` for `--workers`", "1 to 1024"]);
}

#[test]
fn every_setting_is_checked_wherever_it_comes_from() {
    let list = Scratch::new().run(&["config", "list"]).stdout;
    let mut seen = 0;
    for line in list.lines() {
        let (key, default) = line.split_once(" = ").unwrap();
        let flag = format!("--{}", key.replace('_', "-"));
        let variable = format!("CLOACINA_{}", key.to_uppercase());
        let scratch = Scratch::new();
        // A switch has no value on the command line.
        if default != "false" {
            serve(&scratch, &["--database-url", URL, &flag, "nonsense"])
                .failed(2, &[&flag, "`nonsense`", "must be"]);
        }
        scratch
            .run_with(&[(&variable, "nonsense")], &["config", "list"])
            .failed(2, &[&variable, "`nonsense`"]);
        let not_text = OsString::from_vec(vec![0xff]);
        scratch
            .run_with(&[(&variable, not_text)], &["config", "get", key])
            .failed(2, &[&variable, "not UTF-8"]);
        scratch.run(&["config", "set", key, "nonsense"]).failed(2, &[key, "`nonsense`", "must be"]);
        scratch.write_config(&format!("\n{key} = []"));
        scratch.run(&["config", "list"]).failed(2, &["config.toml, line 2, column 1", key, "array"]);
        scratch.write_config("");
        scratch.run(&["config", "set", key, default]).printed("");
        scratch.run(&["config", "get", key]).printed(&format!("{default}\n"));
        seen += 1;
    }
    assert_eq!(seen, 19);
}

#[test]
fn ranges() {
    let scratch = Scratch::new();
    for (key, wrong) in [
        ("workers", "1025"),
        ("workers", "-1"),
        ("pool_size", "0"),
        ("queue", "1.5"),
        ("request_timeout", "0"),
        ("request_timeout", "61m"),
        ("idle_timeout", "25h"),
        ("bind", "localhost:8080"),
        ("bind", "8080"),
        ("bind", "0.0.0.0:99999"),
        ("trusted_proxies", "localhost"),
        ("trusted_proxies", "10.0.0.0/33"),
        ("trusted_proxies", "10.1.2.3/8"),
        ("tenant_database_host", "a.example,b.example"),
        ("tenant_database_host", "::1"),
        ("tenant_database_host", "db.example:0"),
    ] {
        scratch.run(&["config", "set", key, "--", wrong]).failed(2, &[wrong, key, "must be"]);
    }
    for (key, right) in [
        ("auth_cache_size", "0"),
        ("trusted_proxies", "127.0.0.1, ::1,10.0.0.0/8"),
        ("shutdown_timeout", "0"),
        ("bind", "[::]:8080"),
        ("bind", "127.0.0.1:0"),
        ("tenant_database_host", "db.example"),
        ("tenant_database_host", "[2001:db8::1]:6432"),
        ("tenant_database_host", "/run/postgresql"),
    ] {
        scratch.run(&["config", "set", key, right]).printed("");
    }
}

#[test]
fn secrets_from_files() {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("url"), format!("{URL}\n")).unwrap();
    fs::write(scratch.path().join("empty"), "\n").unwrap();
    let url = [("DATABASE_URL_FILE", "url")];
    scratch.run_with(&url, &["config", "get", "database_url"]).printed(&format!("{URL}\n"));
    scratch.run_with(&url, &["config", "get", "database_url_file"]).printed("url\n");
    // Not read for a listing.
    let list = scratch.run_with(&[("DATABASE_URL_FILE", "gone")], &["config", "list"]);
    assert!(list.stdout.contains("database_url_file = gone\n"), "{list:?}");
    serve(&scratch, &["--database-url-file", "gone"])
        .failed(2, &["gone", "`--database-url-file`", "No such file"]);
    serve(&scratch, &["--database-url-file", "empty"])
        .failed(2, &["empty (`--database-url-file`)", "it is empty"]);
    serve(&scratch, &["--database-url-file", "/"]).failed(2, &["is a directory"]);
    serve(&scratch, &["--database-url-file", "/dev/zero"]).failed(2, &["not a plain file"]);
    fs::write(scratch.path().join("long"), "x".repeat(64 * 1024 + 1)).unwrap();
    serve(&scratch, &["--database-url-file", "long"]).failed(2, &["longer than 64 KiB"]);
    serve(&scratch, &["--database-url", URL, "--bootstrap-key-file", "gone"])
        .failed(2, &["gone", "--bootstrap-key-file"]);
    // A file that config.toml names is looked for beside it.
    scratch.write_config("database_url_file = 'url'");
    fs::write(scratch.home("url"), "postgresql://beside\r\n").unwrap();
    scratch.run(&["config", "get", "database_url"]).printed("postgresql://beside\n");
    // A wrong value in a file is told by the file.
    fs::write(scratch.home("url"), "topsecret").unwrap();
    let outcome = scratch.run(&["serve"]);
    outcome.failed(2, &[".cloacina/url", "database_url_file", "config.toml, line 1"]);
    assert!(!outcome.stderr.contains("topsecret"));
}

#[test]
fn a_secret_and_its_file_on_one_level_are_an_error_that_names_both() {
    let scratch = Scratch::new();
    let both = serve(&scratch, &["--database-url", URL, "--database-url-file", "f"]);
    both.failed(2, &["both `--database-url` and `--database-url-file`"]);
    let variables =
        [("CLOACINA_BOOTSTRAP_KEY", "k"), ("CLOACINA_BOOTSTRAP_KEY_FILE", "f"), ("DATABASE_URL", URL)];
    let both = scratch.run_with(&variables, &["serve"]);
    both.failed(2, &["both `CLOACINA_BOOTSTRAP_KEY` and `CLOACINA_BOOTSTRAP_KEY_FILE`"]);
    scratch.run(&["config", "set", "database_url", URL]).printed("");
    let both = scratch.run(&["config", "set", "database_url_file", "f"]);
    both.failed(2, &["both `database_url` in ", "`database_url_file` in "]);
    assert_eq!(scratch.config(), format!("database_url = \"{URL}\"\n"));
    // On two levels, the higher one counts.
    fs::write(scratch.path().join("f"), "postgresql://other").unwrap();
    let get = scratch.run_with(&[("DATABASE_URL_FILE", "f")], &["config", "get", "database_url"]);
    get.printed("postgresql://other\n");
}

#[test]
fn get() {
    let scratch = Scratch::new();
    scratch.run(&["config", "get", "bind"]).printed("0.0.0.0:8080\n");
    scratch.run(&["config", "get", "database_url"]).failed(1, &["`database_url` has no value"]);
    scratch
        .run(&["config", "get", "databse_url"])
        .failed(2, &["unknown key `databse_url`", "bind, database_url"]);
    scratch.run(&["config", "set", "database_url", URL]).printed("");
    scratch.run(&["config", "get", "database_url"]).printed(&format!("{URL}\n"));
    scratch.run(&["config", "get", "database_url_file"]).failed(1, &["has no value"]);
}

#[test]
fn list_masks_what_is_secret() {
    let scratch = Scratch::new();
    scratch.run(&["config", "set", "database_url", URL]).printed("");
    scratch.run(&["config", "set", "bootstrap_key", "topsecret-topsecret"]).printed("");
    let list = scratch.run(&["config", "list"]).stdout;
    assert!(
        list.starts_with(
            "bind = 0.0.0.0:8080\ndatabase_url = postgresql://cloacina:***@127.0.0.1:1/cloacina\n\
             bootstrap_key = ***\nworkers = 8\n"
        ),
        "{list}"
    );
    for url in ["host=h user=u password=topsecret", "postgresql://h/d?user=u&password=topsecret"] {
        let list = scratch.run_with(&[("DATABASE_URL", url)], &["config", "list"]).stdout;
        assert!(list.contains("password=***") && !list.contains("topsecret"), "{list}");
    }
}

#[test]
fn set_keeps_everything_else() {
    let scratch = Scratch::new();
    let text = "# mine\nworkers = 4  # of two cores\n\nbind = '127.0.0.1:9090'\n# end\n";
    scratch.write_config(text);
    scratch.run(&["config", "set", "workers", "8"]).printed("");
    assert_eq!(scratch.config(), text.replace("= 4", "= 8"));
    scratch.run(&["config", "set", "idle_timeout", "5m"]).printed("");
    scratch.run(&["config", "set", "request_timeout", "5"]).printed("");
    assert_eq!(scratch.config(), text.replace("= 4", "= 8") + "idle_timeout = \"5m\"\nrequest_timeout = 5\n");
}

#[test]
fn set_makes_private_files() {
    let scratch = Scratch::new();
    scratch.run(&["config", "set", "workers", "8"]).printed("");
    assert_eq!(mode(&scratch.home("")), 0o700);
    assert_eq!(mode(&scratch.home("config.toml")), 0o600);
    // One that was open to others is closed.
    scratch.write_config("# x\n");
    fs::set_permissions(scratch.home("config.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    scratch.run(&["config", "set", "workers", "8"]).printed("");
    assert_eq!(mode(&scratch.home("config.toml")), 0o600);
    assert_eq!(fs::read_dir(scratch.home("")).unwrap().count(), 1);
}

#[test]
fn set_writes_behind_a_link() {
    let scratch = Scratch::new();
    let target = scratch.path().join("elsewhere.toml");
    fs::create_dir(scratch.home("")).unwrap();
    symlink("../elsewhere.toml", scratch.home("config.toml")).unwrap();
    // At first the link leads to nothing.
    for workers in ["3", "4"] {
        scratch.run(&["config", "set", "workers", workers]).printed("");
        assert!(fs::symlink_metadata(scratch.home("config.toml")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), format!("workers = {workers}\n"));
    }
}

#[test]
fn set_replaces_the_file_whole() {
    let scratch = Scratch::new();
    scratch.run(&["config", "set", "workers", "8"]).printed("");
    let before = fs::metadata(scratch.home("config.toml")).unwrap().ino();
    let held = fs::File::open(scratch.home("config.toml")).unwrap();
    scratch.run(&["config", "set", "workers", "9"]).printed("");
    assert_ne!(fs::metadata(scratch.home("config.toml")).unwrap().ino(), before);
    assert_eq!(std::io::read_to_string(held).unwrap(), "workers = 8\n");
}

/// What a shell does first, and then the program in its place, under the same process id.
fn after(scratch: &Scratch, prelude: &str, arguments: &[&str]) -> Outcome {
    let program = scratch.command(&[]);
    let mut command = Command::new("sh");
    command.env_clear().env("HOME", scratch.path()).current_dir(scratch.path());
    command.args(["-c", &format!("{prelude}; exec \"$@\""), "sh"]).arg(program.get_program()).args(arguments);
    outcome(command.output().unwrap())
}

#[test]
fn a_set_that_died_is_in_nobodys_way() {
    let scratch = Scratch::new();
    scratch.write_config("workers = 8\n");
    let left = "echo 'workers = 9' > .cloacina/.config.toml.$$.new";
    after(&scratch, left, &["config", "set", "queue", "7"]).printed("");
    assert_eq!(scratch.config(), "workers = 8\nqueue = 7\n");
    assert_eq!(fs::read_dir(scratch.home("")).unwrap().count(), 1);
}

#[test]
fn a_set_without_room_changes_nothing_and_leaves_nothing_behind() {
    let scratch = Scratch::new();
    scratch.write_config("workers = 8\n");
    let no_room = "trap '' XFSZ; ulimit -f 0";
    after(&scratch, no_room, &["config", "set", "queue", "7"]).failed(1, &["cannot write", "config.toml"]);
    assert_eq!(scratch.config(), "workers = 8\n");
    assert_eq!(fs::read_dir(scratch.home("")).unwrap().count(), 1);
}

/// root may set what another user's server reads.
#[test]
fn a_set_leaves_the_file_its_owner() {
    let scratch = Scratch::new();
    scratch.write_config("workers = 8\n");
    let file = scratch.home("config.toml");
    let (user, group) = {
        let ours = fs::metadata(&file).unwrap();
        if ours.uid() == 0 { (12_345, 12_346) } else { (ours.uid(), ours.gid()) }
    };
    std::os::unix::fs::chown(&file, Some(user), Some(group)).unwrap();
    scratch.run(&["config", "set", "queue", "7"]).printed("");
    let now = fs::metadata(&file).unwrap();
    assert_eq!((now.uid(), now.gid()), (user, group));
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn sets_at_the_same_time_lose_nothing() {
    let scratch = Scratch::new();
    let keys = ["workers", "pool_size", "queue", "max_connections", "auth_cache_size", "idle_timeout"];
    thread::scope(|scope| {
        for key in keys {
            scope.spawn(|| scratch.run(&["config", "set", key, "77"]).printed(""));
        }
    });
    for key in keys {
        assert!(scratch.config().contains(&format!("{key} = 77\n")), "{}", scratch.config());
    }
}

#[test]
fn set_refuses_what_it_does_not_know() {
    let scratch = Scratch::new();
    scratch
        .run(&["config", "set", "databse_url", URL])
        .failed(2, &["unknown key `databse_url`", "bind, database_url"]);
    let refused = scratch.run(&["config", "set", "database_url", "topsecret"]);
    refused.failed(2, &["`database_url`", "postgresql://"]);
    assert!(!refused.stderr.contains("topsecret"));
    assert!(!scratch.home("").exists());
}

#[test]
fn a_broken_file_stops_every_command() {
    let scratch = Scratch::new();
    for (text, place) in [
        ("workers = 1\ndatabase_url = postgresql://u:topsecret@h/d\n", "config.toml, line 2, column 16: "),
        (
            "workers = 1\nworkrs = 1\n",
            "config.toml, line 2, column 1: unknown key `workrs` (did you mean `workers`?); known keys are bind",
        ),
        ("\nworkers = 'many'", "config.toml, line 2, column 1: `workers` must be an integer"),
        ("\nworkers = 0", "`workers` in "),
        ("[workers]", "config.toml, line 1, column 2: "),
    ] {
        scratch.write_config(text);
        for arguments in [
            ["serve", "--database-url", URL].as_slice(),
            &["config", "list"],
            &["config", "get", "bind"],
            &["config", "set", "queue", "1"],
            &["health"],
        ] {
            let outcome = scratch.run(arguments);
            outcome.failed(2, &[place]);
            assert!(!outcome.stderr.contains("topsecret"));
        }
        assert_eq!(scratch.config(), text);
        scratch.run(&["help"]);
    }
    fs::write(scratch.home("config.toml"), b"# \xc3\xa9\n# \xff\n").unwrap();
    scratch.run(&["config", "list"]).failed(2, &["config.toml, line 2, column 3: not UTF-8"]);
}

#[test]
fn a_home_that_cannot_be_one() {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("file"), "").unwrap();
    for home in ["file", "file/below"] {
        for arguments in [
            ["config", "list"].as_slice(),
            &["config", "set", "queue", "1"],
            &["serve", "--database-url", URL],
        ] {
            let all: Vec<_> = ["--home", home].iter().chain(arguments).copied().collect();
            scratch.run(&all).failed(1, &[home, "ot a directory"]);
        }
    }
    fs::create_dir_all(scratch.home("config.toml")).unwrap();
    scratch.run(&["config", "list"]).failed(1, &["cannot read", "config.toml", "directory"]);
}

#[test]
fn the_home_flag() {
    let scratch = Scratch::new();
    scratch.run(&["--home", "a/b", "config", "set", "workers", "2"]).printed("");
    assert_eq!(mode(&scratch.path().join("a/b")), 0o700);
    scratch.run(&["config", "get", "workers", "--home=a/b"]).printed("2\n");
    assert!(!scratch.home("").exists());
    let output = scratch.command(&["config", "get", "workers"]).output().unwrap();
    outcome(output).printed("8\n");
}

#[test]
fn unset_takes_one_value_out_and_leaves_the_rest() {
    let scratch = Scratch::new();
    let unset = |key: &str| scratch.run(&["config", "unset", key]);
    unset("workers").printed("");
    assert!(!scratch.home("").exists(), "nothing is made where there is nothing to take out");
    scratch.write_config("# mine\n\nworkers = 2 # why\n# of the bind\nbind = '1.1.1.1:1'\n");
    unset("workers").printed("");
    assert_eq!(scratch.config(), "# mine\n\n# of the bind\nbind = '1.1.1.1:1'\n");
    assert_eq!(mode(&scratch.home("config.toml")), 0o600);
    scratch.run(&["config", "get", "workers"]).printed("8\n");
    unset("workers").printed("");
    unset("wrokers").failed(2, &["unknown key `wrokers` (did you mean `workers`?)", "known keys are bind"]);
    scratch.run(&["config", "unset"]).failed(2, &["`config unset` takes one KEY"]);
    scratch.write_config("oops");
    unset("workers").failed(2, &["config.toml, line 1"]);
    assert_eq!(scratch.config(), "oops");
}

/// A wrong key in the file is told with what was meant.
#[test]
fn a_mistyped_key_of_the_file_has_a_suggestion() {
    let scratch = Scratch::new();
    scratch.write_config("databse_url = 'postgresql://u:topsecret@h/d'");
    scratch.run(&["config", "list"]).failed(2, &["unknown key `databse_url` (did you mean `database_url`?)"]);
}

/// As an editor on Windows leaves it.
#[test]
fn secrets_in_files_may_end_like_on_windows() {
    let scratch = Scratch::new();
    let file = scratch.path().join("url");
    fs::write(&file, format!("{URL}\r\n")).unwrap();
    let get = |key| {
        scratch.run_with(
            &[("DATABASE_URL_FILE", &file), ("CLOACINA_BOOTSTRAP_KEY_FILE", &file)],
            &["config", "get", key],
        )
    };
    get("database_url").printed(&format!("{URL}\n"));
    get("bootstrap_key").printed(&format!("{URL}\n"));
}

/// `scripts/deploy/config.toml` has every setting that `serve --help` has, in its order, with its help and its default.
#[test]
fn the_example_names_every_setting_and_its_default() {
    let example = include_str!("../../scripts/deploy/config.toml");
    let help = Scratch::new().run(&["serve", "--help"]).stdout;
    let keys = |line: &str| {
        line.split_once("key: ").map(|(_, rest)| rest.split([',', ']']).next().unwrap().to_owned())
    };
    let settings: Vec<String> = help.lines().filter_map(keys).collect();
    let lines: Vec<&str> = example.lines().collect();
    let given: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("# ")?.split_once(" = ")).collect();
    assert_eq!(given.iter().map(|(key, _)| (*key).to_owned()).collect::<Vec<_>>(), settings);
    assert!(
        lines.iter().all(|line| line.is_empty() || line.starts_with("# ")),
        "it changes nothing as it is"
    );
    for (key, value) in given {
        let at = lines.iter().position(|line| line.starts_with(&format!("# {key} = "))).unwrap();
        let explained = lines[at - 1].strip_prefix("# ").unwrap();
        let explained = explained.strip_suffix(" This is an example.").unwrap_or(explained);
        assert!(help.contains(explained), "{key}: {explained}");
        let scratch = Scratch::new();
        let default = scratch.run(&["config", "get", key]);
        scratch.write_config(&format!("{key} = {value}\n"));
        let taken = scratch.run(&["config", "get", key]);
        assert_eq!(taken.code, Some(0), "{key}: {taken:?}");
        if default.code == Some(0) {
            assert_eq!(taken.stdout, default.stdout, "{key}");
        } else {
            assert!(lines[at - 1].ends_with(" This is an example."), "{key}");
        }
    }
}

#[test]
fn a_switch_is_true_or_false() {
    let scratch = Scratch::new();
    scratch.run(&["config", "get", "access_log"]).printed("false\n");
    scratch.run(&["config", "set", "access_log", "true"]).printed("");
    assert_eq!(scratch.config(), "access_log = true\n");
    scratch.run(&["config", "get", "access_log"]).printed("true\n");
    scratch.run(&["config", "set", "access_log", "on"]).failed(2, &["`access_log`", "must be true or false"]);
    scratch.write_config("access_log = 'true'\n");
    scratch
        .run(&["config", "list"])
        .failed(2, &["`access_log` must be true or false, and is of type string"]);
    scratch.run(&["serve", "--access-log=true"]).failed(2, &["the flag `--access-log` takes no value"]);
}
