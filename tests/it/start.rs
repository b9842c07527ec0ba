//! Starting and stopping: what a server says, what it leaves behind, and what keeps it from starting.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::keys::{checksum, hash};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::program::Ended;
use crate::support::server::{Server, Start};
use crate::support::wait_for;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o777
}

fn count_keys(database: &Database) -> i64 {
    database.value("SELECT count(*) FROM api_keys")
}

/// Asserts that the start failed with one line that has all of these in it.
fn assert_one_line(ended: &Ended, words: &[&str]) {
    let last = ended.last_words();
    for word in words {
        assert!(last.contains(word), "{word:?} is not in the last line of {ended:#?}");
    }
    assert_eq!(ended.stdout, "", "nothing is printed to stdout by a server that does not serve");
}

/// A key that cannot be kept is noticed before anything is changed.
#[test]
fn no_place_for_the_first_key_leaves_an_empty_database_empty() {
    let database = Database::new();
    let home = Directory::new();
    fs::create_dir(home.join("bootstrap-key")).unwrap();
    let before = database.contents();
    let ended = Start::on(&database).home(&home).failing().expect_code(1);
    assert_one_line(&ended, &["bootstrap-key", "the database is unchanged"]);
    assert_eq!(database.contents(), before);
}

#[test]
fn the_printed_block_is_that_of_the_guide() {
    let database = Database::new();
    let server = Server::start(&database);
    let printed = server.stdout_with("/auth/keys/:id");
    let squeezed: Vec<String> =
        printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let mut block = squeezed.iter().filter(|line| !line.is_empty());
    let expected = [
        format!("API server is running on http://{}", server.address),
        "GET /health -- liveness check".to_owned(),
        "GET /ready -- readiness check".to_owned(),
        "GET /metrics -- Prometheus metrics".to_owned(),
        "POST /auth/keys -- create API key (auth required)".to_owned(),
        "GET /auth/keys -- list API keys (auth required)".to_owned(),
        "DEL /auth/keys/:id -- revoke key (auth required)".to_owned(),
    ];
    // The order is the guide's; lines for further endpoints may stand between.
    for line in &expected {
        assert!(block.any(|found| found == line), "{line:?} is not (in its place) in {printed}");
    }
}

#[test]
fn the_first_start_leaves_a_key_that_only_its_owner_reads() {
    let database = Database::new();
    let server = Server::start(&database);
    let path = server.home().join("bootstrap-key");
    assert_eq!(mode(&path), 0o600);
    let key = server.bootstrap_key();
    assert_eq!(fs::read_to_string(&path).unwrap().trim_end_matches('\n'), key);
    assert!(server.lets_in(&key));
    let stored: String = database.value("SELECT key_hash::text FROM api_keys");
    assert_eq!(stored, hash(&key));
    let permissions: String = database.value("SELECT permissions::text FROM api_keys");
    assert_eq!(permissions, "admin");
    wait_for("the log file", || server.home().join("logs/cloacina-server.log").exists().then_some(()));
}

#[test]
fn a_home_is_made_with_mode_0700() {
    let database = Database::new();
    let above = Directory::new();
    let home = above.join("a/home");
    let server = Start::on(&database).home_at(home.clone()).serving();
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&home.join("bootstrap-key")), 0o600);
    server.terminate().expect_code(0);
}

#[test]
fn the_second_start_makes_no_key() {
    let database = Database::new();
    let home = Directory::new();
    let server = Start::on(&database).home(&home).serving();
    let admin = server.bootstrap_key();
    let (_, key) = server.create_key(&admin, "kept");
    server.terminate().expect_code(0);

    let server = Start::on(&database).home(&home).serving();
    assert_eq!(server.bootstrap_key(), admin);
    assert!(server.lets_in(&admin));
    assert!(server.lets_in(&key));
    assert_eq!(count_keys(&database), 2);
    server.terminate().expect_code(0);

    // Nor from another home, nor for an owner who asks for one now.
    let server = Start::on(&database).arguments(["--bootstrap-key", "too-late-for-this-key"]).serving();
    assert!(!server.home().join("bootstrap-key").exists());
    assert!(!server.lets_in("too-late-for-this-key"));
    assert_eq!(count_keys(&database), 2);
}

#[test]
fn revoked_keys_are_keys_too() {
    let database = Database::new();
    let server = Server::start(&database);
    let admin = server.bootstrap_key();
    let id: String = database.value("SELECT id::text FROM api_keys");
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    server.terminate().expect_code(0);
    let server = Server::start(&database);
    assert!(!server.home().join("bootstrap-key").exists());
    assert_eq!(count_keys(&database), 1);
}

#[test]
fn the_owner_may_choose_the_first_key() {
    let chosen = "my-secret-admin-key-here";
    let files = Directory::new();
    let file = files.join("key");
    fs::write(&file, format!("{chosen}\n")).unwrap();
    let file = file.to_str().unwrap();
    let starts: [fn(Start, &str, &str) -> Start; 5] = [
        |start, key, _| start.arguments(["--bootstrap-key", key]),
        |start, key, _| start.arguments([&format!("--bootstrap-key={key}")]),
        |start, key, _| start.environment("CLOACINA_BOOTSTRAP_KEY", key),
        |start, _, file| start.arguments(["--bootstrap-key-file", file]),
        |start, _, file| start.environment("CLOACINA_BOOTSTRAP_KEY_FILE", file),
    ];
    for start in starts {
        let database = Database::new();
        let server = start(Start::on(&database), chosen, file).serving();
        assert_eq!(server.bootstrap_key(), chosen);
        assert_eq!(mode(&server.home().join("bootstrap-key")), 0o600);
        assert!(server.lets_in(chosen));
        assert_eq!(count_keys(&database), 1);
    }
    // The flag comes before the environment.
    let database = Database::new();
    let server = Start::on(&database)
        .arguments(["--bootstrap-key", chosen])
        .environment("CLOACINA_BOOTSTRAP_KEY", "another-key-of-the-owner")
        .serving();
    assert!(server.lets_in(chosen));
    assert!(!server.lets_in("another-key-of-the-owner"));
}

#[test]
fn longest_and_shortest_and_well_formed_keys_may_be_chosen() {
    let of_ours = format!("clk_{}", "A".repeat(43));
    let of_ours = format!("{of_ours}{}", checksum(&of_ours));
    for chosen in ["exactly-16-bytes", &"k".repeat(256), &of_ours, "~!@#$%^&*()_+{}|\"'\\"] {
        let database = Database::new();
        let server = Start::on(&database).environment("CLOACINA_BOOTSTRAP_KEY", chosen).serving();
        assert_eq!(server.bootstrap_key(), chosen);
        assert!(server.lets_in(chosen), "{chosen}");
    }
}

#[test]
fn a_bad_choice_stops_the_start_before_the_database_is_touched() {
    let database = Database::new();
    let of_ours = format!("clk_{}", "A".repeat(49));
    for chosen in [
        "short",
        "fifteen-bytes-1",
        &"k".repeat(257),
        "sixteen and a blank",
        "tab\tinside-the-key",
        "schl\u{fc}ssel-aus-berlin",
        "line\nbreak-in-the-key",
        &of_ours,
    ] {
        let ended =
            Start::on(&database).environment("CLOACINA_BOOTSTRAP_KEY", chosen).failing().expect_code(2);
        assert!(
            ended.stderr.contains("bootstrap key") || ended.stderr.contains("bootstrap-key"),
            "{ended:#?}"
        );
        assert!(
            !ended.stderr.contains(chosen) && !ended.stdout.contains(chosen),
            "{chosen} is repeated: {ended:#?}"
        );
        assert!(!database.has_keys_table(), "{chosen}");
    }
}

#[test]
fn a_taken_port_is_one_line() {
    let database = Database::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Start::on(&database).arguments(["--bind", &address]).failing().expect_code(1);
    assert_one_line(&ended, &[&address, "another process listens there; stop it or choose another --bind"]);
}

#[test]
fn it_binds_what_it_is_told_to() {
    let database = Database::new();
    let server = Start::on(&database).arguments(["--bind=127.0.0.1:0"]).serving();
    assert_ne!(server.address.port(), 0);
    server.get("/health", None).expect_status(200);
    drop(server);
    let mut server = Start::on(&database).arguments(["--bind", "0.0.0.0:0"]).serving();
    assert!(server.address.ip().is_unspecified());
    server.address.set_ip([127, 0, 0, 1].into());
    server.get("/health", None).expect_status(200);
}

#[test]
fn homes_that_cannot_be() {
    let database = Database::new();
    let above = Directory::new();
    let file = above.join("file");
    fs::write(&file, "").unwrap();
    for home in [file.clone(), file.join("home")] {
        let ended = Start::on(&database).home_at(home.clone()).failing().expect_code(1);
        assert_one_line(&ended, &[home.to_str().unwrap()]);
    }
    assert!(!database.has_keys_table() || count_keys(&database) == 0);
}

#[test]
fn logs_that_cannot_be_written_stop_nothing() {
    let database = Database::new();
    let home = Directory::new();
    fs::write(home.join("logs"), "in the way").unwrap();
    let server = Start::on(&database).home(&home).serving();
    assert!(server.lets_in(&server.bootstrap_key()));
    server.stderr_with("logs");
    assert_eq!(fs::read_to_string(home.join("logs")).unwrap(), "in the way");
    server.terminate().expect_code(0);
}

#[test]
fn a_key_that_cannot_be_handed_over_is_not_made() {
    let database = Database::new();
    let home = Directory::new();
    fs::create_dir(home.join("bootstrap-key")).unwrap();
    let ended = Start::on(&database).home(&home).failing().expect_code(1);
    assert_one_line(&ended, &["bootstrap-key"]);
    assert!(!database.has_keys_table() || count_keys(&database) == 0);

    // Once the way is free, it starts as on the first day.
    fs::remove_dir(home.join("bootstrap-key")).unwrap();
    let server = Start::on(&database).home(&home).serving();
    assert!(server.lets_in(&server.bootstrap_key()));
    assert_eq!(count_keys(&database), 1);
}

#[test]
fn a_key_file_of_another_database_is_replaced_by_the_key_of_this_one() {
    let home = Directory::new();
    let file = home.join("bootstrap-key");
    fs::write(&file, "left-by-a-database-of-yore\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let database = Database::new();
    let server = Start::on(&database).home(&home).serving();
    assert_ne!(server.bootstrap_key(), "left-by-a-database-of-yore");
    assert!(server.lets_in(&server.bootstrap_key()));
    assert_eq!(mode(&file), 0o600);
    // The other database may still be there, and its clients need its key.
    let entries = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<_> = entries.filter(|path| path.to_string_lossy().contains("bootstrap-key.")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read_to_string(&aside[0]).unwrap(), "left-by-a-database-of-yore\n");
    assert_eq!(mode(&aside[0]), 0o600);
}

#[test]
fn a_broken_config_stops_the_start_and_says_where() {
    let database = Database::new();
    let home = Directory::new();
    fs::write(home.join("config.toml"), "# fine\nbind = \"127.0.0.1:0\"\nworkers = = 3\n").unwrap();
    let ended = Start::on(&database).home(&home).failing().expect_code(2);
    assert!(ended.stderr.contains("config.toml") && ended.stderr.contains('3'), "{ended:#?}");
    assert_eq!(ended.stdout, "");
    assert!(!database.has_keys_table());
}

#[test]
fn without_a_database_url_it_names_the_three_places() {
    let ended = Start::without_database().failing().expect_code(2);
    assert_one_line(&ended, &[]);
    for place in ["--database-url", "DATABASE_URL", "database_url"] {
        assert!(ended.stderr.contains(place), "{place}: {ended:#?}");
    }
}

#[test]
fn a_database_that_refuses_stops_the_start() {
    // Nobody listens there: the port was ours a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgresql://cloacina:very-secret@127.0.0.1:{port}/cloacina");
    let ended = Start::without_database()
        .database_url(&url)
        .arguments(["--database-wait", "1s"])
        .failing()
        .expect_code(1);
    assert_one_line(&ended, &["database"]);
    assert!(!ended.stderr.contains("very-secret"), "{ended:#?}");
}

#[test]
fn a_database_that_is_not_there_stops_the_start() {
    let database = Database::new();
    let url = database.url().replace("cloacinactl_it_", "no_such_database_");
    let ended = Start::without_database()
        .database_url(&url)
        .arguments(["--database-wait", "1s"])
        .failing()
        .expect_code(1);
    assert!(ended.last_words().contains("no_such_database_"), "{ended:#?}");
}

#[test]
fn five_servers_starting_at_once_make_one_key() {
    let database = Database::new();
    let starting: Vec<_> = (0..5).map(|_| Start::on(&database).starting()).collect();
    let servers: Vec<_> = starting.into_iter().map(|server| server.serving()).collect();
    assert_eq!(count_keys(&database), 1);
    let stored: String = database.value("SELECT key_hash::text FROM api_keys");
    let handed_over: Vec<_> =
        servers.iter().filter(|server| server.home().join("bootstrap-key").exists()).collect();
    assert_eq!(handed_over.len(), 1, "one of them made the key, and only that one leaves a file");
    let key = handed_over[0].bootstrap_key();
    assert_eq!(hash(&key), stored);
    for server in &servers {
        assert!(server.lets_in(&key));
    }
}

#[test]
fn signals_end_it_with_0() {
    let database = Database::new();
    for signal in ["TERM", "INT"] {
        let server = Server::start(&database);
        server.get("/health", None).expect_status(200);
        server.signal(signal);
        let ended = server.ended().expect_code(0);
        assert!(!ended.stderr.contains("panicked"), "{ended:#?}");
    }
}

#[test]
fn keys_survive_the_worst_end() {
    let database = Database::new();
    let home = Directory::new();
    let server = Start::on(&database).home(&home).serving();
    let admin = server.bootstrap_key();
    let (_, key) = server.create_key(&admin, "made-just-before");
    let (id, revoked) = server.create_key(&admin, "revoked-just-before");
    server.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200);
    server.signal("KILL");
    assert_eq!(server.ended().status.code(), None);
    let server = Start::on(&database).home(&home).serving();
    assert!(server.lets_in(&key));
    assert!(server.lets_in(&admin));
    assert!(!server.lets_in(&revoked));
}
