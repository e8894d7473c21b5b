//! The VXLAN devices of networks that span nodes, and the entries that lead to their members. The devices are made from the
//! host's namespace, so that their UDP sockets are there, and live in the fabric; those of encrypted networks are made
//! inside the fabric, where the tunnels are. What is as it should be is left alone: a restart loses no packet.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use super::{Errors, NetworkRecord, Node};
use crate::error::{Error, Result};
use crate::netlink::{Link, LinkChange, PortSettings, Vxlan, VxlanSettings, errno};
use crate::overlay::{Entries, Nodes, Ports};
use crate::types::{Endpoint, Overlay};
use crate::{names, tunnels};

/// linux/rtnetlink.h
const RTM_DELNEIGH: u16 = 29;
/// A fabric of a moment ago, whose devices the kernel is still taking apart.
pub(super) const PATIENCE: (u32, Duration) = (100, Duration::from_millis(20));

/// What the kernel has of one network, as far as we know.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) ports: Ports,
    pub(super) entries: Entries,
}

impl Node {
    /// Bring everything between nodes in line with the records and with what the kernel really has.
    pub(super) fn sync_overlay(&mut self) -> Result<()> {
        let mut errors = Errors::default();
        errors.collect(self.guard_underlay());
        self.measure_underlay();
        let links = self.fabric.links()?;
        errors.collect(self.fit_tunnels(&links));
        let spanning = self
            .networks
            .iter()
            .filter(|(_, n)| n.record.config.overlay.is_some());
        let ids: Vec<_> = spanning.map(|(id, _)| id.clone()).collect();
        for id in ids {
            errors.collect(self.sync_mtu(&id, &links));
            errors.collect(self.sync_carrier(&id, &links));
        }
        errors.first()
    }

    /// Bring one network's device and entries in line; `links` are those of the fabric. Nothing to do for one that does not
    /// span nodes.
    pub(super) fn sync_carrier(&mut self, id: &str, links: &[Link]) -> Result<()> {
        let Some(network) = self.networks.get(id) else {
            return Ok(());
        };
        let (record, bridge) = (network.record.clone(), network.bridge);
        let Some(overlay) = record.config.overlay else {
            return Ok(());
        };
        let name = names::vxlan(id);
        let present = links.iter().find(|link| link.name == name);
        let Some(wanted) = self.wanted_vxlan(&overlay, present) else {
            return self.drop_carrier(id);
        };
        let index = match present {
            Some(link) if link.vxlan == Some(wanted) => {
                let orderly =
                    link.up && link.master == Some(bridge) && link.port == Some(PortSettings::STATIC);
                if !orderly {
                    self.plug(&name, bridge)?;
                }
                link.index
            }
            other => {
                self.drop_carrier(id)?;
                if other.is_some() {
                    tracing::info!(
                        network = record.config.name,
                        ?wanted,
                        "making the VXLAN device anew"
                    );
                }
                self.create_vxlan(&record, wanted, bridge)?
            }
        };
        let ports = Ports { bridge, vxlan: index };
        let present = Entries::present(&mut self.fabric.route, ports).map_err(|e| failed("list", id, e))?;
        self.program(id, ports, &present)
    }

    /// Take a network's device away, and with it its forwarding entries. Fine if there is none.
    pub(super) fn drop_carrier(&mut self, id: &str) -> Result<()> {
        self.fabric.delete_link(&names::vxlan(id))?;
        let Some(carrier) = self.overlay.carriers.remove(id) else {
            return Ok(());
        };
        let requests = Entries::default().changes(&carrier.entries.without_forwarding());
        match self.fabric.route.bulk(&requests) {
            Ok(_) => Ok(()), // gone with the bridge already is fine
            Err(error) => Err(failed("withdraw", id, error)),
        }
    }

    /// The members of these networks have changed: tell the kernel what is different.
    pub(super) fn sync_members(&mut self, networks: &BTreeSet<String>, errors: &mut Errors) {
        for id in networks {
            let Some(carrier) = self.overlay.carriers.remove(id) else {
                continue;
            };
            let done = self.program(id, carrier.ports, &carrier.entries);
            if done.is_err() {
                // What we believed of the kernel is not so: look.
                let again = self
                    .fabric
                    .links()
                    .and_then(|links| self.sync_carrier(id, &links));
                errors.collect(again);
            }
        }
    }

    /// These endpoints are this node's from now on, or not any more: what was said of members with the same addresses may
    /// have to go, or come back.
    pub(super) fn sync_addresses(&mut self, endpoints: &[Endpoint], errors: &mut Errors) {
        let disputed = |e: &&Endpoint| {
            self.overlay.carriers.get(&e.network).is_some_and(|carrier| {
                let told = |address: IpAddr| {
                    carrier.entries.knows(carrier.ports.bridge, address)
                        || self.overlay.has_member(&e.network, address)
                };
                e.addresses().any(told)
            })
        };
        let networks: BTreeSet<_> = endpoints
            .iter()
            .filter(disputed)
            .map(|e| e.network.clone())
            .collect();
        self.sync_members(&networks, errors);
    }

    /// From what the kernel has to what is wanted.
    fn program(&mut self, id: &str, ports: Ports, present: &Entries) -> Result<()> {
        let wanted = self.wanted_entries(id, ports);
        let requests = wanted.changes(present);
        let refusals = self
            .fabric
            .route
            .bulk(&requests)
            .map_err(|e| failed("program", id, e))?;
        let gone = |index: usize, errno| requests[index].kind == RTM_DELNEIGH && errno == libc::ENOENT;
        match refusals.into_iter().find(|r| !gone(r.index, r.errno)) {
            Some(refusal) => Err(failed("program", id, refusal.into())),
            None => {
                let carrier = Carrier {
                    ports,
                    entries: wanted,
                };
                self.overlay.carriers.insert(id.to_owned(), carrier);
                Ok(())
            }
        }
    }

    fn wanted_entries(&self, id: &str, ports: Ports) -> Entries {
        let overlay = self.networks.get(id).and_then(|n| n.record.config.overlay);
        let nodes = overlay
            .map(|overlay| self.nodes(overlay.encrypted))
            .unwrap_or_default();
        let endpoints = self.sandboxes.values().flat_map(|s| &s.record.endpoints);
        let own = endpoints
            .filter(|e| e.network == id)
            .flat_map(Endpoint::addresses)
            .collect();
        let has6 = self
            .networks
            .get(id)
            .is_some_and(|n| n.record.state.ipv6.is_some());
        // A bridge without IPv6 has no such neighbours.
        let unasked = |address: IpAddr| self.is_direct(address) || (address.is_ipv6() && !has6);
        Entries::wanted(id, self.overlay.members.values(), &nodes, &own, unasked, ports)
    }

    /// Where the other nodes' VXLAN devices are. One that cannot encrypt is nowhere, for an encrypted network.
    fn nodes(&self, encrypted: bool) -> Nodes {
        let Some(underlay) = &self.overlay.underlay else {
            return Nodes::new();
        };
        let plain = |address: IpAddr| (address.is_ipv4() == underlay.address.is_ipv4()).then_some(address);
        let tunnel = |peer| tunnels::key_of(peer).map(|key| IpAddr::from(tunnels::address(&key)));
        let peers = underlay.peers.iter();
        peers
            .filter_map(|peer| {
                let address = if encrypted {
                    tunnel(peer)
                } else {
                    plain(peer.address)
                };
                Some((peer.node.clone(), address?))
            })
            .collect()
    }

    /// The device that a network should have now. `present` keeps its local address also while the host has lost it.
    pub(super) fn wanted_vxlan(&self, overlay: &Overlay, present: Option<&Link>) -> Option<VxlanSettings> {
        let underlay = self.overlay.underlay.as_ref()?;
        let address = underlay.address;
        let local = if overlay.encrypted {
            tunnels::address(&self.overlay.tunnels.as_ref()?.public_key).into()
        } else if self.overlay.carried_by.is_some()
            || present.and_then(|l| l.vxlan).is_some_and(|v| v.local == address)
        {
            address
        } else if address.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        Some(VxlanSettings {
            vni: overlay.vni,
            port: underlay.port,
            local,
            learning: false,
        })
    }

    fn create_vxlan(&mut self, record: &NetworkRecord, settings: VxlanSettings, bridge: u32) -> Result<u32> {
        let (id, name) = (&record.config.id, names::vxlan(&record.config.id));
        let create = Vxlan {
            name: &name,
            settings,
            mtu: record.state.mtu,
            mac: None,
            netns: self.fabric.netns.as_fd(),
        }
        .create();
        let encrypted = record.config.overlay.is_some_and(|overlay| overlay.encrypted);
        let mut left = PATIENCE.0;
        loop {
            let socket = if encrypted {
                &mut self.fabric.route
            } else {
                &mut self.host.route
            };
            match socket.request(create.clone()) {
                Ok(()) => break,
                Err(e) if errno(&e) == Some(libc::EEXIST) && left > 0 => left -= 1,
                Err(e) if errno(&e) == Some(libc::EEXIST) => {
                    return Err(Error::VniTaken {
                        network: record.config.name.clone(),
                        vni: settings.vni,
                        port: settings.port,
                    });
                }
                Err(e) => return Err(failed("create", id, e)),
            }
            self.remove_namesakes(settings, id)?;
            std::thread::sleep(PATIENCE.1);
        }
        self.plug(&name, bridge)?;
        let link = Link::find(&mut self.fabric.route, &name).map_err(|e| failed("find", id, e))?;
        link.map(|link| link.index)
            .ok_or_else(|| failed("find", id, io::ErrorKind::NotFound.into()))
    }

    /// Devices in the fabric that carry what this one is to carry, of networks that are no more.
    fn remove_namesakes(&mut self, wanted: VxlanSettings, id: &str) -> Result<()> {
        let same = |link: &Link| {
            let settings = link
                .vxlan
                .filter(|v| v.vni == wanted.vni && v.port == wanted.port);
            settings.is_some() && link.name.starts_with(names::VXLAN_PREFIX)
        };
        for link in self.fabric.links()?.into_iter().filter(same) {
            let owner = self
                .networks
                .keys()
                .find(|other| names::vxlan(other) == link.name);
            if owner.is_none_or(|owner| owner == id) {
                self.fabric.delete_link(&link.name)?;
            }
        }
        Ok(())
    }

    /// Make the device a port of the bridge, and only then raise it: nothing gets out before its port is silent.
    fn plug(&mut self, name: &str, bridge: u32) -> Result<()> {
        let change = |master, up| LinkChange {
            master,
            up,
            ..LinkChange::default()
        };
        let requests = vec![
            Link::change(name, &change(Some(bridge), false)),
            PortSettings::STATIC.set(name),
            Link::change(name, &change(None, true)),
        ];
        let done = self.fabric.route.batch(requests);
        done.map_err(|source| Error::Kernel {
            operation: "set up",
            object: format!("link {name}"),
            source,
        })
    }
}

fn failed(operation: &'static str, network: &str, source: io::Error) -> Error {
    Error::Kernel {
        operation,
        object: format!("the way to other nodes of network {network}"),
        source,
    }
}
