//! TLS to the database: each degree of it that libpq knows, against a PostgreSQL with certificates of the test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;

use crate::scratch::Scratch;
use crate::support::authority::{Authority, ED25519, P256, RSA, in_url};
use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::secured::{Secured, sessions};
use crate::support::server::{Server, Start};
use crate::support::wait_for;

/// A PostgreSQL without TLS, whatever the one of the other tests has.
fn plain() -> &'static Cluster {
    static PLAIN: OnceLock<Cluster> = OnceLock::new();
    PLAIN.get_or_init(Cluster::start)
}

/// Asserts that a server with this URL serves, and that all of its sessions have TLS, or none.
#[track_caller]
fn assert_serves(database: &Database, url: &str, with_tls: bool) {
    assert_starts(Start::without_database().database_url(url), database, url, with_tls);
}

#[track_caller]
fn assert_starts(start: Start, database: &Database, url: &str, with_tls: bool) {
    let server = start.arguments(["--pool-size", "2"]).serving();
    server.get("/ready", None).expect_status(200);
    wait_for("the pool and the link", || {
        let (with, without) = sessions(database);
        (with + without >= 3).then_some(())
    });
    let (with, without) = sessions(database);
    assert_eq!((with > 0, without > 0), (with_tls, !with_tls), "{url}: {}", server.stderr());
    server.terminate().expect_code(0);
}

/// Asserts that neither a server nor a command does anything with this URL, and that both say so at once, in a line
/// with these words.
#[track_caller]
fn assert_refused(url: &str, code: i32, words: &[&str]) {
    let ended = Start::without_database().database_url(url).failing().expect_code(code);
    assert!(!ended.stderr.contains("waiting"), "{url}: {ended:#?}");
    for word in words {
        assert!(ended.last_words().contains(word), "{word:?} for {url}: {ended:#?}");
    }
    Scratch::new().run(&["keys", "list", "--database-url", url]).failed(code, words);
}

#[test]
fn what_each_mode_makes() {
    let secured = Secured::shared();
    let database = secured.database();
    for (user, parameters, with_tls) in [
        ("postgres", "", true),
        ("postgres", "sslmode=disable", false),
        ("plain_only", "sslmode=disable", false),
        ("postgres", "sslmode=allow", false),
        ("tls_only", "sslmode=allow", true),
        ("postgres", "sslmode=prefer", true),
        ("plain_only", "sslmode=prefer", false),
        ("postgres", "sslmode=require", true),
        ("tls_only", "ssl=true", true),
        ("tls_only", "sslmode=require&sslrootcert=R", true),
        ("tls_only", "sslmode=verify-ca&sslrootcert=R", true),
        ("tls_only", "sslmode=verify-full&sslrootcert=R", true),
    ] {
        assert_serves(&database, &secured.url(&database, user, parameters), with_tls);
    }
    // Without a name, TLS goes by the address; nobody verifies it here.
    let (port, name) = (secured.cluster.port(), database.name());
    let url = format!("host=127.0.0.1 port={port} user=tls_only dbname={name}");
    assert_serves(&database, &url, true);
    assert_serves(&database, &url.replace("host=", "hostaddr="), true);
}

#[test]
fn a_wrong_name_matters_to_verify_full_alone() {
    let secured = Secured::shared();
    let database = secured.database();
    let url = |name, parameters| secured.url_by_name(name, &database, "tls_only", parameters);
    assert_serves(&database, &url("other.example", "sslmode=require&sslrootcert=R"), true);
    assert_serves(&database, &url("other.example", "sslmode=verify-ca&sslrootcert=R"), true);
    for name in ["other.example", "127.0.0.1", "sub.db.example"] {
        let words = &["certificate is not for", name, "but for", "db.example"];
        assert_refused(&url(name, "sslmode=verify-full&sslrootcert=R"), 1, words);
    }
}

#[test]
fn a_wrong_authority_is_found_at_once() {
    let secured = Secured::shared();
    let database = secured.database();
    let stranger = secured.stranger.certificate();
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = secured.url(&database, "postgres", &format!("sslmode={mode}&sslrootcert=S"));
        assert_refused(&url, 1, &["not signed by anybody in", in_url(&stranger)]);
    }
    assert!(!database.has_keys_table());
    // Where nothing is verified, that is said to whoever named somebody to trust.
    let url = secured.url(&database, "tls_only", "sslrootcert=S");
    let server = Start::without_database().database_url(&url).serving();
    server.stderr_with("sslrootcert does nothing with sslmode=prefer");
}

#[test]
fn libpqs_own_file_of_roots() {
    let secured = Secured::shared();
    let database = secured.database();
    let home = Directory::new();
    let file = home.join(".postgresql/root.crt");
    let url = |mode| secured.url(&database, "tls_only", &format!("sslmode={mode}"));
    let start = |mode| {
        Start::without_database().database_url(&url(mode)).environment("HOME", home.path().as_os_str())
    };
    for mode in ["verify-ca", "verify-full"] {
        let ended = start(mode).failing().expect_code(2);
        for word in [mode, in_url(&file), "sslrootcert=FILE", "sslrootcert=system"] {
            assert!(ended.last_words().contains(word), "{word:?}: {ended:#?}");
        }
        let ended = Start::without_database().database_url(&url(mode)).failing().expect_code(2);
        assert!(ended.last_words().contains("~/.postgresql/root.crt"), "{ended:#?}");
    }
    fs::create_dir(home.join(".postgresql")).unwrap();
    fs::copy(secured.authority.certificate(), &file).unwrap();
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_starts(start(mode), &database, mode, true);
    }
    fs::copy(secured.stranger.certificate(), &file).unwrap();
    for mode in ["require", "verify-ca", "verify-full"] {
        let ended = start(mode).failing().expect_code(1);
        assert!(ended.last_words().contains("not signed by anybody in"), "{ended:#?}");
    }
    assert_starts(start("prefer"), &database, "prefer", true);
}

#[test]
fn the_roots_of_the_system() {
    let secured = Secured::shared();
    let database = secured.database();
    let start = |parameters, roots| {
        let url = secured.url(&database, "tls_only", parameters);
        Start::without_database().database_url(&url).environment("SSL_CERT_FILE", roots)
    };
    let (right, wrong) = (secured.authority.certificate(), secured.stranger.certificate());
    for parameters in ["sslrootcert=system", "sslrootcert=system&sslmode=verify-full"] {
        assert_starts(start(parameters, &right), &database, parameters, true);
        let ended = start(parameters, &wrong).failing().expect_code(1);
        assert!(ended.last_words().contains("not signed by anybody in the system's"), "{ended:#?}");
    }
    let other_name = secured.url_by_name("other.example", &database, "tls_only", "sslrootcert=system");
    let ended = Start::without_database()
        .database_url(&other_name)
        .environment("SSL_CERT_FILE", &right)
        .failing()
        .expect_code(1);
    assert!(ended.last_words().contains("certificate is not for other.example"), "{ended:#?}");
    for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
        let url = secured.url(&database, "tls_only", &format!("sslrootcert=system&sslmode={mode}"));
        assert_refused(&url, 2, &["sslrootcert=system", mode, "sslmode=verify-full"]);
    }
}

#[test]
fn a_database_without_tls() {
    let database = Database::in_cluster(plain());
    let roots = Secured::shared().authority.certificate();
    let url = |parameters: &str| format!("{}?{parameters}", database.url());
    for mode in ["disable", "allow", "prefer"] {
        assert_serves(&database, &url(&format!("sslmode={mode}")), false);
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let parameters = format!("sslmode={mode}&sslrootcert={}", in_url(&roots));
        assert_refused(&url(&parameters), 1, &["does not offer TLS", &format!("sslmode={mode}")]);
    }
}

#[test]
fn a_database_that_takes_tls_alone() {
    let secured = Secured::shared();
    let database = secured.database();
    let url = secured.url(&database, "tls_only", "sslmode=disable");
    assert_refused(&url, 1, &["pg_hba.conf", "no encryption"]);
    let url = secured.url(&database, "plain_only", "sslmode=require");
    assert_refused(&url, 1, &["pg_hba.conf", "SSL encryption"]);
}

#[test]
fn direct_tls() {
    let secured = Secured::shared();
    let database = secured.database();
    let url = secured.url(&database, "tls_only", "sslmode=require&sslnegotiation=direct");
    let version: String = database.value("SELECT current_setting('server_version_num')");
    match version.parse::<u32>().unwrap() {
        170_000.. => assert_serves(&database, &url, true),
        _ => assert_refused(&url, 1, &["sslnegotiation=direct needs PostgreSQL 17"]),
    }
    for mode in ["prefer", "allow", "disable"] {
        let url = secured.url(&database, "tls_only", &format!("sslmode={mode}&sslnegotiation=direct"));
        assert_refused(&url, 2, &["sslnegotiation=direct", mode, "require"]);
    }
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let secured = Secured::shared();
    let database = secured.database();
    let files = Directory::new();
    let (gone, empty) = (files.join("gone"), files.join("empty"));
    fs::write(&empty, "no certificate\n").unwrap();
    let refused = |parameters: String, words: &[&str]| {
        assert_refused(&secured.url(&database, "tls_only", &parameters), 2, words);
    };
    for mode in ["require", "verify-ca", "verify-full"] {
        let file = in_url(&gone);
        refused(
            format!("sslmode={mode}&sslrootcert={file}"),
            &[&format!("sslrootcert={file}"), "No such file"],
        );
        let file = in_url(&empty);
        refused(
            format!("sslmode={mode}&sslrootcert={file}"),
            &[&format!("sslrootcert={file}"), "no certificate"],
        );
    }
    let client = secured.authority.issue("client-of-files", P256, "/CN=certified", "", &[]);
    let (certificate, key) = (in_url(&client.certificate), in_url(&client.key));
    refused(format!("sslcert={certificate}"), &["sslcert", "sslkey"]);
    refused(format!("sslkey={key}"), &["sslcert", "sslkey"]);
    refused(format!("sslcert={}&sslkey={key}", in_url(&gone)), &["sslcert=", "gone", "No such file"]);
    refused(format!("sslcert={certificate}&sslkey={}", in_url(&gone)), &["sslkey=", "gone", "No such file"]);
    refused(format!("sslcert={certificate}&sslkey={certificate}"), &["sslkey="]);
    fs::set_permissions(&client.key, fs::Permissions::from_mode(0o644)).unwrap();
    refused(format!("sslcert={certificate}&sslkey={key}"), &["sslkey=", "others may read it", "0600"]);
    let other = secured.authority.issue("another-client", P256, "/CN=certified", "", &[]);
    fs::set_permissions(&other.key, fs::Permissions::from_mode(0o600)).unwrap();
    let key = in_url(&other.key);
    refused(format!("sslcert={certificate}&sslkey={key}"), &["sslkey=", "not the key of sslcert="]);
}

#[test]
fn a_certificate_of_the_clients() {
    let secured = Secured::shared();
    let database = secured.database();
    let client = secured.authority.issue("client", P256, "/CN=certified", "", &[]);
    fs::set_permissions(&client.key, fs::Permissions::from_mode(0o600)).unwrap();
    let (certificate, key) = (in_url(&client.certificate), in_url(&client.key));
    let parameters = format!("sslmode=verify-full&sslrootcert=R&sslcert={certificate}&sslkey={key}");
    assert_serves(&database, &secured.url(&database, "certified", &parameters), true);
    let url = secured.url(&database, "certified", "sslmode=require");
    assert_refused(&url, 1, &["valid client certificate"]);
    // One that the server does not trust.
    let client = secured.stranger.issue("client", P256, "/CN=certified", "", &[]);
    fs::set_permissions(&client.key, fs::Permissions::from_mode(0o600)).unwrap();
    let (certificate, key) = (in_url(&client.certificate), in_url(&client.key));
    let parameters = format!("sslmode=require&sslcert={certificate}&sslkey={key}");
    assert_refused(&secured.url(&database, "certified", &parameters), 1, &["cannot connect", "alert"]);
}

#[test]
fn channel_binding_without_tls_or_without_scram() {
    let secured = Secured::shared();
    let database = secured.database();
    let user = "scram:p%3Aw%5Cord";
    for parameters in
        ["sslmode=require&channel_binding=require", "channel_binding=require", "channel_binding=disable"]
    {
        assert_serves(&database, &secured.url(&database, user, parameters), true);
    }
    for parameters in ["channel_binding=prefer", "channel_binding=disable"] {
        let url = secured.url(&database, user, &format!("sslmode=disable&{parameters}"));
        assert_serves(&database, &url, false);
    }
    let url = secured.url(&database, user, "sslmode=disable&channel_binding=require");
    assert_refused(&url, 1, &["channel binding"]);
    // Nobody asks for a password, so nobody proves anything.
    let url = secured.url(&database, "tls_only", "channel_binding=require");
    assert_refused(&url, 1, &["channel binding"]);
}

#[test]
fn an_older_tls() {
    let cluster = Cluster::start();
    let authority = Authority::new(P256);
    let server = authority.issue("server", RSA, "/CN=x", "subjectAltName = DNS:db.example", &[]);
    cluster.put("server.crt", &server.certificate);
    cluster.put("server.key", &server.key);
    let rules = "host all postgres 127.0.0.1/32 trust\nhostssl all scram 127.0.0.1/32 scram-sha-256\n";
    cluster.configure("ssl = on\nssl_max_protocol_version = 'TLSv1.2'\n", rules);
    let database = Database::in_cluster(&cluster);
    database.execute("CREATE ROLE scram LOGIN SUPERUSER PASSWORD 'scram'");
    let url = format!(
        "postgresql://scram:scram@db.example:{}/{}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}\
         &channel_binding=require",
        cluster.port(),
        database.name(),
        in_url(&authority.certificate())
    );
    assert_serves(&database, &url, true);
}

/// Certificates as people have them: what is verified works, and the channel is bound by the right hash.
#[test]
fn certificates_of_many_kinds() {
    let cluster = Cluster::start();
    let (elliptic, rsa) = (Authority::new(P256), Authority::new(RSA));
    let name = "subjectAltName = DNS:db.example, IP:127.0.0.1";
    let own = format!("basicConstraints = CA:TRUE\n{name}");
    let made = [
        (elliptic.issue("a", P256, "/CN=x", name, &["-sha256"]), &elliptic, "verify-full", true),
        (elliptic.issue("b", RSA, "/CN=x", name, &["-sha384"]), &elliptic, "verify-full", true),
        // The library verifies no such signature.
        (elliptic.issue("c", P256, "/CN=x", name, &["-sha512"]), &elliptic, "none", true),
        (rsa.issue("d", RSA, "/CN=x", name, &["-sha256"]), &rsa, "verify-full", true),
        (rsa.issue("e", P256, "/CN=x", name, &["-sha512"]), &rsa, "verify-full", true),
        (
            rsa.issue(
                "f",
                P256,
                "/CN=x",
                name,
                &["-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"],
            ),
            &rsa,
            "verify-full",
            true,
        ),
        // A certificate of version 1, and one that has nothing but a common name.
        (rsa.issue("g", RSA, "/CN=db.example", "", &[]), &rsa, "none", true),
        (rsa.issue("h", RSA, "/CN=db.example", "keyUsage = digitalSignature", &[]), &rsa, "verify-ca", true),
        // Ed25519 hashes nothing that a channel could be bound to.
        (elliptic.self_signed("i", ED25519, "/CN=x", &own), &elliptic, "itself", false),
        (elliptic.self_signed("j", P256, "/CN=x", &own), &elliptic, "itself", true),
    ];
    let rules = "host all postgres 127.0.0.1/32 trust\nhostssl all scram 127.0.0.1/32 scram-sha-256\n";
    Database::in_cluster(&cluster).execute("CREATE ROLE scram LOGIN SUPERUSER PASSWORD 'scram'");
    let mut settings = "ssl = on\n";
    for (server, authority, verified, binds) in &made {
        cluster.put("server.crt", &server.certificate);
        cluster.put("server.key", &server.key);
        cluster.configure(settings, rules);
        settings = "";
        let database = Database::in_cluster(&cluster);
        Server::migrate(&database);
        let own = server.certificate.display();
        let roots = match *verified {
            "itself" => server.certificate.clone(),
            _ => authority.certificate(),
        };
        let url = |mode: &str, more: &str| {
            format!(
                "postgresql://scram:scram@127.0.0.1:{}/{}?sslmode={mode}&{more}",
                cluster.port(),
                database.name()
            )
        };
        let list = |url: &str| Scratch::new().run(&["keys", "list", "--database-url", url]);
        // Bound where that can be, else not; the server would notice a wrong hash.
        let listed = list(&url("require", ""));
        assert_eq!(listed.code, Some(0), "{own}: {listed:?}");
        let bound = list(&url("require", "channel_binding=require"));
        assert_eq!(bound.code, Some(if *binds { 0 } else { 1 }), "{own}: {bound:?}");
        for mode in ["verify-ca", "verify-full"] {
            let works = *verified == "itself" || (*verified != "none" && mode <= *verified);
            let listed = list(&url(mode, &format!("sslrootcert={}", in_url(&roots))));
            assert_eq!(listed.code, Some(if works { 0 } else { 1 }), "{own}, {mode}: {listed:?}");
            if !works {
                assert!(listed.stderr.contains("certificate"), "{listed:?}");
            }
        }
    }
}

#[test]
fn revocations_between_servers_over_tls() {
    let secured = Secured::shared();
    let database = secured.database();
    let home = Directory::new();
    let url = secured.url(&database, "tls_only", "sslmode=verify-full&sslrootcert=R");
    let start = || Start::without_database().database_url(&url).home(&home).serving();
    let (here, there) = (start(), start());
    let admin = here.bootstrap_key();
    for round in 0..5 {
        let (id, key) = here.create_key(&admin, &format!("key-{round}"));
        wait_for("the key to be cached there", || {
            let before = there.metric("cloacina_auth_cache_hits_total", &[]);
            assert!(there.lets_in(&key));
            (there.metric("cloacina_auth_cache_hits_total", &[]) > before).then_some(())
        });
        match round % 2 {
            0 => _ = here.delete(&format!("/auth/keys/{id}"), &admin).expect_status(200),
            _ => {
                let revoked = Scratch::new().run(&["keys", "revoke", &id, "--database-url", &url]);
                assert_eq!(revoked.code, Some(0), "{revoked:?}");
            }
        }
        assert!(!there.lets_in(&key), "round {round}");
    }
    assert_eq!(sessions(&database).1, 0, "some session has no TLS");
}

/// Sessions inside TLS that end as at a restart of PostgreSQL are replaced like others.
#[test]
fn a_database_with_tls_that_comes_back() {
    let authority = Authority::new(P256);
    let server = authority.issue("server", P256, "/CN=x", "subjectAltName = DNS:db.example", &[]);
    let cluster = Cluster::start();
    cluster.put("server.crt", &server.certificate);
    cluster.put("server.key", &server.key);
    cluster.configure(
        "ssl = on\n",
        "hostssl all tls 127.0.0.1/32 trust\nhostnossl all postgres 127.0.0.1/32 trust\n",
    );
    let database = Database::in_cluster(&cluster);
    database.execute("CREATE ROLE tls LOGIN SUPERUSER");
    let roots = authority.certificate();
    let url = format!(
        "postgresql://tls@db.example:{}/{}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}",
        cluster.port(),
        database.name(),
        in_url(&roots)
    );
    let mut server = Start::without_database().database_url(&url).serving();
    let key = server.bootstrap_key();
    assert!(server.lets_in(&key));
    cluster.stop_immediately();
    wait_for("the server to notice", || (server.get("/ready", None).status == 503).then_some(()));
    server.expect_well("the database went");
    cluster.restart();
    wait_for("the server to be ready again", || (server.get("/ready", None).status == 200).then_some(()));
    wait_for("keys to be let in again", || {
        (server.get("/auth/whoami", Some(&key)).status == 200).then_some(())
    });
}
