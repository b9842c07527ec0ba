//! The grammar as text for people: every field with what it may hold, its default, and what it is for.

use std::fmt::Write as _;

use super::grammar::{Field, HEADED, Kind, Literal, MOST_CONDITION_DEPTH, Presence, Table};

const WIDTH: usize = 100;

/// For the man page and `cloacinactl workflow --help`.
pub fn reference() -> String {
    let mut text = String::new();
    for table in HEADED {
        let _ = writeln!(text, "{}", table.header);
        of_table(table, 2, &mut text);
        text.push('\n');
    }
    text + &run_if()
}

fn of_table(table: &Table, indent: usize, text: &mut String) {
    for Field { name, kind, presence, help } in table.fields {
        let presence = match presence {
            Presence::Required => "required".to_owned(),
            Presence::Optional(without) => format!("default: {without}"),
            Presence::Default(Literal::Text(value)) => format!("default: \"{value}\""),
            Presence::Default(Literal::Boolean(value)) => format!("default: {value}"),
        };
        wrap(&format!("{name}: {} ({presence})", kind.expected()), indent, indent + 4, text);
        wrap(help, indent + 4, indent + 4, text);
        if let Kind::Table(table) = kind {
            of_table(table, indent + 4, text);
        }
    }
}

fn run_if() -> String {
    let mut text = "run_if, one of\n".to_owned();
    for (form, meaning) in [
        ("{ succeeded = \"TASK\" }", "the task has completed"),
        ("{ failed = \"TASK\" }", "it has failed, also where its allow_failure is true"),
        ("{ skipped = \"TASK\" }", "it was skipped"),
        ("{ context = \"KEY\", exists = true }", "the context has the key"),
        ("{ context = \"KEY\", equals = VALUE }", "its value is this one; also not_equals"),
        ("{ context = \"KEY\", greater_than = NUMBER }", "it is a number above; also less_than"),
        ("{ context = \"KEY\", contains = VALUE }", "it is a string or an array with this in it"),
        ("{ all = [ … ] }", "every one of these conditions holds; also any, none"),
    ] {
        let _ = writeln!(text, "  {form:<44} {meaning}");
    }
    let rest = format!(
        "Tasks that it names have to be upstream. A key that is missing, or a value of another type, does not pass. \
         Conditions are nested at most {MOST_CONDITION_DEPTH} deep."
    );
    wrap(&rest, 2, 2, &mut text);
    text
}

/// In lines of at most `WIDTH` characters, but for words that are longer.
fn wrap(words: &str, first_indent: usize, indent: usize, text: &mut String) {
    let mut line = " ".repeat(first_indent);
    let mut is_empty = true;
    for word in words.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            (line, is_empty) = (" ".repeat(indent), true);
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(text, "{line}");
}
