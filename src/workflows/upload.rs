//! Uploads: received whole, they are checked and kept one after another by a thread of their own, which holds neither a
//! worker nor a session of the pool. Between them it removes the bytes of deleted versions.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::answer::{Refused, Uploaded};
use super::handlers::ChangeLog;
use super::multipart::{self, Part};
use super::package::{Package, PackageError};
use super::store::removal::clear_deleted;
use super::store::upload::{Kept, NewPackage, Refusal, keep};
use crate::app::{App, Call};
use crate::auth::Tenant;
use crate::error::Error;
use crate::http::error::Error as HttpError;
use crate::http::parked_response::ParkedResponse;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::upload::{MOST_UPLOADS, Upload};

/// What `multipart/form-data` may add to a package.
pub const FORM_OVERHEAD_BYTES: usize = 64 * 1024;
/// An upload has the time of any change, so much for its check, and a second for so many bytes.
const CHECK_LIMIT: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND: usize = 1024 * 1024;
/// How often deleted versions are looked for whose bytes another server, or this one before, has not removed.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Problems that an answer names.
const MOST_PROBLEMS: usize = 1000;

/// How long one upload of so many bytes may take, once its turn has come.
fn limit(bytes: usize, database_timeout: Duration) -> Duration {
    database_timeout + CHECK_LIMIT + Duration::from_secs((bytes / BYTES_PER_SECOND) as u64)
}

/// How long its client may have to wait: for all that can be before it.
pub fn longest_wait(max_package_size: usize, database_timeout: Duration) -> Duration {
    limit(max_package_size, database_timeout) * MOST_UPLOADS as u32
}

/// A body, and for whom it is.
struct Received {
    upload: Upload,
    form: Form,
    tenant: Tenant,
    by: ChangeLog,
}

/// How the package stands in the body.
enum Form {
    Plain,
    Multipart { boundary: Vec<u8> },
}

/// `POST /tenants/{tenant}/workflows`: keeps a package.
pub fn upload(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let form = form(call.request)?;
    let upload = call.request.upload.take().ok_or("a request without its body")?;
    let received = Received { upload, form, tenant: tenant.clone(), by: ChangeLog::of(call) };
    let tasks = Arc::clone(&app.package_store);
    // Replaced by what comes of it.
    let response = Response::no_content();
    Ok(response.parked(move |parked| tasks.add(move |app| answer(app, received, parked))))
}

const MEDIA_TYPES: &str = "multipart/form-data or application/gzip";

/// # Errors
/// 415 for another type, 400 for a form without a boundary.
fn form(request: &Request<'_>) -> Result<Form, Error> {
    if request.has_content_coding {
        return Err(Error::UnsupportedContentCoding);
    }
    // What says nothing of its type is taken for bytes (RFC 9110, 8.3).
    let content_type = request.content_type.unwrap_or("application/octet-stream");
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    match &*media_type.trim().to_ascii_lowercase() {
        "multipart/form-data" => Ok(Form::Multipart { boundary: multipart::boundary(parameters)? }),
        "application/gzip"
        | "application/x-gzip"
        | "application/octet-stream"
        | "application/x-tar+gzip"
        | "application/x-gtar"
        | "application/x-gtar-compressed"
        | "application/x-compressed-tar"
        | "application/x-tgz" => Ok(Form::Plain),
        _ => Err(Error::UnsupportedMediaType(MEDIA_TYPES)),
    }
}

/// Runs until `stop` is set and it is unparked.
pub fn watch(app: &App, stop: &AtomicBool) {
    app.package_store.are_for_this_thread();
    while !stop.load(Ordering::Acquire) {
        if let Some(task) = app.package_store.next() {
            task(app);
            continue;
        }
        match clear_deleted(&app.store, Instant::now() + app.database_timeout) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => log::debug!("cannot remove the bytes of deleted versions: {error}"),
        }
        thread::park_timeout(LOOK_EVERY);
    }
}

fn answer(app: &App, received: Received, parked: ParkedResponse) {
    // An archive that brings a bug to light is its own client's answer.
    let answer = catch_unwind(AssertUnwindSafe(|| kept(app, &received)))
        .unwrap_or_else(|_| HttpError::Internal.response());
    // Its file is closed, and its place free.
    drop(received);
    parked.complete_with(answer);
}

fn kept(app: &App, received: &Received) -> Response {
    keep_package(app, received).unwrap_or_else(|error| {
        match &error {
            Error::Internal(cause) => {
                log::error!(request_id = received.by.request_id(); "internal error: {cause}");
            }
            Error::Unavailable(cause) | Error::OutcomeUnknown(Some(cause)) => {
                log::debug!(request_id = received.by.request_id(); "refused: {cause}");
            }
            _ => {}
        }
        error.into()
    })
}

fn keep_package(app: &App, received: &Received) -> Result<Response, Error> {
    let tenant = &received.tenant;
    let length = received.upload.length();
    let file = received.upload.file().ok_or("an upload without its file")?;
    let part = match &received.form {
        Form::Plain => Part { at: 0, end: length },
        Form::Multipart { boundary } => multipart::find_file(file, length, boundary)?,
    };
    let most = app.max_package_size;
    match usize::try_from(part.length()).unwrap_or(usize::MAX) {
        0 => return Err(Error::Malformed("empty package file".to_owned())),
        length if length > most => {
            return Err(Error::TooLarge(format!(
                "the package has {length} bytes, and may have {most} (--max-package-size)"
            )));
        }
        _ => {}
    }
    let until = Instant::now() + limit(part.length() as usize, app.database_timeout);
    let package = match Package::from_archive(BufReader::new(part.reader(file))) {
        Ok(package) => package,
        Err(PackageError::Read(error)) => return Err(error.into()),
        Err(PackageError::Problems(mut problems)) => {
            let count = problems.len();
            problems.truncate(MOST_PROBLEMS);
            return Ok(Response::json(422, &Refused::new(count, &problems))?);
        }
    };
    let manifest = &package.manifest;
    let manifest_text = &*package.manifest_text;
    let new = NewPackage { tenant, manifest, manifest_text, sha256: sha256(file, part)?, file, part };
    let outcome = keep(&app.store, &new, until)?;
    let (status, id) = match outcome {
        Ok(kept) if !kept.is_confirmed => return Err(Error::OutcomeUnknown(None)),
        Ok(kept) => match kept.value {
            Kept::Made(id) => (201, id),
            Kept::Known(id) => (200, id),
        },
        Err(refusal) => return Err(refused(refusal, &new)),
    };
    if status == 201 {
        let version = manifest.version.to_string();
        received.by.log(tenant, "package uploaded", manifest.name.as_str(), Some(&version));
    }
    Ok(Response::json(status, &Uploaded::new(id, &new))?)
}

fn refused(refusal: Refusal, new: &NewPackage<'_>) -> Error {
    let (name, version, tenant) = (&new.manifest.name, &new.manifest.version, new.tenant.name());
    match refusal {
        Refusal::Exists => Error::Conflict(
            format!("version {version} of workflow '{name}' exists with other content; a change needs another version").into(),
        ),
        Refusal::Existed => Error::Conflict(
            format!("version {version} of workflow '{name}' existed with other content; a change needs another version").into(),
        ),
        Refusal::TooMuch { limit, used } => Error::TooLarge(format!(
            "the packages of tenant '{tenant}' have {used} bytes together, this one has {}, and {limit} are allowed \
             (max_package_bytes)",
            new.part.length()
        )),
        Refusal::NoTenant => Error::NotFound(format!("tenant '{tenant}' not found").into()),
        Refusal::File(error) => error.into(),
    }
}

/// Of a part of a file, in hex.
fn sha256(file: &File, part: Part) -> std::io::Result<String> {
    let mut reader = part.reader(file);
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
