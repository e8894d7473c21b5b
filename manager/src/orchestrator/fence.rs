//! Fencing: a task with a lease is dead when its node has been silent for long enough, and is not replaced before.
//!
//! The node's side: a task ends when its lease has run out since the last heartbeat that a leader of a majority answered,
//! and is killed after its stop grace period (`runtime::shim::lease`). Here the same time is counted from when this leader
//! heard the node last, which is never before what the node counts from, with a margin for clocks that do not go alike.

use std::time::Duration;

use proto::{Task, upkeep};
use tokio::time::Instant;

use super::draft::Draft;
use super::task::stop_grace;

/// For the kill itself, and for whoever is late with it.
const MARGIN: Duration = Duration::from_secs(2);
/// Clocks of two machines go apart by less than one part in this many.
const DRIFT: u32 = 100;

/// How long after its node was heard last a task runs at most; `None` if it has no lease.
fn longest(task: &Task) -> Option<Duration> {
    // Nodes count the grace period in whole seconds.
    let grace = stop_grace(task).as_nanos().div_ceil(1_000_000_000);
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(u64::MAX / 2));
    let time = upkeep::fencing(&task.labels)?.saturating_add(grace);
    Some(time + time / DRIFT + MARGIN)
}

/// Until when a task that has not stopped may run, as things stand; `None` if there is no such moment: it has no lease,
/// or its node was taken out of the cluster, which is the user's word that it is gone.
pub(super) fn end(draft: &Draft<'_>, task: &Task, now: Instant) -> Option<Instant> {
    let longest = longest(task)?;
    draft.node(&task.node_id)?;
    // A node of which nothing is known may have been heard just now.
    let heard = draft.picture.heard.get(&task.node_id).copied();
    heard.unwrap_or(now).checked_add(longest)
}

/// Whether a task may run on although nobody hears of its node.
pub(super) fn is_fenced(task: &Task) -> bool {
    upkeep::fencing(&task.labels).is_some()
}
