//! What this node says about itself to the managers.

use proto::object::{EnginePlugin, NodeDescription, NodeEngine};
use proto::spec::{Platform, Reservations};

use super::{ClusterConfig, subnets};

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
        subnets: subnets::look(netd).await.unwrap_or_default(),
        peer_port: config.peers.port(),
        ..NodeDescription::default()
    }
}

fn plugin(kind: &str, name: &str) -> EnginePlugin {
    EnginePlugin {
        kind: kind.into(),
        name: name.into(),
    }
}
