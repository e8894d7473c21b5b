//! What this node says about itself to the managers.

use std::collections::BTreeSet;

use ipnet::IpNet;
use netd::Netd;
use proto::object::{EnginePlugin, NodeDescription, NodeEngine};
use proto::spec::{Platform, Reservations};

use super::ClusterConfig;
use crate::worker::networks::is_swarm;

/// Drivers of this node, as constraints and the scheduler's filters name them.
const PLUGINS: &[(&str, &str)] = &[
    ("Log", "json-file"),
    ("Log", "none"),
    ("Network", "bridge"),
    ("Network", "host"),
    ("Network", "null"),
    ("Network", "overlay"),
    ("Volume", "local"),
];

/// The description of a node on this machine.
pub(super) async fn of(config: &ClusterConfig) -> NodeDescription {
    let ClusterConfig { host, netd, .. } = config;
    NodeDescription {
        hostname: host.hostname.clone(),
        platform: Platform {
            architecture: host.machine.clone(),
            os: "linux".into(),
        },
        resources: Reservations {
            nano_cpus: i64::try_from(host.cpus)
                .unwrap_or(1)
                .saturating_mul(1_000_000_000),
            memory_bytes: i64::try_from(host.memory).unwrap_or(i64::MAX),
            generic_resources: config.generic_resources.clone(),
        },
        engine: NodeEngine {
            engine_version: env!("CARGO_PKG_VERSION").into(),
            plugins: PLUGINS.iter().map(|&(kind, name)| plugin(kind, name)).collect(),
            ..NodeEngine::default()
        },
        subnets: subnets(netd).await,
        peer_port: config.peers.port(),
        ..NodeDescription::default()
    }
}

/// What the cluster's networks must not overlap: the host's routes, and networks of this node alone.
async fn subnets(netd: &Netd) -> Vec<String> {
    let routes = netd.claimed_subnets().await.unwrap_or_else(|error| {
        tracing::warn!(
            "the host's routes are not known: {}",
            crate::api::error::chain(&error)
        );
        Vec::new()
    });
    let networks = netd
        .networks()
        .into_iter()
        .filter(|(config, _)| !is_swarm(config));
    let own = networks.flat_map(|(_, state)| {
        let v6 = state.ipv6.map(|v6| IpNet::from(v6.subnet));
        [state.subnet.into()].into_iter().chain(v6)
    });
    let distinct: BTreeSet<String> = routes.into_iter().chain(own).map(|s| s.to_string()).collect();
    distinct.into_iter().collect()
}

fn plugin(kind: &str, name: &str) -> EnginePlugin {
    EnginePlugin {
        kind: kind.into(),
        name: name.into(),
    }
}
