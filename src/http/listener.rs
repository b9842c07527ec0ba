//! The listening socket: one of our own, or one that systemd holds and passes to each server that serves it in turn.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::command_error::CommandError;

/// Connections that the kernel completes before we accept them; it takes as many as `net.core.somaxconn` allows.
const BACKLOG: i32 = 4096;

/// The socket of `LISTEN_FDS` and `LISTEN_PID` (sd_listen_fds(3)), if one was passed. To be asked before any file is
/// opened: what was passed is known by its number alone.
///
/// # Errors
/// `Usage`: what was passed is not one listening TCP socket.
pub fn passed() -> Result<Option<TcpListener>, CommandError> {
    let wrong = |what: &str| {
        CommandError::Usage(format!(
            "LISTEN_FDS passes {what}; expected is one listening TCP socket (in a socket unit: one ListenStream, \
             and Accept=no)"
        ))
    };
    // Without it the variable is for another process (sd_listen_fds(3)).
    if std::env::var_os("LISTEN_PID").is_none() {
        return Ok(None);
    }
    let mut all = ListenFd::from_env();
    match all.len() {
        0 => return Ok(None),
        1 => {}
        count => return Err(wrong(&format!("{count} sockets"))),
    }
    let listener = all.take_tcp_listener(0).map_err(|error| wrong(&format!("something else ({error})")))?;
    let listener = listener.ok_or_else(|| wrong("nothing"))?;
    let socket = SockRef::from(&listener);
    if !socket.is_listener().unwrap_or(false) {
        return Err(wrong("a socket that does not listen"));
    }
    socket.set_tcp_nodelay(true).map_err(|error| wrong(&format!("something else ({error})")))?;
    Ok(Some(listener))
}

/// Binds without listening: a taken port is known before the database is touched, and no client is let in before it is
/// ready. Accepted sockets inherit `TCP_NODELAY` from it.
///
/// # Errors
/// One line that names the address.
pub fn reserve(bind: SocketAddr) -> Result<Socket, CommandError> {
    bound(bind).map_err(|error| failure(bind, &error))
}

/// Whether another process listens there now; nothing is kept of the address.
///
/// # Errors
/// One line that names the address, when no process could listen there.
pub fn is_taken(bind: SocketAddr) -> Result<bool, CommandError> {
    match bound(bind) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(true),
        Err(error) => Err(failure(bind, &error)),
    }
}

fn bound(bind: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
    if bind.is_ipv6() {
        // `[::]` takes IPv4 clients as well, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&bind.into())?;
    Ok(socket)
}

/// Lets clients come.
///
/// # Errors
/// One line that names the address.
pub fn listen(socket: Socket, bind: SocketAddr) -> Result<TcpListener, CommandError> {
    socket.listen(BACKLOG).map_err(|error| failure(bind, &error))?;
    Ok(socket.into())
}

fn failure(bind: SocketAddr, error: &io::Error) -> CommandError {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; stop it or choose another --bind",
        io::ErrorKind::AddrNotAvailable => "no interface of this host has that address",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege; choose a higher one with --bind"
        }
        _ => "choose another --bind",
    };
    CommandError::Runtime(format!("cannot listen on {bind}: {error} ({hint})"))
}
