//! What is missing in the fabric is made again: the uplink, bridges, ports, addresses, devices to other nodes and their
//! entries. What is there and as it should be is not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Errors, Node, SandboxRecord};
use crate::error::Result;
use crate::netlink::{Link, LinkAddress, LinkChange, Socket};
use crate::types::Endpoint;
use crate::watch::Loss;
use crate::{names, netns};

/// Links of the fabric by name.
type Links = BTreeMap<String, Link>;

impl Node {
    /// Something may have been lost. Our own changes are heard too: what is gone and was to go is no loss.
    pub(crate) fn mend(&mut self, losses: &[Loss]) -> Result<()> {
        let Some(loss) = losses.iter().find(|loss| self.misses(loss)) else {
            return Ok(());
        };
        if !matches!(loss, Loss::Perhaps | Loss::Resized(..)) {
            tracing::info!(?loss, "something of ours has gone; looking after it");
        }
        self.restore_links()
    }

    /// Bring everything in the fabric in line with the records. Goes on after errors.
    pub(super) fn restore_links(&mut self) -> Result<()> {
        let mut errors = Errors::default();
        let links: Links = self
            .fabric
            .links()?
            .into_iter()
            .map(|l| (l.name.clone(), l))
            .collect();
        errors.collect(self.restore_uplink(&links));
        errors.collect(self.restore_bridges(&links));
        errors.collect(self.restore_ports(&links));
        self.find_near();
        errors.collect(self.reload_direct());
        let spanning = self.overlay.carriers.keys().cloned().collect();
        self.turn_direct(&spanning, &mut errors, |node, errors| {
            errors.collect(node.sync_overlay());
        });
        self.lead_to_all();
        errors.collect(self.restore_mesh());
        errors.collect(self.publish_missing());
        errors.first()
    }

    fn misses(&self, loss: &Loss) -> bool {
        let mut carriers = self.overlay.carriers.values();
        match loss {
            Loss::Link(name) => {
                [names::UPLINK, names::TRANSIT].contains(&name.as_str())
                    || self
                        .networks
                        .values()
                        .any(|n| self.ports_of(&n.record).contains(name))
            }
            Loss::Address(lost) => self.needs(lost),
            Loss::Neighbour(link, address) => {
                self.misses_way(*link, |mesh| mesh.needs_neighbour(*address))
                    || carriers.any(|c| c.entries.knows(*link, *address))
            }
            Loss::Forwarding(link, mac) => {
                self.misses_way(*link, |mesh| mesh.needs_forwarding(*mac))
                    || carriers.any(|c| c.entries.forwards(*link, *mac))
            }
            Loss::Route(route) => {
                self.misses_way(route.link, |mesh| mesh.needs_route(route))
                    || self.is_direct(route.destination.addr())
            }
            Loss::Rule(rule) => self.misses_rule(*rule),
            Loss::Resized(link, mtu) => self
                .overlay
                .carried_by
                .is_some_and(|(own, was)| own == *link && was != *mtu),
            Loss::Perhaps => true,
        }
    }

    fn restore_uplink(&mut self, links: &Links) -> Result<()> {
        let address = IpAddr::V4(self.fabric.address);
        let addressed = self.fabric.addresses()?.iter().any(|one| one.address == address);
        let up = links.get(names::UPLINK).is_some_and(|link| link.up);
        if up && addressed && self.host.is_connected(self.fabric.host_address)? {
            return Ok(());
        }
        self.fabric.reconnect(&mut self.host)?;
        let mut errors = Errors::default();
        if let Some(uplink) = self.fabric.uplink6 {
            errors.collect(self.fabric.ensure_uplink6(&mut self.host, uplink));
        }
        let records: Vec<_> = self.networks.values().map(|n| n.record.clone()).collect();
        for record in records {
            errors.collect(self.route_to(&record));
            errors.collect(self.make_network6(&record));
        }
        errors.first()
    }

    fn restore_bridges(&mut self, links: &Links) -> Result<()> {
        let present = self.fabric.addresses()?;
        let mut errors = Errors::default();
        let records: Vec<_> = self
            .networks
            .iter()
            .map(|(id, n)| (id.clone(), n.record.clone()))
            .collect();
        for (id, record) in records {
            let state = &record.state;
            let link = links.get(&state.bridge).filter(|link| link.up);
            let whole = link.is_some_and(|link| {
                let has = |gateway: &IpAddr| {
                    let mut own = present.iter().filter(|one| one.link == link.index);
                    own.any(|one| one.address == *gateway)
                };
                state.gateways().iter().all(has)
            });
            if whole {
                continue;
            }
            let made = self
                .fabric
                .ensure_bridge(&state.bridge, state.gateway, state.subnet, state.mtu);
            if let (Some(index), Some(network)) = (errors.collect(made), self.networks.get_mut(&id)) {
                network.bridge = index;
                errors.collect(self.make_network6(&record));
            }
        }
        errors.collect(self.restore_vips(&present));
        errors.first()
    }

    /// The virtual IPs that are missing on the bridges, and those that are too many.
    pub(super) fn restore_vips(&mut self, present: &[LinkAddress]) -> Result<()> {
        let bridges: BTreeSet<_> = self.networks.values().map(|n| n.bridge).collect();
        let single = present.iter().filter(|one| one.is_single());
        let present: BTreeSet<(u32, IpAddr)> = single.map(|one| (one.link, one.address)).collect();
        let wanted: BTreeSet<_> = self.anchored().collect();
        let new = wanted.difference(&present);
        let new = new.map(|(link, address)| LinkAddress::add_single(*link, *address));
        let ghosts = present
            .difference(&wanted)
            .filter(|(link, _)| bridges.contains(link));
        let ghosts = ghosts.map(|(link, address)| LinkAddress::delete_single(*link, *address));
        let requests: Vec<_> = new.chain(ghosts).collect();
        self.fabric.carry_out(&requests, "set the virtual IPs of")
    }

    /// Whether something of ours had this address.
    fn needs(&self, lost: &LinkAddress) -> bool {
        let (link, address) = (lost.link, lost.address);
        address == IpAddr::V4(self.fabric.address)
            || self
                .fabric
                .uplink6
                .is_some_and(|uplink| address == IpAddr::V6(uplink.fabric))
            || self.is_own_probe(address)
            || self.anchored().any(|anchor| anchor == (link, address))
            || self
                .networks
                .values()
                .any(|n| n.bridge == link && n.record.state.gateways().contains(&address))
    }

    fn restore_ports(&mut self, links: &Links) -> Result<()> {
        let mut errors = Errors::default();
        let mut changes = Vec::new();
        let records: Vec<_> = self.sandboxes.values().map(|s| s.record.clone()).collect();
        for record in &records {
            let mut missing = Vec::new();
            for endpoint in &record.endpoints {
                let name = names::port(&record.id, &endpoint.network);
                let bridge = self.networks.get(&endpoint.network).map(|n| n.bridge);
                match links.get(&name) {
                    None => missing.push(endpoint.clone()),
                    Some(link) if link.up && link.master == bridge => {}
                    Some(_) => {
                        let plugged = LinkChange {
                            up: true,
                            master: bridge,
                            ..LinkChange::default()
                        };
                        changes.push(Link::change(&name, &plugged));
                    }
                }
            }
            if !missing.is_empty() {
                errors.collect(self.remake_links(record, &missing));
            }
        }
        errors.collect(self.fabric.carry_out(&changes, "plug containers into"));
        errors.first()
    }

    /// The interfaces of a container that lives on without them.
    fn remake_links(&mut self, record: &SandboxRecord, missing: &[Endpoint]) -> Result<()> {
        let path = names::netns(&self.config.run_dir, &record.id);
        let Some(namespace) = netns::open(&path)? else {
            return Ok(());
        };
        tracing::warn!(container.id = %record.id, count = missing.len(), "interfaces were missing; making them again");
        let mut inside = netns::run(&path, &namespace, Socket::route)?;
        self.make_links(&record.id, &namespace, &mut inside, missing)?;
        self.route_sandbox(&record.id)
    }
}
