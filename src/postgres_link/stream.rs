//! The bytes to and from PostgreSQL, inside TLS or not, with a limit on how long to wait for them: the driver itself
//! waits for an answer for ever, and so for one that never comes from a host that takes connections and says nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;
use postgres::tls::ChannelBinding;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_rustls::client::TlsStream;

use super::certificate_fields::Certificate;

/// What is said of a connection whose limit has passed.
pub const SILENT: &str = "it takes connections and does not answer";

/// Until when the driver may wait for bytes on one connection; set by the thread that uses the connection.
#[derive(Clone, Default)]
pub struct Limit(Arc<Mutex<Option<Instant>>>);

impl Limit {
    /// `None`: for ever.
    pub fn set(&self, until: Option<Instant>) {
        *self.0.lock() = until;
    }

    pub fn get(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

/// One connection.
pub struct Stream<S> {
    inner: Inner<S>,
    limit: Limit,
    /// Ends the wait at that moment.
    alarm: Option<(Instant, Pin<Box<Sleep>>)>,
}

enum Inner<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

impl<S> Stream<S> {
    pub fn plain(stream: S, limit: Limit) -> Stream<S> {
        Stream { inner: Inner::Plain(stream), limit, alarm: None }
    }

    pub fn tls(stream: TlsStream<S>, limit: Limit) -> Stream<S> {
        Stream { inner: Inner::Tls(Box::new(stream)), limit, alarm: None }
    }

    /// An error once the limit has passed; until then the task is woken when it does.
    fn poll_limit(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(until) = self.limit.get() else {
            self.alarm = None;
            return Poll::Pending;
        };
        if self.alarm.as_ref().is_none_or(|(at, _)| *at != until) {
            self.alarm = Some((until, Box::pin(tokio::time::sleep_until(until.into()))));
        }
        match &mut self.alarm {
            Some((_, sleep)) => sleep.as_mut().poll(context).map(|()| Err(silent())),
            None => Poll::Pending,
        }
    }
}

/// The error of a wait that has gone on for too long.
pub fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, SILENT)
}

impl<S: AsyncRead + AsyncWrite + Unpin> postgres::tls::TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let Inner::Tls(stream) = &self.inner else { return ChannelBinding::none() };
        let (_, connection) = stream.get_ref();
        let end_point = connection
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|certificate| Certificate::read(certificate)?.end_point());
        end_point.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if outcome.is_pending() { self.poll_limit(context) } else { outcome }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_flush(context),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
