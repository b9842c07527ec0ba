//! The image and the compose files. No container engine is needed: `docker-compose config` says what a file means, and
//! the image is laid out and run in a chroot.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use crate::support::cluster::{Cluster, free_port};
use crate::support::compose::Compose;
use crate::support::directory::Directory;
use crate::support::http;
use crate::support::image::{Image, done_as_root};
use crate::support::postgres::Database;
use crate::support::program::Process;
use crate::support::wait_for;

const README: &str = include_str!("../../README.md");

/// The guide's own file, with the indentation that it lost in print.
const GUIDE: &str = include_str!("support/guide-compose.yaml");

/// The guide's way to the key, as the words that come after `docker compose exec api`.
const KEY: [&str; 2] = ["cat", "/root/.cloacina/bootstrap-key"];

const WHOLE: &str = "scripts/deploy/docker-compose.yaml";

/// A container that runs.
struct Container<'a> {
    image: &'a Image,
    process: Process,
    address: SocketAddr,
    environment: Vec<(String, String)>,
}

impl Container<'_> {
    /// What the guide's reader sees when asking for the key.
    #[track_caller]
    fn key(&self) -> String {
        self.image.exec(&KEY, &self.environment).expect_code(0).stdout.trim_end().to_owned()
    }

    /// The exit code of the HEALTHCHECK, and what it says.
    fn health(&self) -> (Option<i32>, String) {
        let words: Vec<&str> = self.image.health.iter().map(String::as_str).collect();
        let ended = self.image.exec(&words, &self.environment);
        (ended.status.code(), ended.stdout + &ended.stderr)
    }

    #[track_caller]
    fn lets_in(&self, key: &str) {
        let request = http::request("GET", "/auth/keys", Some(key), None);
        let keys = http::exchange(self.address, &request).expect_status(200).json();
        assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1), "{keys}");
    }

    /// What `docker stop` does before its patience is at an end.
    #[track_caller]
    fn stop(self) {
        self.process.signal(self.image.stop_signal.trim_start_matches("SIG"));
        self.process.ended().expect_code(0);
    }
}

/// Starts one with this command after the entrypoint, on a port that is free, which the environment names.
fn start<'a>(image: &'a Image, command: &[String], environment: &[(String, String)]) -> Container<'a> {
    let words = [&image.entrypoint[..], command].concat();
    // Somebody may take the port between our look and the server's.
    for _ in 0..5 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut environment = environment.to_vec();
        environment.push(("CLOACINA_BIND".to_owned(), address.to_string()));
        let process = Process::start(image.command(&words, &environment));
        // The port after all, should the command have another one.
        let started = process.stdout.wait(|printed| {
            printed.split_once("API server is running on http://")?.1.split_once('\n')?.0.trim().parse().ok()
        });
        match started {
            Some(address) => return Container { image, process, address, environment },
            None => {
                let said = process.stderr.whole();
                assert!(said.contains("in use"), "{words:?}: {said}");
            }
        }
    }
    panic!("no port is free for long enough");
}

/// Puts a secret where an engine mounts it, with the owner and mode that it has outside.
fn mount_secret(image: &Image, path: &str, text: &str) {
    fs::create_dir_all(image.outside(path).parent().unwrap()).unwrap();
    fs::set_permissions(image.outside("/run/secrets"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(image.outside(path), format!("{text}\n")).unwrap();
    fs::set_permissions(image.outside(path), fs::Permissions::from_mode(0o644)).unwrap();
}

/// Takes everything away from the image's user but the volume, as a root that is read-only does.
fn make_read_only(image: &Image) {
    for directory in ["/root", "/tmp"] {
        chown(image.outside(directory), Some(0), Some(0)).unwrap();
        fs::set_permissions(image.outside(directory), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Owner, group and mode.
fn owner_and_mode(image: &Image, path: &str) -> (u32, u32, u32) {
    let metadata = fs::metadata(image.outside(path)).unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}

#[test]
fn a_container_of_the_compose_file() {
    if done_as_root("containers::a_container_of_the_compose_file") {
        return;
    }
    let image = Image::build();
    let compose = Compose::read(WHOLE);
    let api = compose.service("api");
    let (uid, gid) = image.user.split_once(':').unwrap();
    let (uid, gid): (u32, u32) = (uid.parse().unwrap(), gid.parse().unwrap());
    assert_ne!((uid, gid), (0, 0));
    assert_eq!(api.0["read_only"], true);
    assert_eq!(owner_and_mode(&image, "/root").0, uid);
    make_read_only(&image);
    // A fresh volume takes over all three.
    assert_eq!(api.volumes(), ["cloacina_home:/root/.cloacina"]);
    assert_eq!(owner_and_mode(&image, "/root/.cloacina"), (uid, gid, 0o700));
    assert_eq!(owner_and_mode(&image, "/usr/local/bin/cloacinactl"), (0, 0, 0o755));

    let cluster = Cluster::start();
    let database = Database::in_cluster(&cluster);
    let environment = api.environment();
    let (_, secret) = environment.iter().find(|(name, _)| name == "DATABASE_URL_FILE").unwrap();
    mount_secret(&image, secret, &database.url());
    assert!(api.0.get("command").is_none() && api.0.get("entrypoint").is_none());
    let container = start(&image, &image.command, &environment);

    let status = fs::read_to_string(format!("/proc/{}/status", container.process.pid())).unwrap();
    for (field, value) in [
        ("Name", "cloacinactl".to_owned()),
        ("Uid", format!("{uid}\t{uid}\t{uid}\t{uid}")),
        ("Gid", format!("{gid}\t{gid}\t{gid}\t{gid}")),
        ("CapEff", "0000000000000000".to_owned()),
    ] {
        assert!(status.contains(&format!("{field}:\t{value}\n")), "{field}: {status}");
    }
    let key = container.key();
    assert_eq!((key.len(), &key[..4]), (53, "clk_"));
    assert_eq!(owner_and_mode(&image, KEY[1]), (uid, gid, 0o600));
    assert_eq!(owner_and_mode(&image, "/root/.cloacina"), (uid, gid, 0o700));
    container.lets_in(&key);

    assert_eq!(container.health(), (Some(0), "ready\n".to_owned()));
    cluster.stop_immediately();
    let said = wait_for("the HEALTHCHECK to see that the database is away", || match container.health() {
        (Some(0), _) => None,
        other => Some(other),
    });
    assert_eq!(said.0, Some(1), "{said:?}");
    assert!(said.1.contains("database unreachable"), "{said:?}");
    cluster.restart();
    wait_for("the HEALTHCHECK to see that it is back", || (container.health().0 == Some(0)).then_some(()));
    container.stop();

    // Another container with the same volume has the same key.
    let container = start(&image, &image.command, &environment);
    assert_eq!(container.key(), key);
    container.lets_in(&key);
    container.stop();
}

#[test]
fn a_container_of_the_guide() {
    if done_as_root("containers::a_container_of_the_guide") {
        return;
    }
    let image = Image::build();
    let compose = Compose::parse(GUIDE);
    let api = compose.service("api");
    assert_eq!(api.volumes(), ["cloacina_home:/root/.cloacina"]);
    let database = Database::new();
    // Its address can be there but once, and its database is another.
    let command: Vec<String> = api
        .list("command")
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("--bind", bind)) => {
                assert_eq!(bind, "0.0.0.0:8080");
                "--bind=127.0.0.1:0".to_owned()
            }
            Some(("--database-url", _)) => format!("--database-url={}", database.url()),
            _ => word.clone(),
        })
        .collect();
    let container = start(&image, &command, &api.environment());
    container.lets_in(&container.key());
    container.stop();
}

/// The flag in the guide's command is nothing that `health` could see; the default is the same.
#[test]
fn the_health_check_asks_the_port_of_the_guide() {
    if done_as_root("containers::the_health_check_asks_the_port_of_the_guide") {
        return;
    }
    let image = Image::build();
    assert_eq!(image.ports, ["8080"]);
    assert!(image.environment.iter().all(|(name, _)| name == "HOME" || name == "PATH"));
    // In a network where there is nobody, so that it has to say whom it asked.
    let asks = image.command(&image.health, &[]);
    let mut alone = Command::new("unshare");
    alone.arg("--net").arg(asks.get_program()).args(asks.get_args()).env_clear();
    alone.envs(asks.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ended = Process::start(alone).ended().expect_code(1);
    assert!(ended.stderr.contains("not ready: http://127.0.0.1:8080/ready"), "{ended:#?}");
}

#[test]
fn the_compose_file_is_as_promised() {
    let compose = Compose::read(WHOLE);
    assert_eq!(compose.services(), ["api", "postgres"]);
    let (api, postgres) = (compose.service("api"), compose.service("postgres"));
    assert_eq!(postgres.text("image"), "postgres:16");
    assert_eq!(api.text("image"), "cloacinactl");
    for service in [&api, &postgres] {
        assert_eq!(service.text("restart"), "unless-stopped");
        assert_eq!(service.0["read_only"], true);
    }
    assert_eq!(api.ports(), ["127.0.0.1:8080:8080"]);
    assert_eq!(postgres.ports(), [""; 0], "nobody else needs it");
    assert_eq!(api.0["depends_on"]["postgres"]["condition"], "service_healthy");
    assert_eq!(api.list("cap_drop"), ["ALL"]);
    assert_eq!(api.list("security_opt"), ["no-new-privileges:true"]);
    let grace: u32 = api.text("stop_grace_period").trim_end_matches('s').parse().unwrap();
    let drain = README.split("| `shutdown_timeout` | `").nth(1).unwrap().split("s`").next().unwrap();
    assert!(grace > drain.parse::<u32>().unwrap() && grace > 30, "{grace} s of grace for {drain} s");

    // Each secret is a file beside the compose file, and a variable names it inside.
    assert_eq!((api.secrets(), postgres.secrets()), (vec!["database_url"], vec!["postgres_password"]));
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy");
    for (service, variable) in [(&api, "DATABASE_URL_FILE"), (&postgres, "POSTGRES_PASSWORD_FILE")] {
        let name = service.secrets()[0];
        let variable = (variable.to_owned(), format!("/run/secrets/{name}"));
        assert!(service.environment().contains(&variable), "{:#}", service.0);
        let file = compose.0["secrets"][name]["file"].as_str().unwrap();
        assert_eq!(Path::new(file), deploy.join("secrets").join(name));
        for secret in ["POSTGRES_PASSWORD", "DATABASE_URL", "CLOACINA_BOOTSTRAP_KEY"] {
            assert!(service.environment().iter().all(|(name, _)| name != secret), "{secret} in the open");
        }
    }
    // Each keeps what has to last in a volume, under a name that is not the guide's, whose password is another.
    assert_eq!(postgres.volumes(), ["postgres_data:/var/lib/postgresql/data"]);
    let guide = Compose::parse(GUIDE);
    for volume in ["postgres_data", "cloacina_home"] {
        assert_ne!(compose.volume(volume), guide.volume(volume));
    }
}

#[test]
fn the_health_checks_are_those_of_the_image() {
    if done_as_root("containers::the_health_checks_are_those_of_the_image") {
        return;
    }
    let image = Image::build();
    let compose = Compose::read(WHOLE);
    let api = compose.service("api");
    let test: Vec<String> = serde_json::from_value(api.health("test").clone()).unwrap();
    assert_eq!(test[0], "CMD");
    assert_eq!(test[1..], image.health);
    assert_eq!(image.health_options.len(), 4);
    for (option, value) in &image.health_options {
        let here = api.health(&option.replace('-', "_"));
        assert_eq!(here.to_string().trim_matches('"'), value, "{option}");
    }
}

#[test]
fn the_database_of_the_guide() {
    let compose = Compose::read(".angreal/docker-compose.yaml");
    let guide = Compose::parse(GUIDE);
    assert_eq!(compose.services(), ["postgres"]);
    let (here, there) = (compose.service("postgres"), guide.service("postgres"));
    assert_eq!(here.text("image"), "postgres:16");
    assert_eq!(here.environment(), there.environment());
    // Its password is known, so it is for this machine only.
    assert_eq!(here.ports(), ["127.0.0.1:5432:5432"]);
    assert_eq!(here.volumes(), there.volumes());
    // Who goes on to the guide's own file has the same data there.
    assert_eq!(compose.volume("postgres_data"), guide.volume("postgres_data"));
    for check in [&compose.service("postgres"), &Compose::read(WHOLE).service("postgres")] {
        let test: Vec<String> = serde_json::from_value(check.health("test").clone()).unwrap();
        assert_eq!(test, ["CMD", "pg_isready", "-h", "127.0.0.1", "-U", "cloacina", "-d", "cloacina"]);
    }
}

/// Typed in a checkout where `docker` only says what it was told, and the build leaves what the real one leaves.
#[test]
fn the_commands_of_the_readme() {
    let block = README
        .split("```sh\n")
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains("docker build"))
        .expect("the README should say how to build the image");
    let checkout = Directory::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(checkout.join("scripts/deploy")).unwrap();
    for file in ["scripts/deploy/Dockerfile", WHOLE] {
        fs::copy(root.join(file), checkout.join(file)).unwrap();
    }
    let built = concat!("target/dist/cloacinactl-", env!("CARGO_PKG_VERSION"), "-x86_64-linux-musl");
    let docker = "#!/bin/sh\necho \"docker $*: $COMPOSE_PROJECT_NAME $COMPOSE_FILE\"\n";
    let build = format!("#!/bin/sh\nmkdir -p target/dist && touch {built}\n");
    for (path, text) in [("docker", docker), ("scripts/build-static.sh", build.as_str())] {
        fs::write(checkout.join(path), text).unwrap();
        fs::set_permissions(checkout.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = fs::read_to_string(root.join("scripts/build-static.sh")).unwrap();
    assert!(script.contains("name=cloacinactl-$version-x86_64-linux-musl\n"), "the build's name is another");
    let path = format!("{}:{}", checkout.path().display(), std::env::var("PATH").unwrap());
    let type_it = || {
        // With the umask of somebody careful: what containers have to read has to be readable all the same.
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("umask 077\n{block}")]);
        shell.current_dir(checkout.path()).env("PATH", &path);
        Process::start(shell).ended()
    };
    let ended = type_it().expect_code(0);
    assert_eq!(ended.stderr, "");
    let compose = format!("cloacina {WHOLE}");
    let said: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(
        said,
        [
            "docker build -t cloacinactl -f scripts/deploy/Dockerfile target/dist:  ",
            &format!("docker compose up -d --wait: {compose}"),
            &format!("docker compose exec api {}: {compose}", KEY.join(" ")),
        ]
    );
    assert!(checkout.join(built).exists());

    let secret = |name: &str| fs::read_to_string(checkout.join("scripts/deploy/secrets").join(name)).unwrap();
    let mode = |path: &str| fs::metadata(checkout.join(path)).unwrap().mode() & 0o777;
    let (password, url) = (secret("postgres_password"), secret("database_url"));
    assert!(password.trim_end().len() >= 32 && password.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(url, format!("postgresql://cloacina:{}@postgres:5432/cloacina\n", password.trim_end()));
    assert_eq!(mode("scripts/deploy/secrets"), 0o700);
    for name in ["postgres_password", "database_url"] {
        assert_eq!(mode(&format!("scripts/deploy/secrets/{name}")), 0o644);
    }
    // Typed again, they stay: PostgreSQL remembers the first password.
    type_it();
    assert_eq!((secret("postgres_password"), secret("database_url")), (password, url));
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap();
    assert!(ignored.lines().any(|line| line == "/scripts/deploy/secrets"));
}
