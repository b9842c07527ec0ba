//! Where a database lets its user in over TCP without a password, as it would any process of this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use postgres::Config;

use super::hosts::Hosts;
use crate::command_error::CommandError;
use crate::config::database_url::{DatabaseUrl, Host, SslMode};

/// For one host.
const LIMIT: Duration = Duration::from_secs(3);

/// Tries the hosts of a URL, and this machine at their ports, as a process would that knows none of its secrets: neither
/// password nor certificate. Each where it was let in is named as people write it; a host that does not answer
/// is not open.
///
/// # Errors
/// `Usage` that says what is wrong with the URL.
pub fn open_without_password(url: &str) -> Result<Vec<String>, CommandError> {
    let url = super::hosts::parsed(url)?;
    let mut config = Config::new();
    if let Some(user) = url.config.get_user() {
        config.user(user);
    }
    if let Some(database) = url.config.get_dbname() {
        config.dbname(database);
    }
    config.application_name("cloacinactl").connect_timeout(LIMIT);
    let mut open = Vec::new();
    for host in candidates(url.hosts) {
        let place = place(&host);
        let of_stranger = DatabaseUrl {
            hosts: vec![host],
            mode: SslMode::Prefer,
            roots: None,
            certificate: None,
            password_file: None,
            config: config.clone(),
        };
        if Hosts::without_password_file(of_stranger)?.log_in(LIMIT).is_ok() {
            open.push(place);
        }
    }
    Ok(open)
}

/// Each once.
fn candidates(hosts: Vec<Host>) -> Vec<Host> {
    let mut candidates: Vec<Host> = Vec::new();
    let mut add = |host: Host| {
        if !candidates.contains(&host) {
            candidates.push(host);
        }
    };
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let ports: Vec<u16> = hosts.iter().map(|host| host.port).collect();
    hosts.into_iter().filter(|host| !host.is_unix()).for_each(&mut add);
    for port in ports {
        for address in loopback {
            add(Host { name: address.to_string(), address: None, port });
        }
    }
    candidates
}

fn place(host: &Host) -> String {
    match host.name.contains(':') {
        true => format!("[{}]:{}", host.name, host.port),
        false => format!("{}:{}", host.name, host.port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::database_url;

    #[test]
    fn loopback_is_tried_beside_the_hosts_of_the_url() {
        let tried = |url: &str| {
            let url = database_url::parse(url).unwrap_or_else(|error| panic!("{error}"));
            candidates(url.hosts).iter().map(place).collect::<Vec<_>>()
        };
        assert_eq!(tried("postgresql:///d?host=/run/postgresql"), ["127.0.0.1:5432", "[::1]:5432"]);
        assert_eq!(
            tried("postgresql://u:p@db.example:6432,127.0.0.1/d"),
            ["db.example:6432", "127.0.0.1:5432", "127.0.0.1:6432", "[::1]:6432", "[::1]:5432"]
        );
    }
}
