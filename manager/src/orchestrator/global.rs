//! Services with one task on each node that fits.

use proto::TaskState;
use proto::object::NodeState;
use proto::spec::Availability;
use tokio::time::Instant;

use super::delay::Delays;
use super::draft::Draft;
use super::replicated::{fill, is_occupied};
use super::slot::SlotKey;
use super::task::{fitness, is_wanted, satisfies_placement};

/// Makes the missing tasks and shuts down those that cannot stay where they are. Returns the slots that stay and were
/// there before: those that an update has to look at.
pub(crate) fn place(draft: &mut Draft<'_>, delays: &mut Delays, now: Instant) -> Vec<SlotKey> {
    let mut keep = Vec::new();
    for key in places(draft) {
        match standing(draft, &key) {
            Standing::Away => shut_down(draft, &key),
            // What runs there stays as it is until the node is active again.
            Standing::Paused => {}
            Standing::Fits { .. } if is_occupied(draft, draft.slots.get(&key).unwrap_or(&Vec::new())) => {
                keep.push(key);
            }
            Standing::Fits { ready: true } => fill(draft, delays, &key, now),
            Standing::Fits { ready: false } => {}
        }
    }
    keep
}

/// Whether the node of the place takes a new task of the service.
pub(crate) fn takes_tasks(draft: &Draft<'_>, key: &SlotKey) -> bool {
    matches!(standing(draft, key), Standing::Fits { .. })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Gone, down, drained, or not what the constraints ask for.
    Away,
    /// Keeps its tasks, takes no new ones.
    Paused,
    Fits {
        /// Whether it is there to take a task.
        ready: bool,
    },
}

fn standing(draft: &Draft<'_>, key: &SlotKey) -> Standing {
    let SlotKey::Node(id) = key else {
        return Standing::Away;
    };
    let node = draft.node(id);
    match node {
        Some(node) if fitness(Some(node)).is_none() && satisfies_placement(draft.service(), node) => {
            match node.spec.availability {
                Availability::Pause => Standing::Paused,
                _ => Standing::Fits {
                    ready: node.status.state == NodeState::Ready,
                },
            }
        }
        _ => Standing::Away,
    }
}

/// Every node, and every node that was and still has tasks.
fn places(draft: &Draft<'_>) -> Vec<SlotKey> {
    let nodes = draft.picture.nodes.keys().cloned().map(SlotKey::Node);
    let mut places: Vec<SlotKey> = nodes.chain(draft.slots.keys().cloned()).collect();
    places.sort();
    places.dedup();
    places
}

fn shut_down(draft: &mut Draft<'_>, key: &SlotKey) {
    draft.begin();
    for task in draft.slot(key).to_vec().iter().filter(|task| is_wanted(task)) {
        draft.desire(key, &task.id, TaskState::Shutdown);
    }
}
