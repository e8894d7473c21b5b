//! When each node was heard last by the manager that leads. Kept in memory alone: a new leader knows nothing and counts
//! from its own beginning.
//!
//! A node that answers to nobody stops the tasks that have a lease when that has run out, and counts from its last
//! heartbeat that a leader of a majority has answered. This table is the leader's side of the same: it is never behind
//! what the node counts from.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use proto::NodeId;
use tokio::time::Instant;

/// When each node was heard last. Cheap to clone: all clones are the same table.
#[derive(Debug, Clone)]
pub struct Contacts {
    table: Arc<RwLock<Table>>,
}

#[derive(Debug)]
struct Table {
    since: Instant,
    heard: BTreeMap<NodeId, Instant>,
}

impl Default for Contacts {
    fn default() -> Self {
        let table = Table {
            since: Instant::now(),
            heard: BTreeMap::new(),
        };
        Self {
            table: Arc::new(RwLock::new(table)),
        }
    }
}

impl Contacts {
    /// This manager begins to lead: whoever led before may have heard every node until now.
    pub(crate) fn begin(&self) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.since = Instant::now();
        table.heard.clear();
    }

    /// The node is heard, and about to be told so.
    pub(crate) fn heard(&self, node: &NodeId) {
        let now = Instant::now();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.heard.get_mut(node) {
            Some(last) => *last = now,
            None => drop(table.heard.insert(node.clone(), now)),
        }
    }

    /// When the node was heard last, at the latest.
    pub(crate) fn last(&self, node: &NodeId) -> Instant {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.heard.get(node).copied().unwrap_or(table.since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_counts_from_its_own_beginning() {
        let (contacts, node) = (Contacts::default(), NodeId::from("n"));
        let begun = Instant::now();
        assert_eq!(contacts.last(&node), begun);
        tokio::time::advance(Duration::from_secs(1)).await;
        contacts.heard(&node);
        assert_eq!(contacts.last(&node), begun + Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        contacts.begin();
        assert_eq!(contacts.last(&node), begun + Duration::from_secs(2));
    }
}
