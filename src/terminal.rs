//! What others have written, as it may stand in a line for people.

/// Whether a terminal would obey this character instead of showing it: control characters, those that end a line, and
/// those that turn the direction of what follows.
pub fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text with an escape in the place of every character that a terminal would obey.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_obeyed(character) { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}

/// Enough of a wrong value to recognise it by.
pub fn start_of(text: &str) -> String {
    const MOST_CHARACTERS: usize = 64;
    let end = text.char_indices().nth(MOST_CHARACTERS).map_or(text.len(), |(end, _)| end);
    shown(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        for harmless in ["", "plain", "Gr\u{fc}\u{df}e \\ \"x\" '\u{1f511}'"] {
            assert_eq!(shown(harmless), harmless);
        }
        for (text, expected) in [
            ("a\nb\r\t\u{1b}[2K\u{9b}", r"a\nb\r\t\u{1b}[2K\u{9b}"),
            ("\u{2028}\u{2029}\u{e9}\u{7f}\u{0}", "\\u{2028}\\u{2029}\u{e9}\\u{7f}\\u{0}"),
            ("\u{202a}\u{202e}\u{2066}\u{2069}", r"\u{202a}\u{202e}\u{2066}\u{2069}"),
            ("\u{200e}\u{200f}\u{feff}", r"\u{200e}\u{200f}\u{feff}"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn only_the_start_of_a_long_value_is_shown() {
        assert_eq!(start_of("\u{202e}short"), r"\u{202e}short");
        assert_eq!(start_of(&"\u{e9}".repeat(65)), "\u{e9}".repeat(64));
    }
}
