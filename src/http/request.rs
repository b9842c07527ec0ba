//! A whole request, as handlers see it, and what is known of it besides.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::response::Framing;
use super::upload::Upload;

/// Paths are compared byte by byte: a trailing slash or a percent-encoded letter is another path.
pub struct Request<'a> {
    /// The value of `X-Request-Id`: the client's own, or a fresh UUID.
    pub id: &'a str,
    pub path: &'a str,
    /// What follows the `?`, still percent-encoded.
    pub query: Option<&'a str>,
    /// `Authorization` as it came; `None` also when it came twice.
    pub authorization: Option<&'a str>,
    pub content_type: Option<&'a str>,
    /// What the client has already (RFC 9110, 13.1.2).
    pub if_none_match: Option<&'a str>,
    /// What makes a request that is sent twice one; empty where it came twice, or has more than visible ASCII.
    pub idempotency_key: Option<&'a str>,
    /// The body has a content coding, which no handler undoes.
    pub has_content_coding: bool,
    pub body: &'a [u8],
    /// The body instead, where the route takes a stream. A handler that needs it for longer than its own time takes it.
    pub upload: Cell<Option<Upload>>,
    /// The client, for the log: the peer, or the address that a trusted proxy names.
    pub client: IpAddr,
    /// All that is done for the request, waiting included, has to be over by then.
    pub deadline: Instant,
}

/// Enough of a request to answer it, count it and log it.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    /// The value of `X-Request-Id`.
    pub request_id: Arc<str>,
    /// As the client sent it, or `OTHER`.
    pub method: &'static str,
    /// The route's pattern, or why there is none.
    pub route: &'static str,
    /// It may change something: only GET and HEAD never do (RFC 9110, 9.2.1).
    pub is_change: bool,
    /// Its body is an upload, so its answer may take long.
    pub is_upload: bool,
    /// The client lets the connection go on.
    pub keep_alive: bool,
    pub is_1_0: bool,
    /// The client, for the log: the peer, or the address that a trusted proxy names.
    pub client: IpAddr,
    /// When the request had been read whole.
    pub read_at: Instant,
    /// Until when its worker may wait for anything, from the queue to the database's last word.
    pub deadline: Instant,
}

impl RequestInfo {
    /// How its answer is framed.
    pub fn framing(&self, close: bool, no_store: bool) -> Framing<'_> {
        Framing {
            request_id: &self.request_id,
            head: self.method == "HEAD",
            close,
            keep_alive_1_0: self.is_1_0,
            no_store,
        }
    }
}
