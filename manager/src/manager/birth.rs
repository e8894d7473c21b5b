//! How a new cluster begins: checks and defaults of the request, and the first objects of the store.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use proto::object::{JoinTokens, NodeDescription, NodeStatus};
use proto::spec::{
    CaConfig, ClusterSpec, DispatcherConfig, NetworkDriver, NetworkSpec, NodeRole, NodeSpec,
    OrchestrationConfig, RaftConfig,
};
use proto::{Cluster, ClusterId, Network, NetworkId, Node, NodeId};
use rand::Rng;

use super::record::Record;
use super::{InitRequest, ManagerError};
use crate::allocator::subnets::{self, DEFAULT_POOL, DEFAULT_SUBNET_SIZE};
use crate::ca::{JoinToken, NODE_LIFE, RootCa};
use crate::control;
use crate::state::{Store, StoreError};
use crate::vault::UnlockKey;

/// The port of the cluster's services.
pub(super) const PORT: u16 = 2377;
/// The UDP port of VXLAN.
const DATA_PATH_PORT: u32 = 4789;
/// Ended tasks that are kept per slot.
const TASK_HISTORY: i64 = 5;
/// Nanoseconds between two heartbeats of a node.
const HEARTBEAT_PERIOD: i64 = 1_000_000_000;

/// What a new cluster consists of.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) record: Record,
    cluster: Cluster,
    node: Node,
    ingress: Network,
}

/// Checks the request and makes the first objects.
pub(super) fn plan(
    description: &NodeDescription,
    request: InitRequest,
    listen: SocketAddr,
) -> Result<Plan, ManagerError> {
    control::check_cluster_spec(&request.spec)?;
    if request
        .spec
        .ca_config
        .as_ref()
        .is_some_and(|ca| !ca.signing_ca_cert.is_empty())
    {
        return Err(ManagerError::Invalid(
            "a swarm begins with a root certificate of its own; `swarm ca --rotate` exchanges it".to_owned(),
        ));
    }
    let address = address(&request.advertise_addr, listen.port())?;
    let availability = request.availability;
    let cluster = cluster(request)?;
    let node_id = NodeId::random();
    let node = Node {
        id: node_id.clone(),
        spec: NodeSpec {
            role: NodeRole::Manager,
            availability,
            ..NodeSpec::default()
        },
        description: NodeDescription {
            tls_info: cluster.tls_info.clone(),
            ..description.clone()
        },
        status: NodeStatus {
            addr: address.ip().to_string(),
            ..NodeStatus::default()
        },
        ..Node::default()
    };
    // Numbers of removed members are never used again: there are enough.
    let member = rand::rng().random_range(1..=u64::MAX);
    let record = Record {
        node_id,
        member,
        address: address.to_string(),
        listen,
    };
    Ok(Plan {
        record,
        cluster,
        node,
        ingress: ingress(),
    })
}

/// Puts the first objects in the store.
pub(super) async fn populate(store: &Store, plan: Plan) -> Result<(), StoreError> {
    store
        .update(|tx| {
            tx.create(plan.cluster)?;
            tx.create(plan.node)?;
            tx.create(plan.ingress)
        })
        .await
}

fn cluster(request: InitRequest) -> Result<Cluster, ManagerError> {
    let root = RootCa::generate()?;
    let token = || JoinToken::generate(root.cert().as_bytes()).to_string().into();
    let locks = control::locks_managers(&request.spec);
    let (default_addr_pool, subnet_size) = pools(request.default_addr_pool, request.subnet_size)?;
    Ok(Cluster {
        id: ClusterId::random(),
        spec: with_defaults(request.spec),
        tls_info: root.tls_info()?,
        default_addr_pool,
        subnet_size,
        data_path_port: data_path_port(request.data_path_port)?,
        join_tokens: JoinTokens {
            worker: token(),
            manager: token(),
        },
        root_ca: Some(root.to_object()),
        unlock_key: locks.then(|| UnlockKey::generate().to_string().into()),
        ..Cluster::default()
    })
}

/// The network that carries the published ports. It has IPv6, of the cluster's own prefix, whatever the nodes have: ports
/// answer over it where a node has IPv6 addresses.
fn ingress() -> Network {
    let driver = NetworkDriver {
        name: "overlay".to_owned(),
        ..NetworkDriver::default()
    };
    let spec = NetworkSpec {
        name: "ingress".to_owned(),
        driver_configuration: Some(driver),
        ingress: true,
        ipv6_enabled: true,
        ..NetworkSpec::default()
    };
    Network {
        id: NetworkId::random(),
        spec,
        ..Network::default()
    }
}

/// Where to listen: `IP`, `IP:port`, `:port`, or nothing for port 2377 of every address.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, ManagerError> {
    let everywhere = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    if text.is_empty() {
        return Ok(SocketAddr::from((everywhere, PORT)));
    }
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) {
        return Ok(SocketAddr::from((everywhere, port)));
    }
    let parsed = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, PORT))));
    parsed.map_err(|_| {
        ManagerError::Invalid(format!(
            "listen address {text:?} must be an IP address with or without a port"
        ))
    })
}

/// `IP`, `IP:port`, or nothing for this host alone.
pub(super) fn address(text: &str, port: u16) -> Result<SocketAddr, ManagerError> {
    if text.is_empty() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let parsed = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, port))));
    let address = parsed.map_err(|_| {
        ManagerError::Invalid(format!(
            "advertise address {text:?} must be an IP address with or without a port"
        ))
    })?;
    match address.ip().is_unspecified() {
        true => Err(ManagerError::Invalid(
            "advertise address must be a non-zero IP address".to_owned(),
        )),
        false => Ok(address),
    }
}

fn pools(pools: Vec<String>, size: u32) -> Result<(Vec<String>, u32), ManagerError> {
    let invalid = |message: String| Err(ManagerError::Invalid(message));
    let size = if size == 0 { DEFAULT_SUBNET_SIZE } else { size };
    let mut parsed: Vec<Ipv4Net> = Vec::new();
    for text in if pools.is_empty() {
        vec![DEFAULT_POOL.to_owned()]
    } else {
        pools
    } {
        let Ok(pool) = text.parse::<Ipv4Net>() else {
            return invalid(format!(
                "default address pool {text:?} is not an IPv4 subnet such as 10.10.0.0/16"
            ));
        };
        if !(u32::from(pool.prefix_len())..=29).contains(&size) {
            return invalid(format!(
                "subnets of prefix length {size} cannot be cut from the address pool {pool}"
            ));
        }
        if let Some(other) = parsed.iter().find(|other| subnets::overlap(**other, pool)) {
            return invalid(format!("the default address pools {other} and {pool} overlap"));
        }
        parsed.push(pool.trunc());
    }
    Ok((parsed.iter().map(Ipv4Net::to_string).collect(), size))
}

fn data_path_port(port: u32) -> Result<u32, ManagerError> {
    match port {
        0 => Ok(DATA_PATH_PORT),
        1024..=49151 => Ok(port),
        _ => Err(ManagerError::Invalid(
            "data path port must be between 1024 and 49151".to_owned(),
        )),
    }
}

/// What Docker's API shows where the user said nothing.
fn with_defaults(mut spec: ClusterSpec) -> ClusterSpec {
    "default".clone_into(&mut spec.name);
    let orchestration = spec
        .orchestration
        .get_or_insert_with(OrchestrationConfig::default);
    orchestration
        .task_history_retention_limit
        .get_or_insert(TASK_HISTORY);
    let dispatcher = spec.dispatcher.get_or_insert_with(DispatcherConfig::default);
    if dispatcher.heartbeat_period == 0 {
        dispatcher.heartbeat_period = HEARTBEAT_PERIOD;
    }
    let ca_config = spec.ca_config.get_or_insert_with(CaConfig::default);
    if ca_config.node_cert_expiry == 0 {
        ca_config.node_cert_expiry = i64::try_from(NODE_LIFE.whole_nanoseconds()).unwrap_or(i64::MAX);
    }
    let raft = spec.raft.get_or_insert_with(RaftConfig::default);
    raft.keep_old_snapshots.get_or_insert(0);
    for (value, default) in [
        (&mut raft.snapshot_interval, 10_000),
        (&mut raft.log_entries_for_slow_followers, 500),
    ] {
        if *value == 0 {
            *value = default;
        }
    }
    for (value, default) in [(&mut raft.election_tick, 10), (&mut raft.heartbeat_tick, 1)] {
        if *value == 0 {
            *value = default;
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_port() {
        let text = |given: &str| address(given, PORT).map(|address| address.to_string());
        assert_eq!(text("192.0.2.1").unwrap(), "192.0.2.1:2377");
        assert_eq!(text("192.0.2.1:1").unwrap(), "192.0.2.1:1");
        assert_eq!(text("fd00::1").unwrap(), "[fd00::1]:2377");
        assert!(text("0.0.0.0").is_err() && text("eth0").is_err());
        let listen = |given: &str| listen_address(given).map(|address| address.to_string());
        assert_eq!(listen("").unwrap(), "0.0.0.0:2377");
        assert_eq!(listen(":1").unwrap(), "0.0.0.0:1");
        assert_eq!(listen("192.0.2.1").unwrap(), "192.0.2.1:2377");
        assert!(listen("eth0").is_err());
    }

    #[test]
    fn pools_are_checked() {
        let check = |given: &[&str], size| pools(given.iter().map(|pool| (*pool).to_owned()).collect(), size);
        assert_eq!(check(&[], 0).unwrap(), (vec!["10.0.0.0/8".to_owned()], 24));
        assert_eq!(check(&["10.1.2.3/16"], 26).unwrap().0, ["10.1.0.0/16"]);
        for (bad, size) in [
            (&["10.0.0.0"][..], 0),
            (&["10.0.0.0/25"], 24),
            (&["10.0.0.0/8", "10.2.0.0/16"], 0),
        ] {
            assert!(check(bad, size).is_err(), "{bad:?}");
        }
    }
}
