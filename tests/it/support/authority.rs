//! Certificates of a test's own, made by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::directory::Directory;

/// Signs certificates, or lets servers sign their own.
pub struct Authority {
    directory: Directory,
}

/// A certificate and its key, in PEM.
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// openssl's own configuration would add extensions of its choice.
const CONFIG: &str = "[req]\ndistinguished_name = name\n[name]\n";

/// How to make a key: what most people have, and what others have.
pub const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
pub const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
pub const ED25519: &[&str] = &["-algorithm", "ED25519"];

impl Authority {
    pub fn new(key: &[&str]) -> Authority {
        let authority = Authority { directory: Directory::new() };
        fs::write(authority.directory.join("config"), CONFIG).unwrap();
        authority.self_signed(
            "ca",
            key,
            "/CN=an authority of the tests",
            "basicConstraints = critical, CA:TRUE",
        );
        authority
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// A certificate that it signs, with these extensions (none makes it one of version 1) and more arguments.
    pub fn issue(&self, name: &str, key: &[&str], subject: &str, extensions: &str, more: &[&str]) -> Issued {
        self.request(name, key, subject);
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.crt"));
        let mut arguments = vec!["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key"];
        arguments.extend(["-CAcreateserial", "-days", "2", "-out", &certificate]);
        if !extensions.is_empty() {
            fs::write(self.directory.join("extensions"), extensions).unwrap();
            arguments.extend(["-extfile", "extensions"]);
        }
        arguments.extend(more);
        self.openssl(&arguments);
        self.issued(name)
    }

    /// A certificate that is signed by its own key.
    pub fn self_signed(&self, name: &str, key: &[&str], subject: &str, extensions: &str) -> Issued {
        self.request(name, key, subject);
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.crt"));
        fs::write(self.directory.join("extensions"), extensions).unwrap();
        let key = format!("{name}.key");
        let arguments = ["x509", "-req", "-in", &request, "-key", &key, "-days", "2", "-out", &certificate];
        self.openssl(&[&arguments[..], &["-extfile", "extensions"]].concat());
        self.issued(name)
    }

    fn request(&self, name: &str, key: &[&str], subject: &str) {
        let (key_file, request) = (format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&[&["genpkey", "-out", &key_file], key].concat());
        self.openssl(&[
            "req", "-new", "-config", "config", "-key", &key_file, "-subj", subject, "-out", &request,
        ]);
    }

    fn issued(&self, name: &str) -> Issued {
        let path = |ending: &str| self.directory.join(&format!("{name}.{ending}"));
        Issued { certificate: path("crt"), key: path("key") }
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .expect("the tests need openssl (on Debian or Ubuntu: apt-get install openssl)");
        assert!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A path as it stands in a URL.
pub fn in_url(path: &Path) -> &str {
    path.to_str().unwrap()
}
