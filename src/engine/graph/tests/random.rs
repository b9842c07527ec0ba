//! Random workflows and choices; the same seed gives the same ones.

use serde_json::{Value, json};

use crate::engine::graph::{Condition, Context, ContextTest, Task};

/// `SplitMix64`.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % end as u64) as usize
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn of<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        if list.is_empty() { None } else { Some(list[self.below(list.len())].clone()) }
    }

    pub fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut list: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            list.swap(last, self.below(last + 1));
        }
        list
    }

    pub fn context(&mut self) -> Context {
        let mut context = Context::new();
        for key in ["a", "b"] {
            if self.percent(50) {
                context.insert(key.to_owned(), self.value());
            }
        }
        context
    }

    fn value(&mut self) -> Value {
        let values = [json!(0), json!(1), json!(2), json!("x"), json!("xy"), json!([1, "x"]), json!(null)];
        self.of(&values).unwrap()
    }

    /// Tasks whose dependencies come before them in an order of their own, which is not the manifest's. The
    /// more there may be, the lower the share of possible dependencies.
    pub fn tasks(&mut self, most: usize) -> Vec<Task> {
        let count = self.below(most + 1);
        let density = self.below(101) * 8 / most;
        let order = self.shuffled(count);
        let mut tasks: Vec<Task> = (0..count).map(|task| task_named(&format!("t{task}"))).collect();
        for (position, task) in order.iter().enumerate() {
            let dependencies: Vec<_> =
                order[..position].iter().copied().filter(|_| self.percent(density)).collect();
            tasks[*task].dependencies = dependencies.iter().map(|other| tasks[*other].id.clone()).collect();
            let upstream: Vec<usize> = super::model::upstream(&tasks, *task).into_iter().collect();
            tasks[*task].run_if = self.percent(40).then(|| self.condition(&upstream, 3));
            tasks[*task].allow_failure = self.percent(25);
        }
        tasks
    }

    fn condition(&mut self, upstream: &[usize], depth: usize) -> Condition {
        if depth > 0 && self.percent(40) {
            let nested = (0..self.below(4)).map(|_| self.condition(upstream, depth - 1)).collect();
            return match self.below(3) {
                0 => Condition::All(nested),
                1 => Condition::Any(nested),
                _ => Condition::None(nested),
            };
        }
        let task = self.of(upstream).filter(|_| self.percent(70)).map(|task| format!("t{task}"));
        match (task, self.below(3)) {
            (Some(id), 0) => Condition::Succeeded(id),
            (Some(id), 1) => Condition::Failed(id),
            (Some(id), _) => Condition::Skipped(id),
            (None, _) => self.context_condition(),
        }
    }

    fn context_condition(&mut self) -> Condition {
        let test = match self.below(6) {
            0 => ContextTest::Exists,
            1 => ContextTest::Equals(self.value()),
            2 => ContextTest::NotEquals(self.value()),
            3 => ContextTest::GreaterThan(self.below(3).into()),
            4 => ContextTest::LessThan(self.below(3).into()),
            _ => ContextTest::Contains(self.value()),
        };
        Condition::Context { key: self.of(&["a", "b", "c"]).unwrap().to_owned(), test }
    }
}

pub fn task_named(id: &str) -> Task {
    Task { id: id.to_owned(), dependencies: Vec::new(), run_if: None, allow_failure: false }
}
