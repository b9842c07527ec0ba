//! Whose task starts next: tenants with work take turns, each with its oldest one.

use std::collections::HashMap;

use uuid::Uuid;

use crate::executions::store::candidates::Candidate;

/// What is to be claimed of one execution: its first tasks, or these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    pub tenant: Uuid,
    pub execution: Uuid,
    pub tasks: Vec<usize>,
}

/// How many tasks one tenant may have on a host with so many slots.
pub fn most_of_tenant(slots: usize) -> usize {
    slots.saturating_sub(1).max(1)
}

/// Picks at most `free` of the candidates, which come the oldest first. The tenant that was served `last` comes after all
/// others.
pub fn pick(
    candidates: &[Candidate],
    running: &HashMap<Uuid, usize>,
    slots: usize,
    free: usize,
    last: Option<Uuid>,
) -> Vec<Pick> {
    let mut by_tenant: HashMap<Uuid, Vec<&Candidate>> = HashMap::new();
    for candidate in candidates {
        by_tenant.entry(candidate.tenant).or_default().push(candidate);
    }
    let mut tenants: Vec<_> = by_tenant.into_iter().collect();
    // A fixed order that begins behind the one served last.
    tenants.sort_by_key(|(tenant, _)| (last.is_some_and(|last| *tenant <= last), *tenant));
    let mut waiting: Vec<_> = tenants
        .into_iter()
        .map(|(tenant, candidates)| {
            let here = most_of_tenant(slots).saturating_sub(running.get(&tenant).copied().unwrap_or(0));
            let everywhere = candidates.iter().filter_map(|candidate| candidate.free_of_tenant).min();
            let most = everywhere.map_or(here, |most| here.min(usize::try_from(most).unwrap_or(0)));
            candidates.into_iter().take(most)
        })
        .collect();
    let mut picks: Vec<Pick> = Vec::new();
    let mut left = free;
    while left > 0 {
        let before = left;
        for candidates in &mut waiting {
            if left == 0 {
                break;
            }
            let Some(candidate) = candidates.next() else { continue };
            left -= 1;
            let same = picks.iter_mut().find(|pick| pick.execution == candidate.execution);
            match (same, candidate.task) {
                (Some(pick), Some(task)) => pick.tasks.push(task),
                (Some(_), None) => {}
                (None, task) => picks.push(Pick {
                    tenant: candidate.tenant,
                    execution: candidate.execution,
                    tasks: task.into_iter().collect(),
                }),
            }
        }
        if left == before {
            break;
        }
    }
    picks
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn candidate(tenant: u128, execution: u128, task: Option<usize>) -> Candidate {
        Candidate {
            tenant: Uuid::from_u128(tenant),
            execution: Uuid::from_u128(execution),
            task,
            created_at: OffsetDateTime::UNIX_EPOCH,
            free_of_tenant: None,
        }
    }

    fn picked(
        candidates: &[Candidate],
        running: &[(u128, usize)],
        slots: usize,
        last: u128,
    ) -> Vec<(u128, usize)> {
        let running: HashMap<_, _> =
            running.iter().map(|(tenant, count)| (Uuid::from_u128(*tenant), *count)).collect();
        let free = slots - running.values().sum::<usize>();
        pick(candidates, &running, slots, free, Some(Uuid::from_u128(last)))
            .iter()
            .map(|pick| (pick.execution.as_u128(), pick.tasks.len()))
            .collect()
    }

    #[test]
    fn tenants_take_turns_and_each_has_its_oldest_first() {
        let all = [
            candidate(1, 10, None),
            candidate(1, 11, None),
            candidate(1, 12, None),
            candidate(2, 20, None),
            candidate(3, 30, Some(4)),
            candidate(3, 30, Some(5)),
        ];
        assert_eq!(picked(&all, &[], 3, 0), [(10, 0), (20, 0), (30, 1)]);
        assert_eq!(picked(&all, &[], 3, 1), [(20, 0), (30, 1), (10, 0)]);
        assert_eq!(picked(&all, &[], 5, 0), [(10, 0), (20, 0), (30, 2), (11, 0)]);
        assert_eq!(picked(&all, &[(1, 2)], 3, 0), [(20, 0)]);
    }

    #[test]
    fn one_slot_is_left_for_others() {
        let all: Vec<_> = (0..9).map(|execution| candidate(1, execution, None)).collect();
        for (slots, expected) in [(1, 1), (2, 1), (3, 2), (8, 7)] {
            assert_eq!(picked(&all, &[], slots, 0).len(), expected);
        }
        assert_eq!(picked(&all, &[(1, 7)], 8, 0), []);
    }

    #[test]
    fn a_tenant_has_no_more_than_its_limit() {
        let mut all: Vec<_> = (0..9).map(|execution| candidate(1, execution, None)).collect();
        all.iter_mut().for_each(|candidate| candidate.free_of_tenant = Some(2));
        assert_eq!(picked(&all, &[], 8, 0).len(), 2);
        all.iter_mut().for_each(|candidate| candidate.free_of_tenant = Some(-1));
        assert_eq!(picked(&all, &[], 8, 0), []);
    }
}
