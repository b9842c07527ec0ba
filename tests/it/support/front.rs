//! A real reverse proxy, started with the configuration that `scripts/deploy/` has for people, and a way in through
//! its TLS.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cluster::free_port;
use super::directory::Directory;
use super::http::{Connection, Response};
use super::program::{Ended, Process};
use super::wait_for;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Caddy,
}

/// Where clients seem to come from: not from where the proxy is.
pub const CLIENT: &str = "127.0.0.2";

/// A proxy that runs until it is dropped.
pub struct Front {
    /// Its host name in the certificate.
    pub name: &'static str,
    /// Bytes that are sent here go through TLS to the proxy.
    pub tunnel: SocketAddr,
    /// Left by `ask`. Before the process, so that it goes first.
    kept: Cell<Option<Connection>>,
    process: Process,
    _directory: Directory,
}

impl Front {
    /// HTTPS before the server.
    pub fn before(kind: Kind, server: SocketAddr) -> Front {
        let (file, name) = match kind {
            Kind::Nginx => ("nginx.conf", "api.example.com"),
            Kind::Caddy => ("Caddyfile", "api.example.com"),
        };
        Front::start(kind, name, &shipped(file), &[("127.0.0.1:8080", server)])
    }

    /// HTTPS before a service that the server's keys protect.
    pub fn protecting(kind: Kind, server: SocketAddr, service: SocketAddr) -> Front {
        Front::protecting_by(kind, &shipped(protection(kind)), server, service)
    }

    /// The same by a configuration that is made from that of `scripts/deploy/`, or was there once.
    pub fn protecting_by(kind: Kind, text: &str, server: SocketAddr, service: SocketAddr) -> Front {
        let addresses = [("127.0.0.1:8080", server), ("127.0.0.1:3000", service)];
        Front::start(kind, "service.example.com", text, &addresses)
    }

    /// Starts it with the addresses of its configuration replaced.
    fn start(kind: Kind, name: &'static str, text: &str, addresses: &[(&str, SocketAddr)]) -> Front {
        let directory = Directory::new();
        let mut text = text.to_owned();
        for (example, address) in addresses {
            text = replaced(&text, example, &address.to_string());
        }
        // Somebody may take the port between our look and the proxy's.
        for _ in 0..5 {
            let port = free_port();
            let (command, authority) = match kind {
                Kind::Nginx => nginx(&directory, &text, name, port),
                Kind::Caddy => caddy(&directory, &text, port),
            };
            let mut process = Process::start(command);
            let came_up = wait_for("the proxy to come up", || {
                if !process.is_running() {
                    return Some(false);
                }
                let mut probe = tls(name, &authority, port);
                let probed = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
                probed.unwrap().success().then_some(true)
            });
            if came_up {
                let tunnel = tunnel(name, authority, port);
                return Front { name, tunnel, kept: Cell::default(), process, _directory: directory };
            }
            let said = process.stderr.whole();
            assert!(
                said.contains("address already in use") || said.contains("Address already in use"),
                "{said}"
            );
        }
        panic!("no port is free for long enough");
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.tunnel)
    }

    /// The bytes of a request. `fields` are whole lines; what its body needs is among them.
    pub fn request(&self, line: &str, fields: &[&str], body: &str) -> Vec<u8> {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        format!("{line} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n{body}", self.name).into_bytes()
    }

    /// One request without a body, on the connection of the one before where that goes on.
    #[track_caller]
    pub fn ask(&self, line: &str, fields: &[&str]) -> Response {
        let mut connection = self.kept.take().unwrap_or_else(|| self.connect());
        connection.send(&self.request(line, fields, ""));
        let response = connection.receive(line.split(' ').next().unwrap());
        self.kept.set(Some(connection).filter(|_| !response.closes()));
        response
    }

    /// One with a body of JSON, on a connection of its own.
    #[track_caller]
    pub fn post(&self, path: &str, fields: &[&str], json: &str) -> Response {
        let length = format!("Content-Length: {}", json.len());
        let fields = [&["Content-Type: application/json", &length], fields].concat();
        let mut connection = self.connect();
        connection.send_what_goes(&self.request(&format!("POST {path}"), &fields, json));
        connection.receive("POST")
    }

    /// What the proxy said so far, for failures.
    pub fn said(&self) -> String {
        self.process.stderr.text()
    }
}

/// The file that has a service protected.
pub fn protection(kind: Kind) -> &'static str {
    match kind {
        Kind::Nginx => "nginx-verify.conf",
        Kind::Caddy => "Caddyfile-verify",
    }
}

/// A file of `scripts/deploy/`.
pub fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replaces what has to be there.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "there is no {from:?} in\n{text}");
    text.replace(from, to)
}

/// nginx's own part of the configuration, which Debian has in `/etc/nginx/nginx.conf`, and a certificate.
fn nginx(directory: &Directory, site: &str, name: &str, port: u16) -> (Command, PathBuf) {
    let (certificate, key) = certificate(directory, name);
    let site = with_certificate(site, name, &certificate, &key);
    let site = replaced(&site, "listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl"));
    fs::write(directory.join("site.conf"), site).unwrap();
    let configuration = nginx_main(directory, "site.conf");
    let mut command = dies_with_us("nginx");
    command.arg("-p").arg(directory.path()).args(["-e", "stderr", "-c"]).arg(configuration);
    (command, certificate)
}

/// A site of nginx with this certificate.
fn with_certificate(site: &str, name: &str, certificate: &Path, key: &Path) -> String {
    let place = format!("/etc/letsencrypt/live/{name}");
    let site = replaced(site, &format!("{place}/fullchain.pem"), &certificate.display().to_string());
    replaced(&site, &format!("{place}/privkey.pem"), &key.display().to_string())
}

/// A certificate for itself, and its key.
fn certificate(directory: &Directory, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    let made = Command::new(installed("openssl"))
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args([
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            &format!("subjectAltName=DNS:{name}"),
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

/// The file that includes the sites.
fn nginx_main(directory: &Directory, sites: &str) -> PathBuf {
    let d = directory.path().display();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("    {what}_temp_path {d}/{what};\n"))
        .collect();
    // One process, so that there is one to kill; it is whoever runs the tests.
    let main = format!(
        "daemon off;\nmaster_process off;\npid {d}/pid;\nerror_log stderr notice;\n\
         events {{ worker_connections 512; }}\nhttp {{\n    access_log off;\n{paths}    include {d}/{sites};\n}}\n"
    );
    let configuration = directory.join("nginx.conf");
    fs::write(&configuration, main).unwrap();
    configuration
}

/// What the proxy says of several sites in files of their own, by their host names, without serving them.
pub fn looked_over(kind: Kind, sites: &[(&str, String)]) -> Ended {
    let directory = Directory::new();
    let mut imports = String::new();
    let (certificate, key) = certificate(&directory, "example.com");
    for (name, site) in sites {
        let site = match kind {
            // nginx opens the ports also when it only looks.
            Kind::Nginx => with_certificate(site, name, &certificate, &key)
                .replace("listen 443 ssl", &format!("listen 127.0.0.1:{} ssl", free_port())),
            Kind::Caddy => site.clone(),
        };
        fs::write(directory.join(&format!("{name}.site")), site).unwrap();
        imports += &format!("import {name}.site\n");
    }
    let command = match kind {
        Kind::Nginx => {
            let mut command = Command::new(installed("nginx"));
            let main = nginx_main(&directory, "*.site");
            command.arg("-t").arg("-p").arg(directory.path()).args(["-e", "stderr", "-c"]).arg(main);
            command
        }
        Kind::Caddy => {
            let main = directory.join("Caddyfile");
            fs::write(&main, imports).unwrap();
            let mut command = Command::new(installed("caddy"));
            command.args(["validate", "--adapter", "caddyfile", "--config"]).arg(main);
            command.env("HOME", directory.path());
            command
        }
    };
    Process::start(command).ended()
}

/// Ports and places that are not the usual ones, and Caddy's own certificate authority.
fn caddy(directory: &Directory, site: &str, port: u16) -> (Command, PathBuf) {
    let storage = directory.join("storage");
    let options = format!(
        "{{\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n\tauto_https disable_redirects\n\
         \thttps_port {port}\n\tdefault_bind 127.0.0.1\n\tstorage file_system {}\n",
        storage.display()
    );
    // There may be one block of options, at the start.
    let site = match site.split_once("\n{\n") {
        Some((before, after)) => format!("{before}\n{options}{after}"),
        None => format!("{options}}}\n{site}"),
    };
    let configuration = directory.join("Caddyfile");
    fs::write(&configuration, site).unwrap();
    let mut command = dies_with_us("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(configuration);
    command.env("HOME", directory.path()).env_remove("XDG_DATA_HOME").env_remove("XDG_CONFIG_HOME");
    (command, storage.join("pki/authorities/local/root.crt"))
}

/// A program that is killed when the thread that starts it ends, however that comes about.
fn dies_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(installed(program)).current_dir("/");
    command
}

/// A program that `scripts/install-tools.sh` installs: on the PATH, where the system keeps its servers, or where that
/// script puts what it only unpacks.
pub fn installed(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/usr");
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), tools.join("sbin"), tools.join("bin")])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!(
                "the tests need {program}: run scripts/install-tools.sh {program}, or install that package"
            )
        })
}

/// A TLS client that believes no other certificate.
fn tls(name: &str, authority: &Path, port: u16) -> Command {
    let mut command = Command::new(installed("openssl"));
    command
        .args(["s_client", "-quiet", "-nocommands", "-no_ign_eof", "-verify_return_error", "-verify_quiet"])
        .args(["-servername", name, "-verify_hostname", name, "-bind", CLIENT])
        .args(["-connect", &format!("127.0.0.1:{port}"), "-CAfile"])
        .arg(authority);
    command
}

/// Takes connections without TLS and carries their bytes through one with it.
fn tunnel(name: &'static str, authority: PathBuf, port: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut command = tls(name, &authority, port);
            std::thread::spawn(move || carry(&client.unwrap(), &mut command));
        }
    });
    address
}

fn carry(client: &TcpStream, command: &mut Command) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (mut to_proxy, mut from_proxy) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let from_client = client.try_clone().unwrap();
    // Ends, and with it the TLS connection, when the client closes.
    let up = std::thread::spawn(move || pass_on(&from_client, &mut to_proxy));
    pass_on(&mut from_proxy, client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = child.kill();
    let _ = child.wait();
    let _ = up.join();
}

/// Piece by piece as they come; `io::copy` lets the kernel wait for more.
fn pass_on(mut from: impl Read, mut to: impl Write) {
    let mut chunk = [0; 64 * 1024];
    while let Ok(count) = from.read(&mut chunk) {
        if count == 0 || to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
}

/// Each of these tests is one for nginx and one for Caddy.
macro_rules! with_both {
    ($($test:ident)*) => {
        mod nginx {
            $(#[test] fn $test() { super::$test(super::Kind::Nginx); })*
        }
        mod caddy {
            $(#[test] fn $test() { super::$test(super::Kind::Caddy); })*
        }
    };
}

pub(crate) use with_both;
