//! What an extended header (POSIX pax) says of the entry after it. The crate `tar` takes a value to end at a line break,
//! which no other program does, and the first of two sizes, where others take the last one.

/// The records that change what an entry is; all others are passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    /// GNU tar's: the entry holds the data of a sparse file without its holes.
    pub is_sparse: bool,
}

impl Records {
    /// # Errors
    /// Why two programs could read these bytes differently.
    pub fn parse(mut bytes: &[u8]) -> Result<Records, &'static str> {
        let mut records = Records::default();
        while !bytes.is_empty() {
            let (record, rest) = split(bytes).ok_or("has an extended header whose lengths are wrong")?;
            let at = record.iter().position(|byte| *byte == b'=');
            let (key, value) = at.map(|at| (&record[..at], &record[at + 1..])).unwrap_or_default();
            let is_second = match key {
                b"" => return Err("has an extended header with a record that has no name"),
                b"path" => records.path.replace(value.to_vec()).is_some(),
                b"linkpath" => records.link.replace(value.to_vec()).is_some(),
                b"size" => {
                    let size = decimal(value).ok_or("has an extended header whose size is no number")?;
                    records.size.replace(size).is_some()
                }
                _ => {
                    records.is_sparse |= key.starts_with(b"GNU.sparse.");
                    false
                }
            };
            if is_second {
                return Err("has an extended header that gives its name, target or size twice");
            }
            bytes = rest;
        }
        Ok(records)
    }

    pub fn is_empty(&self) -> bool {
        *self == Records::default()
    }
}

/// `LENGTH KEY=VALUE\n`, without the length, which counts itself, and the line break.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    if length > bytes.len() || length < space + 2 || bytes[length - 1] != b'\n' {
        return None;
    }
    Some((&bytes[space + 1..length - 1], &bytes[length..]))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_split_by_their_lengths() {
        let records = Records::parse(b"13 path=a\nbc\n19 SCHILY.xattr.x=\n12 size=123\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a\nbc"[..]));
        assert_eq!(records.size, Some(123));
        assert!(Records::parse(b"").unwrap().is_empty());
        assert!(Records::parse(b"22 GNU.sparse.major=1\n").unwrap().is_sparse);
        for wrong in [
            &b"1"[..],
            b"0 ",
            b"3 \n",
            b"-9 path=a\n",
            b"+9 path=a\n",
            b"9 path=a",
            b"11 path=a\n",
            b"8 path=a\n",
            b"99999999999999999999 path=a\n",
            b"9 path=a\n9 path=b\n",
            b"9 size=-\n",
            b"11 size=-1\n",
            b"29 size=99999999999999999999\n",
            b"5 =a\n",
            b"9 pathxa\n",
            b"\0\0\0",
        ] {
            assert!(Records::parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
