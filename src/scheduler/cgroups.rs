//! The cgroup that was delegated to this server, for those of its tasks.

use std::io;

use super::attempts;
use crate::config::Settings;
use crate::engine::cgroup::{self, Cgroups, not_held, size};

/// Takes it over, and sets the limits of what an earlier server has started: they were taken away for this one's start.
///
/// # Errors
/// Why there is none.
pub fn enter(settings: &Settings) -> Result<Cgroups, String> {
    let cgroups = cgroup::enter()?;
    if cgroups.limits().is_ok() {
        let specs = attempts::all(&settings.home).filter_map(|attempt| attempt.spec().ok());
        for cgroup in specs.filter_map(|spec| spec.cgroup) {
            match cgroup.set_limits() {
                // Its attempt is over, or has not begun.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::warn!(path:% = cgroup.directory.display(), error:%; "a task's limits cannot be set");
                }
                _ => {}
            }
        }
    }
    Ok(cgroups)
}

/// Says in the log which limits hold.
pub fn tell(cgroups: &Result<Cgroups, String>) {
    match cgroups.as_ref().map(Cgroups::limits) {
        Ok(Ok(limits)) => log::info!(
            "each task has a cgroup of its own: max_memory holds (by default {}), and {} processes and threads at most",
            size(limits.memory_bytes),
            limits.processes
        ),
        Ok(Err(why)) => log::info!("{}", not_held(why)),
        Err(why) => log::info!("{}", not_held(why)),
    }
}
