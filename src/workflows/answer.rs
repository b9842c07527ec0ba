//! The JSON objects that show packages and workflows.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::manifest::{CatchUp, Manifest, Overlap};
use super::problem::Problem;
use super::store::upload::NewPackage;
use super::store::{Listed, Shown};
use crate::keys::expiry::format_rfc3339;

#[derive(Serialize)]
pub struct Uploaded<'a> {
    package_id: Uuid,
    tenant_id: &'a str,
    name: &'a str,
    version: String,
    sha256: &'a str,
}

impl<'a> Uploaded<'a> {
    pub fn new(package_id: Uuid, new: &'a NewPackage<'_>) -> Uploaded<'a> {
        Uploaded {
            package_id,
            tenant_id: new.tenant.name(),
            name: new.manifest.name.as_str(),
            version: new.manifest.version.to_string(),
            sha256: &new.sha256,
        }
    }
}

/// What is wrong with a package.
#[derive(Serialize)]
pub struct Refused<'a> {
    error: String,
    problems: &'a [Problem],
}

impl<'a> Refused<'a> {
    pub fn new(problems: &'a [Problem]) -> Refused<'a> {
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        let error = match problems.len() {
            0 | 1 => format!("the package is not right: {first}"),
            // Not how many: the last may stand for many that are left out.
            _ => format!("the package has several problems; the first: {first}"),
        };
        Refused { error, problems }
    }
}

/// A version in a listing.
#[derive(Serialize)]
pub struct Item<'a> {
    id: Uuid,
    package_name: &'a str,
    version: &'a str,
    description: Option<&'a str>,
    tasks: &'a [String],
    created_at: String,
    paused: bool,
}

impl<'a> From<&'a Listed> for Item<'a> {
    fn from(listed: &'a Listed) -> Item<'a> {
        Item {
            id: listed.id,
            package_name: &listed.name,
            version: &listed.version,
            description: listed.description.as_deref(),
            tasks: &listed.tasks,
            created_at: format_rfc3339(listed.created_at),
            paused: listed.is_paused,
        }
    }
}

#[derive(Serialize)]
pub struct Listing<'a> {
    pub tenant_id: &'a str,
    pub workflows: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'a str>,
}

/// A version with what its manifest says.
#[derive(Serialize)]
pub struct Detail<'a> {
    tenant_id: &'a str,
    #[serde(flatten)]
    item: Item<'a>,
    sha256: &'a str,
    size: i64,
    /// Of each task, by its id.
    dependencies: BTreeMap<&'a str, Vec<&'a str>>,
    schedules: Vec<Schedule<'a>>,
    triggers: Vec<Trigger<'a>>,
    versions: &'a [String],
}

#[derive(Serialize)]
struct Schedule<'a> {
    name: &'a str,
    cron: &'a str,
    timezone: &'a str,
    catch_up: &'static str,
    overlap: &'static str,
}

#[derive(Serialize)]
struct Trigger<'a> {
    name: &'a str,
    poll_interval_ms: u64,
}

impl<'a> Detail<'a> {
    pub fn new(tenant_id: &'a str, shown: &'a Shown, manifest: &'a Manifest) -> Detail<'a> {
        let graph = &manifest.graph;
        let dependencies = |task| {
            let ids = graph.dependencies(task).iter().map(|other| graph.id(*other));
            (graph.id(task), ids.collect())
        };
        Detail {
            tenant_id,
            item: Item::from(&shown.listed),
            sha256: &shown.sha256,
            size: shown.size,
            dependencies: (0..graph.len()).map(dependencies).collect(),
            schedules: manifest.schedules.iter().map(Schedule::from).collect(),
            triggers: manifest.triggers.iter().map(Trigger::from).collect(),
            versions: &shown.versions,
        }
    }
}

impl<'a> From<&'a super::manifest::Schedule> for Schedule<'a> {
    fn from(schedule: &'a super::manifest::Schedule) -> Schedule<'a> {
        Schedule {
            name: schedule.name.as_str(),
            cron: &schedule.cron,
            timezone: &schedule.timezone,
            catch_up: match schedule.catch_up {
                CatchUp::Skip => "skip",
                CatchUp::Latest => "latest",
                CatchUp::All => "all",
            },
            overlap: match schedule.overlap {
                Overlap::Skip => "skip",
                Overlap::Wait => "wait",
                Overlap::Allow => "allow",
            },
        }
    }
}

impl<'a> From<&'a super::manifest::Trigger> for Trigger<'a> {
    fn from(trigger: &'a super::manifest::Trigger) -> Trigger<'a> {
        let poll_interval_ms = u64::try_from(trigger.poll_interval.as_millis()).unwrap_or(u64::MAX);
        Trigger { name: trigger.name.as_str(), poll_interval_ms }
    }
}

#[derive(Serialize)]
pub struct Deleted<'a> {
    pub status: &'static str,
    pub package_name: &'a str,
    pub version: &'a str,
}

#[derive(Serialize)]
pub struct Paused<'a> {
    pub name: &'a str,
    pub paused: bool,
}
