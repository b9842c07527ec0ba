//! A server that shows PostgreSQL's certificate has to prove that it has its key, with either version of TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream, SupportedProtocolVersion};

use crate::scratch::Scratch;
use crate::support::authority::{Authority, ED25519, P256, RSA, in_url};

/// Where a server listens that shows this certificate and signs with this key, and whether a client tells it anything.
fn start(
    certificate: &Path,
    key: &Path,
    version: &'static SupportedProtocolVersion,
) -> (u16, JoinHandle<bool>) {
    let chain = vec![CertificateDer::from_pem_slice(&std::fs::read(certificate).unwrap()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&std::fs::read(key).unwrap()).unwrap();
    let key = ring::sign::any_supported_type(&key).unwrap();
    // Which of them belong together is not looked at here.
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // SSLRequest, and that there is TLS (PostgreSQL's protocol, 55.2.10).
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(b"S").unwrap();
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut startup = [0; 4];
        Stream::new(&mut connection, &mut stream).read_exact(&mut startup).is_ok()
    });
    (port, heard)
}

#[test]
fn a_certificate_without_its_key_proves_nothing() {
    let authority = Authority::new(P256);
    let name = "subjectAltName = DNS:db.example";
    for (number, kind) in [P256, RSA, ED25519].into_iter().enumerate() {
        let own = authority.issue(&format!("own-{number}"), kind, "/CN=x", name, &[]);
        let other = authority.issue(&format!("other-{number}"), kind, "/CN=x", name, &[]);
        let old = authority.issue(&format!("old-{number}"), kind, "/CN=x", "", &[]);
        let roots = format!("verify-full&sslrootcert={}", in_url(&authority.certificate()));
        for (certificate, key, version, mode, is_real) in [
            (&own, &own, &TLS13, "require", true),
            (&own, &own, &TLS13, &*roots, true),
            (&own, &own, &TLS12, "require", true),
            (&own, &own, &TLS12, &*roots, true),
            (&old, &old, &TLS13, "require", true),
            (&own, &other, &TLS13, "require", false),
            (&own, &other, &TLS13, &*roots, false),
            (&own, &other, &TLS12, "require", false),
            (&own, &other, &TLS12, &*roots, false),
            (&old, &other, &TLS13, "require", false),
            (&old, &other, &TLS12, "require", false),
        ] {
            let (port, heard) = start(&certificate.certificate, &key.key, version);
            let url =
                format!("postgresql://u:topsecret@db.example:{port}/d?hostaddr=127.0.0.1&sslmode={mode}");
            let arguments = ["keys", "list", "--database-url", &url, "--database-wait", "0s"];
            let outcome = Scratch::new().run(&arguments);
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            let case = format!("kind {number}, {version:?}, {mode}: {outcome:?}");
            assert_eq!(heard.join().unwrap(), is_real, "{case}");
            if !is_real && certificate.certificate == own.certificate {
                let reason = "the server does not have the key of the certificate that it shows";
                assert!(outcome.stderr.contains(reason), "{case}");
            }
        }
    }
}
