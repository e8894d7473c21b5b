//! What a node must know of a service in order to reach it: names, virtual addresses, published ports and the tasks
//! that are ready. Derived by the manager from services and tasks; sent to each node that has need of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::json::api_struct;
use crate::spec::{EndpointMode, PortConfig};
use crate::{NetworkId, NodeId, ServiceId, TaskId};

api_struct! {
    /// How a service is reached at this moment.
    pub struct ServiceEndpoint {
        /// The service.
        #[serde(rename = "ID")]
        pub id: ServiceId,
        /// Its name, which is its DNS name.
        pub name: String,
        /// What the name stands for.
        pub mode: EndpointMode,
        /// Networks on which it is found.
        pub networks: Vec<ServiceNetwork>,
        /// Ports published in ingress mode, with their final numbers.
        pub ports: Vec<PortConfig>,
        /// Tasks that are running and wanted running.
        pub backends: Vec<Backend>,
    }
}

api_struct! {
    /// A service on one network.
    pub struct ServiceNetwork {
        /// The network.
        #[serde(rename = "NetworkID")]
        pub network_id: NetworkId,
        /// The virtual address, in mode `vip`.
        #[serde(rename = "VirtualIP")]
        pub virtual_ip: Option<Ipv4Addr>,
        /// The same of IPv6, on a network that has it.
        #[serde(rename = "VirtualIP6")]
        pub virtual_ip6: Option<Ipv6Addr>,
        /// Further names.
        pub aliases: Vec<String>,
    }
}

api_struct! {
    /// A task that answers for its service.
    pub struct Backend {
        /// The task.
        #[serde(rename = "TaskID")]
        pub task_id: TaskId,
        /// `service.slot.id`.
        pub name: String,
        /// Where it runs.
        #[serde(rename = "NodeID")]
        pub node_id: NodeId,
        /// Its addresses.
        pub addresses: Vec<BackendAddress>,
    }
}

/// A task's address on one network.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BackendAddress {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
    /// The address.
    pub address: IpAddr,
}

api_struct! {
    /// A task, as nodes must know it that share a network with it: where its packets go. Told as soon as the task has a
    /// node, long before it answers for its service.
    pub struct NetworkMember {
        /// The task.
        #[serde(rename = "TaskID")]
        pub task_id: TaskId,
        /// Where it runs.
        #[serde(rename = "NodeID")]
        pub node_id: NodeId,
        /// Where it is on each network.
        pub attachments: Vec<MemberAttachment>,
    }
}

api_struct! {
    /// A task's place on one network.
    pub struct MemberAttachment {
        /// The network.
        #[serde(rename = "NetworkID")]
        pub network_id: NetworkId,
        /// Addresses, without prefix lengths.
        pub addresses: Vec<IpAddr>,
        /// Names on that network, of a container that is no service's task.
        pub names: Vec<String>,
        /// The hardware address, if it does not follow from the IPv4 address.
        pub mac_address: String,
    }
}
