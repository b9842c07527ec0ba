//! `run_if`: conditions as a manifest writes them.

use super::grammar::MOST_CONDITION_DEPTH;
use super::lists::json;
use super::node::{Entry, Node, NodeValue};
use super::problems::Problems;
use super::reader::Reader;
use crate::engine::graph::{Condition, ContextTest};
use crate::suggestion::did_you_mean;
use crate::terminal::start_of;

/// Each takes conditions.
pub const COMBINATIONS: [&str; 3] = ["all", "any", "none"];
/// Each takes the id of a task.
pub const OUTCOMES: [&str; 3] = ["succeeded", "failed", "skipped"];
/// Each stands beside `context`.
pub const TESTS: [&str; 6] = ["exists", "equals", "not_equals", "greater_than", "less_than", "contains"];

const FORMS: &str = "a condition is one of { succeeded = \"TASK\" }, { failed = \"TASK\" }, { skipped = \"TASK\" }, \
                     { context = \"KEY\", equals = … }, and { all = [ … ] }, { any = [ … ] }, { none = [ … ] } of such";

/// A condition, and where each task that it names stands.
pub struct Read<'a> {
    pub condition: Condition,
    pub tasks: Vec<(&'a str, usize)>,
}

/// What a task's `run_if` says; `None` too where it is wrong.
pub fn read<'a>(reader: &Reader<'a>, problems: &mut Problems) -> Option<Read<'a>> {
    let given = reader.given("run_if")?;
    let mut tasks = Vec::new();
    let condition = read_condition(given.node, 1, &mut tasks, problems)?;
    Some(Read { condition, tasks })
}

fn read_condition<'a>(
    node: &'a Node,
    depth: usize,
    tasks: &mut Vec<(&'a str, usize)>,
    problems: &mut Problems,
) -> Option<Condition> {
    let Some(entries) = node.as_table() else {
        let hint = match &node.value {
            NodeValue::Array(_) => ": write { all = [ … ] } or { any = [ … ] } around it",
            _ => "",
        };
        problems.add(node.at(), || format!("a condition is {}{hint}; {FORMS}", node.kind()));
        return None;
    };
    if depth > MOST_CONDITION_DEPTH {
        problems.add(node.at(), || {
            format!("conditions are nested more than {MOST_CONDITION_DEPTH} deep, which is not allowed")
        });
        return None;
    }
    let is_head = |entry: &&Entry| {
        COMBINATIONS.contains(&&*entry.key) || OUTCOMES.contains(&&*entry.key) || entry.key == "context"
    };
    let heads: Vec<_> = entries.iter().filter(is_head).collect();
    let [head] = heads.as_slice() else {
        no_single_head(node, entries, &heads, problems);
        return None;
    };
    if head.key == "context" {
        return read_context(head, entries, problems);
    }
    let mut is_right = true;
    for Entry { key, key_at, .. } in entries.iter().filter(|entry| entry.key != head.key) {
        is_right = false;
        problems.add(*key_at, || match TESTS.contains(&&**key) {
            true => format!("`{key}` stands beside `context` alone, which `{}` is not", head.key),
            false => format!("unknown field `{}` beside `{}`; {FORMS}", start_of(key), head.key),
        });
    }
    let condition = match head.key.as_str() {
        "all" => Condition::All(read_all(head, depth, tasks, problems)?),
        "any" => Condition::Any(read_all(head, depth, tasks, problems)?),
        "none" => Condition::None(read_all(head, depth, tasks, problems)?),
        outcome => {
            let task = read_task(head, problems)?;
            tasks.push((task, head.node.at()));
            match outcome {
                "succeeded" => Condition::Succeeded(task.to_owned()),
                "failed" => Condition::Failed(task.to_owned()),
                _ => Condition::Skipped(task.to_owned()),
            }
        }
    };
    is_right.then_some(condition)
}

fn no_single_head(node: &Node, entries: &[Entry], heads: &[&Entry], problems: &mut Problems) {
    if let [first, second, ..] = heads {
        let (first, second_key) = (&first.key, &second.key);
        problems.add(second.key_at, || {
            format!("`{first}` and `{second_key}` in one condition; write {{ all = [ … ] }} or {{ any = [ … ] }} with one in each")
        });
        return;
    }
    let Some(entry) = entries.first() else {
        problems.add(node.at(), || format!("an empty condition; {FORMS}"));
        return;
    };
    let key = &entry.key;
    problems.add(entry.key_at, || {
        if TESTS.contains(&&**key) {
            return format!("`{key}` without `context`, the key that it is about; {FORMS}");
        }
        let known = COMBINATIONS.into_iter().chain(OUTCOMES).chain(["context"]);
        let foreign = match key.to_ascii_lowercase().as_str() {
            "and" => "; write `all`".to_owned(),
            "or" => "; write `any`".to_owned(),
            "not" => "; write `none`".to_owned(),
            "success" | "completed" | "succeeds" | "ok" => "; write `succeeded`".to_owned(),
            "failure" | "fails" | "error" => "; write `failed`".to_owned(),
            _ => did_you_mean(key, known),
        };
        let forms = if foreign.is_empty() { format!("; {FORMS}") } else { String::new() };
        format!("unknown field `{}` in a condition{foreign}{forms}", start_of(key))
    });
}

fn read_all<'a>(
    head: &'a Entry,
    depth: usize,
    tasks: &mut Vec<(&'a str, usize)>,
    problems: &mut Problems,
) -> Option<Vec<Condition>> {
    let key = &head.key;
    let NodeValue::Array(elements) = &head.node.value else {
        problems.add(head.node.at(), || {
            format!(
                "`{key}` is {}; expected an array of conditions: {key} = [{{ succeeded = \"TASK\" }}]",
                head.node.kind()
            )
        });
        return None;
    };
    if elements.is_empty() {
        problems.add(head.node.at(), || format!("`{key}` has no condition in it"));
        return None;
    }
    let read: Vec<_> =
        elements.iter().map(|element| read_condition(element, depth + 1, tasks, problems)).collect();
    read.into_iter().collect()
}

fn read_task<'a>(head: &'a Entry, problems: &mut Problems) -> Option<&'a str> {
    let key = &head.key;
    if let NodeValue::Array(elements) = &head.node.value {
        let of_each =
            |element: &Node| element.as_text().map(|id| format!("{{ {key} = \"{}\" }}", start_of(id)));
        let each: Option<Vec<_>> = elements.iter().take(3).map(of_each).collect();
        let hint =
            each.map_or(String::new(), |each| format!(": write {{ all = [{}] }}, or any", each.join(", ")));
        problems.add(head.node.at(), || format!("`{key}` is an array; expected the id of one task{hint}"));
        return None;
    }
    let text = head.node.as_text();
    if text.is_none() {
        problems
            .add(head.node.at(), || format!("`{key}` is {}; expected the id of a task", head.node.kind()));
    }
    text
}

/// `context` and one test beside it.
fn read_context(head: &Entry, entries: &[Entry], problems: &mut Problems) -> Option<Condition> {
    let others: Vec<_> = entries.iter().filter(|entry| entry.key != "context").collect();
    let Some(key) = head.node.as_text().filter(|key| !key.is_empty() && !key.contains('\0')) else {
        problems.add(head.node.at(), || {
            "`context` names a key of the context; expected a string, such as \"rows\"".to_owned()
        });
        return None;
    };
    let tests = TESTS.join(", ");
    let unknown: Vec<_> = others.iter().filter(|entry| !TESTS.contains(&&*entry.key)).collect();
    for Entry { key, key_at, .. } in &unknown {
        problems.add(*key_at, || {
            let near = match key.as_str() {
                "equal" | "eq" | "is" | "value" | "==" => " (did you mean `equals`?)".to_owned(),
                "ne" | "!=" => " (did you mean `not_equals`?)".to_owned(),
                "gt" | ">" => " (did you mean `greater_than`?)".to_owned(),
                "lt" | "<" => " (did you mean `less_than`?)".to_owned(),
                _ => did_you_mean(key, TESTS),
            };
            format!("unknown test `{}` beside `context`{near}; expected one of {tests}", start_of(key))
        });
    }
    match others.as_slice() {
        _ if !unknown.is_empty() => None,
        [test] => Some(Condition::Context { key: key.to_owned(), test: read_test(test, problems)? }),
        [] => {
            problems.add(head.key_at, || {
                format!("`context` without a test; expected one of {tests} beside it, such as exists = true")
            });
            None
        }
        [_, second, ..] => {
            problems.add(second.key_at, || {
                format!("`{}` is a second test; write {{ all = [ … ] }} with one in each", second.key)
            });
            None
        }
    }
}

fn read_test(test: &Entry, problems: &mut Problems) -> Option<ContextTest> {
    let Entry { key, node, .. } = test;
    let number = |problems: &mut Problems| match json(node, problems)? {
        serde_json::Value::Number(number) => Some(number),
        _ => {
            problems.add(node.at(), || format!("`{key}` is {}; expected a number", node.kind()));
            None
        }
    };
    match key.as_str() {
        "equals" => json(node, problems).map(ContextTest::Equals),
        "not_equals" => json(node, problems).map(ContextTest::NotEquals),
        "contains" => json(node, problems).map(ContextTest::Contains),
        "greater_than" => number(problems).map(ContextTest::GreaterThan),
        "less_than" => number(problems).map(ContextTest::LessThan),
        _ if matches!(node.value, NodeValue::Boolean(true)) => Some(ContextTest::Exists),
        _ => {
            let why = match node.value {
                NodeValue::Boolean(false) => "`exists` is false; that a key is missing is written as \
                     { none = [{ context = \"KEY\", exists = true }] }"
                    .to_owned(),
                _ => format!("`exists` is {}; expected true", node.kind()),
            };
            problems.add(node.at(), || why);
            None
        }
    }
}
