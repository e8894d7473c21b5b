//! The handle that the daemon holds: async methods over the node's state. Each runs on a thread that may block, one at a
//! time; the kernel serialises changes of links anyway.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ipnet::IpNet;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::{Error, Result};
use crate::host_changes::HostChanges;
use crate::nft::Ip;
use crate::node::Node;
use crate::types::{
    AttachRequest, Balancing, Endpoint, EndpointInfo, EndpointRequest, Member, NetdConfig, NetworkConfig,
    NetworkState, Protocol, Sandbox, ServiceEndpoint, Underlay, UnderlayFacts,
};

/// One node's networking.
#[derive(Debug)]
pub struct Netd {
    node: Arc<Mutex<Node>>,
    watching: Vec<AbortHandle>,
    /// Changes when there is another network, or one fewer.
    networks: watch::Sender<()>,
}

impl Drop for Netd {
    fn drop(&mut self) {
        self.watching.iter().for_each(AbortHandle::abort);
    }
}

impl Netd {
    /// Create the fabric or adopt the one that is there, and bring the kernel in line with the state on disk. Running
    /// containers' connectivity is not touched. The network namespace of the process is "the host".
    pub async fn open(config: NetdConfig) -> Result<Arc<Self>> {
        let runtime = Handle::current();
        let opened = tokio::task::spawn_blocking(move || Node::open(config, runtime)).await;
        let node = opened.map_err(|_| Error::Cancelled)??;
        let (rules, links) = node.watch()?;
        let probers = Ip::BOTH.map(|ip| (ip, node.prober(ip)));
        let node = Arc::new(Mutex::new(node));
        for (ip, prober) in probers {
            tokio::spawn(follow(ip, prober.direct.subscribe(), Arc::downgrade(&node)));
            tokio::spawn(prober.run());
        }
        let rules = rules
            .into_iter()
            .map(|rules| tokio::spawn(rules.run(Arc::downgrade(&node))));
        let mut watching: Vec<_> = rules.map(|task| task.abort_handle()).collect();
        let links = links
            .into_iter()
            .map(|links| tokio::spawn(links.run(Arc::downgrade(&node))));
        watching.extend(links.map(|task| task.abort_handle()));
        Ok(Arc::new(Self {
            node,
            watching,
            networks: watch::Sender::default(),
        }))
    }

    /// Make the network exist as given. Idempotent.
    pub async fn ensure_network(&self, config: &NetworkConfig) -> Result<NetworkState> {
        let config = config.clone();
        let made = self.run(move |node| {
            let was_there = node.has_network(&config.id);
            let state = node.ensure_network(&config)?;
            Ok((node.usable_on(&state), state, was_there))
        });
        let (addresses, state, was_there) = made.await?;
        addresses.wait().await;
        if !was_there {
            self.networks.send_replace(());
        }
        Ok(state)
    }

    /// The networks that exist.
    pub fn networks(&self) -> Vec<(NetworkConfig, NetworkState)> {
        self.read(|node| node.list_networks())
    }

    /// The subnets that the host's own routes lay claim to: no network can overlap them.
    pub async fn claimed_subnets(&self) -> Result<Vec<IpNet>> {
        self.run(|node| node.claimed_subnets()).await
    }

    /// The addresses of one of the host's interfaces, but for those that are valid on its link alone; `None` if there is no
    /// such interface.
    pub async fn interface_addresses(&self, name: &str) -> Result<Option<Vec<IpAddr>>> {
        let name = name.to_owned();
        self.run(move |node| node.interface_addresses(&name)).await
    }

    /// Remove a network; `Ok` if there is none. Refused while endpoints exist.
    pub async fn remove_network(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        let removed = self.run(move |node| node.remove_network(&id)).await;
        self.networks.send_replace(());
        removed
    }

    /// Changes when a network comes or goes.
    pub fn network_changes(&self) -> watch::Receiver<()> {
        self.networks.subscribe()
    }

    /// Make a container's network namespace with all its interfaces and published ports. On error nothing is left.
    pub async fn attach(&self, request: AttachRequest) -> Result<Sandbox> {
        Ok(self.attach_to_keep(request).await?.0)
    }

    /// The same; with it comes, if names are asked for in the sandbox itself, another descriptor of the UDP socket at which they
    /// are, for somebody who outlives this process: questions that come while it is away wait there; see
    /// [`NetdConfig::kept`].
    pub async fn attach_to_keep(&self, request: AttachRequest) -> Result<(Sandbox, Option<OwnedFd>)> {
        let id = request.sandbox.clone();
        let attached = self.run(move |node| {
            let sandbox = node.attach(request)?;
            let addresses = node.usable_in(&id, &sandbox.endpoints);
            Ok((addresses, sandbox, node.resolver(&id)))
        });
        let (addresses, sandbox, resolver) = attached.await?;
        addresses.wait().await;
        Ok((sandbox, resolver))
    }

    /// Remove a container's namespace, interfaces, addresses and ports. Idempotent; goes on after errors and returns the
    /// first.
    pub async fn detach(&self, sandbox: &str) -> Result<()> {
        let id = sandbox.to_owned();
        self.run(move |node| node.detach(&id)).await
    }

    /// Add an interface to a live sandbox.
    pub async fn connect(&self, sandbox: &str, request: EndpointRequest) -> Result<Endpoint> {
        let id = sandbox.to_owned();
        let connected = self.run(move |node| {
            let endpoint = node.connect(&id, &request)?;
            Ok((node.usable_in(&id, std::slice::from_ref(&endpoint)), endpoint))
        });
        let (addresses, endpoint) = connected.await?;
        addresses.wait().await;
        Ok(endpoint)
    }

    /// Take an interface from a live sandbox.
    pub async fn disconnect(&self, sandbox: &str, network: &str) -> Result<()> {
        let (id, network) = (sandbox.to_owned(), network.to_owned());
        self.run(move |node| node.disconnect(&id, &network)).await
    }

    /// The sandbox as it is, if there is one.
    pub fn sandbox(&self, id: &str) -> Option<Sandbox> {
        self.read(|node| node.sandbox(id))
    }

    /// Who is on the network.
    pub fn endpoints(&self, network: &str) -> Vec<EndpointInfo> {
        self.read(|node| node.endpoints(network))
    }

    /// Drop every sandbox not named: the engine says after its recovery which containers still live.
    pub async fn retain(&self, sandboxes: &[String]) -> Result<()> {
        let keep = sandboxes.to_vec();
        self.run(move |node| node.retain(&keep)).await
    }

    /// Replace the state of one service: its DNS names, virtual IPs and published ports. Idempotent. A port that cannot be
    /// held is an error; everything else of the service is in force all the same.
    ///
    /// Streams to a removed backend go on until it ends; new ones avoid it, and so do datagrams from now on.
    pub async fn set_service(&self, service: ServiceEndpoint) -> Result<()> {
        let set = self.run(move |node| node.set_service(service)).await;
        self.release().await;
        set
    }

    /// Forget a service. Idempotent.
    pub async fn remove_service(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        let removed = self.run(move |node| node.remove_service(&id)).await;
        self.release().await;
        removed
    }

    /// Identifiers of the services that are set.
    pub fn services(&self) -> Vec<String> {
        self.read(|node| node.service_ids())
    }

    /// Where this node and the others are; `None`: this node is in no cluster. Replaces what was said before. Idempotent.
    pub async fn set_underlay(&self, underlay: Option<Underlay>) -> Result<()> {
        self.run(move |node| node.set_underlay(underlay)).await
    }

    /// The key by which other nodes know this one's tunnels, in base64; their device is made with the first call.
    ///
    /// # Errors
    /// [`Error::NoEncryption`] if the kernel has no WireGuard.
    pub async fn encryption_key(&self) -> Result<String> {
        self.run(|node| node.encryption_key()).await
    }

    /// What all nodes mix into their tunnels' handshakes. Sessions go on with the old one until they end.
    pub async fn set_network_key(&self, key: [u8; 32]) -> Result<()> {
        self.run(move |node| node.set_network_key(key)).await
    }

    /// What other nodes must know of this node's address of the data path. `None`: the host does not have that address.
    pub async fn underlay_facts(&self, address: IpAddr) -> Result<Option<UnderlayFacts>> {
        self.run(move |node| node.underlay_facts(address)).await
    }

    /// Network on which tasks with published ports are reached from every node; `None`: there is none. Idempotent.
    pub async fn set_ingress(&self, network: Option<String>) -> Result<()> {
        self.run(move |node| node.set_ingress(network)).await
    }

    /// Follows the host's links, addresses, routes and forwarding from now on.
    pub fn host_changes(&self) -> Result<HostChanges> {
        self.read(|node| node.host_changes())
    }

    /// Containers of other nodes are as given from now on. Idempotent.
    pub async fn set_members(&self, members: Vec<Member>) -> Result<()> {
        self.run(move |node| node.set_members(members)).await
    }

    /// Containers of other nodes that are gone. Idempotent.
    pub async fn remove_members(&self, ids: BTreeSet<String>) -> Result<()> {
        self.run(move |node| node.remove_members(&ids)).await
    }

    /// Nodes that are not to be reached, as far as anybody knows: their containers have no names, and connections with them
    /// have ended when this returns. Replaces what was said before. Idempotent.
    pub async fn set_lost(&self, nodes: BTreeSet<String>) -> Result<()> {
        let set = self.run(move |node| node.set_lost(nodes)).await;
        self.release().await;
        set
    }

    /// Identifiers of the members that are set.
    pub fn members(&self) -> Vec<String> {
        self.read(|node| node.member_ids())
    }

    /// Containers of other nodes on a network.
    pub fn members_on(&self, network: &str) -> Vec<Member> {
        self.read(|node| node.members_on(network))
    }

    /// Services that are found on a network.
    pub fn services_on(&self, network: &str) -> Vec<ServiceEndpoint> {
        self.read(|node| node.services_on(network))
    }

    /// Who holds the port on some address of the host, if anyone: a sandbox, a service or a foreign program.
    pub fn publish_conflict(&self, port: u16, protocol: Protocol) -> Option<String> {
        self.read(|node| node.publish_conflict(port, protocol))
    }

    /// Address at which containers reach the host itself (`host-gateway` of extra_hosts).
    pub fn host_gateway(&self) -> Ipv4Addr {
        self.read(|node| node.host_gateway())
    }

    /// How virtual IPs are balanced.
    pub fn balancing(&self) -> Balancing {
        self.read(Node::balancing)
    }

    /// What the operator should know: conditions of the host that limit networking.
    pub fn warnings(&self) -> Vec<String> {
        self.read(|node| node.warnings())
    }

    /// What keeps this network's containers on this node from other hosts, although they are to reach them.
    pub fn network_problems(&self, id: &str) -> Vec<String> {
        self.read(|node| node.network_problems(id))
    }

    /// Whether the host forwards IPv4 between its links; without it only the host itself reaches published ports.
    pub fn forwards(&self) -> bool {
        self.read(|node| node.forwards())
    }

    /// Stop serving DNS and release the port reservations. With `remove`, and if no sandbox is left, also remove the
    /// fabric, the host's veth and the host's table; networks stay on disk and come back with the next `open`.
    pub async fn shutdown(&self, remove: bool) -> Result<()> {
        self.watching.iter().for_each(AbortHandle::abort);
        self.run(move |node| node.shutdown(remove)).await
    }

    /// Wait until no socket is connected to a lost backend that should not be.
    async fn release(&self) {
        let jobs = self
            .node
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .releasing();
        for job in jobs {
            let _ = job.await; // it has said itself what went wrong
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Node) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let node = self.node.clone();
        let work = move || work(&mut node.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::Cancelled)?
    }

    fn read<T>(&self, look: impl FnOnce(&Node) -> T) -> T {
        look(&self.node.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Nodes that begin or cease to answer are reached otherwise from then on; ends with the node.
async fn follow(ip: Ip, mut found: watch::Receiver<BTreeSet<String>>, node: Weak<Mutex<Node>>) {
    while found.changed().await.is_ok() {
        let direct = found.borrow_and_update().clone();
        let Some(node) = node.upgrade() else { return };
        let set = move || {
            let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
            node.set_direct(ip, direct)
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(set).await {
            tracing::warn!(%error, "nodes that are reached directly are not");
        }
    }
}
