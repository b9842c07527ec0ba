//! Archives made block by block, so that each may be wrong in any way.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::Header;

pub const MANIFEST: &str = r#"[package]
name = "one"
version = "1.0.0"

[[tasks]]
id = "only"
command = ["true"]
"#;

pub struct Made {
    pub tar: Vec<u8>,
}

impl Made {
    /// With nothing in it.
    pub fn empty() -> Made {
        Made { tar: Vec::new() }
    }

    /// With a manifest.
    pub fn new() -> Made {
        Made::empty().file("package.toml", MANIFEST.as_bytes())
    }

    /// A header and its content, and the padding behind it.
    pub fn raw(mut self, kind: u8, name: &[u8], edit: impl FnOnce(&mut Header), content: &[u8]) -> Made {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkflag = [kind];
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        edit(&mut header);
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, content: &[u8]) -> Made {
        self.raw(b'0', name.as_bytes(), |_| {}, content)
    }

    pub fn directory(self, name: &str) -> Made {
        self.raw(b'5', name.as_bytes(), |_| {}, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Made {
        self.linked(b'2', name, target)
    }

    pub fn hard_link(self, name: &str, target: &str) -> Made {
        self.linked(b'1', name, target)
    }

    fn linked(self, kind: u8, name: &str, target: &str) -> Made {
        let edit = |header: &mut Header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        };
        self.raw(kind, name.as_bytes(), edit, b"")
    }

    /// An extended header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Made {
        let mut content = Vec::new();
        for (key, value) in records {
            // ` `, `=` and the line break; the length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let length =
                (1..).map(|digits| rest + digits).find(|all| all.to_string().len() + rest == *all).unwrap();
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.raw(b'x', b"PaxHeaders/x", |_| {}, &content)
    }

    /// GNU tar's long name for the next entry, or with `K` its long target.
    pub fn long(self, kind: u8, name: &[u8]) -> Made {
        self.raw(kind, b"././@LongLink", |_| {}, &[name, b"\0"].concat())
    }

    pub fn tar(mut self) -> Vec<u8> {
        self.tar.resize(self.tar.len() + 1024, 0);
        self.tar
    }

    pub fn archive(self) -> Vec<u8> {
        gzip(&self.tar())
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
