//! What the network room must know of the other nodes: where they are, and which of their tasks are on networks of this
//! node. The manager tells of nodes, networks and members; this puts it into netd's words.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use netd::{Member, MemberAttachment, Netd, Underlay, UnderlayPeer};
use proto::object::{NetworkKey, NetworkMember, Peer};
use proto::{Network, NetworkId, NodeId};

use crate::peer::Members;

/// Keeps netd informed of the other nodes.
#[derive(Debug)]
pub struct Overlay {
    netd: Arc<Netd>,
    node: NodeId,
    nodes: Members,
    /// UDP port of VXLAN, once a network has said it.
    port: Mutex<Option<u16>>,
    /// The network of published ports.
    ingress: Mutex<Option<NetworkId>>,
}

impl Overlay {
    /// Nothing is known yet.
    pub fn new(netd: Arc<Netd>, node: NodeId, nodes: Members) -> Self {
        Self {
            netd,
            node,
            nodes,
            port: Mutex::default(),
            ingress: Mutex::default(),
        }
    }

    /// Learns the cluster's data port from a network, and which network is that of published ports.
    pub fn note_network(&self, network: &Network) {
        if network.spec.ingress {
            *self.ingress() = Some(network.id.clone());
        }
        if let Some(port) = network.data_path_port() {
            *self.port.lock().unwrap_or_else(PoisonError::into_inner) = Some(port);
        }
    }

    /// Tells where the nodes are now.
    pub async fn refresh(&self) -> netd::Result<()> {
        let port = *self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let ingress = self.ingress().as_ref().map(ToString::to_string);
        if let Some(ingress) = ingress {
            self.netd.set_ingress(Some(ingress)).await?;
        }
        // Until a network spans nodes there is nothing to carry.
        let Some(port) = port else { return Ok(()) };
        match underlay(&self.nodes.all(), &self.node, port) {
            Some(underlay) => self.netd.set_underlay(Some(underlay)).await,
            None => Ok(()),
        }
    }

    /// Tells which nodes the managers have given up. After services are led elsewhere: whoever had a connection there begins
    /// another one at once.
    pub async fn tell_lost(&self) -> netd::Result<()> {
        let lost = self.nodes.all().into_iter().filter(|node| node.down);
        let lost = lost.map(|node| node.node_id.to_string());
        self.netd.set_lost(lost.collect()).await
    }

    /// Takes the key that all nodes with encrypted networks share. One that cannot be read is another version's.
    pub async fn set_key(&self, key: &NetworkKey) -> netd::Result<()> {
        let bytes = STANDARD.decode(key.key.as_bytes()).ok();
        match bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            Some(key) => self.netd.set_network_key(key).await,
            None => Ok(()),
        }
    }

    /// Tasks of other nodes are as given from now on.
    pub async fn set(&self, members: Vec<NetworkMember>) -> netd::Result<()> {
        self.netd
            .set_members(members.into_iter().map(member).collect())
            .await
    }

    /// Tasks of other nodes that need not be known any more.
    pub async fn remove(&self, ids: BTreeSet<String>) -> netd::Result<()> {
        self.netd.remove_members(ids).await
    }

    /// Those of which this does not hold need not be known any more.
    pub async fn retain(&self, keep: impl Fn(&str) -> bool) -> netd::Result<()> {
        let known = self.netd.members().into_iter();
        self.remove(known.filter(|id| !keep(id)).collect()).await
    }

    /// This node is in no cluster any more.
    pub async fn leave(&self) -> netd::Result<()> {
        self.retain(|_| false).await?;
        self.netd.set_lost(BTreeSet::new()).await?;
        self.netd.set_ingress(None).await?;
        self.netd.set_underlay(None).await
    }

    fn ingress(&self) -> MutexGuard<'_, Option<NetworkId>> {
        self.ingress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` while nobody has said where this node is.
fn underlay(nodes: &[Peer], own: &NodeId, port: u16) -> Option<Underlay> {
    let here = nodes.iter().find(|node| node.node_id == *own)?;
    let others = nodes.iter().filter(|node| node.node_id != *own);
    Some(Underlay {
        address: here.data_path.addr.parse().ok()?,
        port,
        peers: others.filter_map(peer).collect(),
    })
}

fn peer(node: &Peer) -> Option<UnderlayPeer> {
    let path = &node.data_path;
    Some(UnderlayPeer {
        node: node.node_id.to_string(),
        address: path.addr.parse().ok()?,
        mtu: path.mtu,
        forwards: path.forwards,
        next_hop6: path.next_hop6.parse().ok(),
        public_key: Some(path.public_key.clone()).filter(|key| !key.is_empty()),
    })
}

fn member(member: NetworkMember) -> Member {
    let attachment = |on: proto::object::MemberAttachment| MemberAttachment {
        network: on.network_id.to_string(),
        addresses: on.addresses,
        // One that cannot be read is not one that could be spoken to; what the address says is the better guess.
        mac: on.mac_address.parse().ok(),
        names: on.names,
    };
    Member {
        id: member.task_id.to_string(),
        node: member.node_id.to_string(),
        attachments: member.attachments.into_iter().map(attachment).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::object::DataPath;

    #[test]
    fn the_underlay_is_this_node_and_the_others_that_can_be_reached() {
        let node = |id: &str, addr: &str| Peer {
            node_id: id.into(),
            data_path: DataPath {
                addr: addr.into(),
                mtu: 1500,
                ..DataPath::default()
            },
            ..Peer::default()
        };
        let nodes = [node("a", "192.0.2.1"), node("b", "192.0.2.2"), node("c", "")];
        let known = underlay(&nodes, &"a".into(), 4789).unwrap();
        assert_eq!(known.address.to_string(), "192.0.2.1");
        let peers: Vec<_> = known.peers.iter().map(|peer| peer.node.as_str()).collect();
        assert_eq!(peers, ["b"], "nobody knows where c is");
        assert!(underlay(&nodes, &"d".into(), 4789).is_none());
    }
}
