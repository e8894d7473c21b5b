//! What waits and what becomes of it: tasks in groups, and decisions about them.

use std::sync::Arc;

use proto::spec::GenericResource;
use proto::{NodeId, ServiceId, Task, TaskId};

use super::node::SpecVersion;
use super::volumes;

/// Tasks that are placed in one pass, as all nodes are alike to them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupKey {
    pub(crate) service: ServiceId,
    version: SpecVersion,
    /// The node that the orchestrator chose, in services with one task on each node.
    pub(crate) node: Option<NodeId>,
    /// The task, if nothing tells that it is like others, or its volume is its own.
    alone: Option<TaskId>,
}

impl GroupKey {
    pub(crate) fn of(task: &Task) -> Self {
        let alone = task.spec_version.is_none() || volumes::has_own(task);
        Self {
            service: task.service_id.clone(),
            version: task.spec_version,
            node: (!task.node_id.is_empty()).then(|| task.node_id.clone()),
            alone: alone.then(|| task.id.clone()),
        }
    }
}

/// Tasks that wait, with their slots; in the order of the slots only once they are to be placed.
pub(crate) type Group = Vec<(u64, Arc<Task>)>;

/// Brings the tasks into the order in which they are placed. Quick where they are nearly in it.
pub(crate) fn sort(group: &mut Group) {
    group.sort_by(|(slot, task), (other_slot, other)| {
        slot.cmp(other_slot).then_with(|| task.id.cmp(&other.id))
    });
}

/// Where a task waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) key: Arc<GroupKey>,
    /// Its place in the group.
    pub(crate) at: usize,
}

/// What becomes of a task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    pub(crate) task: Arc<Task>,
    pub(crate) outcome: Outcome,
}

/// What becomes of a task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// It goes to the node with these things.
    Assign {
        node: NodeId,
        given: Vec<GenericResource>,
        message: &'static str,
    },
    /// It waits.
    Wait { message: String, err: String },
}

/// Says why the task waits, unless that is already said.
pub(crate) fn wait(task: &Arc<Task>, message: &str, err: &str) -> Option<Decision> {
    let said = task.status.message == message && task.status.err == err;
    let outcome = Outcome::Wait {
        message: message.to_owned(),
        err: err.to_owned(),
    };
    (!said).then(|| Decision {
        task: task.clone(),
        outcome,
    })
}
