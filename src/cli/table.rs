//! A table for people, that is made to fit a terminal, and a JSON array for scripts.

use std::io::{self, IsTerminal as _};

use crate::terminal::is_obeyed;

/// A text is not cut to fewer characters than these, however narrow the terminal is.
const LEAST_CHARACTERS: usize = 12;

/// How a table is made to fit.
pub struct Fit {
    /// The column whose texts are cut.
    pub cut: usize,
    /// The columns from here on may be left out.
    pub optional: usize,
}

/// Columns of the terminal that stdout is; `None` where it is none. COLUMNS counts more than what the terminal says.
pub fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let variable = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
    variable.or_else(asked).filter(|columns| *columns > 0)
}

/// Lines, the head among them, in `width` columns, as far as that goes; whole where it is `None`.
pub fn table<const COLUMNS: usize>(
    mut lines: Vec<[String; COLUMNS]>,
    fit: &Fit,
    width: Option<usize>,
) -> String {
    let mut widths = [0; COLUMNS];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = usize::max(*width, cell.chars().count());
        }
    }
    let mut count = COLUMNS;
    if let Some(width) = width {
        let (columns, cut_width) = fitted(&widths, fit, width);
        count = columns;
        widths[fit.cut] = cut_width;
        lines.iter_mut().for_each(|line| shorten(&mut line[fit.cut], cut_width));
    }
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(widths).take(count).map(|(cell, width)| format!("{cell:width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// How many columns there is room for, and how many characters of the one that is cut.
fn fitted(widths: &[usize], fit: &Fit, width: usize) -> (usize, usize) {
    let whole = widths[fit.cut];
    let least = whole.min(LEAST_CHARACTERS);
    let others = |count: usize| widths[..count].iter().sum::<usize>() - whole + 2 * (count - 1);
    let count = (fit.optional..=widths.len()).rev().find(|count| others(*count) + least <= width);
    let count = count.unwrap_or(fit.optional);
    (count, whole.min(width.saturating_sub(others(count))).max(least))
}

/// An RFC 3339 timestamp, or only its day where there is little room.
pub fn timestamp(mut rfc3339: String, is_short: bool) -> String {
    if is_short {
        rfc3339.truncate("2026-11-24".len());
    }
    rfc3339
}

fn shorten(text: &mut String, characters: usize) {
    if text.chars().count() > characters {
        *text = text.chars().take(characters - 1).chain(['\u{2026}']).collect();
    }
}

/// JSON objects as an array, one on a line.
pub fn json_array(objects: impl Iterator<Item = Vec<u8>>) -> String {
    let objects: Vec<_> = objects.map(|object| format!("\n{}", shown_json(&object))).collect();
    format!("[{}\n]\n", objects.join(","))
}

/// JSON with an escape in the place of every character that a terminal would obey: JSON lets some of them stand as they
/// are. All of them are below U+10000, so they have a short escape.
pub fn shown_json(json: &[u8]) -> String {
    let mut text = String::with_capacity(json.len());
    for character in String::from_utf8_lossy(json).chars() {
        match is_obeyed(character) {
            true => text += &format!("\\u{:04x}", u32::from(character)),
            false => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_from_the_right_and_names_are_cut() {
        let fit = Fit { cut: 2, optional: 3 };
        let widths = [7, 36, 30, 11, 6, 10, 10, 10, 12];
        for (width, columns, name) in [
            (0, 3, 12),
            (59, 3, 12),
            (71, 3, 24),
            (72, 4, 12),
            (79, 4, 19),
            (80, 5, 12),
            (92, 6, 12),
            (128, 8, 24),
            (130, 9, 12),
            (148, 9, 30),
            (500, 9, 30),
        ] {
            assert_eq!(fitted(&widths, &fit, width), (columns, name), "{width}");
        }
        assert_eq!(
            fitted(&[7, 36, 4, 11, 6, 10, 10, 10, 12], &fit, 72),
            (5, 4),
            "no wider than its names are"
        );
    }
}
