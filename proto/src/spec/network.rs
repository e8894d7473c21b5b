//! Networks that the manager keeps.

use super::Labels;
use crate::json::api_struct;

api_struct! {
    /// What a network shall be.
    pub struct NetworkSpec {
        /// Unique among the manager's networks.
        pub name: String,
        /// Labels of the network.
        pub labels: Labels,
        /// The driver and its options; `overlay` where it is not said.
        pub driver_configuration: Option<NetworkDriver>,
        /// Whether it has IPv6 too.
        #[serde(rename = "IPv6Enabled")]
        pub ipv6_enabled: bool,
        /// Whether it has no way out.
        pub internal: bool,
        /// Whether single containers may join.
        pub attachable: bool,
        /// Whether it carries the published ports.
        pub ingress: bool,
        /// Addresses.
        #[serde(rename = "IPAMOptions")]
        pub ipam_options: Option<IpamOptions>,
        /// `swarm`, or empty for the same.
        pub scope: String,
    }
}

impl NetworkSpec {
    /// Option of the driver: packets leave a node encrypted, or not at all. Without a value it means yes.
    pub const ENCRYPTED: &str = "encrypted";

    /// Option of the driver: how packets travel between nodes, `auto` or `vxlan`.
    pub const MODE: &str = "shoal.overlay.mode";

    /// Whether its packets leave a node encrypted, or not at all.
    pub fn is_encrypted(&self) -> bool {
        self.option(Self::ENCRYPTED)
            .is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// An option of the driver.
    pub fn option(&self, name: &str) -> Option<&str> {
        let driver = self.driver_configuration.as_ref()?;
        driver.options.get(name).map(String::as_str)
    }
}

api_struct! {
    /// A network driver and its options.
    pub struct NetworkDriver {
        /// Such as `overlay`.
        pub name: String,
        /// Options of the driver.
        pub options: Labels,
    }
}

api_struct! {
    /// Where addresses come from.
    pub struct IpamOptions {
        /// The address driver; `default` where it is not said.
        pub driver: Option<NetworkDriver>,
        /// Pools.
        pub configs: Vec<IpamConfig>,
    }
}

api_struct! {
    /// A pool of addresses.
    pub struct IpamConfig {
        /// Such as `10.0.1.0/24`.
        pub subnet: String,
        /// The part of the subnet that addresses are given from.
        #[serde(rename = "IPRange")]
        pub ip_range: String,
        /// The network's own address in it; the first where it is not said.
        pub gateway: String,
    }
}
