//! The nodes of the cluster, as the dispatcher tells them: who may speak to this node, and where the others are reached.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use proto::NodeId;
use proto::object::Peer;
use tokio::sync::watch;

/// The nodes of the cluster. Clones share one set. What was told last stays while no manager is reached.
#[derive(Debug, Clone, Default)]
pub struct Members(Arc<watch::Sender<BTreeMap<NodeId, Peer>>>);

impl Members {
    /// A node, if it is one of the cluster's.
    pub fn get(&self, node: &NodeId) -> Option<Peer> {
        self.0.borrow().get(node).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Peer> {
        self.0.borrow().values().cloned().collect()
    }

    /// Whether the managers have told of any.
    pub fn are_known(&self) -> bool {
        !self.0.borrow().is_empty()
    }

    /// Returns when the managers have told of any.
    pub async fn known(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|all| !all.is_empty()).await;
    }

    /// Returns when the managers have told of this node.
    pub async fn joined(&self, node: &NodeId) {
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|all| all.contains_key(node)).await;
    }

    /// A node is as given from now on.
    pub fn put(&self, peer: Peer) {
        self.0
            .send_modify(|all| drop(all.insert(peer.node_id.clone(), peer)));
    }

    /// A node is no longer part of the cluster.
    pub fn remove(&self, node: &str) {
        self.0.send_modify(|all| all.retain(|id, _| id.as_str() != node));
    }

    /// Those are no longer part of the cluster of which this does not hold.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.send_modify(|all| all.retain(|id, _| keep(id.as_str())));
    }

    /// Returns when a node is not, or no longer, part of the cluster.
    pub async fn removed(&self, node: &NodeId) {
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|all| !all.contains_key(node)).await;
    }
}

/// Where a node is reached; `None` while nobody knows.
pub(super) fn address(peer: &Peer) -> Option<SocketAddr> {
    Some(SocketAddr::new(peer.addr.parse().ok()?, peer.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_removed_is_gone_at_once() {
        let members = Members::default();
        let peer = |id: &str| Peer {
            node_id: id.into(),
            addr: "192.0.2.1".into(),
            port: 1,
            ..Peer::default()
        };
        members.put(peer("a"));
        members.put(peer("b"));
        assert_eq!(
            address(&members.get(&"a".into()).unwrap()),
            Some(([192, 0, 2, 1], 1).into())
        );
        let id = NodeId::from("a");
        let gone = members.removed(&id);
        members.retain(|id| id != "a");
        gone.await;
        assert!(members.get(&id).is_none() && members.get(&"b".into()).is_some());
        members.remove("b");
        assert!(!members.are_known());
    }
}
