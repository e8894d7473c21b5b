//! The node's networking as one state, changed by one caller at a time: records (what should be), the kernel's objects
//! (what is), and the DNS directory (what is said). Blocking; `Netd` calls it from threads that may block.

mod adopt;
mod anchors;
mod announce;
mod balance;
mod carriers;
mod direct;
mod encryption;
mod guard;
mod heal;
mod interfaces;
mod ipv6;
mod lost;
mod mend;
mod mesh;
mod networks;
mod overlay;
mod publish;
mod published;
mod sandboxes;
mod services;
mod shortcut;
mod unpublished;
mod usable;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::dns::{Directory, DnsServer, DnsTasks, Upstreams};
use crate::error::{Error, Result};
use crate::fabric::Fabric;
use crate::firewall::{Balancer, Frontend, HostFirewall, own_table};
use crate::host::Host;
use crate::host_changes::HostChanges;
use crate::netlink::Socket;
use crate::nft::{Family, Ip};
use crate::ports::Ports;
use crate::store::Store;
use crate::types::{Endpoint, NetdConfig, NetworkConfig, NetworkState, Publish, ServiceEndpoint};
use crate::watch::{LinkWatch, RuleWatch};
use crate::{names, netns};

/// A network on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NetworkRecord {
    config: NetworkConfig,
    state: NetworkState,
}

/// A sandbox on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SandboxRecord {
    id: String,
    hostname: String,
    endpoints: Vec<Endpoint>,
    published: Vec<PublishRecord>,
    /// Its processes are outside the cgroup whose sockets are balanced.
    #[serde(default)]
    outside: bool,
    /// Packet filters in its namespace balance its virtual IPs, or did and translate connections of that time.
    #[serde(default = "by_rules")]
    by_rules: bool,
}

/// A record without a word on it is of a time when there were only packet filters.
fn by_rules() -> bool {
    true
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct PublishRecord {
    /// With the real host port.
    publish: Publish,
    /// Port at the fabric's uplink.
    fabric_port: u16,
}

#[derive(Debug)]
struct Network {
    record: NetworkRecord,
    /// Address given last, so that a freed one rests.
    last: Option<Ipv4Addr>,
    last6: Option<Ipv6Addr>,
    /// Index of the bridge in the fabric.
    bridge: u32,
    /// At each of its gateway's addresses.
    dns: Vec<DnsTasks>,
}

#[derive(Debug)]
struct Sandbox {
    record: SandboxRecord,
    vips: VersionVips,
    dns: Option<DnsTasks>,
    /// nftables of its namespace. Kept open: closing such a socket waits for the kernel's deferred deletions, wherever they
    /// are, which under load takes tens of milliseconds.
    netfilter: Option<Socket>,
}

/// The tables of virtual IPs in a sandbox, of both IP versions.
#[derive(Debug, Clone, Default)]
struct VersionVips {
    v4: Vips,
    v6: Vips,
}

impl VersionVips {
    /// After a restart or a failure.
    const UNKNOWN: Self = Self {
        v4: Vips::Unknown,
        v6: Vips::Unknown,
    };

    fn of(&self, ip: Ip) -> &Vips {
        match ip {
            Ip::V4 => &self.v4,
            Ip::V6 => &self.v6,
        }
    }

    fn of_mut(&mut self, ip: Ip) -> &mut Vips {
        match ip {
            Ip::V4 => &mut self.v4,
            Ip::V6 => &mut self.v6,
        }
    }

    fn are_absent(&self) -> bool {
        Ip::BOTH.iter().all(|ip| matches!(self.of(*ip), Vips::Absent))
    }
}

/// The table of virtual IPs of one IP version in a sandbox.
#[derive(Debug, Clone, Default)]
enum Vips {
    /// There is none.
    #[default]
    Absent,
    /// After a restart or a failure: what is there is to be replaced.
    Unknown,
    Present(Balancer),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Service {
    wanted: ServiceEndpoint,
    frontends: Vec<Frontend>,
}

#[derive(Debug)]
struct Stores {
    networks: Store,
    sandboxes: Store,
    services: Store,
    members: Store,
    lost: Store,
    underlay: Store,
    ingress: Store,
}

/// The state of one node.
#[derive(Debug)]
pub(crate) struct Node {
    config: NetdConfig,
    host: Host,
    fabric: Fabric,
    host_firewall: HostFirewall,
    stores: Stores,
    networks: BTreeMap<String, Network>,
    sandboxes: BTreeMap<String, Sandbox>,
    services: BTreeMap<String, Service>,
    overlay: overlay::State,
    balancing: balance::State,
    /// Virtual IPs that are addresses of bridges.
    anchors: BTreeSet<anchors::Anchor>,
    mesh: mesh::State,
    direct: direct::State,
    shortcut: shortcut::State,
    ports: Ports,
    dns: DnsServer,
    directory: Arc<RwLock<Directory>>,
    runtime: Handle,
    /// Found while adopting.
    warnings: Vec<String>,
    /// The host has no IPv6, as was found when something wanted it.
    refuses_ipv6: bool,
}

impl Node {
    /// See [`crate::Netd::open`]. Must be called on a thread in the host's namespace.
    pub(crate) fn open(config: NetdConfig, runtime: Handle) -> Result<Self> {
        let stores = Stores {
            networks: Store::open(config.state_dir.join("networks"), true)?,
            sandboxes: Store::open(config.run_dir.join("netd/sandboxes"), false)?,
            services: Store::open(config.run_dir.join("netd/services"), false)?,
            members: Store::open(config.run_dir.join("netd/members"), false)?,
            lost: Store::open(config.run_dir.join("netd/lost"), false)?,
            underlay: Store::open(config.run_dir.join("netd/underlay"), false)?,
            ingress: Store::open(config.run_dir.join("netd/ingress"), false)?,
        };
        let dir = names::netns_dir(&config.run_dir);
        std::fs::create_dir_all(&dir).map_err(|source| Error::Namespace {
            path: dir,
            operation: "create",
            source,
        })?;
        let mut host = Host::open(&config.instance)?;
        let fabric = Fabric::open(&config.run_dir, &config.instance, &mut host)?;
        let directory = Arc::new(RwLock::new(Directory::default()));
        let upstreams = Upstreams::new(config.upstreams.clone(), &runtime);
        let mut node = Self {
            host_firewall: host.firewall(fabric.address),
            dns: DnsServer::new(directory.clone(), upstreams, runtime.clone()),
            runtime,
            config,
            host,
            fabric,
            stores,
            networks: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            services: BTreeMap::new(),
            overlay: overlay::State::default(),
            balancing: balance::State::default(),
            anchors: BTreeSet::new(),
            mesh: mesh::State::default(),
            direct: direct::State::default(),
            shortcut: shortcut::State::default(),
            ports: Ports::default(),
            directory,
            warnings: Vec::new(),
            refuses_ipv6: false,
        };
        node.adopt()?;
        node.dns.begin();
        Ok(node)
    }

    /// What hears of others' changes to what is ours; see [`crate::watch`].
    pub(crate) fn watch(&self) -> Result<(Vec<RuleWatch>, Vec<LinkWatch>)> {
        let open = || -> std::io::Result<_> {
            let host = RuleWatch::new(
                &self.host.netns,
                vec![
                    self.host_firewall.table.clone(),
                    names::underlay_table(&self.config.instance),
                ],
                self.host.netfilter.port()?,
                Self::restore_host,
            )?;
            let fabric = RuleWatch::new(
                &self.fabric.netns,
                vec![own_table(Family::Ipv4).name],
                self.fabric.netfilter.port()?,
                Self::restore_fabric,
            )?;
            let links = vec![
                LinkWatch::fabric(&self.fabric.netns)?,
                LinkWatch::host(&self.host.netns)?,
            ];
            Ok((vec![host, fabric], links))
        };
        open().map_err(|source| Error::Kernel {
            operation: "watch",
            object: "links and packet filters".into(),
            source,
        })
    }

    /// See [`crate::Netd::host_changes`].
    pub(crate) fn host_changes(&self) -> Result<HostChanges> {
        HostChanges::open(&self.host.netns).map_err(|source| Error::Kernel {
            operation: "watch",
            object: "the host's links".into(),
            source,
        })
    }

    pub(crate) fn forwards(&self) -> bool {
        self.host.forwards()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.host
            .warnings()
            .into_iter()
            .chain(self.warnings.iter().cloned())
            .chain(self.closed_ipv6())
            .chain(self.balancing.warning())
            .chain(self.tight_networks())
            .chain(self.nodes_apart())
            .chain(self.unpublished())
            .collect()
    }

    pub(crate) fn host_gateway(&self) -> Ipv4Addr {
        self.fabric.host_address
    }

    pub(crate) fn publish_conflict(&self, port: u16, protocol: crate::types::Protocol) -> Option<String> {
        self.ports.holder(&self.host.netns, port, protocol)
    }

    /// See [`crate::Netd::shutdown`].
    pub(crate) fn shutdown(&mut self, remove: bool) -> Result<()> {
        self.networks.values_mut().for_each(|n| n.dns.clear());
        self.sandboxes.values_mut().for_each(|s| s.dns = None);
        self.ports.release_all();
        if !remove || !self.sandboxes.is_empty() {
            return Ok(());
        }
        let mut errors = Errors::default();
        errors.collect(self.abandon_sockets());
        errors.collect(self.remove_direct());
        errors.collect(self.delete_host_table());
        errors.collect(self.host.delete_uplink());
        errors.collect(netns::remove(&self.fabric.path));
        errors.first()
    }

    fn network(&self, id: &str) -> Result<&NetworkRecord> {
        self.networks
            .get(id)
            .map(|n| &n.record)
            .ok_or_else(|| Error::NetworkNotFound(id.to_owned()))
    }

    fn directory(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Teardown goes on after an error; the first one is told.
#[derive(Debug, Default)]
struct Errors(Option<Error>);

impl Errors {
    fn collect<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.get_or_insert(error);
                None
            }
        }
    }

    fn first(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
