//! A strict reader of Prometheus' text format 0.0.4.

use std::collections::HashMap;

/// One line with a value.
#[derive(Debug, Clone)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// Reads an exposition. Panics where it is not one: a line of another form, a family without HELP and TYPE before
/// it, a sample that stands twice.
pub fn parse(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n'), "the last line must end: {text:?}");
    let mut types = HashMap::new();
    let mut helped = Vec::new();
    let mut samples: Vec<Sample> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("HELP without text: {line}"));
            assert!(!help.is_empty(), "{line}");
            helped.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("TYPE without one: {line}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "TYPE twice: {line}");
        } else {
            let sample = sample(line);
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| sample.name.strip_suffix(suffix))
                .find(|family| types.get(*family).is_some_and(|kind| kind == "histogram"))
                .unwrap_or(&sample.name);
            assert!(types.contains_key(family), "no TYPE before {line}");
            assert!(helped.iter().any(|name| name == family), "no HELP before {line}");
            let twice = samples.iter().any(|one| one.name == sample.name && one.labels == sample.labels);
            assert!(!twice, "a sample that stands twice: {line}");
            samples.push(sample);
        }
    }
    samples
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line:?}"));
    let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line:?}"));
    let (name, labels) = match series.split_once('{') {
        None => (series, Vec::new()),
        Some((name, rest)) => {
            let inner = rest.strip_suffix('}').unwrap_or_else(|| panic!("labels do not end: {line:?}"));
            (name, inner.split_terminator("\",").map(label).collect())
        }
    };
    assert!(
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte)),
        "not a metric name: {line:?}"
    );
    Sample { name: name.to_owned(), labels, value }
}

fn label(text: &str) -> (String, String) {
    let (name, value) = text.split_once("=\"").unwrap_or_else(|| panic!("not a label: {text:?}"));
    (name.to_owned(), value.trim_end_matches('"').to_owned())
}

/// The sum of the samples of this name that have all of these labels.
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    samples
        .iter()
        .filter(|sample| sample.name == name)
        .filter(|sample| labels.iter().all(|(label, value)| sample.label(label) == Some(value)))
        .map(|sample| sample.value)
        .sum()
}
