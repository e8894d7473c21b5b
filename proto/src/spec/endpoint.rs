//! How a service is reached.

use std::net::IpAddr;

use crate::json::{api_struct, api_word};

api_word! {
    /// What the service's name stands for.
    pub enum EndpointMode {
        /// One virtual address.
        #[default]
        Vip = "vip",
        /// The addresses of its tasks.
        Dnsrr = "dnsrr",
    }
}

api_word! {
    /// Transport of a port.
    pub enum PortProtocol {
        /// TCP.
        #[default]
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
        /// SCTP.
        Sctp = "sctp",
    }
}

api_word! {
    /// Where a port is published.
    pub enum PublishMode {
        /// On every node, balanced over all tasks.
        #[default]
        Ingress = "ingress",
        /// On the nodes of the tasks, each its own.
        Host = "host",
    }
}

api_struct! {
    /// How a service is reached.
    pub struct EndpointSpec {
        /// What the service's name stands for.
        pub mode: EndpointMode,
        /// Ports that are reached from outside.
        pub ports: Vec<PortConfig>,
    }
}

/// A port that is reached from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortConfig {
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Transport.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// Port of the container.
    #[serde(default)]
    pub target_port: u16,
    /// Port of the node; 0 asks the manager to choose one of 30000 to 32767.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub published_port: u16,
    /// Where it is published.
    #[serde(default)]
    pub publish_mode: PublishMode,
    /// In mode `host`: the one address of the node that it is published on; `None`: every address. Docker has no such
    /// field; its command lines pass over it.
    #[serde(rename = "HostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}
