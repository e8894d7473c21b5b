//! Replacing a task that runs without a gap: its replacement takes over, and the old task stops when the new one runs.
//!
//! ```text
//! old RUNNING ── new made, wanted RUNNING ─┬ new runs         → old SHUTDOWN
//!                                          ├ time over, drain → old SHUTDOWN all the same
//!                                          └ time over, rebalance → new SHUTDOWN: nothing has happened
//! ```
//! Which task takes over from which is written on the new task, so that a new leader knows it too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::object::{TakeOver, TakeOverReason};
use proto::spec::{ContainerSpec, MountType, PublishMode, UpdateOrder};
use proto::upkeep::{self, DEFAULT_DRAIN_DEADLINE, DRAIN_DEADLINE, DrainOrder, duration};
use proto::{Service, Task, TaskId, TaskState, Timestamp};
use tokio::time::Instant;

use super::draft::Draft;
use super::slot::SlotKey;
use super::task::is_wanted;

/// How long a task that shall move to another node may take until it runs there.
const REBALANCE_PATIENCE: Duration = Duration::from_secs(120);

/// Until when tasks that are to be replaced wait for that.
pub(crate) type Deadlines = HashMap<TaskId, Instant>;

/// Whether another task of the slot takes over from this one.
pub(crate) fn is_leaving(slot: &[Arc<Task>], task: &Task) -> bool {
    slot.iter()
        .any(|other| is_wanted(other) && from(other) == Some(&task.id))
}

/// The tasks of the slot that shall run, but for those from which others take over.
pub(crate) fn staying(slot: &[Arc<Task>]) -> impl Iterator<Item = &Arc<Task>> {
    slot.iter()
        .filter(|task| is_wanted(task) && !is_leaving(slot, task))
}

/// Whether two tasks of one slot may run at once while one takes over from the other: if the user says so, or if nobody
/// could tell them apart. A service of one task may be one because there must never be two.
pub(crate) fn may_overlap(service: &Service, order: Option<DrainOrder>) -> bool {
    let spec = &service.spec;
    let Some(replicas) = spec.mode.replicas().filter(|_| !spec.mode.is_job()) else {
        return false;
    };
    if upkeep::fencing(&spec.labels).is_some() || spec.task_template.has_fixed_address() {
        return false;
    }
    let start_first = |config: &proto::spec::UpdateConfig| config.order == UpdateOrder::StartFirst;
    match order {
        Some(order) => order == DrainOrder::StartFirst,
        None => {
            spec.update_config.as_ref().is_some_and(start_first) || (replicas > 1 && is_stateless(service))
        }
    }
}

/// Makes the task that takes over. It is wanted running at once.
pub(crate) fn begin(draft: &mut Draft<'_>, key: &SlotKey, old: &Task, reason: TakeOverReason) {
    let task = old.id.clone();
    draft.begin();
    draft.create_with(key, TaskState::Running, |new| {
        new.takes_over = Some(TakeOver { task, reason });
    });
}

/// Ends what has come to its end. Returns when the next deadline is.
pub(crate) fn proceed(draft: &mut Draft<'_>, deadlines: &mut Deadlines, now: Instant) -> Option<Instant> {
    let pairs = pairs(draft);
    deadlines.retain(|id, _| pairs.iter().any(|(_, old, _)| old.id == *id));
    let mut wake: Option<Instant> = None;
    for (key, old, new) in pairs {
        let deadline = *deadlines
            .entry(old.id.clone())
            .or_insert_with(|| now + rest(draft, &key, &old, &new));
        let runs = new.status.state == TaskState::Running;
        let gives_up = reason(&new) == Some(TakeOverReason::Rebalance);
        if !runs && now < deadline {
            wake = Some(wake.map_or(deadline, |wake| wake.min(deadline)));
            continue;
        }
        let ends = if runs || !gives_up { &old.id } else { &new.id };
        draft.begin();
        draft.desire(&key, ends, TaskState::Shutdown);
    }
    wake
}

/// Why the task takes over from another one, if it does.
pub(crate) fn reason(task: &Task) -> Option<TakeOverReason> {
    task.takes_over.as_ref().map(|over| over.reason)
}

/// The task from which this one takes over.
pub(crate) fn from(task: &Task) -> Option<&TaskId> {
    task.takes_over.as_ref().map(|over| &over.task)
}

/// Each task that leaves with the one that takes over.
fn pairs(draft: &Draft<'_>) -> Vec<(SlotKey, Arc<Task>, Arc<Task>)> {
    let mut pairs = Vec::new();
    for (key, slot) in &draft.slots {
        for new in slot.iter().filter(|task| is_wanted(task)) {
            let old = slot
                .iter()
                .find(|old| is_wanted(old) && from(new) == Some(&old.id));
            pairs.extend(old.map(|old| (key.clone(), old.clone(), new.clone())));
        }
    }
    pairs
}

/// What is left of the time for the hand-over, by the first task that was made for it.
fn rest(draft: &Draft<'_>, key: &SlotKey, old: &Task, new: &Task) -> Duration {
    let slot = draft.slot(key).iter();
    let begun = slot
        .filter(|task| from(task) == Some(&old.id))
        .map(|task| task.meta.created_at)
        // What this very plan makes has no time yet.
        .filter(|begun| !begun.is_zero())
        .min();
    let age = begun.map_or(Duration::ZERO, |begun| {
        (Timestamp::now().0 - begun.0).try_into().unwrap_or_default()
    });
    let whole = match reason(new) {
        Some(TakeOverReason::Rebalance) => REBALANCE_PATIENCE,
        _ => drain_deadline(draft, old),
    };
    whole.saturating_sub(age)
}

/// By the service, or else by the node, or else 60 s.
fn drain_deadline(draft: &Draft<'_>, old: &Task) -> Duration {
    let of_node = || {
        let label = draft.node(&old.node_id)?.spec.labels.get(DRAIN_DEADLINE)?;
        duration(label)
    };
    draft
        .upkeep
        .drain_deadline
        .or_else(of_node)
        .unwrap_or(DEFAULT_DRAIN_DEADLINE)
}

/// Whether the tasks of the service have nothing that is theirs alone: no data on their node, no port of it, no number.
fn is_stateless(service: &Service) -> bool {
    let endpoint = service.spec.endpoint_spec.iter();
    let host_port = endpoint
        .flat_map(|endpoint| &endpoint.ports)
        .any(|port| port.publish_mode == PublishMode::Host);
    let container = service.spec.task_template.container_spec.as_ref();
    !host_port && !container.is_some_and(|container| writes_to_node(container) || knows_its_place(container))
}

fn writes_to_node(container: &ContainerSpec) -> bool {
    let mut mounts = container.mounts.iter();
    mounts.any(|mount| mount.kind != MountType::Tmpfs && !mount.read_only)
}

/// Whether a placeholder tells the tasks apart, such as `{{.Task.Slot}}`.
fn knows_its_place(container: &ContainerSpec) -> bool {
    let mounts = container.mounts.iter().map(|mount| &mount.source);
    let mut words = container.env.iter().chain([&container.hostname]).chain(mounts);
    words.any(|word| word.contains("{{") && word.contains(".Task."))
}

#[cfg(test)]
mod tests {
    use proto::spec::{EndpointSpec, Mount, PortConfig, ServiceMode, UpdateConfig};

    use super::*;

    fn service(replicas: u64) -> Service {
        let mut service = Service::default();
        service.spec.mode = ServiceMode::replicated(replicas);
        service.spec.task_template.container_spec = Some(ContainerSpec::default());
        service
    }

    fn container(service: &mut Service) -> &mut ContainerSpec {
        service.spec.task_template.container_spec.as_mut().unwrap()
    }

    #[test]
    fn only_tasks_that_nobody_can_tell_apart_overlap_by_themselves() {
        assert!(may_overlap(&service(2), None));
        assert!(
            !may_overlap(&service(1), None),
            "there may be one because there must not be two"
        );
        let mut volume = service(2);
        container(&mut volume).mounts.push(Mount::default());
        assert!(!may_overlap(&volume, None));
        container(&mut volume).mounts[0].read_only = true;
        assert!(may_overlap(&volume, None));
        let mut numbered = service(2);
        container(&mut numbered).env = vec!["ME={{.Task.Slot}}".into()];
        assert!(!may_overlap(&numbered, None));
        let mut port = service(2);
        port.spec.endpoint_spec = Some(EndpointSpec {
            ports: vec![PortConfig {
                publish_mode: PublishMode::Host,
                ..PortConfig::default()
            }],
            ..EndpointSpec::default()
        });
        assert!(!may_overlap(&port, None));
    }

    #[test]
    fn the_user_decides_where_he_says_something() {
        let mut one = service(1);
        assert!(may_overlap(&one, Some(DrainOrder::StartFirst)));
        assert!(!may_overlap(&service(5), Some(DrainOrder::StopFirst)));
        one.spec.update_config = Some(UpdateConfig {
            order: UpdateOrder::StartFirst,
            ..UpdateConfig::default()
        });
        assert!(may_overlap(&one, None));
        one.spec.labels.insert(upkeep::FENCING.into(), "15s".into());
        assert!(
            !may_overlap(&one, None),
            "two at once is what it asked never to have"
        );
        one.spec.labels.clear();
        one.spec.mode = ServiceMode::global();
        assert!(
            !may_overlap(&one, Some(DrainOrder::StartFirst)),
            "a node has one place"
        );
    }
}
