//! Gives up the tasks of nodes that have been down for a day: nobody will ever know what became of them, so they are
//! ORPHANED, and the reaper may take them out. They were replaced long before.
//!
//! Input: nodes and tasks in the store. Output: the state of tasks. Since when a node is down is remembered in memory; a
//! new leader takes the time of the node's last change, which is then or later.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::object::NodeState;
use proto::{Node, NodeId, Task, TaskState, Timestamp};
use tokio::time::{Instant, sleep_until};

use crate::state::{Change, Event, Filter, Key, Kind, Reader, Store, StoreError, WatchStream};

/// How long a node is down until its tasks are given up, as in SwarmKit.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs until the store is gone.
///
/// # Errors
/// The store refused a change: this manager leads no longer, or its disk is full.
pub(crate) async fn run(store: Store) -> Result<(), StoreError> {
    let (mut down, mut events) = store.view_and_watch(Filter::kinds(&[Kind::Node]), |tx| {
        let nodes = tx.all::<Node>().into_iter().filter(|node| is_down(node));
        let due = |node: &Node| Instant::now() + PATIENCE.saturating_sub(age(node));
        nodes.map(|node| (node.id.clone(), due(&node))).collect()
    });
    while wait(&mut down, &mut events).await {
        let now = Instant::now();
        let due: Vec<NodeId> = down
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for node in due {
            orphan(&store, &node).await?;
            down.remove(&node);
        }
    }
    Ok(())
}

/// Waits for the first node to be due, and learns of nodes meanwhile. Returns whether the store is still there.
async fn wait(down: &mut BTreeMap<NodeId, Instant>, events: &mut WatchStream) -> bool {
    loop {
        let due = down.values().min().copied();
        let event = tokio::select! {
            biased;
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return true,
            event = events.next() => event,
        };
        match event {
            Some(Event::Node(change)) => note(down, &change),
            Some(_) => {}
            None => return false,
        }
    }
}

fn note(down: &mut BTreeMap<NodeId, Instant>, change: &Change<Node>) {
    let id = &change.object().id;
    match change.new_object().filter(|node| is_down(node)) {
        Some(_) => drop(
            down.entry(id.clone())
                .or_insert_with(|| Instant::now() + PATIENCE),
        ),
        None => drop(down.remove(id)),
    }
}

async fn orphan(store: &Store, node: &NodeId) -> Result<(), StoreError> {
    let tasks = store.view(|tx| tx.by_key::<Task>(Key::Node(node.as_str().to_owned())));
    tracing::warn!(node.id = %node, "the node has been down for a day: its tasks are given up");
    let mut batch = store.batch().await;
    for task in tasks {
        let given_up = batch.update(|tx| {
            let still_down = tx.get::<Node>(node.as_str()).is_some_and(|node| is_down(&node));
            let current = tx.get::<Task>(task.id.as_str());
            let open = current.is_some_and(|task| {
                task.status.state >= TaskState::Assigned && !task.status.state.is_terminal()
            });
            if !still_down || !open {
                return Ok(());
            }
            tx.modify::<Task>(task.id.as_str(), |task| {
                task.status.state = TaskState::Orphaned;
                task.status.timestamp = Timestamp::now();
                "the node has been down for a day".clone_into(&mut task.status.message);
            })
        });
        given_up.await?;
    }
    batch.commit().await
}

fn is_down(node: &Node) -> bool {
    node.status.state == NodeState::Down
}

fn age(node: &Node) -> Duration {
    (Timestamp::now().0 - node.meta.updated_at.0)
        .try_into()
        .unwrap_or_default()
}
