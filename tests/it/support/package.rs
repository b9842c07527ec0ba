//! Workflow packages, and the ways to upload one.

use std::io::Write as _;
use std::net::SocketAddr;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Seeded;
use super::http::{Connection, Response};

/// A manifest with one task.
pub fn manifest(name: &str, version: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\nversion = \"{version}\"\ndescription = \"Tries it\"\n\n\
         [[tasks]]\nid = \"only\"\ncommand = [\"true\"]\n"
    )
}

/// A package with this manifest and these files.
pub fn archive(manifest: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in [("package.toml", manifest.as_bytes())].iter().chain(files) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    let mut encoder = archive.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

/// The usual one.
pub fn package(name: &str, version: &str) -> Vec<u8> {
    archive(&manifest(name, version), &[])
}

/// One of about so many bytes, which gzip does not make smaller.
pub fn package_of(name: &str, version: &str, bytes: usize) -> Vec<u8> {
    let content = Seeded::new(bytes as u64).bytes(bytes);
    archive(&manifest(name, version), &[("data", &content)])
}

/// The head of an upload; further field lines end with CR LF each.
pub fn head(tenant: &str, key: &str, fields: &str) -> String {
    format!(
        "POST /tenants/{tenant}/workflows HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{fields}\r\n"
    )
}

/// Uploads a body of this type.
#[track_caller]
pub fn upload_as(address: SocketAddr, tenant: &str, key: &str, content_type: &str, body: &[u8]) -> Response {
    let fields = format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
    let mut connection = Connection::open(address);
    connection.send_what_goes(head(tenant, key, &fields).as_bytes());
    connection.send_what_goes(body);
    connection.receive("POST")
}

/// Uploads a package as the body itself.
#[track_caller]
pub fn upload(address: SocketAddr, tenant: &str, key: &str, package: &[u8]) -> Response {
    upload_as(address, tenant, key, "application/gzip", package)
}
