//! The files of certificates and keys that a database URL names. Every error names the file and its parameter.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::certificate_fields::public_key;
use super::certificate_verifier::Authorities;
use crate::command_error::CommandError;
use crate::plain_file;

/// Room for every authority that a system trusts.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// Whom a file of certificates says to trust.
///
/// # Errors
/// `Usage` when it cannot be read, or holds something else.
pub fn authorities(path: &Path) -> Result<Authorities, CommandError> {
    let certificates = certificates("sslrootcert", path)?;
    let mut roots = RootCertStore::empty();
    for (number, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| {
            wrong("sslrootcert", path, &format!("certificate {} in it: {error}", number + 1))
        })?;
    }
    Ok(Authorities { roots, themselves: certificates.into_iter().collect() })
}

/// Whom the system trusts. What cannot be read of it is left out.
///
/// # Errors
/// `Usage` when it trusts none.
pub fn authorities_of_system() -> Result<Authorities, CommandError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        let reason = if reasons.is_empty() { "there are none".to_owned() } else { reasons.join("; ") };
        return Err(CommandError::Usage(format!(
            "sslrootcert=system: cannot use the system's certificates (on Debian: apt-get install \
             ca-certificates): {reason}"
        )));
    }
    Ok(Authorities { roots, themselves: Default::default() })
}

/// A client's certificate, with what stands between it and its root, and its key.
///
/// # Errors
/// `Usage` when one of them cannot be read or holds something else, when others may read the key, or when it is the
/// key of another certificate.
pub fn client(certificate: &Path, key: &Path) -> Result<CertifiedKey, CommandError> {
    let chain = certificates("sslcert", certificate)?;
    let wrong = |reason: &str| wrong("sslkey", key, reason);
    let metadata = fs::metadata(key).map_err(|error| wrong(&error.to_string()))?;
    // Root may share its keys with a group, as libpq allows.
    let closed_to = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.permissions().mode() & closed_to != 0 {
        return Err(wrong("others may read it; chmod 0600 it"));
    }
    let text = plain_file::read(key, MOST_BYTES).map_err(|error| wrong(&error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_slice(&text)
        .ok()
        .and_then(|secret| ring::sign::any_supported_type(&secret).ok())
        .ok_or_else(|| {
            wrong("there is no private key in it, unencrypted and in PEM (`openssl pkey` decrypts one)")
        })?;
    let of_certificate = chain.first().map(public_key).transpose().map_err(|error| {
        self::wrong("sslcert", certificate, &format!("its first certificate cannot be understood: {error:?}"))
    })?;
    if of_certificate != secret.public_key() {
        return Err(wrong(&format!("it is not the key of sslcert={}", certificate.display())));
    }
    Ok(CertifiedKey::new(chain, secret))
}

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CommandError> {
    let text =
        plain_file::read(path, MOST_BYTES).map_err(|error| wrong(parameter, path, &error.to_string()))?;
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(wrong(parameter, path, "there is no certificate in it, in PEM")),
    }
}

fn wrong(parameter: &str, path: &Path, reason: &str) -> CommandError {
    CommandError::Usage(format!("cannot use {parameter}={}: {reason}", path.display()))
}
