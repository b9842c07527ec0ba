//! What manifests of 1 MiB cost at worst: each has as many of one thing as fit.

use std::fs;

use super::*;

/// Without optimization; what is quadratic takes several times as much.
pub const MOST_SECONDS: f64 = 8.0;

const PACKAGE: &str = "package = { name = 'a', version = '1.0.0' }\n";

/// Of the processor.
pub fn seconds_of_this_thread() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: u64 = text.split(' ').next().unwrap().parse().unwrap();
    nanoseconds as f64 / 1e9
}

/// As many lines as fit behind the start.
fn filled(start: &str, end: &str, line: impl Fn(usize) -> String) -> String {
    let mut text = start.to_owned();
    for line in (0..).map(line) {
        if text.len() + line.len() + end.len() > MOST_BYTES {
            break;
        }
        text += &line;
    }
    text + end
}

/// A task whose field has an array of as much as fits.
fn task_with(field: &str, element: impl Fn(usize) -> String) -> String {
    let start = format!("{PACKAGE}[[tasks]]\nid = 'a'\ncommand = ['true']\n{field}");
    let end = if field.contains('{') { "] }\n" } else { "]\n" };
    filled(&start, end, element)
}

/// 5,000 tasks, and what stands before them.
fn tasks(start: &str, fields: impl Fn(usize) -> String) -> String {
    let mut text = format!("{PACKAGE}{start}\n");
    (0..5_000).for_each(|task| text += &format!("[[tasks]]\ncommand=['a']\n{}\n", fields(task)));
    text
}

fn schedules(fields: impl Fn(usize) -> String) -> String {
    let mut text = format!("{PACKAGE}[[tasks]]\nid = 'a'\ncommand = ['true']\n");
    (0..100).for_each(|number| text += &format!("[[schedules]]\nname = 's{number}'\n{}\n", fields(number)));
    text
}

fn manifests() -> Vec<(&'static str, String)> {
    let long = |bytes| "x".repeat(bytes);
    let id = |task: usize| format!("{task:05}").replace(|c: char| c.is_ascii_digit(), "x") + &long(27);
    let dependencies = |task: usize| {
        let before: Vec<_> = (task.saturating_sub(10)..task).map(|before| format!("'t{before}'")).collect();
        before.join(",")
    };
    vec![
        ("unknown ids in run_if", task_with("run_if = { all = [", |n| format!("{{failed='{n}'}},"))),
        ("one id in run_if", task_with("run_if = { all = [", |_| "{failed='a'},".to_owned())),
        ("tests in run_if", task_with("run_if = { all = [", |n| format!("{{context='{n}',less_than={n}}},"))),
        ("unknown dependencies", task_with("dependencies = [", |n| format!("'t{n}',"))),
        ("one dependency", task_with("dependencies = [", |_| "'a',".to_owned())),
        ("secrets", task_with("secrets = [", |n| format!("'S{}',", n / 2))),
        ("arguments", task_with("command = [", |_| "'',".to_owned())),
        ("numbers for strings", task_with("dependencies = [", |_| "1,".to_owned())),
        (
            "a deep program",
            task_with("max_memory = '1G'\n[[tasks]]\nid='b'\ncommand=['", |_| "a/".to_owned()) + "'",
        ),
        ("one id behind a comment", tasks(&format!("#{}", long(850_000)), |_| "id='a'".to_owned())),
        (
            "ids that are alike",
            tasks("", |n| format!("id='{}{n}'\ndependencies=['{}{}']", id(n), id(n), 5_000 + n)),
        ),
        (
            "a chain of tasks that depend on themselves",
            tasks("", |n| format!("id='t{n}'\ndependencies=['t{}','t{n}']", (n + 1).min(4_999))),
        ),
        (
            "the same behind others",
            tasks("", |n| {
                let roots: String = (0..20).map(|root| format!("'r{root}',")).collect();
                match n {
                    0..20 => format!("id='r{n}'"),
                    _ => format!("id='t{n}'\ndependencies=[{roots}'t{}','t{n}']", (n + 1).min(4_999)),
                }
            }),
        ),
        ("edges", tasks("", |n| format!("id='t{n}'\ndependencies=[{}]", dependencies(n)))),
        (
            "conditions on edges",
            tasks("", |n| {
                format!("id='t{n}'\ndependencies=['t{}']\nrun_if={{failed='t0'}}", n.saturating_sub(1))
            }),
        ),
        ("unknown fields", filled(PACKAGE, "", |n| format!("k{n}=1\n"))),
        ("unknown fields of tasks", tasks("", |n| (0..15).map(|k| format!("k{n}{k}=1\n")).collect())),
        ("variables", filled("package.env = { ", " }\n", |n| format!("A{n}='',"))),
        ("wrong variables", filled("[package.env]\n", "", |n| format!("{n}=1\n"))),
        (
            "a long header twice",
            filled(&format!("[{}]\n", long(250_000)), &format!("[{}]\n", long(250_000)), |n| {
                format!("[h{n}]\n")
            }),
        ),
        ("headers", filled(PACKAGE, "", |n| format!("[a.b.c.d.e.f.g.h{n}]\n"))),
        ("arrays of tables", filled(PACKAGE, "", |_| "[[a]]\n".to_owned())),
        ("arrays of tables in one another", filled(PACKAGE, "", |_| "[[a.b]]\n[[a]]\n".to_owned())),
        ("dotted keys", filled(PACKAGE, "", |n| format!("{}k{n}=1\n", "a.".repeat(70)))),
        ("empty arrays", filled(&format!("{PACKAGE}a = ["), "]\n", |_| "[],".to_owned())),
        ("equals signs", filled(PACKAGE, "", |_| "=\n".to_owned())),
        ("quotes", filled(PACKAGE, "", |_| "\"\n".to_owned())),
        ("brackets", filled(PACKAGE, "", |_| "[".to_owned())),
        ("duplicate keys", filled(PACKAGE, "", |_| "a=1\n".to_owned())),
        (
            "a wide context",
            filled(&schedules(|_| "cron='0 0 1 1 *'".to_owned()), "", |n| match n {
                0 => "[schedules.context]\n".to_owned(),
                _ => format!("k{n}=nan\n"),
            }),
        ),
        ("lines of cron that never fire", schedules(|_| "cron='0 0 0 31 2,4,6 *'".to_owned())),
        ("lines of cron that rarely fire", schedules(|_| "cron='59 59 23 29 2 6'".to_owned())),
        (
            "a long line of cron",
            filled(&schedules(|_| "cron='0 0 1 1 *'".to_owned()), "* * * *'\n", |n| match n {
                0 => "[[schedules]]\nname='long'\ncron='1".to_owned(),
                _ => ",1".to_owned(),
            }),
        ),
        ("long lines of cron", schedules(|_| format!("cron='{}1 0 1 1 *'", "1-59,".repeat(2_000)))),
        ("unknown time zones", schedules(|n| format!("cron='0 0 1 1 *'\ntimezone='Europe/Zuricc{n}'"))),
        ("long names", schedules(|_| format!("cron='{0}'\ntimezone='{0}'\noverlap='{0}'", long(3_000)))),
        ("a long version", format!("package = {{ name = '{0}', version = '{0}' }}", long(500_000))),
    ]
}

#[test]
fn no_manifest_takes_long() {
    let mut took = Vec::new();
    for (name, text) in manifests() {
        assert!(text.len() <= MOST_BYTES, "{name}: {} bytes", text.len());
        let before = seconds_of_this_thread();
        let problems = parse(&text).err().unwrap_or_default();
        let seconds = seconds_of_this_thread() - before;
        println!("{seconds:.3} s, {} problems, {} bytes: {name}", problems.len(), text.len());
        took.push((seconds, name, problems.first().map(ToString::to_string)));
    }
    took.retain(|(seconds, ..)| *seconds > MOST_SECONDS);
    assert!(took.is_empty(), "{took:#?}");
}

#[test]
fn a_program_that_is_too_long_is_not_looked_for() {
    let text = |bytes: usize| {
        format!("{PACKAGE}[[tasks]]\nid = 'a'\ncommand = ['./{}']\n", "a/".repeat(bytes / 2 - 1))
    };
    let looked_for = std::cell::Cell::new(0);
    let found = |_: &str| {
        looked_for.set(looked_for.get() + 1);
        Found::File { is_executable: true }
    };
    assert!(Manifest::parse(&text(65_536), &found).is_ok());
    assert_eq!(looked_for.get(), 1);
    let problems = Manifest::parse(&text(65_538), &found).unwrap_err();
    assert_eq!((looked_for.get(), problems.len()), (1, 1), "{problems:?}");
    assert!(problems[0].message.contains("an argument has 65538 bytes"), "{problems:?}");
}
