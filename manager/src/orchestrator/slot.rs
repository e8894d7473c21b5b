//! Slots: the places of a service that one task each shall fill.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::{NodeId, Service, Task};

use super::task::{by_creation, is_wanted};

/// Which place of its service a task fills.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SlotKey {
    /// The number of a replica, from 1.
    Number(u64),
    /// A node, in services that have one task per node.
    Node(NodeId),
}

impl SlotKey {
    /// The place of a task, by the mode of its service.
    pub(crate) fn of(service: &Service, task: &Task) -> Self {
        match is_per_node(service) {
            true => Self::Node(task.node_id.clone()),
            false => Self::Number(task.slot),
        }
    }
}

/// Whether the service has one task on each node, so that its slots are the nodes.
pub(crate) fn is_per_node(service: &Service) -> bool {
    service.spec.mode.is_global() || service.spec.mode.global_job.is_some()
}

/// The tasks of one slot in the order of their making: usually one that runs and some that have ended; two that run
/// while an update hands over.
pub(crate) type Slot = Vec<Arc<Task>>;

/// Groups tasks by their place.
pub(crate) fn by_slot(service: &Service, tasks: &[Arc<Task>]) -> BTreeMap<SlotKey, Slot> {
    let mut slots: BTreeMap<SlotKey, Slot> = BTreeMap::new();
    for task in tasks {
        slots
            .entry(SlotKey::of(service, task))
            .or_default()
            .push(task.clone());
    }
    slots.values_mut().for_each(|slot| by_creation(slot));
    slots
}

/// The tasks of the slot that shall run.
pub(crate) fn wanted(slot: &Slot) -> impl Iterator<Item = &Arc<Task>> {
    slot.iter().filter(|task| is_wanted(task))
}
