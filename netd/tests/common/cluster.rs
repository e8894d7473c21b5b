//! Several nodes: each with a "host" namespace of its own and a `Netd` in it, joined by a bridge in yet another namespace.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use netd::{
    AttachRequest, EndpointRequest, Mac, Member, MemberAttachment, Netd, NetdConfig, NetworkConfig, Overlay,
    OverlayMode, Underlay, UnderlayPeer,
};

use super::netlink::{Forwarding, Link, LinkAddress, LinkChange, Neighbour, Request, Route, Socket, Veth};
use super::{Box, World, call_udp, open};

pub const PORT: u16 = 4789;
pub const SUBNET: &str = "10.9.0.0/16";

pub struct Cluster {
    pub wire: OwnedFd,
    pub nodes: Vec<Node>,
    /// Whether the nodes know each other by IPv6.
    pub v6: bool,
}

pub struct Node {
    pub name: String,
    pub host: OwnedFd,
    pub runtime: tokio::runtime::Runtime,
    pub address: IpAddr,
    /// None while the agent is dead.
    pub netd: Option<Arc<Netd>>,
    config: NetdConfig,
}

/// A container of some node.
pub struct Task {
    pub id: String,
    pub node: usize,
    pub container: Box,
}

impl std::ops::Deref for Task {
    type Target = Box;

    fn deref(&self) -> &Box {
        &self.container
    }
}

impl Cluster {
    /// Nodes that know one another, with links of these sizes; each has the network "net".
    pub fn new(w: &World, mtus: &[u32], v6: bool) -> Self {
        Self::with_mode(w, mtus, v6, OverlayMode::Vxlan)
    }

    pub fn with_mode(w: &World, mtus: &[u32], v6: bool, mode: OverlayMode) -> Self {
        let (wire, ()) = sys::netns::create(|| {
            let mut socket = Socket::route().unwrap();
            let bridge = Link::create_bridge("wire", Mac([2, 0, 0, 0, 0, 1]), 9000);
            socket.request(bridge).unwrap();
        })
        .unwrap();
        let nodes = mtus
            .iter()
            .enumerate()
            .map(|(n, mtu)| Node::new(w, n, *mtu, v6, &wire))
            .collect();
        let mut cluster = Self { wire, nodes, v6 };
        for n in 0..cluster.nodes.len() {
            cluster.nodes[n].start();
            cluster.introduce(n);
            cluster.nodes[n].network(&NetworkConfig {
                overlay: Some(Overlay {
                    vni: 4097,
                    encrypted: false,
                    mode,
                }),
                ..spanning("net", SUBNET, 4097)
            });
        }
        cluster
    }

    pub fn underlay(&self, n: usize) -> Underlay {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != n);
        let peer = |node: &Node| UnderlayPeer {
            node: node.name.clone(),
            address: node.address,
            mtu: node.facts().mtu,
            forwards: true,
            next_hop6: None,
            public_key: None,
        };
        Underlay {
            address: self.nodes[n].address,
            port: PORT,
            peers: others.map(|(_, node)| peer(node)).collect(),
        }
    }

    /// The same, but nobody forwards: nothing goes directly.
    pub fn introduce_apart(&self, n: usize) {
        let mut underlay = self.underlay(n);
        underlay.peers.iter_mut().for_each(|peer| peer.forwards = false);
        let node = &self.nodes[n];
        node.wait(node.netd().set_underlay(Some(underlay))).unwrap();
    }

    /// Tell a node of the others.
    pub fn introduce(&self, n: usize) {
        let underlay = Some(self.underlay(n));
        let node = &self.nodes[n];
        node.wait(node.netd().set_underlay(underlay)).unwrap();
    }

    /// A container with this address, made known to the other nodes.
    pub fn task(&self, node: usize, id: &str, address: &str) -> Task {
        let task = self.start(node, id, address);
        self.announce(&task);
        task
    }

    /// A container of which nobody else is told.
    pub fn start(&self, node: usize, id: &str, address: &str) -> Task {
        let endpoint = EndpointRequest {
            network: "net".into(),
            ipv4: Some(address.parse().unwrap()),
            aliases: vec![id.into()],
            ..EndpointRequest::default()
        };
        let request = AttachRequest {
            sandbox: id.into(),
            hostname: id.into(),
            endpoints: vec![endpoint],
            ..AttachRequest::default()
        };
        let on = &self.nodes[node];
        let container = on.wait(on.netd().attach(request)).map(Box::new).unwrap();
        let id = id.into();
        Task { id, node, container }
    }

    pub fn announce(&self, task: &Task) {
        let told = member(&task.id, &self.nodes[task.node].name, &[task.address()]);
        for node in self.others(task.node) {
            node.wait(node.netd().set_members(vec![told.clone()])).unwrap();
        }
    }

    /// The container is gone; the others are told.
    pub fn stop(&self, task: &Task) {
        let node = &self.nodes[task.node];
        node.wait(node.netd().detach(&task.id)).unwrap();
        self.withdraw(task);
    }

    pub fn withdraw(&self, task: &Task) {
        for other in self.others(task.node) {
            let ids = BTreeSet::from([task.id.clone()]);
            other.wait(other.netd().remove_members(ids)).unwrap();
        }
    }

    /// A namespace at the wire that is no node, with this address and 2001:db8::77.
    pub fn stranger(&self, address: Ipv4Addr) -> OwnedFd {
        let (netns, ()) = sys::netns::create(|| ()).unwrap();
        plug(&self.wire, "stranger", &netns, 1500);
        sys::netns::run_in(&netns, || {
            let mut socket = Socket::route().unwrap();
            let index = Link::find(&mut socket, "eth0").unwrap().unwrap().index;
            socket
                .batch(vec![
                    up("eth0"),
                    Route::add_address(index, address, 24),
                    LinkAddress::add6(index, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77), 64),
                ])
                .unwrap();
        })
        .unwrap();
        netns
    }

    fn others(&self, n: usize) -> impl Iterator<Item = &Node> {
        let all = self.nodes.iter().enumerate();
        all.filter(move |(other, node)| *other != n && node.netd.is_some())
            .map(|(_, node)| node)
    }
}

impl Node {
    fn new(w: &World, n: usize, mtu: u32, v6: bool, wire: &OwnedFd) -> Self {
        let (host, runtime) = sys::netns::create(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build();
            runtime.unwrap()
        })
        .unwrap();
        let ipv4 = Ipv4Addr::new(192, 0, 2, n as u8 + 1);
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n as u16 + 1);
        let near = format!("n{n}");
        plug(wire, &near, &host, mtu);
        sys::netns::run_in(&host, || {
            let mut socket = Socket::route().unwrap();
            socket.batch(vec![up("lo"), up("eth0")]).unwrap();
            let index = Link::find(&mut socket, "eth0").unwrap().unwrap().index;
            socket
                .batch(vec![
                    Route::add_address(index, ipv4, 24),
                    LinkAddress::add6(index, ipv6, 64),
                    Route::add(
                        ipnet::Ipv4Net::default(),
                        Some(Ipv4Addr::new(192, 0, 2, 254)),
                        index,
                    ),
                ])
                .unwrap();
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        })
        .unwrap();
        let dir = w.dir.path().join(&near);
        Self {
            name: near,
            host,
            runtime,
            address: if v6 { ipv6.into() } else { ipv4.into() },
            netd: None,
            config: NetdConfig {
                state_dir: dir.join("netd"),
                run_dir: dir.join("run"),
                instance: "test".into(),
                upstreams: Some(Vec::new()),
                ..NetdConfig::default()
            },
        }
    }

    pub fn start(&mut self) {
        let config = self.config.clone();
        self.netd = Some(self.wait(Netd::open(config)).unwrap());
    }

    /// As a killed process: sockets close, nothing else happens.
    pub fn kill(&mut self) {
        let netd = self.netd.take().unwrap();
        self.wait(netd.shutdown(false)).unwrap();
    }

    pub fn netd(&self) -> &Netd {
        self.netd.as_ref().expect("the agent is dead")
    }

    /// Whatever threads netd starts must start in the node's own namespace.
    pub fn wait<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        sys::netns::run_in(&self.host, || self.runtime.block_on(future)).unwrap()
    }

    pub fn network(&self, config: &NetworkConfig) -> netd::NetworkState {
        self.wait(self.netd().ensure_network(config)).unwrap()
    }

    pub fn facts(&self) -> netd::UnderlayFacts {
        let found = sys::netns::run_in(&self.host, || {
            let mut socket = Socket::route().unwrap();
            Link::find(&mut socket, "eth0").unwrap().unwrap().mtu
        });
        netd::UnderlayFacts {
            mtu: found.unwrap(),
            forwards: true,
            next_hop6: None,
        }
    }

    pub fn fabric(&self) -> OwnedFd {
        open(&self.config.run_dir.join("netns/fabric"))
    }

    /// What its kernel has of other nodes' members.
    pub fn entries(&self) -> (Vec<Forwarding>, Vec<Neighbour>) {
        let index = |prefix| self.fabric_link(prefix).map_or(u32::MAX, |link| link.index);
        let (port, bridge) = (index("vx-"), index("br-"));
        self.in_fabric(|socket| {
            let forwarding = Forwarding::list(socket, port).unwrap();
            (forwarding, Neighbour::list(socket, bridge).unwrap())
        })
    }

    /// The links of the fabric, by what is done with them.
    pub fn fabric_links(&self) -> Vec<Link> {
        self.in_fabric(|socket| Link::list(socket).unwrap())
    }

    pub fn fabric_link(&self, prefix: &str) -> Option<Link> {
        self.fabric_links()
            .into_iter()
            .find(|l| l.name.starts_with(prefix))
    }

    pub fn in_fabric<T: Send>(&self, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
        sys::netns::run_in(self.fabric(), || work(&mut Socket::route().unwrap())).unwrap()
    }

    pub fn in_host<T: Send>(&self, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
        sys::netns::run_in(&self.host, || work(&mut Socket::route().unwrap())).unwrap()
    }

    pub fn run_dir(&self) -> &std::path::Path {
        &self.config.run_dir
    }
}

pub fn spanning(id: &str, subnet: &str, vni: u32) -> NetworkConfig {
    NetworkConfig {
        id: id.into(),
        name: id.into(),
        subnet: Some(subnet.parse().unwrap()),
        overlay: Some(Overlay {
            vni,
            encrypted: false,
            mode: OverlayMode::Vxlan,
        }),
        ..NetworkConfig::default()
    }
}

pub fn member(id: &str, node: &str, addresses: &[Ipv4Addr]) -> Member {
    let attachment = |address: &Ipv4Addr| MemberAttachment {
        network: "net".into(),
        addresses: vec![(*address).into()],
        ..MemberAttachment::default()
    };
    Member {
        id: id.into(),
        node: node.into(),
        attachments: addresses.iter().map(attachment).collect(),
    }
}

pub fn up(name: &str) -> Request {
    Link::change(
        name,
        &LinkChange {
            up: true,
            ..LinkChange::default()
        },
    )
}

/// A veth from the wire, whose far end is eth0 in that namespace.
fn plug(wire: &OwnedFd, port: &str, netns: &OwnedFd, mtu: u32) {
    let work = || {
        let mut socket = Socket::route().unwrap();
        let bridge = Link::find(&mut socket, "wire").unwrap().unwrap().index;
        let veth = Veth {
            name: port,
            master: Some(bridge),
            mtu,
            peer: "eth0",
            peer_netns: netns.as_fd(),
            peer_mac: None,
        };
        socket.request(veth.create()).unwrap();
    };
    sys::netns::run_in(wire, work).unwrap();
}

/// `nft flush ruleset` in the calling thread's namespace.
pub fn flush() {
    let message = |kind, body| Request { kind, flags: 0, body };
    let mut delete = message(10 << 8 | 2, vec![0; 4]);
    delete.flags = 4;
    let mark = |kind| message(kind, vec![0, 0, 0, 10]);
    Socket::netfilter()
        .unwrap()
        .transact(&[mark(0x10), delete, mark(0x11)])
        .unwrap();
}

/// Both over TCP and UDP; each sees the other's own address.
pub fn talk(from: &Task, to: &Task) {
    let said = format!("{} {}", to.id, from.address());
    assert_eq!(from.call(to.address(), 80).unwrap(), said);
    assert_eq!(call_udp(&from.netns, to.address(), 80).unwrap(), said);
}

/// Whether the one is reached by the other.
pub fn talks(from: &Task, to: &Task) -> bool {
    from.call(to.address(), 80)
        .is_ok_and(|said| said.starts_with(&to.id))
}
