//! The deadlines of a connection, and what is said when one is over.

use std::time::{Duration, Instant};

use super::write::LINGER;
use super::{Connection, ConnectionContext, NextAction, Phase};
use crate::http::error::Error;
use crate::http::peer::Stage;
use crate::http::request::RequestInfo;
use crate::http::server_status::PROBE;
use crate::metrics::Rejection;

/// Once we are draining, a connection without a request has so long to send one.
const DRAIN_IDLE: Duration = Duration::from_millis(250);
/// How long a request that only reads waits for its answer while the database is known to be away.
const PATIENCE_WHEN_AWAY: Duration = Duration::from_secs(1);
/// How long a probe waits for a worker. That they move is seen from the queue, so it need not wait for a busy one.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

impl Connection {
    /// Looks at the deadlines; called a few times a second.
    pub fn tick(&mut self, context: &mut ConnectionContext, now: Instant) -> NextAction {
        let over = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let ends_drain =
            |since: Instant| context.draining.is_some_and(|began| over(since.max(began), DRAIN_IDLE));
        let idle_is_over = |since: Instant| ends_drain(since) || over(since, context.rules.deadlines.idle);
        match self.phase {
            Phase::New(since) if over(since, context.rules.deadlines.request) => {
                context.reject(Rejection::TooSlow);
                NextAction::End
            }
            Phase::New(since) if ends_drain(since) => NextAction::End,
            Phase::Idle(since) if idle_is_over(since) => NextAction::End,
            Phase::Reading(since) if over(since, context.rules.deadlines.request) => {
                context.reject(Rejection::TooSlow);
                self.refuse(context, &Error::RequestTimeout);
                self.advance(context)
            }
            Phase::Uploading => {
                if !self.is_stalled(now, context.rules.deadlines.request) {
                    return NextAction::Wait;
                }
                context.reject(Rejection::TooSlow);
                self.refuse_upload(context, &Error::RequestTimeout);
                self.advance(context)
            }
            Phase::Storing(since) if over(since, context.rules.deadlines.answer) => {
                self.refuse_upload(context, &Error::StorageTooSlow);
                self.advance(context)
            }
            Phase::Fetching(since) if over(since, context.rules.deadlines.answer) => {
                log::warn!("the next piece of a download did not come in time; its connection is ended");
                NextAction::End
            }
            Phase::Writing(since) if over(since, context.rules.deadlines.write) => {
                context.reject(Rejection::TooSlow);
                NextAction::End
            }
            Phase::Lingering(since) if over(since, LINGER) => NextAction::End,
            Phase::Serving => match self.peer.idle_since() {
                Some(since) if idle_is_over(since) => NextAction::End,
                Some(_) => NextAction::Wait,
                None => self.lose_patience(context, now),
            },
            _ => NextAction::Wait,
        }
    }

    /// The worker, or the database behind it, took too long: the client is told so, and what the worker says later
    /// is dropped.
    fn lose_patience(&mut self, context: &mut ConnectionContext, now: Instant) -> NextAction {
        let Some(info) = &self.serving else { return NextAction::Wait };
        let waited = now.saturating_duration_since(info.read_at);
        let is_over = |stage| {
            if let Stage::Parked(Some(until)) = stage {
                return now >= until;
            }
            waited
                >= match info {
                    RequestInfo { route: PROBE, .. } => PROBE_PATIENCE,
                    upload if upload.is_upload && matches!(stage, Stage::Parked(_)) => {
                        context.rules.deadlines.answer_to_upload
                    }
                    change if change.is_change && stage != Stage::Queued => {
                        context.rules.deadlines.answer_to_change
                    }
                    change if change.is_change || context.server.service.database_answers() => {
                        context.rules.deadlines.answer
                    }
                    _ => context.rules.deadlines.answer.min(PATIENCE_WHEN_AWAY),
                }
        };
        let Some(stage) = self.peer.take_back(now, is_over) else { return NextAction::Wait };
        context.server.status.metrics.requests_in_flight.dec();
        if let Some(info) = self.serving.take() {
            let error = match stage {
                Stage::Begun | Stage::Parked(_) if info.is_change => Error::OutcomeUnknown,
                _ => Error::NoAnswer,
            };
            self.respond(context, &error.response(), &RequestInfo { keep_alive: false, ..info }, false);
        }
        self.advance(context)
    }
}
