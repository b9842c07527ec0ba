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
