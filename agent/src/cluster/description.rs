//! What this node says about itself to the managers.

use proto::object::{EnginePlugin, NodeDescription, NodeEngine};
use proto::spec::{Platform, Reservations};

use crate::host::HostFacts;

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
pub(super) fn of(host: &HostFacts) -> NodeDescription {
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
            generic_resources: Vec::new(),
        },
        engine: NodeEngine {
            engine_version: env!("CARGO_PKG_VERSION").into(),
            plugins: PLUGINS.iter().map(|&(kind, name)| plugin(kind, name)).collect(),
            ..NodeEngine::default()
        },
        ..NodeDescription::default()
    }
}

fn plugin(kind: &str, name: &str) -> EnginePlugin {
    EnginePlugin {
        kind: kind.into(),
        name: name.into(),
    }
}
