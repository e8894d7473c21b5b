//! Services with a number of tasks: which slots stay, which go, and which are to be filled.

use std::collections::HashMap;
use std::time::Duration;

use proto::{NodeId, TaskState};
use tokio::time::Instant;

use super::delay::{Delay, Delays};
use super::draft::Draft;
use super::restart::should_restart;
use super::slot::{Slot, SlotKey, wanted};
use super::task::{has_stopped, is_wanted};

/// Brings the number of slots to `replicas`. Returns the slots that stay and were there before, in order: those that an
/// update has to look at.
pub(crate) fn scale(draft: &mut Draft<'_>, delays: &mut Delays, replicas: u64, now: Instant) -> Vec<SlotKey> {
    let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    let (occupied, dead): (Vec<_>, Vec<_>) = draft
        .slots
        .keys()
        .cloned()
        .partition(|key| is_occupied(draft, &draft.slots[key]));
    let (mut keep, mut surplus) = (occupied, Vec::new());
    if keep.len() > replicas {
        keep = order_of_removal(draft, keep);
        surplus = keep.split_off(replicas);
        keep.sort();
    }
    let new = free_numbers(&keep)
        .take(replicas - keep.len())
        .collect::<Vec<_>>();
    for key in surplus.into_iter().chain(dead).filter(|key| !new.contains(key)) {
        remove_slot(draft, &key);
    }
    for key in new {
        fill(draft, delays, &key, now);
    }
    keep
}

/// Makes a task for an empty slot. It waits for tasks that were removed from the slot and have yet to stop.
pub(crate) fn fill(draft: &mut Draft<'_>, delays: &mut Delays, key: &SlotKey, now: Instant) {
    draft.begin();
    let before: Vec<_> = draft
        .slot(key)
        .iter()
        .filter(|task| !has_stopped(task))
        .cloned()
        .collect();
    let running = match draft.service().spec.mode.is_job() {
        true => TaskState::Complete,
        false => TaskState::Running,
    };
    if before.is_empty() {
        draft.create(key, running);
        return;
    }
    let id = draft.create(key, TaskState::Ready);
    delays.insert(id, Delay::new(now, Duration::ZERO, &before));
}

/// Whether the slot counts as one of the service's: a task in it is wanted, or the last one ended for good.
pub(crate) fn is_occupied(draft: &Draft<'_>, slot: &Slot) -> bool {
    if wanted(slot).next().is_some() {
        return true;
    }
    let Some(newest) = slot
        .iter()
        .rev()
        .find(|task| task.desired_state < TaskState::Remove)
    else {
        return false;
    };
    // What was told to stop did not end by itself, so that the policy has nothing to say.
    if newest.status.state == TaskState::Shutdown {
        return false;
    }
    // A rollback shall end where the service was, so tasks that ended for good under the new spec do not count.
    let outlived = draft.is_rolling_back() && draft.is_dirty(newest);
    !outlived && !should_restart(newest, slot)
}

/// Wants all tasks of the slot gone; the reaper takes them out when they have stopped.
fn remove_slot(draft: &mut Draft<'_>, key: &SlotKey) {
    draft.begin();
    for task in draft.slot(key).to_vec() {
        draft.desire(key, &task.id, TaskState::Remove);
    }
}

/// Sorts slots so that the last ones are those to remove first: slots in transition or without a node, then the slots
/// of the nodes with the most tasks of the service; on a node those that do not run, then high numbers.
fn order_of_removal(draft: &Draft<'_>, mut keys: Vec<SlotKey>) -> Vec<SlotKey> {
    let runs = |key: &SlotKey| {
        draft
            .slot(key)
            .iter()
            .any(|task| task.status.state == TaskState::Running)
    };
    keys.sort_by_cached_key(|key| (!runs(key), key.clone()));
    let mut copies: HashMap<NodeId, usize> = HashMap::new();
    let mut ranked: Vec<(usize, SlotKey)> = keys
        .into_iter()
        .map(|key| {
            // The nth task of the service on its node.
            let nth = sole_node(draft.slot(&key)).map(|node| {
                let count = copies.entry(node).or_default();
                *count += 1;
                *count
            });
            (nth.unwrap_or(usize::MAX), key)
        })
        .collect();
    ranked.sort_by_key(|(nth, _)| *nth);
    ranked.into_iter().map(|(_, key)| key).collect()
}

/// The node of the slot's only wanted task.
fn sole_node(slot: &[std::sync::Arc<proto::Task>]) -> Option<NodeId> {
    let mut tasks = slot.iter().filter(|task| is_wanted(task));
    let task = tasks.next()?;
    (tasks.next().is_none() && !task.node_id.is_empty()).then(|| task.node_id.clone())
}

/// Numbers from 1 that no slot has.
fn free_numbers(taken: &[SlotKey]) -> impl Iterator<Item = SlotKey> + '_ {
    (1..)
        .map(SlotKey::Number)
        .filter(|key| taken.binary_search(key).is_err())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::spec::ServiceMode;
    use proto::{Service, Task};

    use super::super::draft::{Action, Picture};
    use super::*;

    /// A service with one task per slot, each on a node and in a state.
    fn picture(tasks: &[(u64, &str, TaskState)]) -> Picture {
        let mut service = Service {
            id: "s".into(),
            ..Service::default()
        };
        service.spec.mode = ServiceMode::replicated(0);
        let task = |(slot, node, state): &(u64, &str, TaskState)| {
            let mut task = Task {
                id: format!("t{slot}").into(),
                service_id: "s".into(),
                slot: *slot,
                node_id: (*node).into(),
                desired_state: TaskState::Running,
                ..Task::default()
            };
            task.status.state = *state;
            Arc::new(task)
        };
        Picture {
            service: Arc::new(service),
            tasks: tasks.iter().map(task).collect(),
            ..Picture::default()
        }
    }

    /// The tasks that are removed and the slots that are filled to come to so many replicas.
    fn scaled(tasks: &[(u64, &str, TaskState)], replicas: u64) -> (Vec<String>, Vec<u64>) {
        let picture = picture(tasks);
        let mut draft = Draft::new(&picture);
        scale(&mut draft, &mut Delays::new(), replicas, Instant::now());
        let (mut removed, mut made) = (Vec::new(), Vec::new());
        for action in draft.into_steps().into_iter().flatten() {
            match action {
                Action::Desire(id, TaskState::Remove) => removed.push(String::from(id)),
                Action::Create(task) => made.push(task.slot),
                other => panic!("{other:?}"),
            }
        }
        removed.sort();
        (removed, made)
    }

    use TaskState::{Failed, Pending, Running, Starting};

    #[test]
    fn the_fullest_node_gives_first() {
        let tasks = [
            (1, "a", Running),
            (2, "b", Running),
            (3, "b", Running),
            (4, "b", Running),
        ];
        assert_eq!(scaled(&tasks, 2), (vec!["t3".into(), "t4".into()], vec![]));
        assert_eq!(scaled(&tasks, 4), (vec![], vec![]));
    }

    #[test]
    fn what_does_not_run_goes_before_what_runs_then_high_slots() {
        let tasks = [(1, "a", Starting), (2, "a", Running), (3, "a", Running)];
        assert_eq!(scaled(&tasks, 2).0, ["t1"]);
        assert_eq!(scaled(&tasks, 1).0, ["t1", "t3"]);
        assert_eq!(scaled(&[(1, "", Pending), (2, "a", Running)], 1).0, ["t1"]);
    }

    #[test]
    fn free_slots_are_filled_from_below() {
        assert_eq!(scaled(&[(2, "a", Running), (4, "a", Running)], 5).1, [1, 3, 5]);
        assert_eq!(scaled(&[], 2).1, [1, 2]);
    }

    #[test]
    fn a_slot_whose_task_failed_and_is_to_be_replaced_still_counts() {
        assert_eq!(
            scaled(&[(1, "a", Failed), (2, "a", Running)], 2),
            (vec![], vec![])
        );
    }
}
