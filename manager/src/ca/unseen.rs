//! Nodes that were made and never came: the answer to their join was lost, and nobody has asked for it again.

use std::sync::Arc;
use std::time::Duration;

use proto::{Node, NodeId, Timestamp};
use tokio::time::sleep;

use crate::state::{Event, Filter, Kind, Reader, Store, StoreError};

/// How long a node has to come after it was made.
const PATIENCE: Duration = Duration::from_secs(600);

/// Removes nodes that did not come in time. Runs on the manager that leads.
pub(crate) async fn run(store: Store) -> Result<(), StoreError> {
    let joins = |event: &Event| matches!(event, Event::Node(change) if change.object().join_key.is_some());
    let mut events = store.watch(Filter::kinds(&[Kind::Node]).only(joins));
    loop {
        let first = store.view(|tx| first(&tx));
        let (id, left) = match first {
            Some((id, left)) => (Some(id), left),
            None => (None, Duration::MAX),
        };
        tokio::select! {
            () = sleep(left), if id.is_some() => {
                if let Some(id) = id {
                    store.update(|tx| remove(tx, &id)).await?;
                }
            }
            event = events.next() => if event.is_none() { return Ok(()) },
        }
    }
}

/// Who has to come first, and the time that it has left.
fn first(tx: &impl Reader) -> Option<(NodeId, Duration)> {
    let now = Timestamp::now().0;
    let waiting = tx
        .all::<Node>()
        .into_iter()
        .filter(|node| node.join_key.is_some());
    let left = |node: Arc<Node>| {
        let age = Duration::try_from(now - node.meta.created_at.0).unwrap_or_default();
        (node.id.clone(), PATIENCE.saturating_sub(age))
    };
    waiting.map(left).min_by_key(|(_, left)| *left)
}

fn remove(tx: &mut crate::state::WriteTx<'_>, id: &NodeId) -> Result<(), StoreError> {
    // It may have come at the last moment.
    if tx.get::<Node>(id).is_none_or(|node| node.join_key.is_none()) {
        return Ok(());
    }
    tracing::info!(node.id = %id, "a node that never came is removed");
    tx.remove::<Node>(id)
}
