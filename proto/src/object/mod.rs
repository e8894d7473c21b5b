//! What the manager keeps: a spec, and what was observed of it.

mod cluster;
mod endpoint;
mod history;
mod network;
mod node;
mod service;
mod task;

use crate::spec::{ConfigSpec, SecretSpec};
use crate::{ConfigId, Meta, SecretId};

pub use cluster::{Cluster, JoinTokens, NetworkKey, NextRoot, RootCa};
pub use endpoint::{
    Backend, BackendAddress, MemberAttachment, NetworkMember, ServiceEndpoint, ServiceNetwork,
};
pub use history::{KeptSpec, SpecHistory};
pub use network::{Ipam, Network, PORT_OPTION, VXLAN_OPTION};
pub use node::{
    DataPath, EnginePlugin, ManagerStatus, Node, NodeDescription, NodeEngine, NodeState, NodeStatus,
    PEER_PORT, Peer, Reachability, TlsInfo,
};
pub use service::{Endpoint, EndpointVip, JobStatus, Service, ServiceStatus, UpdateState, UpdateStatus};
pub use task::{ContainerStatus, NetworkAttachment, PortStatus, TakeOver, TakeOverReason, Task, TaskStatus};

/// A secret.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Secret {
    /// Its identifier.
    #[serde(rename = "ID")]
    pub id: SecretId,
    /// Version and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Name, labels and, inside the cluster only, content.
    #[serde(rename = "Spec", default)]
    pub spec: SecretSpec,
}

/// A config.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Config {
    /// Its identifier.
    #[serde(rename = "ID")]
    pub id: ConfigId,
    /// Version and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Name, labels and content.
    #[serde(rename = "Spec", default)]
    pub spec: ConfigSpec,
}
