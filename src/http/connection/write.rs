//! Whole requests to the workers, answers to the client, and what comes after the last of them.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::read::Receiving;
use super::{Connection, ConnectionContext, KEPT_BUFFER, NextAction, Phase};
use crate::http::error::Error;
use crate::http::head::{self, Head};
use crate::http::queue::{Job, Step};
use crate::http::request::RequestInfo;
use crate::http::response::{self, Response};
use crate::http::router::Routed;
use crate::http::server_status::PROBE;
use crate::metrics::Rejection;

/// How long a closed connection is read on, so that the client gets our last answer instead of a reset (RFC 9112, 9.6).
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Bytes that are thrown away meanwhile.
const LINGER_BYTES: usize = 1024 * 1024;

impl Connection {
    /// Answers a whole request, or hands it to the workers.
    pub(super) fn answer(&mut self, context: &ConnectionContext, receiving: Receiving, body: &[u8]) {
        let Receiving { head, routed, mut info, upload, .. } = receiving;
        let service = &context.server.service;
        info.read_at = Instant::now();
        info.deadline = info.read_at + context.rules.deadlines.answer;
        info.is_upload = upload.is_some();
        // A bug that a request brings to light is its own answer, as with a worker.
        let now = |routed| {
            catch_unwind(AssertUnwindSafe(|| service.answer_now(routed, &head.request(&info, body))))
                .unwrap_or_else(|_| Some(Error::Internal.response()))
        };
        let response = match routed.map(|routed| (routed, routed.filter(|_| upload.is_none()).and_then(now)))
        {
            Err(error) => error.response(),
            Ok((_, Some(response))) => response,
            Ok((routed, None)) => {
                return self.hand_on(context, &head, body, routed, Step::Answer(upload), &info);
            }
        };
        self.respond(context, &response, &info, service.may_be_stored(head.path()));
    }

    /// Into the queue; where that is full, the answer is 503.
    pub(super) fn hand_on(
        &mut self,
        context: &ConnectionContext,
        head: &Head,
        body: &[u8],
        routed: Option<Routed>,
        step: Step,
        info: &RequestInfo,
    ) {
        let job = Job {
            peer: Arc::clone(&self.peer),
            tiny_http_bytes: head.plain_request(body),
            authorization: head.authorization.clone(),
            content_type: head.content_type.clone(),
            if_none_match: head.if_none_match.clone(),
            idempotency_key: head.idempotency_key.clone(),
            has_content_coding: head.has_content_coding,
            routed,
            step,
            info: info.clone(),
        };
        let in_flight = &context.server.status.metrics.requests_in_flight;
        // First of all, since a worker may be done before the next line.
        self.phase = Phase::Serving;
        self.serving = Some(info.clone());
        self.peer.hand_over();
        in_flight.inc();
        if !context.server.queue_of(info).push(job) {
            self.peer.take_back(info.read_at, |_| true);
            in_flight.dec();
            if info.route != PROBE {
                context.reject(Rejection::Overloaded);
            }
            let may_be_stored = context.server.service.may_be_stored(head.path());
            self.respond(context, &Error::Overloaded.response(), info, may_be_stored);
        }
    }

    /// Answers on the event loop's own thread.
    pub(super) fn respond(
        &mut self,
        context: &ConnectionContext,
        response: &Response,
        info: &RequestInfo,
        may_be_stored: bool,
    ) {
        let close = !info.keep_alive || context.draining.is_some();
        response::encode(response, info.framing(close, !may_be_stored), &mut self.output);
        self.closing |= close;
        context.server.status.answered(info, response, info.read_at.elapsed());
        self.phase = Phase::Writing(Instant::now());
    }

    /// Answers what is no request, or came too late, and ends the connection.
    pub(super) fn refuse(&mut self, context: &mut ConnectionContext, error: &Error) {
        let input = &self.input[self.start..];
        let (request_id, is_head) = match self.receiving.take() {
            Some(receiving) => (Some(receiving.info.request_id), receiving.info.method == "HEAD"),
            None => (head::request_id(input).map(Arc::from), head::is_head(input)),
        };
        let now = Instant::now();
        let info = RequestInfo {
            request_id: request_id.unwrap_or_else(|| Uuid::new_v4().to_string().into()),
            method: if is_head { "HEAD" } else { head::OTHER_METHOD },
            route: "malformed",
            is_change: false,
            is_upload: false,
            keep_alive: false,
            is_1_0: false,
            client: self.peer.address.ip().to_canonical(),
            read_at: now,
            deadline: now,
        };
        // Whatever it was may have been for a path whose answers may not be stored.
        self.respond(context, &error.response(), &info, false);
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        let written = self.peer.write(&self.output)?;
        if written == self.output.len() {
            self.output.clear();
            if self.output.capacity() > KEPT_BUFFER {
                self.output = Vec::new();
            }
            self.phase = Phase::Idle(Instant::now());
        } else {
            self.output.drain(..written);
        }
        Ok(())
    }

    /// After the last answer: no more from us, and what the client still sends is thrown away for a while.
    pub(super) fn half_close(&mut self, context: &mut ConnectionContext) -> NextAction {
        if self.peer.stream.shutdown(Shutdown::Write).is_err() {
            return NextAction::End;
        }
        self.input = Vec::new();
        self.receiving = None;
        self.start = 0;
        self.phase = Phase::Lingering(Instant::now());
        self.linger(context)
    }

    pub(super) fn linger(&mut self, context: &mut ConnectionContext) -> NextAction {
        loop {
            match (&self.peer.stream).read(&mut context.scratch) {
                Ok(0) => return NextAction::End,
                Ok(count) => {
                    self.thrown_away += count;
                    if self.thrown_away > LINGER_BYTES {
                        return NextAction::End;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return NextAction::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return NextAction::End,
            }
        }
    }
}
