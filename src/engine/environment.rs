//! The environment that a task's command gets, but for its secrets.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::attempt::Attempt;

/// Where commands without a `/` are looked for, unless the manifest says otherwise.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Which attempt it is. A task may tell others, and see by it whether it is a later one.
#[derive(Debug, Clone, Copy)]
pub struct AttemptName<'a> {
    pub tenant: &'a str,
    pub workflow: &'a str,
    pub version: &'a str,
    pub execution_id: Uuid,
    pub task: &'a str,
    /// Of this task in this execution, from 1.
    pub number: u32,
}

/// All variables of an attempt. `manifest` takes the place of what they would be otherwise.
pub fn environment(
    attempt: &Attempt,
    name: &AttemptName<'_>,
    manifest: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let home = attempt.home_path().to_string_lossy().into_owned();
    let own =
        [("PATH", PATH.to_owned()), ("LANG", "C.UTF-8".to_owned()), ("HOME", home.clone()), ("TMPDIR", home)];
    let told = [
        ("CLOACINA_TENANT", name.tenant.to_owned()),
        ("CLOACINA_WORKFLOW", name.workflow.to_owned()),
        ("CLOACINA_VERSION", name.version.to_owned()),
        ("CLOACINA_EXECUTION_ID", name.execution_id.to_string()),
        ("CLOACINA_TASK", name.task.to_owned()),
        ("CLOACINA_ATTEMPT", name.number.to_string()),
        ("CLOACINA_CONTEXT", attempt.context_path().to_string_lossy().into_owned()),
        ("CLOACINA_OUTPUT", attempt.output_path().to_string_lossy().into_owned()),
    ];
    let named = |(name, value): (&str, String)| (name.to_owned(), value);
    let mut environment: BTreeMap<String, String> = own.into_iter().map(named).collect();
    environment.extend(manifest.clone());
    environment.extend(told.into_iter().map(named));
    environment
}
