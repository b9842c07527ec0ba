//! Each wrong manifest of `wrong.txt` with all that is told of it, in the order of lines; and those that a text file does
//! not keep.

use super::*;

/// All problems as lines, without the file's name.
fn told(text: &str) -> String {
    let problems = parse(text).expect_err(text);
    let lines = problems.iter().map(|problem| {
        let line = problem.to_string();
        line.strip_prefix("package.toml:").unwrap_or(&line).trim_start().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn wrong_manifests_are_told_where_and_how_they_are_right() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in include_str!("wrong.txt").split("=== ").skip(1) {
        let (title, case) = case.split_once('\n').unwrap();
        let (text, expected) = case.split_once("---\n").unwrap();
        let told = told(text);
        if told != expected.trim_end() {
            wrong.push(format!("=== {title}\n{text}---\n{told}\n"));
        }
        count += 1;
    }
    assert!(count >= 40, "{count}");
    assert!(wrong.is_empty(), "{} of {count} are told otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn places_are_right_whatever_ends_a_line() {
    let text = "\u{feff}pakage = 1\r\n[[tasks]]\r\n\tid = \"é\u{1f511}\"\tcmd\r\n";
    assert_eq!(told(text), "3:12: `cmd` stands behind the value; a line holds one `key = value`");
    let text =
        "\u{feff}pakage = 1\r\n[[tasks]]\r\n\tid = \"é\u{1f511}\"\r\n\tcommand = [\"true\"] # \u{1f511}\r\n";
    let expected = "1:1: unknown field `pakage` in the manifest (did you mean `package`?)\n\
                    1:10: `package` is 1, an integer; expected a table, written as [package]\n\
                    3:7: `id`: `é\u{1f511}` begins with 'é'; a name is 1 to 63 ASCII letters, digits, - and _, with a letter first";
    assert_eq!(told(text), expected);
    for (text, expected) in [
        ("a = 1\r\rb = 2", "1:7: a carriage return that no line feed follows; a line ends with LF or CR LF"),
        (
            "a = \"x\ty\u{1}\"",
            "1:9: a control character; in a string with double quotes it is written as \\u0007",
        ),
        ("a = '\0'", "1:6: a control character; in a string with double quotes it is written as \\u0007"),
        ("\"\\u001b\\u202e\" = 1", r"1:1: unknown field `\u{1b}\u{202e}` in the manifest"),
    ] {
        let told = told(text);
        assert!(told.starts_with(expected), "{text:?}: {told}");
        assert!(!told.contains(['\u{1b}', '\u{202e}', '\0', '\r']), "{told:?}");
    }
}

#[test]
fn what_is_told_has_bounds() {
    let (name, value) = ("n".repeat(10_000), "v".repeat(10_000));
    let text = format!(
        "package = {{ name = '{value}', version = '{value}', {name} = 1 }}\n\
         [[tasks]]\nid = '{value}'\ncommand = ['./{value}']\ntimeout = '{value}'\ndependencies = ['{value}x']\n\
         run_if = {{ {name} = 1 }}\n[[schedules]]\nname = 'a'\ncron = '{value}'\ntimezone = '{value}'\n\
         overlap = '{value}'\ncontext = '{value}'"
    );
    let problems = parse(&text).unwrap_err();
    assert_eq!(problems.len(), 12, "{problems:#?}");
    assert!(problems.iter().all(|problem| problem.message.len() < 500), "{problems:#?}");
    let text: String = (0..100_000).map(|number| format!("k{number}=1\n")).collect();
    let problems = parse(&text).unwrap_err();
    assert_eq!(problems.len(), 1_001);
    assert_eq!(problems[1_000].to_string(), "package.toml: and 99002 further problems");
    let text = format!("#{}", " ".repeat(MOST_BYTES));
    assert_eq!(told(&text), "it has 1048577 bytes; at most 1048576 are allowed");
}

#[test]
fn nesting_has_bounds() {
    let deep = |open: &str, close: &str, depth: usize| {
        format!(
            "package = {{ name = 'a', version = '1.0.0' }}\n[[tasks]]\nid = 'a'\ncommand = ['true']\nrun_if = {}{}{}",
            open.repeat(depth),
            "{ context = 'a', exists = true }",
            close.repeat(depth)
        )
    };
    assert!(parse(&deep("{ all = [", "] }", 15)).is_ok());
    let problem = told(&deep("{ all = [", "] }", 16));
    assert_eq!(problem, "5:154: conditions are nested more than 16 deep, which is not allowed");
    assert!(told(&deep("[", "]", 100_000)).contains("nested more than 80 levels deep"));
    let keys = "a.".repeat(100_000) + "a = 1";
    assert_eq!(told(&keys), "keys are nested more than 80 levels deep");
}
