//! Routes to containers of other nodes that are reached without encapsulation; see [`crate::direct`].
//!
//! In the host: every container that *might* be reached directly has a route to its node, and what comes from there is let
//! in, so that the two nodes need not decide in the same moment, and strict reverse path filters see what they expect. In the
//! fabric: those of nodes that have answered are led to the host, and the fabric answers for them on their network.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::Ipv4Net;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::services::sees;
use super::{Errors, NetworkRecord, Node};
use crate::direct::{Prober, View};
use crate::error::{Error, Result, chain};
use crate::firewall::{Direct, own_table};
use crate::netlink::{Neighbour, Proxy, Request, Route, Socket, errno};
use crate::nft::{Family, Ip, Transaction};
use crate::types::{OverlayMode, Underlay};
use crate::{names, netns};

/// Index of `lo`, in every namespace.
const LOOPBACK: u32 = 1;

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct State {
    view: watch::Sender<View>,
    /// Where nodes are reached without a router in between: looked up when the underlay changes.
    hops: BTreeMap<String, Hop>,
    /// Nodes that have answered.
    pub(super) found: BTreeSet<String>,
    routes: Routes,
}

/// The next node on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hop {
    via: Ipv4Addr,
    /// Index of the host's link.
    link: u32,
}

/// All that there is in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Routes {
    /// The host's.
    outside: BTreeMap<Ipv4Addr, Hop>,
    /// This node's probe address: the fabric has it, and the host leads there.
    own: Option<Ipv4Addr>,
    /// Let in, and not tracked, in both namespaces.
    admitted: BTreeSet<Ipv4Addr>,
    /// The fabric's, with the index of the bridge on which it answers.
    inside: BTreeMap<Ipv4Addr, u32>,
}

/// A container of another node, on a network whose packets may go directly.
#[derive(Debug, Clone, Copy)]
struct Container<'a> {
    node: &'a str,
    address: Ipv4Addr,
    bridge: u32,
}

impl Node {
    /// Something that asks other nodes, for as long as this node is there.
    pub(crate) fn prober(&self) -> Prober<impl Fn(std::net::SocketAddr) -> io::Result<UdpSocket> + use<>> {
        let direct = watch::Sender::new(self.direct.found.clone());
        let (namespace, runtime) = (self.fabric.netns.try_clone(), self.runtime.clone());
        let bind = move |address| {
            let namespace = namespace
                .as_ref()
                .map_err(|error| io::Error::from(error.kind()))?;
            let socket = sys::netns::run_in(namespace, || std::net::UdpSocket::bind(address))??;
            socket.set_nonblocking(true)?;
            let _inside = runtime.enter();
            UdpSocket::from_std(socket)
        };
        let view = self.direct.view.subscribe();
        Prober { view, bind, direct }
    }

    /// These nodes have answered.
    pub(crate) fn set_direct(&mut self, found: BTreeSet<String>) -> Result<()> {
        self.direct.found = found;
        let before: BTreeSet<_> = self.direct.routes.inside.keys().copied().collect();
        let mut errors = Errors::default();
        errors.collect(self.sync_direct());
        let spanning = self.overlay.carriers.keys().cloned().collect();
        self.sync_members(&spanning, &mut errors);
        let now = self.direct.routes.inside.keys().copied().collect();
        let turned = before.symmetric_difference(&now);
        self.forget_neighbours(turned.map(|address| (*address).into()).collect(), &spanning);
        errors.first()
    }

    /// These addresses are reached by another way now: what the sandboxes on these networks have learned of them leads by
    /// the old one, which still works, but is the longer one or lacks a device.
    fn forget_neighbours(&self, addresses: BTreeSet<IpAddr>, networks: &BTreeSet<String>) {
        if addresses.is_empty() {
            return;
        }
        let near = self.sandboxes.iter().filter(|(_, s)| sees(s, networks));
        let paths: Vec<_> = near
            .map(|(id, _)| names::netns(&self.config.run_dir, id))
            .collect();
        self.runtime.spawn_blocking(move || {
            for path in paths {
                if let Err(error) = forget_in(&path, &addresses) {
                    tracing::warn!(
                        error = chain(&error),
                        "the shorter way is not taken by all connections"
                    );
                }
            }
        });
    }

    /// The underlay has changed: which nodes are next to this one?
    pub(super) fn find_hops(&mut self) {
        let underlay = self.overlay.underlay.as_ref();
        let forwards = self.host.forwards();
        let peers = underlay.filter(|_| forwards).into_iter().flat_map(|u| &u.peers);
        let mut hops = BTreeMap::new();
        for peer in peers.filter(|peer| peer.forwards) {
            if let IpAddr::V4(via) = peer.address
                && let Some(link) = self.host.neighbour_link(via)
            {
                hops.insert(peer.node.clone(), Hop { via, link });
            }
        }
        self.direct.hops = hops;
    }

    /// Bring routes and filters in line with the records.
    pub(super) fn sync_direct(&mut self) -> Result<()> {
        let (view, wanted) = {
            let containers: Vec<_> = self.direct_containers().collect();
            plan(
                self.overlay.underlay.as_ref(),
                &self.direct.hops,
                &self.direct.found,
                &containers,
            )
        };
        let present = std::mem::take(&mut self.direct.routes);
        let applied = self.apply_direct(&present, &wanted);
        // What was refused is tried again at the next occasion.
        self.direct.routes = if applied.is_ok() { wanted } else { present };
        self.direct.view.send_if_modified(|known| {
            let news = *known != view;
            *known = view;
            news
        });
        applied
    }

    /// Whether packets of the network may go directly. What was asked at a published port takes the way of the mesh, by
    /// which the answer finds the node that was asked.
    pub(super) fn goes_directly(&self, record: &NetworkRecord) -> bool {
        let overlay = record.config.overlay.as_ref();
        let plain = overlay.is_some_and(|overlay| overlay.mode == OverlayMode::Auto && !overlay.encrypted);
        plain && !record.config.internal && !self.is_ingress(&record.config.id)
    }

    /// Whether another node's container is reached directly now: then no neighbour of its network must say otherwise.
    pub(super) fn is_direct(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(address) if self.direct.routes.inside.contains_key(&address))
    }

    fn direct_containers(&self) -> impl Iterator<Item = Container<'_>> {
        let attached = self.overlay.members.values().flat_map(|member| {
            member
                .attachments
                .iter()
                .map(move |on| (member.node.as_str(), on))
        });
        attached.flat_map(|(node, on)| {
            let network = self.networks.get(&on.network);
            let bridge = network
                .filter(|n| self.goes_directly(&n.record))
                .map(|n| n.bridge);
            let addresses = on.addresses.iter().filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            });
            addresses.filter_map(move |address| {
                Some(Container {
                    node,
                    address,
                    bridge: bridge?,
                })
            })
        })
    }

    /// What an earlier process has left: it goes on while the filters are written anew.
    pub(super) fn adopt_direct(&mut self) -> Result<()> {
        self.find_hops();
        self.reload_direct()?;
        self.direct.routes.admitted = self.direct.routes.outside.keys().copied().collect();
        let found = self.direct_containers().filter_map(|container| {
            let reached = self.direct.routes.inside.contains_key(&container.address);
            reached.then(|| container.node.to_owned())
        });
        self.direct.found = found.collect();
        Ok(())
    }

    /// Reads the kernel's routes.
    pub(super) fn reload_direct(&mut self) -> Result<()> {
        let outside = Route::<Ipv4Net>::list(&mut self.host.route).map_err(|e| failed("the host", e))?;
        let inside = Route::<Ipv4Net>::list(&mut self.fabric.route).map_err(|e| failed("the fabric", e))?;
        let proxies = Proxy::list(&mut self.fabric.route).map_err(|e| failed("the fabric", e))?;
        let routed: BTreeSet<Ipv4Addr> = inside
            .iter()
            .filter(|route| route.direct)
            .map(|route| route.destination.addr())
            .collect();
        let answered = proxies.iter().filter_map(|proxy| match proxy.address {
            // One without the other is made again, and half of it is there already.
            IpAddr::V4(address) if routed.contains(&address) => Some((address, proxy.link)),
            _ => None,
        });
        let routes = &mut self.direct.routes;
        routes.inside = answered.collect();
        routes.outside = outside
            .iter()
            .filter(|route| route.direct)
            .filter_map(hop)
            .collect();
        routes.own = None;
        Ok(())
    }

    /// Routes in the host's namespace do not go with links of ours.
    pub(super) fn remove_direct(&mut self) -> Result<()> {
        self.direct.hops.clear();
        self.sync_direct()
    }

    pub(super) fn admitted(&self) -> &BTreeSet<Ipv4Addr> {
        &self.direct.routes.admitted
    }

    fn apply_direct(&mut self, present: &Routes, wanted: &Routes) -> Result<()> {
        if present == wanted {
            return Ok(());
        }
        // Let in before anybody sends, and as long as somebody may.
        let both: BTreeSet<Ipv4Addr> = present.admitted.union(&wanted.admitted).copied().collect();
        self.admit(&present.admitted, &both)?;
        self.move_own(present.own, wanted.own)
            .map_err(|e| failed("the fabric", e))?;
        let (gone, new) = outside_requests(present, wanted);
        change(&mut self.host.route, gone, new).map_err(|e| failed("the host", e))?;
        let (gone, new) = self.inside_requests(present, wanted)?;
        change(&mut self.fabric.route, gone, new).map_err(|e| failed("the fabric", e))?;
        self.admit(&both, &wanted.admitted)
    }

    fn admit(&mut self, present: &BTreeSet<Ipv4Addr>, wanted: &BTreeSet<Ipv4Addr>) -> Result<()> {
        self.direct.routes.admitted.clone_from(wanted);
        if present == wanted {
            return Ok(());
        }
        let (mut host, mut fabric) = (Transaction::default(), Transaction::default());
        Direct::change(&mut host, &self.host_firewall.table(Ip::V4), present, wanted);
        Direct::change(&mut fabric, &own_table(Family::Ipv4), present, wanted);
        self.change_host(host, "admit containers of other nodes to")?;
        self.change_fabric_at(fabric, Default::default(), "admit containers of other nodes to")
    }

    /// The fabric takes the probe address, and the host leads there.
    fn move_own(&mut self, present: Option<Ipv4Addr>, wanted: Option<Ipv4Addr>) -> io::Result<()> {
        let (via, link) = (Some(self.fabric.address), self.fabric.host_uplink);
        if let Some(old) = present.filter(|_| present != wanted) {
            let route = Route::delete(Ipv4Net::from(old), via, link);
            change(&mut self.host.route, vec![route], Vec::new())?;
            let address = Route::delete_address(LOOPBACK, old, 32);
            change(&mut self.fabric.route, vec![address], Vec::new())?;
        }
        if let Some(new) = wanted {
            self.fabric.route.request(Route::add_address(LOOPBACK, new, 32))?;
            self.host
                .route
                .request(Route::add(Ipv4Net::from(new), via, link))?;
        }
        Ok(())
    }

    fn inside_requests(&mut self, present: &Routes, wanted: &Routes) -> Result<(Vec<Request>, Vec<Request>)> {
        let uplink = self.fabric.uplink()?;
        let host = self.fabric.host_address;
        let proxy = |address: &Ipv4Addr, link: u32| Proxy {
            link,
            address: (*address).into(),
        };
        let (gone, new) = difference(&present.inside, &wanted.inside);
        let gone = gone.flat_map(|(address, bridge)| {
            [
                proxy(address, *bridge).delete(),
                Route::delete_direct(*address, host, uplink),
            ]
        });
        let new = new.flat_map(|(address, bridge)| {
            [
                Route::add_direct(*address, host, uplink),
                proxy(address, *bridge).set(),
            ]
        });
        Ok((gone.collect(), new.collect()))
    }
}

/// Fine if the sandbox is gone.
fn forget_in(path: &Path, addresses: &BTreeSet<IpAddr>) -> Result<()> {
    let Some(namespace) = netns::open(path)? else {
        return Ok(());
    };
    netns::run(path, &namespace, || {
        let mut inside = Socket::route()?;
        let known = Neighbour::found_out(&mut inside)?.into_iter();
        let turned = known.filter(|(_, address)| addresses.contains(address));
        let requests: Vec<_> = turned
            .map(|(link, address)| Neighbour::forget(link, address))
            .collect();
        inside.bulk(&requests).map(drop) // gone meanwhile is fine
    })
}

fn outside_requests(present: &Routes, wanted: &Routes) -> (Vec<Request>, Vec<Request>) {
    let (gone, new) = difference(&present.outside, &wanted.outside);
    let gone = gone.map(|(address, hop)| Route::delete_direct(*address, hop.via, hop.link));
    let new = new.map(|(address, hop)| Route::add_direct(*address, hop.via, hop.link));
    (gone.collect(), new.collect())
}

/// What is to go, and what is to come.
fn difference<'a, T: PartialEq>(
    present: &'a BTreeMap<Ipv4Addr, T>,
    wanted: &'a BTreeMap<Ipv4Addr, T>,
) -> (
    impl Iterator<Item = (&'a Ipv4Addr, &'a T)>,
    impl Iterator<Item = (&'a Ipv4Addr, &'a T)>,
) {
    let gone = present
        .iter()
        .filter(|(address, value)| wanted.get(address) != Some(value));
    let new = wanted
        .iter()
        .filter(|(address, value)| present.get(address) != Some(value));
    (gone, new)
}

fn hop(route: &Route<Ipv4Net>) -> Option<(Ipv4Addr, Hop)> {
    let hop = Hop {
        via: route.gateway?,
        link: route.link?,
    };
    Some((route.destination.addr(), hop))
}

/// What is to go one by one, for it may be gone already, also with its link; then all that is new.
fn change(socket: &mut Socket, gone: Vec<Request>, new: Vec<Request>) -> io::Result<()> {
    for request in gone {
        match socket.request(request) {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    if new.is_empty() { Ok(()) } else { socket.batch(new) }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::EADDRNOTAVAIL)
    )
}

fn plan(
    underlay: Option<&Underlay>,
    hops: &BTreeMap<String, Hop>,
    found: &BTreeSet<String>,
    containers: &[Container<'_>],
) -> (View, Routes) {
    let Some(IpAddr::V4(own)) = underlay.map(|underlay| underlay.address) else {
        return Default::default();
    };
    let concerned: BTreeSet<&str> = containers.iter().map(|container| container.node).collect();
    let asked = hops.iter().filter(|(node, _)| concerned.contains(node.as_str()));
    let view = View::new(own, asked.map(|(node, hop)| (node.clone(), hop.via)));
    let mut routes = Routes::default();
    for (node, probe) in &view.nodes {
        if let Some(hop) = hops.get(node) {
            routes.outside.insert(*probe, *hop);
        }
    }
    for container in containers {
        if let Some(hop) = hops
            .get(container.node)
            .filter(|_| view.nodes.contains_key(container.node))
        {
            routes.outside.insert(container.address, *hop);
            if found.contains(container.node) {
                routes.inside.insert(container.address, container.bridge);
            }
        }
    }
    routes.own = view.own.filter(|_| !view.nodes.is_empty());
    routes.admitted = routes.outside.keys().copied().collect();
    (view, routes)
}

fn failed(place: &str, source: io::Error) -> Error {
    Error::Kernel {
        operation: "route containers of other nodes in",
        object: place.to_owned(),
        source,
    }
}
