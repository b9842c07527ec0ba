//! `cloacinactl health`: is the server there ready? For container health checks, where no curl is.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::channel::channel;
use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::config::mask_url;
use crate::terminal::shown;

/// For everything together, the name's resolution included.
const DEADLINE: Duration = Duration::from_secs(5);

/// What an answer may be at most; more is not read.
const MOST_BYTES: u64 = 16 * 1024;

/// The URL of a server on this machine that is bound like that.
///
/// # Errors
/// `Usage` when the configuration leaves the port to the system.
pub fn url_of(bind: SocketAddr) -> Result<String, CommandError> {
    if bind.port() == 0 {
        return Err(Usage("the configured port is 0, so say with --url URL where the server is".to_owned()));
    }
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Ok(format!("http://{}", SocketAddr::new(ip, bind.port())))
}

/// Asks the server at `url` for `/ready`.
///
/// # Errors
/// `Usage` for a URL that is none of ours, `Runtime` when the server is not ready.
pub fn check(url: &str) -> Result<(), CommandError> {
    let target = Target::parse(url).ok_or_else(|| {
        Usage(format!(
            "invalid value `{}` for `--url`: must be like http://127.0.0.1:8080 (only http://)",
            // A host and a port without a scheme hide nothing.
            if Target::parse(&format!("http://{url}")).is_some() { url.to_owned() } else { mask_url(url) }
        ))
    })?;
    let asked = format!("http://{}{}", target.authority, target.path);
    let (sender, receiver) = channel();
    // The deadline holds for the resolver too, which has none of its own; the process ends before the thread does.
    thread::spawn(move || sender.send(ask(&target)));
    let why = match receiver.recv_timeout(DEADLINE) {
        Ok(Ok((200, _))) => return Ok(()),
        Ok(Ok((status, reason))) => format!("{asked} answered {status}{reason}"),
        Ok(Err(error)) => format!("{asked}: {error}"),
        Err(_) => format!("{asked} did not answer within {} s", DEADLINE.as_secs()),
    };
    Err(Runtime(format!("not ready: {why}")))
}

/// Where to connect and what to ask for.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// As in the URL, for the `Host` header.
    authority: String,
    /// With a port.
    address: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Option<Target> {
        let is_plain = |c: char| c.is_ascii_graphic() && !"@?#\\".contains(c);
        if !url.get(..7)?.eq_ignore_ascii_case("http://") || !url.chars().all(is_plain) {
            return None;
        }
        let rest = &url[7..];
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let name_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match authority[name_end..].split_once(':') {
            Some((rest, port)) => (&authority[..name_end + rest.len()], port.parse::<u16>().ok()?),
            None => (authority, 80),
        };
        if host.is_empty() || port == 0 {
            return None;
        }
        let path = path.trim_end_matches('/');
        Some(Target {
            authority: authority.to_owned(),
            address: format!("{host}:{port}"),
            path: if path.ends_with("/ready") { path.to_owned() } else { format!("{path}/ready") },
        })
    }
}

/// The status, and behind a colon why it is not 200.
fn ask(target: &Target) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(&target.address)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: cloacinactl/{}\r\nConnection: close\r\n\r\n",
        target.path,
        target.authority,
        env!("CARGO_PKG_VERSION")
    );
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream.take(MOST_BYTES));
    let mut answer = Vec::new();
    reader.read_until(b'\n', &mut answer)?;
    let line = String::from_utf8_lossy(&answer);
    let status =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))?;
    if status != 200 {
        // The status is the answer; the body only explains it, so a slow or broken one does not matter.
        let _ = reader.get_ref().get_ref().set_read_timeout(Some(Duration::from_secs(1)));
        let _ = reader.read_to_end(&mut answer);
    }
    Ok((status, reason_in(&String::from_utf8_lossy(&answer))))
}

/// `reason` or `error` of a JSON body, behind a colon and fit for one line; empty where there is none.
fn reason_in(head_and_body: &str) -> String {
    let body = head_and_body.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let reason = json.get("reason").or_else(|| json.get("error")).and_then(serde_json::Value::as_str);
    let reason: String = reason.unwrap_or_default().chars().take(200).collect();
    if reason.is_empty() { reason } else { format!(": {}", shown(&reason)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (url, address, path) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", "/ready"),
            ("http://localhost", "localhost:80", "/ready"),
            ("HTTP://h:1/", "h:1", "/ready"),
            ("http://[::1]:9/api/", "[::1]:9", "/api/ready"),
            ("http://[::1]", "[::1]:80", "/ready"),
            ("http://h:1/ready", "h:1", "/ready"),
        ] {
            let target = Target::parse(url).expect(url);
            assert_eq!((target.address.as_str(), target.path.as_str()), (address, path));
        }
        for url in [
            "",
            "http:",
            "http://",
            "https://h",
            "h:1",
            "http://:1",
            "http://h:",
            "http://h:0",
            "http://h:x",
            "http://h:99999",
            "http://u:p@h",
            "http://h/?a",
            "http://h/ x",
            "http://h/\r\nX: y",
            "http://é",
            "éééé",
        ] {
            assert_eq!(Target::parse(url), None, "{url}");
        }
    }

    #[test]
    fn a_bind_address_becomes_one_to_connect_to() {
        for (bind, url) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            ("[::]:8080", "http://[::1]:8080"),
            ("10.0.0.1:1", "http://10.0.0.1:1"),
        ] {
            assert_eq!(url_of(bind.parse().unwrap()).unwrap(), url);
        }
        assert!(url_of("127.0.0.1:0".parse().unwrap()).is_err());
    }
}
