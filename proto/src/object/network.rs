//! Networks as the manager keeps them.

use super::super::spec::{IpamConfig, NetworkDriver, NetworkSpec};
use crate::json::api_struct;
use crate::{Meta, NetworkId};

/// A network that the manager keeps.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Network {
    /// Its identifier.
    #[serde(rename = "ID")]
    pub id: NetworkId,
    /// Version and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What it shall be.
    #[serde(default)]
    pub spec: NetworkSpec,
    /// The driver with what it was given, such as its VXLAN identifier.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub driver_state: NetworkDriver,
    /// The pools that it was given. Empty until the allocator has seen it.
    #[serde(
        rename = "IPAMOptions",
        default,
        skip_serializing_if = "crate::json::is_default"
    )]
    pub ipam: Ipam,
    /// Why it has no pool, if the allocator could give none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub err: String,
}

/// Option of a network's driver: its VXLAN network identifier, as Docker names it.
pub const VXLAN_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";
/// Option of a network's driver: the UDP port of VXLAN in this cluster.
pub const PORT_OPTION: &str = "shoal.overlay.port";

impl Network {
    /// The VXLAN network identifier that the allocator gave it.
    pub fn vni(&self) -> Option<u32> {
        self.driver_state.options.get(VXLAN_OPTION)?.parse().ok()
    }

    /// The UDP port that carries it between nodes.
    pub fn data_path_port(&self) -> Option<u16> {
        self.driver_state.options.get(PORT_OPTION)?.parse().ok()
    }
}

api_struct! {
    /// Pools of addresses.
    pub struct Ipam {
        /// The address driver.
        pub driver: NetworkDriver,
        /// The pools.
        pub configs: Vec<IpamConfig>,
    }
}
