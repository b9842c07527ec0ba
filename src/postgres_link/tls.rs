//! TLS to the database as libpq means it, made with rustls: whom to trust, and the driver's idea of a connector.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use postgres::config::SslNegotiation;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error as RustlsError};

use super::certificate_verifier::{Trust, Verifier};
use super::credentials;
use super::stream::{Limit, Stream, silent};
use crate::command_error::{CommandError, runtime};
use crate::config::database_url::{DatabaseUrl, Roots, SslMode};
use crate::terminal::shown;

/// Makes the TLS of every connection to one database.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// Where the roots are from, for people.
    roots: Arc<str>,
    is_direct: bool,
    encryption: Encryption,
    limit: Limit,
}

/// Whether a connection is to be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    Off,
    /// Where the server offers it.
    Preferred,
    Required,
}

impl Tls {
    /// Reads the files that the URL names, or that libpq would look for.
    ///
    /// # Errors
    /// `Usage` with the file that is missing, unreadable or not what it should be.
    pub fn new(url: &DatabaseUrl) -> Result<Tls, CommandError> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let (trust, roots) = trust(url)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(runtime("cannot set up TLS"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { trust, algorithms }));
        let mut config = match &url.certificate {
            Some((certificate, key)) if url.uses_tls() => {
                let certified = SingleCertAndKey::from(credentials::client(certificate, key)?);
                builder.with_client_cert_resolver(Arc::new(certified))
            }
            _ => builder.with_no_client_auth(),
        };
        // PostgreSQL resumes no session, and each of ours shall be verified.
        config.resumption = Resumption::disabled();
        let is_direct = url.config.get_ssl_negotiation() == SslNegotiation::Direct;
        if is_direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Tls {
            config: Arc::new(config),
            roots: roots.into(),
            is_direct,
            encryption: Encryption::Preferred,
            limit: Limit::default(),
        })
    }

    /// The same for one connection, which waits for bytes for no longer than the limit says.
    pub fn for_connection(&self, encryption: Encryption, limit: &Limit) -> Tls {
        Tls { encryption, limit: limit.clone(), ..self.clone() }
    }
}

/// Whose certificates are trusted, and where that is from.
fn trust(url: &DatabaseUrl) -> Result<(Trust, String), CommandError> {
    if !url.uses_tls() {
        return Ok((Trust::Anybody, String::new()));
    }
    let usual = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(|home| PathBuf::from(home).join(".postgresql/root.crt"));
    let of_mode = |authorities| match url.mode {
        SslMode::VerifyFull => Trust::Names(authorities),
        _ => Trust::Authorities(authorities),
    };
    let of_file = |path: &Path| {
        let authorities = credentials::authorities(path)?;
        Ok((of_mode(authorities), path.display().to_string()))
    };
    match (url.mode, &url.roots, usual) {
        (SslMode::Disable | SslMode::Allow | SslMode::Prefer, roots, _) => {
            if roots.is_some() {
                let mode = url.mode.name();
                log::warn!(
                    "sslrootcert does nothing with sslmode={mode}: no certificate is verified; sslmode=verify-full \
                     would do that"
                );
            }
            Ok((Trust::Anybody, String::new()))
        }
        (_, Some(Roots::System), _) => {
            Ok((of_mode(credentials::authorities_of_system()?), "the system's certificates".to_owned()))
        }
        (_, Some(Roots::File(path)), _) => of_file(path),
        (_, None, Some(usual)) if usual.exists() => of_file(&usual),
        (SslMode::Require, None, _) => Ok((Trust::Anybody, String::new())),
        (mode, None, usual) => {
            let usual = usual.unwrap_or_else(|| PathBuf::from("~/.postgresql/root.crt"));
            Err(CommandError::Usage(format!(
                "sslmode={} has to know whose certificates to trust, and there is no file {}: name one with \
                 sslrootcert=FILE, or say sslrootcert=system",
                mode.name(),
                usual.display()
            )))
        }
    }
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = Handshake;
    type Error = Refusal;

    /// For a Unix socket the name is empty; no handshake follows then.
    fn make_tls_connect(&mut self, name: &str) -> Result<Handshake, Refusal> {
        Ok(Handshake { tls: self.clone(), name: name.to_owned() })
    }
}

/// TLS to a server of this name, about to be made.
pub struct Handshake {
    tls: Tls,
    name: String,
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = Box<dyn Error + Sync + Send>;
    type Future = Pin<Box<dyn Future<Output = Result<Stream<S>, Self::Error>> + Send>>;

    /// The driver leaves it all to us, the question whether the server has TLS included.
    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let limit = self.tls.limit.get();
            let stream = self.negotiate(stream);
            match limit {
                None => stream.await,
                Some(until) => match tokio::time::timeout_at(until.into(), stream).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(silent().into()),
                },
            }
        })
    }
}

impl Handshake {
    async fn negotiate<S>(self, mut stream: S) -> Result<Stream<S>, Box<dyn Error + Sync + Send>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        /// PostgreSQL's SSLRequest: its length, and a number that is no version of the protocol.
        const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
        let Handshake { tls, name } = self;
        let limit = tls.limit.clone();
        if tls.encryption == Encryption::Off {
            return Ok(Stream::plain(stream, limit));
        }
        if !tls.is_direct {
            stream.write_all(&SSL_REQUEST).await?;
            if stream.read_u8().await? != b'S' {
                return match tls.encryption {
                    Encryption::Required => Err(Refusal("server does not support TLS".to_owned()).into()),
                    _ => Ok(Stream::plain(stream, limit)),
                };
            }
        }
        let server = ServerName::try_from(name.clone())
            .map_err(|_| Refusal(format!("`{}` is no name that a certificate can have", shown(&name))))?;
        match TlsConnector::from(Arc::clone(&tls.config)).connect(server, stream).await {
            Ok(stream) => Ok(Stream::tls(stream, limit)),
            Err(error) => Err(tls.explain(error, &name)),
        }
    }
}

/// Why there is no TLS with this server, and will be none.
#[derive(Debug)]
pub struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Refusal {}

impl Tls {
    /// A refusal, or the error itself when it is one of the network.
    fn explain(&self, error: io::Error, name: &str) -> Box<dyn Error + Sync + Send> {
        let Some(cause) = refusal(&error) else {
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            return match self.is_direct && is_end {
                true => Box::new(Refusal(
                    "the server ends the connection; sslnegotiation=direct needs PostgreSQL 17 or later"
                        .to_owned(),
                )),
                false => Box::new(error),
            };
        };
        let roots = &self.roots;
        Box::new(Refusal(match cause {
            RustlsError::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    format!("the server's certificate is not signed by anybody in {roots}")
                }
                CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
                    format!(
                        "the server's certificate is not for {name}: it has no subjectAltName, and the common name \
                     does not count"
                    )
                }
                CertificateError::NotValidForNameContext { presented, .. } => {
                    format!("the server's certificate is not for {name}, but for {}", presented.join(", "))
                }
                // Two authorities may have one name and keys of two kinds.
                CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
                    "the server's certificate is not signed by anybody in {roots}, or in a way that is not known \
                     here; ECDSA or RSA with SHA-256 is"
                ),
                CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
                    "the server's certificate is signed in a way that is not known here; ECDSA or RSA with SHA-256 \
                     is"
                    .to_owned()
                }
                other => format!("the server's certificate is not valid: {other}"),
            },
            // The verifier's own words.
            RustlsError::General(reason) => reason.clone(),
            RustlsError::AlertReceived(alert) => format!("the server refuses TLS with us: {alert:?}"),
            other => other.to_string(),
        }))
    }
}

/// What TLS itself has to say against a connection: trying again would not help.
pub fn refusal(error: &io::Error) -> Option<&RustlsError> {
    error.get_ref()?.downcast_ref()
}
