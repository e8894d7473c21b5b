//! Why a node cannot take a task, and how that is said: Docker's words where it has them.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a node cannot take a task. In the order in which the questions are asked: the first one counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unsuitable {
    NotReady,
    Resources,
    /// Too few things of this kind that operators count or name.
    GenericResource(Arc<str>),
    Plugin,
    /// It is on an encrypted network, and the node's kernel has no WireGuard.
    Encryption,
    /// The subnet of a network of the task is reached otherwise from there.
    Subnet(Arc<str>),
    Constraints,
    Platform,
    HostPort,
    MaxReplicas,
    /// A volume of the task is elsewhere: which one, and where.
    Volume(Arc<str>),
    /// No task of the service is there.
    Affinity(Arc<str>),
    /// The same, and there is no such service.
    Stranger(Arc<str>),
    /// A task of the service is there.
    AntiAffinity(Arc<str>),
}

impl Unsuitable {
    /// For people, about this many nodes.
    fn explain(&self, nodes: usize) -> String {
        let count = if nodes == 1 {
            "1 node".to_owned()
        } else {
            format!("{nodes} nodes")
        };
        match self {
            Self::NotReady => format!("{count} not available for new tasks"),
            Self::Resources => format!("insufficient resources on {count}"),
            Self::GenericResource(kind) => format!("insufficient resources ({kind}) on {count}"),
            Self::Plugin => format!("missing plugin on {count}"),
            Self::Encryption => format!("no WireGuard for an encrypted network on {count}"),
            Self::Subnet(subnet) => {
                format!("network subnet {subnet} overlaps with what is reached otherwise from {count}")
            }
            Self::Constraints => format!("scheduling constraints not satisfied on {count}"),
            Self::Platform => format!("unsupported platform on {count}"),
            Self::HostPort => format!("host-mode port already in use on {count}"),
            Self::MaxReplicas => "max replicas per node limit exceed".to_owned(),
            Self::Volume(place) => format!("volume {place}, not on {count}"),
            Self::Affinity(service) => format!("affinity with {service} not satisfied on {count}"),
            Self::Stranger(name) => {
                format!("affinity with {name} not satisfied on {count}: no such service")
            }
            Self::AntiAffinity(service) => format!("anti-affinity with {service} on {count}"),
        }
    }
}

/// Why no node can take a task: each reason with the number of nodes, the most frequent first.
pub(crate) fn explain(reasons: impl IntoIterator<Item = Unsuitable>) -> String {
    let mut counts: BTreeMap<Unsuitable, usize> = BTreeMap::new();
    reasons
        .into_iter()
        .for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    let texts: Vec<_> = counts
        .into_iter()
        .map(|(reason, nodes)| reason.explain(nodes))
        .collect();
    texts.join("; ")
}
