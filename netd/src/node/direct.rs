//! Containers of other nodes that are reached without encapsulation, over each IP version by itself: which nodes are near,
//! which of them have answered, and what follows; see [`crate::direct`]. What it takes in the kernel is in `ways`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::mesh::LEAST_MTU6;
use super::services::sees;
use super::{Errors, NetworkRecord, Node};
use crate::direct::{Container, Hop, Near, Prober, Routes, Situation, View};
use crate::error::{Result, chain};
use crate::firewall::Admitted;
use crate::netlink::{Neighbour, Socket};
use crate::nft::Ip;
use crate::types::OverlayMode;
use crate::{names, netns};

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct State {
    v4: Version,
    v6: Version,
}

/// One IP version.
#[derive(Debug, Default)]
pub(super) struct Version {
    view: watch::Sender<View>,
    /// Where nodes are reached without a router in between: looked up when the underlay changes.
    near: BTreeMap<String, Near>,
    /// Nodes that have answered.
    found: BTreeSet<String>,
    pub(super) routes: Routes,
}

impl State {
    pub(super) fn of(&self, ip: Ip) -> &Version {
        match ip {
            Ip::V4 => &self.v4,
            Ip::V6 => &self.v6,
        }
    }

    pub(super) fn of_mut(&mut self, ip: Ip) -> &mut Version {
        match ip {
            Ip::V4 => &mut self.v4,
            Ip::V6 => &mut self.v6,
        }
    }

    /// Addresses that are led to their nodes.
    fn turned(&self) -> BTreeSet<IpAddr> {
        let both = Ip::BOTH.iter().flat_map(|ip| self.of(*ip).routes.inside.keys());
        both.copied().collect()
    }
}

impl Node {
    /// Something that asks other nodes, for as long as this node is there.
    pub(crate) fn prober(
        &self,
        ip: Ip,
    ) -> Prober<impl Fn(SocketAddr) -> io::Result<UdpSocket> + Send + use<>> {
        let version = self.direct.of(ip);
        let direct = watch::Sender::new(version.found.clone());
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
        let view = version.view.subscribe();
        Prober { view, bind, direct }
    }

    /// These nodes have answered over this IP version.
    pub(crate) fn set_direct(&mut self, ip: Ip, found: BTreeSet<String>) -> Result<()> {
        self.direct.of_mut(ip).found = found;
        let spanning = self.overlay.carriers.keys().cloned().collect();
        let mut errors = Errors::default();
        self.turn_direct(&spanning, &mut errors, |node, errors| {
            node.sync_members(&spanning, errors);
        });
        errors.first()
    }

    /// Bring routes and filters in line with the records, then the neighbours of these networks, and let the sandboxes on them
    /// notice. In this order: as long as the network's neighbours say otherwise, sandboxes learn that again.
    pub(super) fn turn_direct(
        &mut self,
        networks: &BTreeSet<String>,
        errors: &mut Errors,
        neighbours: impl FnOnce(&mut Self, &mut Errors),
    ) {
        let before = self.direct.turned();
        errors.collect(self.sync_direct());
        neighbours(self, errors);
        self.forget_turned(&before, networks);
    }

    /// Addresses that were reached directly and are not any more, or the other way round: what the sandboxes on these networks
    /// have learned of them leads by the old way, which still works, but is the longer one or lacks a device.
    fn forget_turned(&self, before: &BTreeSet<IpAddr>, networks: &BTreeSet<String>) {
        let now = self.direct.turned();
        let addresses: BTreeSet<_> = before.symmetric_difference(&now).copied().collect();
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

    /// The underlay, or the host, has changed: which nodes are next to this one?
    pub(super) fn find_near(&mut self) {
        let underlay = self.overlay.underlay.iter();
        let peers: Vec<_> = underlay
            .flat_map(|underlay| {
                let of_version = |address: IpAddr| address.is_ipv4() == underlay.address.is_ipv4();
                underlay.peers.iter().filter(move |peer| of_version(peer.address))
            })
            .cloned()
            .collect();
        let (forwards, links6) = (self.host.forwards(), self.host.next_hops6());
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        for peer in peers {
            let underlay = peer.address;
            let Some(link) = self.host.neighbour_link(underlay) else {
                continue;
            };
            let near = |via| Near {
                underlay,
                hop: Hop { via, link },
            };
            if forwards && peer.forwards {
                v4.insert(peer.node.clone(), near(underlay));
            }
            if let Some(via) = peer.next_hop6.filter(|_| links6.contains_key(&link)) {
                v6.insert(peer.node, near(via.into()));
            }
        }
        (self.direct.v4.near, self.direct.v6.near) = (v4, v6);
    }

    /// Bring routes and filters in line with the records. What one IP version refuses does not keep the other.
    pub(super) fn sync_direct(&mut self) -> Result<()> {
        let plans = {
            let containers: Vec<_> = self.direct_containers().collect();
            Ip::BOTH.map(|ip| (ip, self.plan_direct(ip, &containers)))
        };
        let mut errors = Errors::default();
        for (ip, (view, wanted)) in plans {
            let present = std::mem::take(&mut self.direct.of_mut(ip).routes);
            let applied = self.apply_direct(ip, &present, &wanted);
            let version = self.direct.of_mut(ip);
            // What was refused is tried again at the next occasion.
            version.routes = if applied.is_ok() { wanted } else { present };
            version.view.send_if_modified(|known| {
                let news = *known != view;
                *known = view;
                news
            });
            errors.collect(applied);
        }
        self.sync_shortcut();
        errors.first()
    }

    fn plan_direct(&self, ip: Ip, containers: &[Container<'_>]) -> (View, Routes) {
        let (Some(underlay), Some(home)) = (&self.overlay.underlay, self.home(ip)) else {
            return Default::default();
        };
        let version = self.direct.of(ip);
        let situation = Situation {
            ip,
            underlay: underlay.address,
            home,
            near: &version.near,
            found: &version.found,
            containers,
        };
        situation.plan()
    }

    /// The host's way to the fabric. Of IPv6 there is none on a host that has none, or while nothing has wanted it.
    pub(super) fn home(&self, ip: Ip) -> Option<Hop> {
        let via = match ip {
            Ip::V4 => self.fabric.address.into(),
            Ip::V6 => self.fabric.uplink6?.fabric.into(),
        };
        let link = self.fabric.host_uplink;
        Some(Hop { via, link })
    }

    /// Whether packets of the network may go directly. What was asked at a published port takes the way of the mesh, by
    /// which the answer finds the node that was asked.
    fn goes_directly(&self, record: &NetworkRecord) -> bool {
        let overlay = record.config.overlay.as_ref();
        let plain = overlay.is_some_and(|overlay| overlay.mode == OverlayMode::Auto && !overlay.encrypted);
        plain && !record.config.internal && !self.is_ingress(&record.config.id)
    }

    /// Whether another node's container is reached directly now: then no neighbour of its network must say otherwise.
    pub(super) fn is_direct(&self, address: IpAddr) -> bool {
        self.direct
            .of(Ip::of(address))
            .routes
            .inside
            .contains_key(&address)
    }

    /// Whether other nodes ask at this address.
    pub(super) fn is_own_probe(&self, address: IpAddr) -> bool {
        self.direct.of(Ip::of(address)).routes.own == Some(address)
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
            let network = network.filter(|network| self.goes_directly(&network.record));
            let addresses = network.map(|network| {
                let state = &network.record.state;
                let has6 = state.ipv6.is_some() && state.mtu >= LEAST_MTU6;
                let addresses = on.addresses.iter().filter(move |a| a.is_ipv4() || has6);
                addresses.map(|address| Container {
                    node,
                    address: *address,
                    bridge: network.bridge,
                })
            });
            addresses.into_iter().flatten()
        })
    }

    /// What an earlier process has left: it goes on while the filters are written anew.
    pub(super) fn adopt_direct(&mut self) -> Result<()> {
        self.find_near();
        self.reload_direct()?;
        for ip in Ip::BOTH {
            let home = self.home(ip);
            let routes = &self.direct.of(ip).routes;
            let others = routes.outside.iter().filter(|(_, hop)| Some(**hop) != home);
            let mut admitted: Admitted = others.map(|(address, _)| (*address, None)).collect();
            let mut found = BTreeSet::new();
            for container in self.direct_containers() {
                if let Some(network) = admitted.get_mut(&container.address) {
                    *network = Some(container.bridge);
                }
                if routes.inside.contains_key(&container.address) {
                    found.insert(container.node.to_owned());
                }
            }
            let version = self.direct.of_mut(ip);
            (version.routes.admitted, version.found) = (admitted, found);
        }
        Ok(())
    }

    /// Routes in the host's namespace do not go with links of ours.
    pub(super) fn remove_direct(&mut self) -> Result<()> {
        for ip in Ip::BOTH {
            self.direct.of_mut(ip).near.clear();
        }
        self.sync_direct()
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
