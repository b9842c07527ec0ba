//! What TLS to the database needs of a certificate beyond rustls: its public key, also in version 1, by the parser that
//! verifies it; its times and its hash for channel binding, which that parser does not tell (X.509, RFC 5280; RFC 5929, 4.1).

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio_rustls::rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::EndEntityCert;

/// Whether it is of version 1, which has no extensions. The parser takes those as roots alone.
pub fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    matches!(EndEntityCert::try_from(certificate), Err(webpki::Error::UnsupportedCertVersion))
}

/// Its public key. One parser finds this and verifies the certificate, so both speak of the same key.
///
/// # Errors
/// It is no certificate, or one that cannot be understood.
pub fn public_key(
    certificate: &CertificateDer<'_>,
) -> Result<SubjectPublicKeyInfoDer<'static>, webpki::Error> {
    Ok(webpki::spki_for_anchor(&webpki::anchor_from_trusted_cert(certificate)?))
}

/// The parts of a certificate in DER. Nothing has been verified.
pub struct Certificate<'a> {
    whole: &'a [u8],
    /// The algorithm of its signature, and all that is said of it.
    signed_by: &'a [u8],
    not_before: String,
    not_after: String,
}

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

impl<'a> Certificate<'a> {
    /// `None` where it is none.
    pub fn read(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut certificate = Reader(Reader(der).next(SEQUENCE)?.content);
        let mut to_be_signed = Reader(certificate.next(SEQUENCE)?.content);
        let signed_by = certificate.next(SEQUENCE)?.content;
        if to_be_signed.0.first() == Some(&VERSION) {
            to_be_signed.next(VERSION)?;
        }
        let _serial = to_be_signed.next(INTEGER)?;
        let _signature = to_be_signed.next(SEQUENCE)?;
        let _issuer = to_be_signed.next(SEQUENCE)?;
        let mut validity = Reader(to_be_signed.next(SEQUENCE)?.content);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        Some(Certificate { whole: der, signed_by, not_before, not_after })
    }

    /// Whether this moment, in seconds since 1970, lies within its times.
    pub fn is_valid_at(&self, unix_seconds: u64) -> bool {
        let written = i64::try_from(unix_seconds)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .and_then(|now| {
                now.format(format_description!("[year][month][day][hour][minute][second]Z")).ok()
            });
        written.is_some_and(|now| self.not_before <= now && now <= self.not_after)
    }

    /// The value of `tls-server-end-point`: its hash, by the hash function of its own signature. `None` where that
    /// signature has none that is known, as with Ed25519.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        // 1.2.840.113549.1.1, 1.2.840.10045.4 and 2.16.840.1.101.3.4.2.
        const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
        const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
        const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
        let mut signed_by = Reader(self.signed_by);
        let algorithm = signed_by.next(OBJECT_IDENTIFIER)?.content;
        let hash = match (algorithm.strip_prefix(RSA), algorithm.strip_prefix(ECDSA)) {
            // MD5 and SHA-1 are replaced by SHA-256.
            (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => 1,
            (Some([12]), _) | (_, Some([3, 3])) => 2,
            (Some([13]), _) | (_, Some([3, 4])) => 3,
            // RSASSA-PSS names its hash in its parameters, first of all; SHA-1 when not.
            (Some([10]), _) => {
                let named = signed_by.0.windows(SHA2.len() + 1).find_map(|window| window.strip_prefix(SHA2));
                named.map_or(1, |last| last[0])
            }
            _ => return None,
        };
        match hash {
            1 => Some(Sha256::digest(self.whole).to_vec()),
            2 => Some(Sha384::digest(self.whole).to_vec()),
            3 => Some(Sha512::digest(self.whole).to_vec()),
            _ => None,
        }
    }
}

/// Reads one element of DER after another.
struct Reader<'a>(&'a [u8]);

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

impl<'a> Reader<'a> {
    fn any(&mut self) -> Option<Element<'a>> {
        let [tag, length, rest @ ..] = self.0 else { return None };
        let (length, start) = match usize::from(*length) {
            short @ ..=0x7f => (short, 2),
            // Four bytes of length are more than any certificate has.
            long @ 0x81..=0x84 => {
                let bytes = rest.get(..long - 0x80)?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + bytes.len())
            }
            _ => return None,
        };
        let (whole, rest) = self.0.split_at_checked(start.checked_add(length)?)?;
        self.0 = rest;
        Some(Element { tag: *tag, content: &whole[start..] })
    }

    fn next(&mut self, tag: u8) -> Option<Element<'a>> {
        self.any().filter(|element| element.tag == tag)
    }

    /// As `YYYYMMDDhhmmssZ`, whichever form it has.
    fn time(&mut self) -> Option<String> {
        let element = self.any()?;
        let text = std::str::from_utf8(element.content).ok()?;
        match (element.tag, text.len()) {
            (UTC_TIME, 13) if text < "50" => Some(format!("20{text}")),
            (UTC_TIME, 13) => Some(format!("19{text}")),
            (GENERALIZED_TIME, 15) => Some(text.to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate with nothing in it but what is read.
    fn made(algorithm: &[u8], parameters: &[u8]) -> Vec<u8> {
        let element = |tag: u8, content: &[u8]| {
            let length = content.len();
            [&[tag, 0x82, (length >> 8) as u8, length as u8], content].concat()
        };
        let signed_by = element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, algorithm), parameters].concat());
        let validity = [element(UTC_TIME, b"700101000010Z"), element(GENERALIZED_TIME, b"19700101000020Z")];
        let parts = [
            element(INTEGER, &[1]),
            element(SEQUENCE, &[]),
            element(SEQUENCE, &[]),
            element(SEQUENCE, &validity.concat()),
            element(SEQUENCE, &[]),
            element(SEQUENCE, b"key"),
        ];
        element(SEQUENCE, &[element(SEQUENCE, &parts.concat()), signed_by].concat())
    }

    #[test]
    fn times() {
        let der = made(&[0x2a], &[]);
        let certificate = Certificate::read(&der).unwrap();
        for (second, valid) in
            [(0, false), (9, false), (10, true), (20, true), (21, false), (u64::MAX, false)]
        {
            assert_eq!(certificate.is_valid_at(second), valid, "{second}");
        }
    }

    #[test]
    fn hashes() {
        let rsa = |last: u8| [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last].to_vec();
        let ecdsa = |last: &[u8]| [&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04], last].concat();
        let pss = [0x30, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03];
        for (algorithm, parameters, length) in [
            (rsa(4), &[][..], Some(32)),
            (rsa(5), &[], Some(32)),
            (rsa(11), &[], Some(32)),
            (rsa(12), &[], Some(48)),
            (rsa(13), &[], Some(64)),
            (rsa(10), &[], Some(32)),
            (rsa(10), &pss, Some(64)),
            (ecdsa(&[1]), &[], Some(32)),
            (ecdsa(&[3, 2]), &[], Some(32)),
            (ecdsa(&[3, 3]), &[], Some(48)),
            (ecdsa(&[3, 4]), &[], Some(64)),
            // Ed25519
            (vec![0x2b, 0x65, 0x70], &[], None),
        ] {
            let der = made(&algorithm, parameters);
            let hash = Certificate::read(&der).unwrap().end_point();
            assert_eq!(hash.map(|hash| hash.len()), length, "{algorithm:?}");
        }
    }

    #[test]
    fn what_is_none_is_none() {
        let der = made(&[0x2a], &[]);
        for length in 0..der.len() {
            assert!(Certificate::read(&der[..length]).is_none(), "{length}");
        }
        assert!(Certificate::read(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff, 0]).is_none());
    }
}
