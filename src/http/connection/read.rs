//! From bytes to whole requests.

use std::io::{self, Read as _};
use std::mem;
use std::time::Instant;

use uuid::Uuid;

use super::upload::Pace;
use super::{Connection, ConnectionContext, KEPT_BUFFER, Phase};
use crate::http::chunked::Chunks;
use crate::http::error::Error;
use crate::http::fields::Body;
use crate::http::forwarded;
use crate::http::head::{self, BODY_LIMIT, Head};
use crate::http::peer::Peer;
use crate::http::request::RequestInfo;
use crate::http::router::{BodyKind, Routed};
use crate::http::server_status::PROBE;
use crate::http::upload::Upload;

/// A request from its head on, until its body is there.
pub struct Receiving {
    pub head: Head,
    /// `None` for the server's own probe. A request that has no route is answered only when it is whole.
    pub routed: Result<Option<Routed>, Error>,
    pub info: RequestInfo,
    /// What has come of a chunked body.
    pub chunks: Chunks,
    /// Nothing of the body is left to come.
    pub is_whole: bool,
    /// Where the body is a stream: what is written of it, while no other thread has that; whether a file was made for it;
    /// what came of it lately; and what its client is told if it is too large.
    pub upload: Option<Upload>,
    pub has_file: bool,
    pub pace: Pace,
    pub too_large: String,
}

impl Receiving {
    pub fn new(context: &mut ConnectionContext, peer: &Peer, head: Head, now: Instant) -> Receiving {
        let proxies = &context.rules.trusted_proxies;
        let routed = match head.is_https && !proxies.contains(peer.address.ip()) {
            true => Err((Error::MisdirectedRequest, "unmatched")),
            false => context.server.service.route(head.method, head.path()),
        };
        let (routed, route) = match routed {
            Ok(routed) => (Ok(Some(routed)), routed.pattern),
            Err(_) if context.server.status.is_probe(head.path()) => (Ok(None), PROBE),
            Err((error, label)) => (Err(error), label),
        };
        let info = RequestInfo {
            request_id: match &head.request_id {
                Some(theirs) => theirs.as_str().into(),
                None => Uuid::new_v4().to_string().into(),
            },
            method: head.method,
            is_change: !matches!(head.method, "GET" | "HEAD"),
            is_upload: false,
            route,
            keep_alive: head.keep_alive,
            is_1_0: head.is_1_0,
            client: forwarded::client(peer.address.ip(), head.forwarded_for.as_deref(), proxies),
            read_at: now,
            deadline: now,
        };
        let is_whole = head.body == Body::Length(0);
        Receiving {
            head,
            routed,
            info,
            chunks: Chunks::new(BODY_LIMIT),
            is_whole,
            upload: None,
            has_file: false,
            pace: Pace::new(now),
            too_large: String::new(),
        }
    }
}

impl Connection {
    /// Takes one whole request out of the input and has it answered, if there is one.
    pub(super) fn next_request(&mut self, context: &mut ConnectionContext) -> Result<bool, Error> {
        if let Phase::Uploading = self.phase {
            return self.next_piece();
        }
        if self.start == self.input.len() || mem::take(&mut self.head_incomplete) {
            return Ok(false);
        }
        let now = Instant::now();
        if let Phase::New(_) | Phase::Idle(_) = self.phase {
            self.phase = Phase::Reading(now);
        }
        let mut receiving = match self.receiving.take() {
            Some(receiving) => *receiving,
            None => match head::read_head(&self.input[self.start..])? {
                None => return Ok(false),
                Some((head, length)) => {
                    self.start += length;
                    let receiving = Receiving::new(context, &self.peer, head, now);
                    let fits = matches!(receiving.head.body, Body::Length(length) if length <= BODY_LIMIT);
                    if let Ok(Some(routed)) = receiving.routed
                        && match routed.body {
                            BodyKind::Json => false,
                            BodyKind::LargeJson => !fits,
                            BodyKind::Stream => true,
                        }
                    {
                        self.ask_for_authorization(context, receiving, routed);
                        return Ok(true);
                    }
                    if !fits && receiving.head.body != Body::Chunked {
                        self.receiving = Some(Box::new(receiving));
                        return Err(Error::ContentTooLarge(BODY_LIMIT));
                    }
                    self.invite_body(&receiving.head);
                    receiving
                }
            },
        };
        let is_whole = match receiving.head.body {
            Body::Length(length) => Ok(self.input.len() - self.start >= length),
            Body::Chunked => receiving.chunks.take(&self.input[self.start..]).map(|(taken, is_whole)| {
                self.start += taken;
                is_whole
            }),
        };
        if let Ok(true) = is_whole {
            let input = mem::take(&mut self.input);
            let decoded = mem::take(&mut receiving.chunks.body);
            let body = match receiving.head.body {
                Body::Length(length) => {
                    self.start += length;
                    &input[self.start - length..self.start]
                }
                Body::Chunked => &decoded,
            };
            self.answer(context, receiving, body);
            self.input = input;
        } else {
            self.receiving = Some(Box::new(receiving));
        }
        self.forget_used_input();
        is_whole
    }

    /// `100 Continue` (RFC 9110, 15.2.1) for a client that waits for it. Nothing else is in the socket's buffer, so
    /// it fits; should it not, the client sends its body after a while all the same.
    pub(super) fn invite_body(&self, head: &Head) {
        let body_is_here = match head.body {
            Body::Length(length) => self.input.len() - self.start >= length,
            Body::Chunked => self.input.len() > self.start,
        };
        if head.expects_continue && !body_is_here {
            let _ = self.peer.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    pub(super) fn read(&mut self, context: &mut ConnectionContext) -> io::Result<usize> {
        let count = loop {
            match (&self.peer.stream).read(&mut context.scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.socket_empty = count < context.scratch.len() && !self.client_finished;
        let new = &context.scratch[..count];
        // A head ends with a line: without a new line end it is as incomplete as before, so a client that sends byte by
        // byte costs no parsing. The first bytes are always looked at, since most rubbish shows at once.
        self.head_incomplete = self.receiving.is_none()
            && !self.input.is_empty()
            && !new.contains(&b'\n')
            && self.input.len() - self.start + count < head::HEAD_LIMIT;
        self.input.extend_from_slice(new);
        Ok(count)
    }

    pub(super) fn forget_used_input(&mut self) {
        if self.start == self.input.len() {
            self.start = 0;
            self.input.clear();
            if self.input.capacity() > KEPT_BUFFER {
                self.input = Vec::new();
            }
        } else if self.start > self.input.len() / 2 {
            self.input.drain(..self.start);
            self.start = 0;
        }
    }
}
