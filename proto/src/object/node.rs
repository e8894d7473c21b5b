//! Nodes as the manager keeps them.

use crate::json::{api_struct, api_word};
use crate::spec::{Labels, NodeRole, NodeSpec, Platform, Reservations};
use crate::{Meta, NodeId};

/// The TCP port between nodes, which users of Docker Swarm have open already.
pub const PEER_PORT: u16 = 7946;

/// A node.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// Its identifier.
    #[serde(rename = "ID")]
    pub id: NodeId,
    /// Version and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the user says about it.
    #[serde(default)]
    pub spec: NodeSpec,
    /// What it says about itself.
    #[serde(default)]
    pub description: NodeDescription,
    /// Whether it is there.
    #[serde(default)]
    pub status: NodeStatus,
    /// Of managers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager_status: Option<ManagerStatus>,
    /// SHA-256 of the public key with which it joined, until it has a session: who asks again with that key is this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_key: Option<String>,
}

impl Node {
    /// It has said good-bye, as a worker or a manager: its tasks are to be replaced.
    pub fn leave(&mut self) {
        self.spec.role = NodeRole::Worker;
        self.status.state = NodeState::Down;
        "the node has left".clone_into(&mut self.status.message);
    }
}

api_struct! {
    /// What a node says about itself.
    pub struct NodeDescription {
        /// Its hostname.
        pub hostname: String,
        /// Its processor and system.
        pub platform: Platform,
        /// What it has.
        pub resources: Reservations,
        /// The agent that it runs.
        pub engine: NodeEngine,
        /// The authority that it trusts.
        #[serde(rename = "TLSInfo")]
        pub tls_info: TlsInfo,
        /// Subnets that it reaches outside of the cluster's networks: none of those may overlap them.
        pub subnets: Vec<String>,
        /// Names of its local volumes: a task whose data is among them goes back to this node.
        pub volumes: Vec<String>,
        /// TCP port on which it speaks to the other nodes; [`PEER_PORT`] where it is 0.
        pub peer_port: u16,
        /// How networks between nodes reach it.
        pub data_path: DataPath,
    }
}

api_struct! {
    /// The way on which containers' packets reach a node.
    pub struct DataPath {
        /// Its address; where it is empty, that from which it comes to the managers.
        pub addr: String,
        /// Bytes that a packet may have on its link; 0 if it is not known.
        pub mtu: u32,
        /// Whether its host forwards IPv4 between its links.
        pub forwards: bool,
        /// Its host's address on that link as the next hop of IPv6 packets; empty if the host has none there or does not
        /// forward IPv6.
        pub next_hop6: String,
        /// Its WireGuard key in base64; empty if its kernel cannot encrypt.
        pub public_key: String,
    }
}

impl DataPath {
    /// Whether the node can carry encrypted networks.
    pub fn encrypts(&self) -> bool {
        !self.public_key.is_empty()
    }
}

api_struct! {
    /// The agent of a node.
    pub struct NodeEngine {
        /// Its version.
        pub engine_version: String,
        /// Labels of the agent, for constraints `engine.labels.…`.
        pub labels: Labels,
        /// Drivers that it has.
        pub plugins: Vec<EnginePlugin>,
    }
}

api_struct! {
    /// A driver of an agent.
    pub struct EnginePlugin {
        /// `Volume`, `Network` or `Log`.
        #[serde(rename = "Type")]
        pub kind: String,
        /// Its name.
        pub name: String,
    }
}

api_struct! {
    /// An authority.
    pub struct TlsInfo {
        /// The root certificate in PEM.
        pub trust_root: String,
        /// The issuer's subject, DER in base64.
        pub cert_issuer_subject: String,
        /// The issuer's public key, DER in base64.
        pub cert_issuer_public_key: String,
    }
}

api_struct! {
    /// A node of the cluster, as every other node must know it.
    pub struct Peer {
        /// The node.
        #[serde(rename = "NodeID")]
        pub node_id: NodeId,
        /// What it is called.
        pub hostname: String,
        /// The address at which it is reached; empty while nobody knows.
        pub addr: String,
        /// The TCP port on which it speaks to other nodes.
        pub port: u16,
        /// What it is trusted with.
        pub role: NodeRole,
        /// How networks between nodes reach it; its address is never empty where `addr` is not.
        pub data_path: DataPath,
        /// Whether the managers have given it up: nothing that runs there counts on being reached.
        pub down: bool,
    }
}

impl Peer {
    /// What others must know of a node.
    pub fn of(node: &Node) -> Self {
        Self {
            node_id: node.id.clone(),
            hostname: node.description.hostname.clone(),
            addr: node.status.addr.clone(),
            port: match node.description.peer_port {
                0 => PEER_PORT,
                port => port,
            },
            role: node.spec.role,
            data_path: DataPath {
                addr: match node.description.data_path.addr.as_str() {
                    "" => node.status.addr.clone(),
                    own => own.to_owned(),
                },
                ..node.description.data_path.clone()
            },
            down: node.status.state.is_given_up(),
        }
    }
}

api_word! {
    /// Whether a node is there.
    pub enum NodeState {
        /// Nobody knows yet.
        #[default]
        Unknown = "unknown",
        /// It has missed its heartbeats.
        Down = "down",
        /// It takes tasks.
        Ready = "ready",
        /// It has said good-bye.
        Disconnected = "disconnected",
    }
}

impl NodeState {
    /// Whether nothing that runs on the node counts on being reached: it has gone, or has missed its heartbeats. A node of
    /// which nobody knows yet is not given up.
    pub const fn is_given_up(self) -> bool {
        matches!(self, Self::Down | Self::Disconnected)
    }
}

/// Whether a node is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeStatus {
    /// Whether it is there.
    #[serde(default)]
    pub state: NodeState,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The address that it comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub addr: String,
}

api_word! {
    /// Whether a manager can be reached by the others.
    pub enum Reachability {
        /// Nobody knows.
        #[default]
        Unknown = "unknown",
        /// No.
        Unreachable = "unreachable",
        /// Yes.
        Reachable = "reachable",
    }
}

/// A manager's part in consensus.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManagerStatus {
    /// Whether it leads.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub leader: bool,
    /// Whether the others reach it.
    #[serde(default)]
    pub reachability: Reachability,
    /// `host:port` of the cluster's services.
    #[serde(default)]
    pub addr: String,
}
