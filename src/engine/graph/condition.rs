//! `run_if`: a condition over how tasks have ended and over values of the context.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::{Context, TaskOutcome};

/// When a task runs, as its manifest has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Every one holds; also where there is none.
    All(Vec<Condition>),
    /// At least one holds.
    Any(Vec<Condition>),
    /// Not one of them holds; also where there is none.
    None(Vec<Condition>),
    /// The task with this id has completed. One that failed has not, also where that is allowed.
    Succeeded(String),
    /// The task with this id has failed, also where that is allowed.
    Failed(String),
    /// The task with this id was skipped.
    Skipped(String),
    /// The context has this key, and its value passes the test.
    Context {
        /// Of the context itself, not of an object in it.
        key: String,
        /// What its value is compared with.
        test: ContextTest,
    },
}

/// What a value of the context is tested for. Numbers are compared by what they mean: 1 equals 1.0, and
/// integers keep all their digits. Whatever is of another type than the test needs does not pass, `NotEquals`
/// included.
#[derive(Debug, Clone, PartialEq)]
pub enum ContextTest {
    /// Any value, null too.
    Exists,
    /// The same value.
    Equals(Value),
    /// Another value of the same type.
    NotEquals(Value),
    /// A number above this one.
    GreaterThan(Number),
    /// A number below this one.
    LessThan(Number),
    /// A string in which this string occurs, or an array with this element.
    Contains(Value),
}

impl Condition {
    /// Whether it holds. `has_ended` says whether the task with an id has ended with an outcome.
    pub fn holds(&self, has_ended: &impl Fn(&str, TaskOutcome) -> bool, context: &Context) -> bool {
        let holds = |condition: &Condition| condition.holds(has_ended, context);
        match self {
            Condition::All(conditions) => conditions.iter().all(holds),
            Condition::Any(conditions) => conditions.iter().any(holds),
            Condition::None(conditions) => !conditions.iter().any(holds),
            Condition::Succeeded(id) => has_ended(id, TaskOutcome::Completed),
            Condition::Failed(id) => has_ended(id, TaskOutcome::Failed),
            Condition::Skipped(id) => has_ended(id, TaskOutcome::Skipped),
            Condition::Context { key, test } => context.get(key).is_some_and(|value| test.passes(value)),
        }
    }

    /// The ids of the tasks that it names, in the order in which they stand there.
    pub fn tasks(&self) -> Vec<&str> {
        match self {
            Condition::All(conditions) | Condition::Any(conditions) | Condition::None(conditions) => {
                conditions.iter().flat_map(Condition::tasks).collect()
            }
            Condition::Succeeded(id) | Condition::Failed(id) | Condition::Skipped(id) => vec![id],
            Condition::Context { .. } => Vec::new(),
        }
    }

    /// The keys of the context that it names.
    pub fn context_keys(&self) -> Vec<&str> {
        match self {
            Condition::All(conditions) | Condition::Any(conditions) | Condition::None(conditions) => {
                conditions.iter().flat_map(Condition::context_keys).collect()
            }
            Condition::Succeeded(_) | Condition::Failed(_) | Condition::Skipped(_) => Vec::new(),
            Condition::Context { key, .. } => vec![key],
        }
    }

    /// Whether the context matters to it.
    pub fn reads_context(&self) -> bool {
        match self {
            Condition::All(conditions) | Condition::Any(conditions) | Condition::None(conditions) => {
                conditions.iter().any(Condition::reads_context)
            }
            Condition::Succeeded(_) | Condition::Failed(_) | Condition::Skipped(_) => false,
            Condition::Context { .. } => true,
        }
    }
}

impl ContextTest {
    fn passes(&self, value: &Value) -> bool {
        let is_ordered = |number: &Number, ordering| {
            value.as_number().is_some_and(|value| compare(value, number) == ordering)
        };
        match self {
            ContextTest::Exists => true,
            ContextTest::Equals(other) => is_equal(value, other),
            ContextTest::NotEquals(other) => has_same_type(value, other) && !is_equal(value, other),
            ContextTest::GreaterThan(number) => is_ordered(number, Ordering::Greater),
            ContextTest::LessThan(number) => is_ordered(number, Ordering::Less),
            ContextTest::Contains(part) => match (value, part) {
                (Value::String(value), Value::String(part)) => value.contains(part),
                (Value::Array(elements), part) => elements.iter().any(|element| is_equal(element, part)),
                _ => false,
            },
        }
    }
}

fn has_same_type(one: &Value, other: &Value) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

/// As `==` of values, but that numbers which are written differently may be equal, at any depth.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => compare(one, other).is_eq(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_in_other = |(key, value)| other.get(key).is_some_and(|other| is_equal(value, other));
            one.len() == other.len() && one.iter().all(is_in_other)
        }
        _ => one == other,
    }
}

/// The order of what two numbers mean. An `f64` has no room for every integer that a number can be, so
/// integers stay such.
fn compare(one: &Number, other: &Number) -> Ordering {
    match (one.as_i128(), other.as_i128()) {
        (Some(one), Some(other)) => one.cmp(&other),
        (Some(one), None) => compare_with_float(one, float(other)),
        (None, Some(other)) => compare_with_float(other, float(one)).reverse(),
        (None, None) => compare_floats(float(one), float(other)),
    }
}

/// `integer` has 64 bits, so a float that the cast brings to an end of the range of 128 is on its right side
/// still.
fn compare_with_float(integer: i128, float: f64) -> Ordering {
    integer.cmp(&(float.trunc() as i128)).then(compare_floats(0.0, float.fract()))
}

/// Of a number that is no integer of 64 bits.
fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or_default()
}

/// JSON has no NaN.
fn compare_floats(one: f64, other: f64) -> Ordering {
    one.partial_cmp(&other).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_compared_by_what_they_mean() {
        let (large, larger) = (9_007_199_254_740_992_i64, 9_007_199_254_740_993_i64);
        // In ascending order; those in one row are equal.
        let numbers = [
            vec![json!(-1e300)],
            vec![json!(i64::MIN), json!(i64::MIN as f64)],
            vec![json!(-larger)],
            vec![json!(-large), json!(-large as f64)],
            vec![json!(-1.5)],
            vec![json!(-1), json!(-1.0)],
            vec![json!(-0.5)],
            vec![json!(0), json!(0.0), json!(-0.0)],
            vec![json!(5e-324)],
            vec![json!(1), json!(1.0)],
            vec![json!(1.5)],
            vec![json!(large), json!(large as f64)],
            vec![json!(larger)],
            vec![json!(i64::MAX)],
            vec![json!(i64::MAX as u64 + 1), json!(i64::MAX as f64)],
            vec![json!(u64::MAX)],
            vec![json!(u64::MAX as f64)],
            vec![json!(1e300)],
        ];
        for (left_row, left) in
            numbers.iter().enumerate().flat_map(|(at, row)| row.iter().map(move |n| (at, n)))
        {
            for (row, right) in
                numbers.iter().enumerate().flat_map(|(at, row)| row.iter().map(move |n| (at, n)))
            {
                let number = || right.as_number().unwrap().clone();
                let passes = [
                    ContextTest::LessThan(number()).passes(left),
                    ContextTest::Equals(right.clone()).passes(left),
                    ContextTest::GreaterThan(number()).passes(left),
                    ContextTest::NotEquals(right.clone()).passes(left),
                    ContextTest::Equals(json!([{ "n": right }])).passes(&json!([{ "n": left }])),
                    ContextTest::Contains(right.clone()).passes(&json!(["x", left])),
                ];
                let (less, equal, greater) = (left_row < row, left_row == row, left_row > row);
                assert_eq!(passes, [less, equal, greater, !equal, equal, equal], "{left} and {right}");
            }
        }
    }

    #[test]
    fn another_type_does_not_pass() {
        let values = [json!(null), json!(true), json!(1), json!("1"), json!([1]), json!({ "1": 1 })];
        for (at, value) in values.iter().enumerate() {
            assert!(ContextTest::Exists.passes(value));
            for (other_at, other) in values.iter().enumerate() {
                assert_eq!(
                    ContextTest::Equals(other.clone()).passes(value),
                    at == other_at,
                    "{value} {other}"
                );
                assert!(!ContextTest::NotEquals(other.clone()).passes(value), "{value} {other}");
            }
            assert_eq!(ContextTest::GreaterThan(0.into()).passes(value), at == 2, "{value}");
            assert_eq!(ContextTest::LessThan(2.into()).passes(value), at == 2, "{value}");
        }
        for (value, part, passes) in [
            (json!("abc"), json!("b"), true),
            (json!("abc"), json!(""), true),
            (json!("abc"), json!("x"), false),
            (json!("1"), json!(1), false),
            (json!([[1], 2]), json!([1]), true),
            (json!([[1], 2]), json!(1), false),
            (json!({ "b": 1 }), json!("b"), false),
            (json!(12), json!(1), false),
            (json!(null), json!(null), false),
        ] {
            assert_eq!(ContextTest::Contains(part.clone()).passes(&value), passes, "{value} {part}");
        }
        for (one, other) in [("a", "b"), ("1", "1.0")] {
            assert!(ContextTest::NotEquals(json!(other)).passes(&json!(one)));
        }
        assert!(!ContextTest::Equals(json!({ "a": 1, "b": 2 })).passes(&json!({ "a": 1, "c": 2 })));
        assert!(!ContextTest::Equals(json!([1])).passes(&json!([1, 2])));
    }
}
