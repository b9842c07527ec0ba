//! `cloacinactl health`: is the server there ready? For container health checks, where no curl is.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::mask_url;
use crate::failure::Failure;

/// For everything together, the name's resolution included.
const DEADLINE: Duration = Duration::from_secs(5);

/// What an answer may be at most; more is not read.
const MOST_BYTES: u64 = 16 * 1024;

/// The URL of a server on this machine that is bound like that.
///
/// # Errors
/// `Usage` when the configuration leaves the port to the system.
pub fn url_of(bind: SocketAddr) -> Result<String, Failure> {
    if bind.port() == 0 {
        return Err(Failure::Usage(
            "the configured port is 0, so say with --url URL where the server is".to_owned(),
        ));
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
pub fn check(url: &str) -> Result<(), Failure> {
    let target = Target::parse(url).ok_or_else(|| {
        Failure::Usage(format!(
            "invalid value `{}` for `--url`: must be like http://127.0.0.1:8080 (only http://)",
            // A host and a port without a scheme hide nothing.
            if Target::parse(&format!("http://{url}")).is_some() { url.to_owned() } else { mask_url(url) }
        ))
    })?;
    let shown = format!("http://{}{}", target.authority, target.path);
    let (sender, receiver) = mpsc::channel();
    // The deadline holds for the resolver too, which has none of its own; the process ends before the thread does.
    thread::spawn(move || sender.send(ask(&target)));
    let why = match receiver.recv_timeout(DEADLINE) {
        Ok(Ok(answer)) if answer.status == 200 => return Ok(()),
        Ok(Ok(answer)) if answer.reason.is_empty() => format!("{shown} answered {}", answer.status),
        Ok(Ok(answer)) => format!("{shown} answered {}: {}", answer.status, answer.reason),
        Ok(Err(error)) => format!("{shown}: {error}"),
        Err(_) => format!("{shown} did not answer within {} s", DEADLINE.as_secs()),
    };
    Err(Failure::Runtime(format!("not ready: {why}")))
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

struct Answer {
    status: u16,
    /// The server's `reason`, made fit for one line.
    reason: String,
}

impl Target {
    fn parse(url: &str) -> Option<Target> {
        let scheme = url.get(..7)?;
        if !scheme.eq_ignore_ascii_case("http://") {
            return None;
        }
        let rest = &url[7..];
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let plain = |c: char| c.is_ascii_graphic() && !"@?#\\".contains(c);
        if !url.chars().all(plain) {
            return None;
        }
        let name_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match authority[name_end..].find(':') {
            Some(colon) => {
                (&authority[..name_end + colon], authority[name_end + colon + 1..].parse::<u16>().ok()?)
            }
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

fn ask(target: &Target) -> io::Result<Answer> {
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
    let status = {
        let line = String::from_utf8_lossy(&answer);
        let mut words = line.split_ascii_whitespace();
        let version = words.next().unwrap_or_default();
        let status =
            words.next().and_then(|word| word.parse().ok()).filter(|_| version.starts_with("HTTP/1."));
        status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))?
    };
    if status != 200 {
        // The status is the answer; the body only explains it, so a slow or broken one does not matter.
        let _ = reader.get_ref().get_ref().set_read_timeout(Some(Duration::from_secs(1)));
        let _ = reader.read_to_end(&mut answer);
    }
    Ok(Answer { status, reason: reason_in(&String::from_utf8_lossy(&answer)) })
}

/// `reason` or `error` of a JSON body; empty where there is none.
fn reason_in(head_and_body: &str) -> String {
    let body = head_and_body.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let reason = json.get("reason").or_else(|| json.get("error")).and_then(serde_json::Value::as_str);
    reason.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect()
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
