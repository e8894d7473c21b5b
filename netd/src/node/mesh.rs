//! The routing mesh in the kernel: the transit device, the ways over it, and who may use it. The records of nodes, members
//! and services say what is wanted; what the kernel has is remembered, and read anew where that may be wrong.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use super::Node;
use super::carriers::PATIENCE;
use crate::error::{Error, Result};
use crate::firewall::TransitSets;
use crate::mesh::{Dump, Mesh, Step, TRANSIT, Tag, Way};
use crate::names;
use crate::netlink::{
    Detour, Forwarding, Link, LinkAddress, LinkChange, MarkRule, Neighbour, Socket, Vxlan, VxlanSettings,
    errno,
};
use crate::nft::{Ip, Transaction};
use crate::overlay::fitting_mtu;
use crate::types::{Backend, Underlay};

/// Name of the one record of its kind.
const INGRESS: &str = "ingress";
/// How the kernel refuses to make or remove what is as it should be.
const THERE_ALREADY: [i32; 1] = [libc::EEXIST];
const GONE_ALREADY: [i32; 4] = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EAFNOSUPPORT];
/// No link with smaller packets has IPv6 (RFC 8200, section 5).
pub(super) const LEAST_MTU6: u32 = 1280;

/// What is wanted of the mesh beside the records, and what the kernel has of it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Network on which tasks with published ports are reached from other nodes.
    pub(super) ingress: Option<String>,
    pub(super) sets: TransitSets,
    known: Mesh,
    device: Option<Device>,
}

/// The transit device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Device {
    index: u32,
    settings: VxlanSettings,
    mtu: u32,
    ipv6: bool,
}

impl Node {
    /// See [`crate::Netd::set_ingress`].
    pub(crate) fn set_ingress(&mut self, network: Option<String>) -> Result<()> {
        if self.mesh.ingress == network {
            return Ok(());
        }
        match &network {
            Some(id) => self.stores.ingress.write(INGRESS, id)?,
            None => self.stores.ingress.remove(INGRESS)?,
        }
        self.mesh.ingress = network;
        let sandboxes: Vec<_> = self.sandboxes.keys().cloned().collect();
        for id in sandboxes {
            self.route_sandbox(&id)?;
        }
        self.follow_underlay()
    }

    /// What an earlier process of this agent was told.
    pub(super) fn adopt_ingress(&mut self) -> Result<()> {
        self.mesh.ingress = self.stores.ingress.read_all()?.pop();
        Ok(())
    }

    /// Make the ways that are missing, and leave those that are too many; whether any was missing.
    pub(super) fn extend_mesh(&mut self) -> Result<bool> {
        let mut wanted = self.wanted_mesh();
        let mut steps = self.mesh.known.steps(&wanted);
        steps.retain(Step::grows);
        if steps.is_empty() {
            return Ok(false);
        }
        self.take(steps)?;
        for (task, tag) in std::mem::take(&mut self.mesh.known.routes) {
            wanted.routes.entry(task).or_insert(tag);
        }
        wanted.peers.extend(std::mem::take(&mut self.mesh.known.peers));
        self.mesh.known = wanted;
        Ok(true)
    }

    /// Bring the device, and with it the mesh, in line with the records.
    pub(super) fn follow_underlay(&mut self) -> Result<()> {
        self.follow_device()?;
        self.follow_mesh()
    }

    /// Bring the ways over the device in line with the records.
    pub(super) fn follow_mesh(&mut self) -> Result<()> {
        let wanted = self.wanted_mesh();
        let steps = self.mesh.known.steps(&wanted);
        let sets = self.transit_sets_of(&wanted);
        if steps.is_empty() && sets == self.mesh.sets {
            return Ok(());
        }
        self.take(steps)?;
        self.mesh.known = wanted;
        let mut change = Transaction::default();
        sets.replace(&self.mesh.sets, &mut change);
        self.mesh.sets = sets;
        self.change_fabric(change, "set the senders of")
    }

    /// The same, whatever the kernel has.
    pub(crate) fn restore_mesh(&mut self) -> Result<()> {
        self.measure_underlay();
        self.mesh.device = self.find_device()?;
        self.mesh.known = self.dump_mesh()?;
        self.follow_device()?;
        let wanted = self.wanted_mesh();
        self.take(self.mesh.known.steps(&wanted))?;
        self.mesh.known = wanted;
        Ok(())
    }

    /// Whether something that has gone from this link is a way of the mesh.
    pub(super) fn misses_way(&self, link: u32, needs: impl Fn(&Mesh) -> bool) -> bool {
        self.mesh.device.is_some_and(|device| device.index == link) && needs(&self.mesh.known)
    }

    pub(super) fn misses_rule(&self, rule: MarkRule) -> bool {
        self.mesh.known.needs_rule(rule)
    }

    /// From whom packets are taken, and to which bridge they may go.
    pub(super) fn wanted_transit_sets(&self) -> TransitSets {
        self.transit_sets_of(&self.wanted_mesh())
    }

    fn transit_sets_of(&self, mesh: &Mesh) -> TransitSets {
        let network = self.mesh.ingress.as_ref().and_then(|id| self.networks.get(id));
        TransitSets {
            peers: mesh.senders(),
            bridge: network.map(|network| network.record.state.bridge.clone()),
        }
    }

    /// The address of another node's task, if there is a way to it.
    pub(super) fn reachable_far(&self, backend: &Backend, ip: Ip) -> Option<IpAddr> {
        let ingress = self.mesh.ingress.as_ref()?;
        let mut all = backend.all_addresses();
        let (_, address) = all.find(|(on, address)| on == ingress && Ip::of(*address) == ip)?;
        self.mesh.known.routes.contains_key(&address).then_some(address)
    }

    /// Whether it is the network on which tasks are reached from other nodes.
    pub(super) fn is_ingress(&self, network: &str) -> bool {
        self.mesh.ingress.as_deref() == Some(network)
    }

    /// The underlay, if there is a mesh to be made over it.
    fn meshed(&self) -> Option<&Underlay> {
        let underlay = self.overlay.underlay.as_ref()?;
        let alone = underlay.peers.iter().all(|peer| peer.address == underlay.address);
        (self.mesh.ingress.is_some() && !alone).then_some(underlay)
    }

    /// Ways to all tasks of other nodes on the ingress network. They are there before a task answers for its service, and
    /// stay until it has ended: what was begun with it is to be finished.
    fn wanted_mesh(&self) -> Mesh {
        let (Some(underlay), Some(ingress)) = (self.meshed(), &self.mesh.ingress) else {
            return Mesh::default();
        };
        // What cannot be reached is refused, not lost.
        let Some(device) = self.mesh.device else {
            return Mesh::default();
        };
        let members = self.overlay.members.values().flat_map(|member| {
            let here = member.attachments.iter().filter(|on| on.network == *ingress);
            here.flat_map(|on| &on.addresses)
                .map(|address| (*address, member.node.as_str()))
        });
        let backends = self
            .services
            .values()
            .flat_map(|service| &service.wanted.backends);
        let backends = backends.filter_map(|backend| Some((backend, backend.node.as_deref()?)));
        let backends = backends.flat_map(|(backend, node)| {
            let here = backend.all_addresses().filter(|(on, _)| on == ingress);
            here.map(move |(_, address)| (address, node))
        });
        Mesh::wanted(underlay, members.chain(backends), device.ipv6)
    }

    /// After an error what the kernel has is not known; the next reconciliation reads it.
    fn take(&mut self, steps: Vec<Step>) -> Result<()> {
        let way = self.mesh.device.map(|device| Way {
            link: device.index,
            ipv6: device.ipv6,
        });
        let (grow, shrink): (Vec<_>, Vec<_>) = steps.into_iter().partition(Step::grows);
        for (steps, harmless) in [(grow, &THERE_ALREADY[..]), (shrink, &GONE_ALREADY[..])] {
            let requests: Vec<_> = steps.iter().flat_map(|step| step.requests(way)).collect();
            let refusals = self.fabric.route.bulk(&requests);
            let refusals = refusals.map_err(|source| failed("set the ways over", source))?;
            if let Some(refusal) = refusals.into_iter().find(|one| !harmless.contains(&one.errno)) {
                return Err(failed("set the ways over", refusal.into()));
            }
        }
        Ok(())
    }

    fn follow_device(&mut self) -> Result<()> {
        let wanted = self.wanted_device()?;
        match (self.mesh.device, wanted) {
            (None, None) => Ok(()),
            (Some(device), Some((settings, mtu)))
                if device.settings == settings && has_room6(device.mtu) == has_room6(mtu) =>
            {
                self.fit_device(Device { mtu, ..device })?;
                self.raise_ipv6()
            }
            (_, wanted) => self.replace_device(wanted),
        }
    }

    fn fit_device(&mut self, wanted: Device) -> Result<()> {
        if self.mesh.device != Some(wanted) {
            let change = LinkChange {
                mtu: Some(wanted.mtu),
                ..LinkChange::default()
            };
            let fitted = self.fabric.route.request(Link::change(names::TRANSIT, &change));
            fitted.map_err(|source| failed("set the MTU of", source))?;
            self.mesh.device = Some(wanted);
        }
        Ok(())
    }

    fn replace_device(&mut self, wanted: Option<(VxlanSettings, u32)>) -> Result<()> {
        // Rules outlive the device; all else goes with it.
        let leave = self.mesh.known.steps(&Mesh::default());
        self.take(leave)?;
        self.mesh.known = Mesh::default();
        self.mesh.device = None;
        self.fabric.delete_link(names::TRANSIT)?;
        wanted.map_or(Ok(()), |(settings, mtu)| self.make_device(settings, mtu))
    }

    fn wanted_device(&mut self) -> Result<Option<(VxlanSettings, u32)>> {
        let own = self.meshed().map(|underlay| underlay.address);
        let (Some(own), Some(mtu)) = (own, self.overlay.mtu) else {
            return Ok(None);
        };
        let mtu = fitting_mtu(mtu, own, false);
        let present = self.find_transit()?;
        let settings = self.wanted_vxlan(&TRANSIT, present.as_ref());
        Ok(settings.map(|settings| (settings, mtu)))
    }

    fn make_device(&mut self, settings: VxlanSettings, mtu: u32) -> Result<()> {
        let Some(own) = self.meshed().map(|underlay| Tag::of(underlay.address)) else {
            return Ok(());
        };
        let create = Vxlan {
            name: names::TRANSIT,
            settings,
            mtu,
            mac: Some(own.mac()),
            netns: self.fabric.netns.as_fd(),
        }
        .create();
        let mut left = PATIENCE.0;
        while let Err(source) = self.host.route.request(create.clone()) {
            if errno(&source) != Some(libc::EEXIST) || left == 0 {
                return Err(failed("create", source));
            }
            left -= 1;
            std::thread::sleep(PATIENCE.1);
        }
        let raise = LinkChange {
            up: true,
            ..LinkChange::default()
        };
        let raised = self.fabric.route.request(Link::change(names::TRANSIT, &raise));
        raised.map_err(|source| failed("raise", source))?;
        self.mesh.device = self.find_device()?;
        self.raise_ipv6()
    }

    /// Have IPv6 on the device, if its packets are large enough; without it the mesh carries IPv4 alone.
    fn raise_ipv6(&mut self) -> Result<()> {
        let without = self.mesh.device.filter(|device| !device.ipv6);
        if without.is_some_and(|device| has_room6(device.mtu)) {
            self.fabric.enable6(names::TRANSIT)?;
            self.mesh.device = self.find_device()?;
        }
        Ok(())
    }

    /// A device that is down has lost its routes; it is made anew.
    fn find_device(&mut self) -> Result<Option<Device>> {
        let Some(link) = self.find_transit()?.filter(|link| link.up) else {
            return Ok(None);
        };
        let of_link = |one: &LinkAddress| one.link == link.index && one.address.is_ipv6();
        let ipv6 = self.fabric.addresses()?.iter().any(of_link);
        Ok(link.vxlan.map(|settings| Device {
            index: link.index,
            settings,
            mtu: link.mtu,
            ipv6,
        }))
    }

    fn find_transit(&mut self) -> Result<Option<Link>> {
        Link::find(&mut self.fabric.route, names::TRANSIT).map_err(|source| failed("find", source))
    }

    fn dump_mesh(&mut self) -> Result<Mesh> {
        let (link, ipv6) = self.mesh.device.map_or((0, false), |d| (d.index, d.ipv6));
        let socket = &mut self.fabric.route;
        let mut dump = || -> io::Result<Dump> {
            let mut dump = Dump {
                rules: MarkRule::list(socket, false)?,
                rules6: rules6(socket)?,
                ipv6,
                ..Dump::default()
            };
            if link != 0 {
                dump.routes = Detour::list(socket, link, false)?;
                dump.neighbours = Neighbour::list(socket, link)?;
                dump.forwardings = Forwarding::list(socket, link)?;
            }
            if ipv6 {
                dump.routes.extend(Detour::list(socket, link, true)?);
            }
            Ok(dump)
        };
        dump()
            .map(|dump| Mesh::found(&dump))
            .map_err(|source| failed("list the ways over", source))
    }
}

/// None on a kernel that has no IPv6.
fn rules6(socket: &mut Socket) -> io::Result<Vec<MarkRule>> {
    match MarkRule::list(socket, true) {
        Err(error) if errno(&error) == Some(libc::EAFNOSUPPORT) => Ok(Vec::new()),
        rules => rules,
    }
}

fn has_room6(mtu: u32) -> bool {
    mtu >= LEAST_MTU6
}

fn failed(operation: &'static str, source: io::Error) -> Error {
    Error::Kernel {
        operation,
        object: format!("the device {} to other nodes", names::TRANSIT),
        source,
    }
}
