//! What `workflow run` shows: a line for each thing that happens, and on a terminal, below them, what runs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use crate::cli::table::terminal_width;
use crate::terminal::shown;

/// Tasks that are shown running at the same time.
const MOST_LIVE_LINES: usize = 12;
/// An id with more characters moves what follows it.
const WIDEST_ID: usize = 24;

/// Where it is shown. A reader that is gone changes nothing: the tasks go on.
pub struct Display {
    /// Characters that ids are padded to.
    id_width: usize,
    is_terminal: bool,
    /// Lines below the last event, which the next one takes the place of.
    live_lines: usize,
}

/// A task that runs.
pub struct LiveLine<'a> {
    pub id: &'a str,
    pub took: Duration,
    /// What it printed last, as it came.
    pub last_line: String,
}

impl Display {
    pub fn new<'a>(ids: impl Iterator<Item = &'a str>) -> Display {
        let id_width = ids.map(str::len).max().unwrap_or(0).min(WIDEST_ID);
        Display { id_width, is_terminal: terminal_width().is_some(), live_lines: 0 }
    }

    /// Whether it is worth while to draw what runs.
    pub fn is_live(&self) -> bool {
        self.is_terminal
    }

    /// What has become of a task. `what` holds nothing that a terminal obeys.
    pub fn event(&mut self, id: &str, state: &str, what: &str) {
        let line = format!("{id:width$}  {state:<9}  {what}", width = self.id_width);
        self.print(line.trim_end(), &[]);
    }

    /// Lines that a task printed, as they came.
    pub fn output<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        let lines: Vec<String> = lines.map(|line| format!("  | {}", shown(line))).collect();
        if !lines.is_empty() {
            self.print(&lines.join("\n"), &[]);
        }
    }

    /// A line that is of no task.
    pub fn remark(&mut self, line: &str) {
        self.print(line, &[]);
    }

    /// Draws what runs anew.
    pub fn live(&mut self, running: &[LiveLine<'_>]) {
        if self.is_terminal {
            self.print("", running);
        }
    }

    /// A line above, and what runs below it.
    fn print(&mut self, line: &str, running: &[LiveLine<'_>]) {
        let mut text = String::new();
        if self.live_lines > 0 {
            // Up to the first of the live lines, and away with them (ECMA-48: CPL, ED).
            let _ = write!(text, "\x1b[{}F\x1b[J", self.live_lines);
        }
        if !line.is_empty() {
            text += line;
            text.push('\n');
        }
        let width = terminal_width().unwrap_or(usize::MAX);
        for live in running.iter().take(MOST_LIVE_LINES) {
            let line = format!(
                "{:width$}  running    {}  {}",
                live.id,
                seconds(live.took),
                shown(&live.last_line),
                width = self.id_width
            );
            // A line that the terminal breaks is two, and the next picture would leave one of them. Where characters are
            // wider than others, it is told not to break any (DECAWM).
            text += "\x1b[?7l";
            text.extend(line.trim_end().chars().take(width.saturating_sub(1)));
            text += "\x1b[?7h\n";
        }
        if running.len() > MOST_LIVE_LINES {
            let _ = writeln!(text, "and {} more", running.len() - MOST_LIVE_LINES);
        }
        self.live_lines = running.len().min(MOST_LIVE_LINES) + usize::from(running.len() > MOST_LIVE_LINES);
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
}

/// `0.4 s`, `12.0 s`, `3 min 20 s`.
pub fn seconds(took: Duration) -> String {
    match took.as_secs() {
        0..60 => format!("{:.1} s", took.as_secs_f64()),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = [0.04, 59.9, 60.0, 3601.0].map(|took| seconds(Duration::from_secs_f64(took)));
        assert_eq!(shown, ["0.0 s", "59.9 s", "1 min 0 s", "60 min 1 s"]);
    }
}
