//! A password file as libpq has it, `~/.pgpass` or another: `host:port:database:user:password` on each line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::config::database_url::Host;
use crate::plain_file;

/// Longer than any password file that people write.
const MOST_BYTES: u64 = 1024 * 1024;

/// The passwords of a file that only its owner can read.
pub struct PasswordFile {
    pub path: PathBuf,
    latest: Mutex<Latest>,
}

/// What the file held when it could last be read.
struct Latest {
    content: Vec<u8>,
    /// It cannot be read now, and the log has it.
    is_wrong: bool,
}

impl PasswordFile {
    /// The file that the URL names, else that of `PGPASSFILE`, else `~/.pgpass`. `None` where there is none that may
    /// be used; a line of the log says why, unless it is the last of the three that is not there.
    pub fn find(named: Option<&Path>) -> Option<PasswordFile> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let chosen = named.map(Path::to_owned).or_else(|| variable("PGPASSFILE"));
        let is_chosen = chosen.is_some();
        let path = chosen.or_else(|| Some(variable("HOME")?.join(".pgpass")))?;
        match read(&path) {
            Ok(content) => Some(PasswordFile::new(path, content)),
            Err(reason) if is_chosen || path.exists() => {
                log::warn!("the password file {} is ignored: {reason}", path.display());
                None
            }
            Err(_) => None,
        }
    }

    fn new(path: PathBuf, content: Vec<u8>) -> PasswordFile {
        PasswordFile { path, latest: Mutex::new(Latest { content, is_wrong: false }) }
    }

    /// Reads the file again, for a password that was changed. What it held before counts while it cannot be read.
    pub fn refresh(&self) {
        let mut latest = self.latest.lock();
        match read(&self.path) {
            Ok(content) => *latest = Latest { content, is_wrong: false },
            Err(reason) => {
                if !std::mem::replace(&mut latest.is_wrong, true) {
                    log::warn!(
                        "cannot read the password file {} again, so what it held before is used: {reason}",
                        self.path.display()
                    );
                }
            }
        }
    }

    /// The password of the first line that fits.
    pub fn password(&self, host: &Host, database: &str, user: &str) -> Option<Vec<u8>> {
        /// Where PostgreSQL's own socket is, here or there. Its users write `localhost` for that.
        const USUAL_SOCKETS: [&str; 3] = ["/tmp", "/run/postgresql", "/var/run/postgresql"];
        let mut names = vec![host.name.as_str()];
        if host.is_unix() && USUAL_SOCKETS.contains(&host.name.trim_end_matches('/')) {
            names.push("localhost");
        }
        let port = host.port.to_string();
        let wanted: [&[&str]; 4] = [&names, &[&port], &[database], &[user]];
        self.latest.lock().content.split(|byte| *byte == b'\n').find_map(|line| {
            let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
            if rest.starts_with(b"#") {
                return None;
            }
            for wanted in wanted {
                let (value, after) = field(rest);
                let is_any = rest.starts_with(b"*:");
                if !is_any && !wanted.iter().any(|wanted| wanted.as_bytes() == value) {
                    return None;
                }
                rest = after?;
            }
            Some(field(rest).0).filter(|password| !password.is_empty())
        })
    }
}

/// The field up to the next colon, and what follows that. A backslash takes any character for what it is.
fn field(text: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut value = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b':' => return (value, Some(&text[at + 1..])),
            b'\\' => value.push(bytes.next().map_or(b'\\', |(_, taken)| *taken)),
            byte => value.push(*byte),
        }
    }
    (value, None)
}

/// The error says why the file may not be used.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let content = plain_file::read(path, MOST_BYTES).map_err(|error| error.to_string())?;
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err("others may read it; chmod 0600 it".to_owned());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(content: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
        let file = PasswordFile::new(PathBuf::new(), content.into());
        let host = Host { name: host.to_owned(), address: None, port };
        file.password(&host, database, user).map(|password| String::from_utf8(password).unwrap())
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let content = "# h:1:d:u:comment\n\nh:1:d\nh:1:d:u:\nh:1:d:u:first\r\n*:1:*:u:any\n*:*:*:*:last";
        let found = |host, port, database, user| found(content, host, port, database, user);
        assert_eq!(found("h", 1, "d", "u").as_deref(), Some("first"));
        assert_eq!(found("i", 1, "d", "u").as_deref(), Some("any"));
        assert_eq!(found("h", 2, "d", "u").as_deref(), Some("last"));
    }

    #[test]
    fn escapes() {
        let content = r"\:\:1:1:\*:u:other
\:\:1:1:d\\:u:p\:w\\\x:rest
*:1:\*:u:star";
        assert_eq!(found(content, "::1", 1, r"d\", "u").as_deref(), Some(r"p:w\x"));
        assert_eq!(found(content, "h", 1, "*", "u").as_deref(), Some("star"));
        assert_eq!(found(content, "h", 1, "d", "u"), None);
        assert_eq!(found("", "h", 1, "d", "u"), None);
    }

    #[test]
    fn sockets() {
        let content = "localhost:1:d:u:usual\n/run/other:1:d:u:other";
        assert_eq!(found(content, "/run/postgresql", 1, "d", "u").as_deref(), Some("usual"));
        assert_eq!(found(content, "/run/other", 1, "d", "u").as_deref(), Some("other"));
        assert_eq!(found(content, "/run/third", 1, "d", "u"), None);
    }
}
