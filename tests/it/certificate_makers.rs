//! Certificates and keys as the usual makers write them, for TLS to the database: the server's, by its root or pinned,
//! and the client's with its key.

use std::process::Command;

use crate::scratch::{Scratch, outcome};
use crate::support::authority::in_url;
use crate::support::cluster::Cluster;
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::wait_for;

/// What all scripts share: a root, perhaps an issuer between, and certificates that are signed for a key that is there.
const PRELUDE: &str = r#"
set -eu
umask 077
printf '[req]\ndistinguished_name = name\n[name]\n' >config
ec() { openssl genpkey -algorithm EC -pkeyopt "ec_paramgen_curve:$2" -out "$1.key"; }
rsa() { openssl genrsa -out "$1.key" 2048; }
authority() {
    openssl req -new -x509 -config config -key root.key -subj '/O=Maker/CN=Root' -days 2 -sha256 -out root.crt \
        -addext 'basicConstraints = critical, CA:TRUE' -addext 'keyUsage = critical, keyCertSign, cRLSign'
}
# sign NAME SUBJECT ISSUER EXTENSION...
sign() {
    name=$1 subject=$2 issuer=$3
    shift 3
    printf '%s\n' "$@" >extensions
    openssl req -new -config config -key "$name.key" -subj "$subject" -out "$name.csr"
    openssl x509 -req -in "$name.csr" -CA "$issuer.crt" -CAkey "$issuer.key" -CAcreateserial -days 2 \
        -extfile extensions -out "$name.crt"
}
between() {
    sign between '/O=Maker/CN=E5' root 'basicConstraints = critical, CA:TRUE, pathlen:0' 'keyUsage = critical, keyCertSign' \
        'extendedKeyUsage = serverAuth, clientAuth' 'subjectKeyIdentifier = hash' 'authorityKeyIdentifier = keyid'
}
# What `openssl x509` makes of a request with a name.
plain() {
    ec root P-256 && authority
    key server && sign server /CN=x root 'subjectAltName = DNS:db.example'
    key client && sign client /CN=certified root 'basicConstraints = CA:FALSE'
}
# bundle EXTENSION...: a leaf with them, and its issuer.
bundle() {
    between
    for name in server client; do
        key $name
        sign $name / between 'basicConstraints = critical, CA:FALSE' 'keyUsage = critical, digitalSignature' \
            'extendedKeyUsage = serverAuth, clientAuth' 'subjectAltName = critical, DNS:db.example' \
            'subjectKeyIdentifier = hash' 'authorityKeyIdentifier = keyid' "$@"
        cat $name.crt between.crt >bundle.pem && mv bundle.pem $name.crt
    done
}
# As a public authority signs them: policies, where to ask, and two timestamps of logs (RFC 6962).
public() {
    stamp=0000$(printf '%0152d' 7)
    bundle 'certificatePolicies = 2.23.140.1.2.1' 'authorityInfoAccess = caIssuers;URI:http://e5.i.example/' \
        'crlDistributionPoints = URI:http://e5.c.example/1.crl' \
        "1.3.6.1.4.1.11129.2.4.2 = ASN1:FORMAT:HEX,OCT:0098$stamp"
}
"#;

/// Makers, and how each is called, or how what it makes looks where it cannot be called here.
const MAKERS: &[(&str, &str)] = &[
    ("openssl, RSA in PKCS#1", "key() { openssl genrsa -traditional -out $1.key 2048; }; plain"),
    ("openssl, RSA in PKCS#8", "key() { rsa $1; }; plain"),
    (
        "openssl, EC in SEC1 after its parameters",
        "key() { openssl ecparam -name prime256v1 -genkey -out $1.key; }; plain; grep -q PARAMETERS client.key",
    ),
    (
        "openssl, EC of 384 bits in SEC1",
        "key() { openssl ecparam -name secp384r1 -genkey -noout -out $1.key; }; plain",
    ),
    ("openssl, EC in PKCS#8", "key() { ec $1 P-256; }; plain"),
    ("openssl, Ed25519 in PKCS#8", "key() { openssl genpkey -algorithm ED25519 -out $1.key; }; plain"),
    (
        "openssl, after a text and with CR LF",
        r#"key() { openssl genrsa -traditional -out $1.key 2048; }; plain
           for name in root server client; do
               openssl x509 -text -in $name.crt | sed 's/$/\r/' >text && mv text $name.crt
           done
           { echo 'Bag Attributes'; cat client.key; } | sed 's/$/\r/' >text && mv text client.key"#,
    ),
    (
        "mkcert, RSA for the server and EC for the client",
        r#"export CAROOT=$PWD
           mkcert -cert-file server.crt -key-file server.key db.example 127.0.0.1
           mkcert -ecdsa -client -cert-file client.crt -key-file client.key certified@db.example
           mv rootCA.pem root.crt"#,
    ),
    (
        "certbot, EC below an EC issuer below an RSA root",
        "rsa root && authority; ec between P-384; key() { ec $1 P-256; }; public; grep -q 'BEGIN PRIVATE' client.key",
    ),
    ("certbot, RSA", "rsa root && authority; rsa between; key() { rsa $1; }; public"),
    (
        "step, EC in SEC1",
        r#"ec root P-256 && authority; ec between P-256
           key() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }
           bundle '1.3.6.1.4.1.37476.9000.64.1 = ASN1:FORMAT:HEX,OCT:0101'
           grep -q 'BEGIN EC PRIVATE' client.key"#,
    ),
];

/// Files named root.crt, server.crt, server.key, client.crt and client.key.
fn made(maker: &str, script: &str) -> Directory {
    let directory = Directory::new();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{PRELUDE}\n{script}")]).current_dir(directory.path());
    let outcome = outcome(shell.output().unwrap());
    assert_eq!(
        outcome.code,
        Some(0),
        "{maker}: {} (the tests need openssl and mkcert: run scripts/install-tools.sh openssl mkcert)",
        outcome.stderr
    );
    directory
}

#[test]
fn certificates_and_keys_of_the_usual_makers() {
    let cluster = Cluster::start();
    let mut before = made("a stranger", "key() { ec $1 P-256; }; plain");
    let mut settings = "ssl = on\nssl_ca_file = 'root.crt'\n";
    const RULES: &str = "hostnossl all postgres 127.0.0.1/32 trust\n\
                         hostssl all postgres 127.0.0.1/32 trust clientcert=verify-ca\n";
    for (maker, script) in MAKERS {
        let files = made(maker, script);
        for name in ["server.crt", "server.key", "root.crt"] {
            cluster.put(name, &files.join(name));
        }
        if !settings.is_empty() {
            cluster.configure(std::mem::take(&mut settings), RULES);
        }
        let database = Database::in_cluster(&cluster);
        Server::migrate(&database);
        database.execute("SELECT pg_reload_conf()");
        let list = |roots: &std::path::Path, with_client: bool| {
            let (port, name, roots) = (cluster.port(), database.name(), in_url(roots));
            let mut url = format!(
                "postgresql://postgres@db.example:{port}/{name}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={roots}"
            );
            if with_client {
                let (certificate, key) = (files.join("client.crt"), files.join("client.key"));
                url += &format!("&sslcert={}&sslkey={}", in_url(&certificate), in_url(&key));
            }
            Scratch::new().run(&["keys", "list", "--database-url", &url])
        };
        // PostgreSQL reads its files a moment after it was told to.
        wait_for(&format!("a session with the certificates of {maker}"), || {
            (list(&files.join("root.crt"), true).code == Some(0)).then_some(())
        });
        let pinned = list(&files.join("server.crt"), true);
        assert_eq!(pinned.code, Some(0), "{maker}: {pinned:?}");
        list(&files.join("root.crt"), false).failed(1, &["certificate"]);
        list(&before.join("root.crt"), true).failed(1, &["is not signed by anybody in"]);
        before = files;
    }
}
