//! tiny_http behind a socket pair that no client can reach: vetted bytes go in, requests come out.

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

/// A worker's own socket pair never blocks for long, unless something is very wrong.
const PAIR_TIMEOUT: Duration = Duration::from_secs(2);

/// A tiny_http connection and our own end of its socket pair.
pub struct TinyHttpPair {
    ours: UnixStream,
    requests: Box<dyn Iterator<Item = Result<tiny_http::Request, String>> + Send>,
}

impl TinyHttpPair {
    /// Makes pairs through tiny_http's public accept function: it wants a listener, so one stands in `directory` for a
    /// moment, behind mode 0700.
    pub fn open(directory: &Path, count: usize) -> io::Result<Vec<TinyHttpPair>> {
        let directory_of_socket = directory.join(format!(".pair-{}", Uuid::new_v4()));
        std::fs::DirBuilder::new().mode(0o700).create(&directory_of_socket)?;
        let opened = TinyHttpPair::open_in(&directory_of_socket, count);
        let removed = std::fs::remove_dir_all(&directory_of_socket);
        opened.and_then(|pairs| removed.map(|()| pairs))
    }

    fn open_in(directory_of_socket: &Path, count: usize) -> io::Result<Vec<TinyHttpPair>> {
        let path = directory_of_socket.join("s");
        let listener = tiny_http::Listener::from(UnixListener::bind(&path)?);
        let no_tls = tiny_http::SslContextWrap::build_ssl_capabilities(None).map_err(io::Error::other)?;
        let open = |_| {
            let ours = UnixStream::connect(&path)?;
            ours.set_write_timeout(Some(PAIR_TIMEOUT))?;
            let theirs = tiny_http::Server::accept_connection(&listener, &no_tls)?;
            let requests = theirs.ok_or_else(|| io::Error::other("tiny_http made no connection"))?;
            let requests = requests.map(|request| request.map_err(|error| error.to_string()));
            Ok(TinyHttpPair { ours, requests: Box::new(requests) })
        };
        (0..count).map(open).collect()
    }

    pub fn pull(&mut self, plain: &[u8]) -> Result<tiny_http::Request, String> {
        self.ours.write_all(plain).map_err(|error| format!("cannot feed tiny_http: {error}"))?;
        self.requests.next().unwrap_or_else(|| Err("tiny_http's connection has ended".to_owned()))
    }
}
