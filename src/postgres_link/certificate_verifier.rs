//! Decides whether a server's certificate will do, by libpq's degrees: not at all, by its signer, by its name as well.
//! Whatever the degree, the server has to prove that the certificate is its own: channel binding stands on that.

use std::collections::HashSet;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate_fields::{Certificate, is_version_1, public_key};

#[derive(Debug)]
pub struct Verifier {
    pub trust: Trust,
    pub algorithms: WebPkiSupportedAlgorithms,
}

/// Whose certificate will do.
#[derive(Debug)]
pub enum Trust {
    Anybody,
    /// Who is signed for by these.
    Authorities(Authorities),
    /// The same, under the name that was asked for.
    Names(Authorities),
}

/// Certificates that are trusted for their own sake.
#[derive(Debug)]
pub struct Authorities {
    pub roots: RootCertStore,
    /// The same as they came: a server may have signed its certificate itself, and then that is what to trust.
    pub themselves: HashSet<CertificateDer<'static>>,
}

impl Verifier {
    fn verify_signer(
        &self,
        authorities: &Authorities,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if authorities.themselves.contains(certificate) {
            let read = Certificate::read(certificate).ok_or(CertificateError::BadEncoding)?;
            return match read.is_valid_at(now.as_secs()) {
                true => Ok(()),
                false => Err(CertificateError::Expired.into()),
            };
        }
        let parsed = parsed(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &authorities.roots,
            between,
            now,
            self.algorithms.all,
        )
    }
}

const NO_EXTENSIONS: &str = "the server's certificate is not valid: it has no extensions (version 1); make one with a \
                             subjectAltName";
const NO_KEY: &str = "the server does not have the key of the certificate that it shows";

/// The library says the same of a wrong signature below a certificate and of a wrong one in the handshake.
fn unproven(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => Error::General(NO_KEY.to_owned()),
        other => other,
    }
}

/// For the library, which knows no other version than 3.
fn parsed<'a>(certificate: &'a CertificateDer<'a>) -> Result<ParsedCertificate<'a>, Error> {
    match is_version_1(certificate) {
        false => ParsedCertificate::try_from(certificate),
        true => Err(Error::General(NO_EXTENSIONS.to_owned())),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anybody => {}
            Trust::Authorities(authorities) => self.verify_signer(authorities, certificate, between, now)?,
            Trust::Names(authorities) => {
                self.verify_signer(authorities, certificate, between, now)?;
                verify_server_name(&parsed(certificate)?, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms).map_err(unproven)
    }

    /// By the key alone: a certificate without extensions, as many a guide makes them, is none to the library.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = public_key(certificate).map_err(|_| CertificateError::BadEncoding)?;
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms).map_err(unproven)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
