//! What a task has printed: pieces of it, which may have gaps between them.

use std::time::Instant;

use postgres::Row;
use uuid::Uuid;

use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Store, StoreError};
use crate::waiting_clients::LogPart;

/// Bytes of a log in one answer, without the lines about gaps.
const MOST_BYTES: usize = 1024 * 1024;

/// What was asked for is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFound {
    Execution,
    Task,
    Attempt,
}

/// The attempt whose log is asked for, as far as there is one.
#[derive(Debug)]
pub struct Place {
    /// The task's number in the manifest.
    pub task: i32,
    pub attempt: Option<Attempt>,
    /// Nothing more will be printed.
    pub has_ended: bool,
}

#[derive(Debug)]
pub struct Attempt {
    pub id: Uuid,
    pub number: i32,
    /// Bytes that were printed.
    pub printed: i64,
}

/// A part of a log, with a line for each gap in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Text {
    pub bytes: Vec<u8>,
    /// Where the next part begins.
    pub next: i64,
}

const FIND: &str =
    "SELECT execution.status, task.number, attempt.id, attempt.number, attempt.log_bytes, attempt.ended_at IS NOT NULL
     FROM cloacina_executions AS execution
     LEFT JOIN cloacina_tasks AS task ON task.execution = execution.id AND task.id = $3
     LEFT JOIN cloacina_attempts AS attempt ON attempt.execution = execution.id AND attempt.task = task.number
         AND attempt.number = COALESCE($4, task.attempts)
     WHERE execution.tenant = $1 AND execution.id = $2";
/// From the piece on in which the offset is. Pieces may be as small as what is printed at a time.
const AFTER: &str = "SELECT at + skipped, substr(bytes, skipped + 1, $3)
     FROM (SELECT at, bytes, LEAST(GREATEST($2 - at, 0), octet_length(bytes))::int AS skipped,
                  sum(octet_length(bytes)) OVER (ORDER BY at) - octet_length(bytes) AS before
           FROM (SELECT at, bytes FROM cloacina_log_pieces
                 WHERE attempt = $1 AND at >= COALESCE(
                     (SELECT max(at) FROM cloacina_log_pieces WHERE attempt = $1 AND at <= $2), 0)
                 ORDER BY at LIMIT 4000) AS page) AS counted
     WHERE before <= $3 ORDER BY at";
const LAST: &str = "SELECT at, bytes
     FROM (SELECT at, bytes, sum(octet_length(bytes)) OVER (ORDER BY at DESC) - octet_length(bytes) AS behind
           FROM (SELECT at, bytes FROM cloacina_log_pieces WHERE attempt = $1 ORDER BY at DESC LIMIT 4000) AS page
          ) AS counted
     WHERE behind < $2 ORDER BY at";
const IS_MORE: &str = "SELECT FROM cloacina_log_pieces WHERE attempt = $1 AND at >= $2 LIMIT 1";

/// Where the log of a task is: of this attempt, or of the last one.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn find(
    store: &Store,
    tenant: &Tenant,
    execution: Uuid,
    task: &str,
    attempt: Option<i32>,
    until: Instant,
) -> Result<Result<Place, NotFound>, StoreError> {
    store.read(until, |session| {
        let Some(row) = session.query_opt(FIND, &[&tenant.id(), &execution, &task, &attempt])? else {
            return Ok(Err(NotFound::Execution));
        };
        let Some(task) = row.try_get(1)? else { return Ok(Err(NotFound::Task)) };
        let Some(id) = row.try_get(2)? else {
            if attempt.is_some() {
                return Ok(Err(NotFound::Attempt));
            }
            let status = ExecutionStatus::from_name(row.try_get(0)?);
            let has_ended = status.is_some_and(ExecutionStatus::has_ended);
            return Ok(Ok(Place { task, attempt: None, has_ended }));
        };
        let attempt = Attempt { id, number: row.try_get(3)?, printed: row.try_get(4)? };
        Ok(Ok(Place { task, attempt: Some(attempt), has_ended: row.try_get(5)? }))
    })
}

/// A part of what an attempt printed: at most 1 MiB, or less where it came in many small pieces.
pub fn text(store: &Store, attempt: &Attempt, part: LogPart, until: Instant) -> Result<Text, StoreError> {
    let most = MOST_BYTES as i32;
    store.read(until, |session| {
        let rows = match part {
            LogPart::After(after) => session.query(AFTER, &[&attempt.id, &after, &most])?,
            LogPart::Tail(_) => session.query(LAST, &[&attempt.id, &i64::from(most)])?,
        };
        let pieces = rows.iter().map(piece).collect::<Result<Vec<_>, _>>()?;
        let mut text = match part {
            LogPart::After(after) => joined(after, &pieces, MOST_BYTES),
            LogPart::Tail(_) => joined(pieces.first().map_or(0, |(at, _)| *at), &pieces, usize::MAX),
        };
        // What comes next may have been left out, or is not kept.
        if text.next < attempt.printed && session.query_opt(IS_MORE, &[&attempt.id, &text.next])?.is_none() {
            text.jump(attempt.printed);
        }
        if let LogPart::Tail(lines) = part {
            text.cut(lines);
        }
        Ok(text)
    })
}

fn piece(row: &Row) -> Result<(i64, &[u8]), postgres::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Pieces in a row, at most so many bytes of them.
fn joined(from: i64, pieces: &[(i64, &[u8])], most_bytes: usize) -> Text {
    let mut text = Text { bytes: Vec::new(), next: from };
    let mut left = most_bytes;
    for (at, bytes) in pieces {
        let known = usize::try_from(text.next - at).unwrap_or(0).min(bytes.len());
        let bytes = &bytes[known..];
        let bytes = &bytes[..bytes.len().min(left)];
        if bytes.is_empty() {
            continue;
        }
        text.jump(*at);
        text.bytes.extend_from_slice(bytes);
        text.next += bytes.len() as i64;
        left -= bytes.len();
    }
    text
}

impl Text {
    /// Goes on at this offset, with a line that says what is missing before it.
    fn jump(&mut self, at: i64) {
        if at <= self.next {
            return;
        }
        // Where this begins in the middle of a log, the end of the part before it is not known.
        let is_line_start = self.bytes.last().map_or(self.next == 0, |last| *last == b'\n');
        let start = if is_line_start { "" } else { "\n" };
        let line = format!("{start}[{} bytes of the log are missing here]\n", at - self.next);
        self.bytes.extend_from_slice(line.as_bytes());
        self.next = at;
    }

    /// Leaves so many last lines, within the bytes of an answer.
    fn cut(&mut self, lines: usize) {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let line_ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let start = line_ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0);
        let start = start.max(self.bytes.len().saturating_sub(MOST_BYTES));
        self.bytes.drain(..start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &Text) -> (String, i64) {
        (String::from_utf8(text.bytes.clone()).unwrap(), text.next)
    }

    #[test]
    fn gaps_have_a_line_each() {
        let pieces = [(0, &b"one\n"[..]), (4, b"tw"), (10, b"ree\n"), (20, b"x\n")];
        let gap = |bytes: i64| format!("[{bytes} bytes of the log are missing here]\n");
        let whole = format!("one\ntw\n{}ree\n{}x\n", gap(4), gap(6));
        assert_eq!(shown(&joined(0, &pieces, 100)), (whole, 22));
        assert_eq!(shown(&joined(5, &pieces[1..3], 100)), (format!("w\n{}ree\n", gap(4)), 14));
        assert_eq!(shown(&joined(7, &pieces[2..], 100)), (format!("\n{}ree\n{}x\n", gap(3), gap(6)), 22));
        assert_eq!(shown(&joined(0, &pieces, 5)), ("one\nt".to_owned(), 5), "no line about what is left out");
        assert_eq!(shown(&joined(0, &pieces[2..3], 2)), (format!("{}re", gap(10)), 12));
        assert_eq!(shown(&joined(50, &pieces[3..], 2)), (String::new(), 50));
    }

    #[test]
    fn last_lines() {
        for (text, lines, expected) in [
            ("", 1, ""),
            ("a", 1, "a"),
            ("a\n", 1, "a\n"),
            ("a\nb\n", 1, "b\n"),
            ("a\nb", 1, "b"),
            ("a\n\n", 1, "\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\n", 9, "a\nb\n"),
        ] {
            let mut cut = Text { bytes: text.into(), next: 0 };
            cut.cut(lines);
            assert_eq!(shown(&cut).0, expected, "{lines} of {text:?}");
        }
    }
}
