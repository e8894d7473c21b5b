//! Several nodes plugged into one switch, and a client beside them that is no node. Node `n` has 192.0.2.(10 + n), and that
//! as the end of an IPv6 address.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use netd::{Netd, NetdConfig, Underlay, UnderlayPeer};
use nix::sched::{CloneFlags, setns};

use super::netlink::{Link, LinkAddress, LinkChange, Route, Socket, Veth, until_usable};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
pub const CLIENT6: Ipv6Addr = ipv6(CLIENT);
pub const PORT: u16 = 4789;

/// A machine with a namespace of its own, in which netd finds itself.
pub struct Node {
    pub number: u8,
    pub dir: tempfile::TempDir,
    pub host: OwnedFd,
    pub runtime: tokio::runtime::Runtime,
}

pub struct Nodes {
    pub switch: OwnedFd,
    pub client: OwnedFd,
    pub nodes: Vec<Node>,
}

impl Nodes {
    pub fn new(count: u8) -> Self {
        let (switch, ()) = sys::netns::create(|| {
            let mac = netd::Mac([2, 0, 0, 0, 0, 1]);
            let bridge = Link::create_bridge("switch", mac, 1500);
            Socket::route().unwrap().request(bridge).unwrap();
        })
        .unwrap();
        let client = plug_in(&switch, "client", CLIENT);
        let nodes = (1..=count).map(|number| Node::new(&switch, number)).collect();
        Self {
            switch,
            client,
            nodes,
        }
    }

    /// The others, as node `number` is told of them.
    pub fn underlay(&self, number: u8) -> Underlay {
        self.underlay_at(number, |node| node.address().into())
    }

    /// The same where they speak IPv6 among themselves.
    pub fn underlay6(&self, number: u8) -> Underlay {
        self.underlay_at(number, |node| node.address6().into())
    }

    fn underlay_at(&self, number: u8, address: impl Fn(&Node) -> IpAddr) -> Underlay {
        let others = self.nodes.iter().filter(|node| node.number != number);
        let peer = |node: &Node| UnderlayPeer {
            node: node.id(),
            address: address(node),
            mtu: 1500,
            forwards: true,
            next_hop6: Some(node.link_local()),
            public_key: None,
        };
        Underlay {
            address: address(&self.nodes[usize::from(number) - 1]),
            port: PORT,
            peers: others.map(peer).collect(),
        }
    }
}

impl Node {
    fn new(switch: &OwnedFd, number: u8) -> Self {
        let host = plug_in(switch, &format!("node{number}"), address(number));
        let forward = |version| fs::write(format!("/proc/sys/net/{version}"), "1").unwrap();
        sys::netns::run_in(&host, || {
            ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(forward)
        })
        .unwrap();
        let inside = host.try_clone().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(move || setns(&inside, CloneFlags::CLONE_NEWNET).unwrap())
            .enable_all()
            .build()
            .unwrap();
        Self {
            number,
            dir: tempfile::tempdir().unwrap(),
            host,
            runtime,
        }
    }

    pub fn id(&self) -> String {
        format!("n{}", self.number)
    }

    pub fn address(&self) -> Ipv4Addr {
        address(self.number)
    }

    pub fn address6(&self) -> Ipv6Addr {
        ipv6(self.address())
    }

    /// Its address on the link to the switch, whatever else it has.
    pub fn link_local(&self) -> Ipv6Addr {
        let find = || {
            let mut socket = Socket::route().unwrap();
            let index = Link::find(&mut socket, "eth0").unwrap().unwrap().index;
            let own = LinkAddress::list(&mut socket).unwrap().into_iter();
            let mut own = own.filter(|one| one.link == index).map(|one| one.address);
            own.find_map(|address| match address {
                IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
                _ => None,
            })
        };
        sys::netns::run_in(&self.host, find).unwrap().unwrap()
    }

    pub fn open(&self) -> Arc<Netd> {
        let config = NetdConfig {
            state_dir: self.dir.path().join("netd"),
            run_dir: self.dir.path().join("run"),
            instance: self.id(),
            upstreams: Some(Vec::new()),
            ..NetdConfig::default()
        };
        self.wait(Netd::open(config)).unwrap()
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The namespace of its bridges.
    pub fn fabric(&self) -> OwnedFd {
        super::open(&self.dir.path().join("run/netns/fabric"))
    }
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + number)
}

const fn ipv6(address: Ipv4Addr) -> Ipv6Addr {
    let [.., last] = address.octets();
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last as u16)
}

/// A namespace with this address, of both IP versions, on its eth0, at the switch.
fn plug_in(switch: &OwnedFd, port: &str, address: Ipv4Addr) -> OwnedFd {
    let (host, ()) = sys::netns::create(|| ()).unwrap();
    sys::netns::run_in(switch, || {
        let mut socket = Socket::route().unwrap();
        let master = Link::find(&mut socket, "switch").unwrap().unwrap().index;
        let veth = Veth {
            name: port,
            master: Some(master),
            mtu: 1500,
            peer: "eth0",
            peer_netns: host.as_fd(),
            peer_mac: None,
        };
        socket.request(veth.create()).unwrap();
    })
    .unwrap();
    let up = || LinkChange {
        up: true,
        ..LinkChange::default()
    };
    sys::netns::run_in(&host, || {
        let mut socket = Socket::route().unwrap();
        let index = Link::find(&mut socket, "eth0").unwrap().unwrap().index;
        socket
            .batch(vec![
                Link::change("lo", &up()),
                Link::change("eth0", &up()),
                Route::add_address(index, address, 24),
                LinkAddress::add6(index, ipv6(address), 64),
            ])
            .unwrap();
        assert!(until_usable(&[ipv6(address)]).unwrap());
    })
    .unwrap();
    host
}
