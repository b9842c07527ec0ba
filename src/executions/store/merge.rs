//! The context of an execution and the outputs of its tasks as one JSON object.

use std::collections::BTreeMap;

use super::context::MOST_BYTES;
use super::show::Task;
use crate::engine::graph::{self, Graph};
use crate::json_text;

/// The tasks in topological order; ties are in the manifest's.
pub fn order(tasks: &[Task]) -> Vec<usize> {
    let id_of = |number: &i32| tasks.get(number.unsigned_abs() as usize).map(|task| task.id.clone());
    let node = |task: &Task| graph::Task {
        id: task.id.clone(),
        dependencies: task.dependencies.iter().filter_map(id_of).collect(),
        run_if: None,
        allow_failure: false,
    };
    // They were a graph when the package was uploaded.
    match Graph::new(tasks.iter().map(node).collect()) {
        Ok(graph) => graph.order().to_vec(),
        Err(_) => (0..tasks.len()).collect(),
    }
}

/// Objects over each other, each value as its text.
#[derive(Default)]
pub struct Merged {
    fields: BTreeMap<String, String>,
    bytes: usize,
}

impl Merged {
    /// Adds what an object has that those above it have not. `false`: all of it together is too large.
    pub fn add_below(&mut self, object: &str) -> bool {
        for (name, value) in json_text::fields(object).unwrap_or_default() {
            if self.fields.contains_key(&name) {
                continue;
            }
            // With quotes, colon and comma.
            self.bytes += name.len() + value.len() + 4;
            if self.bytes > MOST_BYTES {
                return false;
            }
            self.fields.insert(name, value.to_owned());
        }
        true
    }

    pub fn text(&self) -> String {
        let field =
            |(name, value): (&String, &String)| format!("{}:{value}", serde_json::Value::from(name.as_str()));
        let fields: Vec<_> = self.fields.iter().map(field).collect();
        format!("{{{}}}", fields.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_counts() {
        let mut merged = Merged::default();
        for object in
            [r#"{"a":1.00000000000000000000001}"#, r#"{ "b" : [1, 2] , "\u0061":2}"#, r#"{"b":{},"\"c":"}"}"#]
        {
            assert!(merged.add_below(object));
        }
        assert_eq!(merged.text(), r#"{"\"c":"}","a":1.00000000000000000000001,"b":[1, 2]}"#);
        let large = format!("{{\"d\":\"{}\"}}", "x".repeat(MOST_BYTES));
        assert!(!merged.add_below(&large));
    }
}
