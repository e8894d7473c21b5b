//! The cluster's networks on this node: made when a task needs them, removed when the manager takes them back and the
//! last container has left.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd::{Netd, NetworkConfig, NetworkState, Overlay, OverlayMode};
use proto::spec::IpamConfig;
use proto::{Network, NetworkSpec};
use thiserror::Error;

use crate::local_network::Extra;

/// Label of networks that a manager keeps; others belong to this node alone.
pub const SWARM_LABEL: &str = "shoal.scope";
/// Value of [`SWARM_LABEL`].
pub const SWARM_SCOPE: &str = "swarm";
/// Docker's driver option for the size of packets.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// Why a network cannot be made here.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A pool or gateway that is no IPv4 subnet or address.
    #[error("network {network}: {what} {value:?} is not IPv4")]
    Pool {
        /// Name of the network.
        network: String,
        /// `subnet`, `gateway` or `mtu`.
        what: &'static str,
        /// What was given.
        value: String,
    },
    /// The network room failed.
    #[error("prepare network {network}")]
    Netd {
        /// Name of the network.
        network: String,
        /// Why.
        #[source]
        source: netd::Error,
    },
}

/// Keeps the cluster's networks of this node.
#[derive(Debug)]
pub struct Networks {
    netd: Arc<Netd>,
    /// Taken back by the manager, perhaps still with endpoints.
    unwanted: Mutex<BTreeSet<String>>,
    /// Containers that have a place on a network and may not be on it yet.
    expected: Mutex<BTreeSet<(String, String)>>,
    /// A network is made or removed: one at a time, so that none is removed under whoever has just made it.
    changing: tokio::sync::Mutex<()>,
}

impl Networks {
    /// A keeper that knows nothing yet.
    pub fn new(netd: Arc<Netd>) -> Self {
        Self {
            netd,
            unwanted: Mutex::default(),
            expected: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Makes the network exist here.
    pub async fn ensure(&self, network: &Network) -> Result<NetworkState, NetworkError> {
        let _changing = self.changing.lock().await;
        self.lock().remove(network.id.as_str());
        let config = config(network)?;
        let made = self.netd.ensure_network(&config).await;
        made.map_err(|source| NetworkError::Netd {
            network: config.name,
            source,
        })
    }

    /// A container will be on the network: it stays until the container has left, whoever takes it back meanwhile.
    pub fn expect(&self, network: &str, container: &str) {
        lock(&self.expected).insert((network.to_owned(), container.to_owned()));
    }

    /// No container will be on any of them: this node is in no cluster any more.
    pub fn expect_nobody(&self) {
        lock(&self.expected).clear();
    }

    /// The container has left the network, or all networks.
    pub async fn unexpect(&self, network: Option<&str>, container: &str) {
        lock(&self.expected)
            .retain(|(on, of)| of != container || network.is_some_and(|network| network != on));
        self.sweep().await;
    }

    /// The manager has taken the network back.
    pub async fn release(&self, id: &str) {
        self.lock().insert(id.to_owned());
        self.sweep().await;
    }

    /// The manager knows these networks only; every other one of a cluster goes.
    pub async fn retain(&self, keep: impl Fn(&str) -> bool) {
        let gone = self.netd.networks().into_iter().map(|(config, _)| config);
        let gone = gone
            .filter(|config| is_swarm(config) && !keep(&config.id))
            .map(|config| config.id);
        self.lock().extend(gone);
        self.sweep().await;
    }

    /// Removes unwanted networks that nobody is on any more. Called after each container that went.
    pub async fn sweep(&self) {
        let unwanted: Vec<String> = self.lock().iter().cloned().collect();
        for id in unwanted {
            let _changing = self.changing.lock().await;
            let is_expected = || lock(&self.expected).iter().any(|(on, _)| *on == id);
            // Somebody may have asked for it anew while others were removed.
            if !self.lock().contains(&id) || is_expected() || !self.netd.endpoints(&id).is_empty() {
                continue;
            }
            match self.netd.remove_network(&id).await {
                Ok(()) => drop(self.lock().remove(&id)),
                Err(error) => tracing::debug!(network.id = %id, "network stays for now: {error}"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        lock(&self.unwanted)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a manager keeps this network.
pub fn is_swarm(config: &NetworkConfig) -> bool {
    config
        .labels
        .get(SWARM_LABEL)
        .is_some_and(|scope| scope == SWARM_SCOPE)
}

fn config(network: &Network) -> Result<NetworkConfig, NetworkError> {
    let name = network.spec.name.clone();
    let wrong = |what, value: &str| NetworkError::Pool {
        network: name.clone(),
        what,
        value: value.to_owned(),
    };
    let is_ipv6 = |pool: &&IpamConfig| pool.subnet.contains(':');
    let pool = network.ipam.configs.iter().find(|pool| !is_ipv6(pool));
    let pool6 = network.ipam.configs.iter().find(is_ipv6);
    let subnet = pool
        .map(|pool| pool.subnet.as_str())
        .filter(|text| !text.is_empty());
    let gateway = pool
        .map(|pool| pool.gateway.as_str())
        .filter(|text| !text.is_empty());
    let options = network
        .spec
        .driver_configuration
        .as_ref()
        .map(|driver| &driver.options);
    let mtu = options.and_then(|options| options.get(MTU_OPTION));
    let mut labels = network.spec.labels.clone();
    labels.insert(SWARM_LABEL.into(), SWARM_SCOPE.into());
    // What a worker shows of the network, which has nobody to ask.
    labels.extend([extra(network).label()]);
    Ok(NetworkConfig {
        id: network.id.to_string(),
        subnet: subnet
            .map(|text| text.parse().map_err(|_| wrong("subnet", text)))
            .transpose()?,
        gateway: gateway
            .map(|text| parse_address(text).ok_or_else(|| wrong("gateway", text)))
            .transpose()?,
        ipv6: pool6.is_some(),
        subnet6: pool6
            .map(|pool| pool.subnet.parse().map_err(|_| wrong("subnet", &pool.subnet)))
            .transpose()?,
        gateway6: pool6
            .filter(|pool| !pool.gateway.is_empty())
            .map(|pool| pool.gateway.parse().map_err(|_| wrong("gateway", &pool.gateway)))
            .transpose()?,
        // The managers choose the addresses.
        range: None,
        range6: None,
        internal: network.spec.internal,
        mtu: mtu
            .map(|text| text.parse().map_err(|_| wrong("mtu", text)))
            .transpose()?,
        labels,
        overlay: network.vni().map(|vni| Overlay {
            vni,
            encrypted: network.spec.is_encrypted(),
            mode: match network.spec.option(NetworkSpec::MODE) {
                Some("vxlan") => OverlayMode::Vxlan,
                _ => OverlayMode::Auto,
            },
        }),
        name: name.clone(),
    })
}

fn extra(network: &Network) -> Extra {
    let driver = network.spec.driver_configuration.as_ref();
    Extra {
        created: network.meta.created_at.to_string(),
        attachable: network.spec.attachable,
        options: driver.map(|driver| driver.options.clone()).unwrap_or_default(),
    }
}

/// A gateway comes with or without its prefix length.
fn parse_address(text: &str) -> Option<std::net::Ipv4Addr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::object::Ipam;
    use proto::spec::NetworkSpec;

    fn network(subnet: &str, gateway: &str) -> Network {
        let pool = IpamConfig {
            subnet: subnet.into(),
            gateway: gateway.into(),
            ip_range: String::new(),
        };
        Network {
            id: "n".into(),
            spec: NetworkSpec {
                name: "net".into(),
                internal: true,
                ..NetworkSpec::default()
            },
            ipam: Ipam {
                configs: vec![pool],
                ..Ipam::default()
            },
            ..Network::default()
        }
    }

    #[test]
    fn pools_become_subnets() {
        let config = config(&network("10.0.1.0/24", "10.0.1.1/24")).unwrap();
        assert_eq!(config.subnet.unwrap().to_string(), "10.0.1.0/24");
        assert_eq!(config.gateway.unwrap().to_string(), "10.0.1.1");
        assert!(config.internal && is_swarm(&config));
        assert!(super::config(&network("", "")).unwrap().subnet.is_none());
    }

    #[test]
    fn a_wrong_pool_is_named() {
        let error = config(&network("10.0.1.0", "")).unwrap_err();
        assert_eq!(error.to_string(), "network net: subnet \"10.0.1.0\" is not IPv4");
        assert!(config(&network("fd00::/640", "")).is_err());
    }
}
