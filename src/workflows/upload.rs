//! Uploads: received whole, they are checked and kept one after another by a thread of their own, which holds neither a
//! worker nor a session of the pool. Between them it removes the bytes of deleted versions.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::answer::{Refused, Uploaded};
use super::check::{Body, Checked, Form, check, check_limit, too_large};
use super::multipart;
use super::store::removal::clear_deleted;
use super::store::upload::{Kept, MOST_VERSIONS, NewPackage, Refusal, keep};
use crate::app::{App, Call};
use crate::auth::Tenant;
use crate::change_log::ChangeLog;
use crate::error::Error;
use crate::http::error::Error as HttpError;
use crate::http::parked_response::ParkedResponse;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::StreamLimit;
use crate::http::upload::{MOST_UPLOADS, Upload};

/// What `multipart/form-data` may add to a package.
const FORM_OVERHEAD_BYTES: usize = 64 * 1024;
/// The database has the time of any change for it, and a second more for so many bytes.
const KEPT_BYTES_PER_SECOND: u64 = 1024 * 1024;
/// How often deleted versions are looked for whose bytes another server, or this one before, has not removed.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How long the database may take to keep so many.
fn keep_limit(bytes: u64, database_timeout: Duration) -> Duration {
    database_timeout + Duration::from_secs(bytes / KEPT_BYTES_PER_SECOND)
}

/// How long a client may have to wait whose body has come whole: for all that can be before it, and for its own.
pub fn longest_wait(max_package_size: usize, database_timeout: Duration) -> Duration {
    let most_bytes = (max_package_size + FORM_OVERHEAD_BYTES) as u64;
    (check_limit(most_bytes) + keep_limit(most_bytes, database_timeout)) * MOST_UPLOADS as u32
}

/// A body, and for whom it is.
struct Received {
    upload: Upload,
    form: Form,
    tenant: Tenant,
    by: ChangeLog,
}

/// `POST /tenants/{tenant}/workflows`: keeps a package.
pub fn upload(app: &App, call: &Call<'_>, tenant: &Tenant) -> Result<Response, Error> {
    let form = form(call.request)?;
    let upload = call.request.upload.take();
    let upload = upload.ok_or_else(|| Error::Internal("a request without its body".into()))?;
    let received = Received { upload, form, tenant: tenant.clone(), by: ChangeLog::of(call) };
    let jobs = Arc::clone(&app.package_store);
    // Replaced by what comes of it.
    let response = Response::no_content();
    Ok(response.parked(move |parked| jobs.add(move |app| answer(app, received, parked))))
}

/// The type in lower case, and its parameters. What says nothing of its type is taken for bytes (RFC 9110, 8.3).
fn media_type(content_type: Option<&str>) -> (String, &str) {
    let content_type = content_type.unwrap_or("application/octet-stream");
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    (media_type.trim().to_ascii_lowercase(), parameters)
}

/// How large a body of this type may be for a package of so many bytes.
pub fn body_limit(most_bytes: usize, content_type: Option<&str>) -> StreamLimit {
    let text = too_large(most_bytes);
    match media_type(content_type).0 == FORM {
        true => StreamLimit {
            bytes: most_bytes + FORM_OVERHEAD_BYTES,
            text: format!("{text}, or the rest of its form than {FORM_OVERHEAD_BYTES}"),
        },
        false => StreamLimit { bytes: most_bytes, text },
    }
}

const FORM: &str = "multipart/form-data";
const MEDIA_TYPES: &str = "multipart/form-data or application/gzip";

/// # Errors
/// 415 for another type, 400 for a form without a boundary.
fn form(request: &Request<'_>) -> Result<Form, Error> {
    if request.has_content_coding {
        return Err(Error::UnsupportedContentCoding);
    }
    let (media_type, parameters) = media_type(request.content_type);
    match &*media_type {
        FORM => Ok(Form::Multipart { boundary: multipart::boundary(parameters)? }),
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
        if let Some(job) = app.package_store.next() {
            job(app);
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
    let kept = catch_unwind(AssertUnwindSafe(|| keep_package(app, &received)));
    let answer = match kept {
        Ok(kept) => kept.unwrap_or_else(|error| {
            error.log(received.by.request_id());
            error.into()
        }),
        Err(_) => HttpError::Internal.response(),
    };
    // Its file is closed, and its place free.
    drop(received);
    parked.complete_with(answer);
}

fn keep_package(app: &App, received: &Received) -> Result<Response, Error> {
    let tenant = &received.tenant;
    let file = received.upload.file().ok_or_else(|| Error::Internal("an upload without its file".into()))?;
    let body = Body { file, length: received.upload.length() };
    let checked = match check(&received.form, body, app.max_package_size, check_limit(body.length))? {
        Ok(checked) => checked,
        Err(problems) => return Ok(Response::json(422, &Refused::new(&problems))?),
    };
    let Checked { package, part, sha256 } = checked;
    let until = Instant::now() + keep_limit(part.length(), app.database_timeout);
    let manifest = &package.manifest;
    let new =
        NewPackage { tenant, manifest, manifest_text: &package.manifest_text, sha256, file, part, until };
    let outcome = keep(&app.store, &new)?;
    let kept = outcome.map_err(|refusal| refused(refusal, &new))?;
    let (status, id) = match kept.value {
        Kept::Made(id) => (201, id),
        Kept::Known(id) => (200, id),
    };
    if status == 201 {
        let version = manifest.version.to_string();
        received.by.log(tenant, "package uploaded", manifest.name.as_str(), Some(&version));
    }
    if !kept.is_confirmed {
        return Err(Error::OutcomeUnknown(None));
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
            "the packages of tenant '{tenant}' have {used} bytes together with their manifests, this one has {}, and \
             {limit} are allowed (max_package_bytes)",
            new.bytes()
        )),
        Refusal::TooMany => Error::Conflict(
            format!(
                "tenant '{tenant}' has {MOST_VERSIONS} versions of workflows, deleted ones included, and may have no more"
            )
            .into(),
        ),
        Refusal::NoTenant => Error::NotFound(format!("tenant '{tenant}' not found").into()),
        Refusal::File(error) if error.kind() == ErrorKind::TimedOut => {
            Error::Unable("the database took too long to keep the package".to_owned())
        }
        Refusal::File(error) => error.into(),
    }
}
