//! The host's side of the data path between nodes: how large packets may be there, and who may send them.

use std::io;
use std::net::IpAddr;

use super::{NetworkRecord, Node};
use crate::error::{Error, Result};
use crate::firewall::UnderlayFirewall;
use crate::names;
use crate::netlink::{Link, LinkChange, Socket};
use crate::netns;
use crate::nft::{Family, Transaction};
use crate::overlay::{Limits, WIREGUARD, fitting_mtu};
use crate::types::NetworkConfig;

impl Node {
    /// See which of the nodes' links is the narrowest, and whether this node's address is the host's own.
    pub(super) fn measure_underlay(&mut self) {
        let Some(underlay) = self.overlay.underlay.clone() else {
            (self.overlay.mtu, self.overlay.carried_by) = (None, None);
            return;
        };
        let carrier = self.host.carrier(underlay.address).unwrap_or_default();
        self.overlay.carried_by = carrier.as_ref().map(|link| (link.index, link.mtu));
        let addresses: Vec<_> = underlay.peers.iter().map(|peer| peer.address).collect();
        let mut limits = Limits {
            here: self.host.path_mtus(&addresses),
            there: underlay.peers.iter().map(|peer| peer.mtu).collect(),
        };
        limits.here.extend(carrier.map(|link| link.mtu));
        self.overlay.mtu = Some(limits.underlay());
    }

    /// Write the table that guards the data path, or take it away.
    pub(super) fn guard_underlay(&mut self) -> Result<()> {
        let wanted = self.wanted_guard();
        if self.overlay.guard == wanted && self.overlay.guard_known {
            return Ok(());
        }
        self.overlay.guard_known = false;
        let table = names::underlay_table(&self.config.instance);
        let (mut result, kept) = match &wanted {
            Some(guard) => (self.commit_guard(guard.ruleset()), Some(guard.family())),
            None => (Ok(()), None),
        };
        for family in [Family::Ipv4, Family::Ipv6] {
            if Some(family) != kept {
                let removed = self.commit_guard(UnderlayFirewall::delete(&table, family));
                // A kernel without IPv6 has no such tables either.
                result = result.and(if family == Family::Ipv4 { removed } else { Ok(()) });
            }
        }
        self.overlay.guard_known = result.is_ok();
        self.overlay.guard = wanted;
        result
    }

    /// What is in the kernel may be anything.
    pub(super) fn restore_guard(&mut self) -> Result<()> {
        self.overlay.guard_known = false;
        self.guard_underlay()
    }

    /// Packets of this network that fit the underlay; `None` if there is nothing to fit.
    pub(super) fn fitting(&self, config: &NetworkConfig) -> Option<u32> {
        let address = self.overlay.underlay.as_ref()?.address;
        Some(fitting_mtu(self.overlay.mtu?, address, config.overlay?.encrypted))
    }

    /// Let a network's packets have the size that fits now, on all its links; `links` are those of the fabric.
    pub(super) fn sync_mtu(&mut self, id: &str, links: &[Link]) -> Result<()> {
        let record = self.network(id)?.clone();
        let Some(fits) = self.fitting(&record.config) else {
            return Ok(());
        };
        let mtu = record.config.mtu.unwrap_or(fits);
        let ports = self.ports_of(&record);
        let ours = |link: &&Link| ports.contains(&link.name);
        if record.state.mtu == mtu && links.iter().filter(ours).all(|link| link.mtu == mtu) {
            return Ok(());
        }
        tracing::info!(
            network = record.config.name,
            from = record.state.mtu,
            to = mtu,
            "another packet size"
        );
        let names: Vec<_> = links.iter().filter(ours).map(|link| link.name.as_str()).collect();
        // Nobody may send what the next one does not take.
        if mtu < record.state.mtu {
            self.resize_interfaces(id, mtu);
            self.resize(&names, mtu)?;
        } else {
            self.resize(&names, mtu)?;
            self.resize_interfaces(id, mtu);
        }
        let Some(network) = self.networks.get_mut(id) else {
            return Ok(());
        };
        network.record.state.mtu = mtu;
        self.stores.networks.write(id, &network.record)
    }

    /// Likewise for the tunnels of encrypted networks.
    pub(super) fn fit_tunnels(&mut self, links: &[Link]) -> Result<()> {
        let Some(mtu) = self.overlay.mtu.map(|mtu| mtu.saturating_sub(WIREGUARD)) else {
            return Ok(());
        };
        match links.iter().find(|link| link.name == names::TUNNELS) {
            Some(link) if link.mtu != mtu => self.resize(&[names::TUNNELS], mtu),
            _ => Ok(()),
        }
    }

    /// Networks whose wanted size does not fit.
    pub(super) fn tight_networks(&self) -> impl Iterator<Item = String> {
        let configs = self.networks.values().map(|n| &n.record.config);
        configs.filter_map(|config| {
            let (mtu, fits) = (config.mtu?, self.fitting(config)?);
            (mtu > fits).then(|| {
                format!(
                    "network {}: packets of {mtu} bytes do not fit the links between the nodes, which leave {fits}",
                    config.name
                )
            })
        })
    }

    /// Nodes to which nothing can be sent from this node's address.
    pub(super) fn nodes_apart(&self) -> impl Iterator<Item = String> {
        let underlay = self.overlay.underlay.iter();
        underlay.flat_map(|underlay| {
            let own = underlay.address;
            let apart = underlay
                .peers
                .iter()
                .filter(move |peer| peer.address.is_ipv4() != own.is_ipv4());
            apart.map(move |peer| {
                format!(
                    "no network reaches node {} at {}: the data path of this node, {own}, is of another IP version",
                    peer.node, peer.address
                )
            })
        })
    }

    /// Names of all links of a network in the fabric.
    pub(super) fn ports_of(&self, record: &NetworkRecord) -> Vec<String> {
        let id = &record.config.id;
        let on = |s: &&super::Sandbox| s.record.endpoints.iter().any(|e| e.network == *id);
        let sandboxes = self.sandboxes.values().filter(on);
        let ports = sandboxes.map(|s| names::port(&s.record.id, id));
        [record.state.bridge.clone(), names::vxlan(id)]
            .into_iter()
            .chain(ports)
            .collect()
    }

    fn resize(&mut self, links: &[&str], mtu: u32) -> Result<()> {
        let requests = links.iter().map(|name| resized(name, mtu)).collect();
        let done = self.fabric.route.batch(requests);
        done.map_err(|source| Error::Kernel {
            operation: "change the packet size of",
            object: links.join(", "),
            source,
        })
    }

    /// The ends inside the sandboxes. One that cannot be entered is about to go.
    fn resize_interfaces(&self, id: &str, mtu: u32) {
        for record in self.sandboxes.values().map(|s| &s.record) {
            let Some(endpoint) = record.endpoints.iter().find(|e| e.network == id) else {
                continue;
            };
            let path = names::netns(&self.config.run_dir, &record.id);
            let work = || -> io::Result<()> { Socket::route()?.request(resized(&endpoint.interface, mtu)) };
            let done =
                netns::open(&path).and_then(|netns| netns.map_or(Ok(()), |n| netns::run(&path, &n, work)));
            if let Err(error) = done {
                tracing::warn!(container.id = %record.id, %error, "packet size not changed");
            }
        }
    }

    fn wanted_guard(&self) -> Option<UnderlayFirewall> {
        let underlay = self.overlay.underlay.as_ref()?;
        let fits = |address: &IpAddr| address.is_ipv4() == underlay.address.is_ipv4();
        Some(UnderlayFirewall {
            table: names::underlay_table(&self.config.instance),
            uplink: self.host.uplink.clone(),
            address: underlay.address,
            own: self.overlay.carried_by.is_some(),
            port: underlay.port,
            nodes: underlay
                .peers
                .iter()
                .map(|peer| peer.address)
                .filter(fits)
                .collect(),
        })
    }

    fn commit_guard(&mut self, transaction: Transaction) -> Result<()> {
        let done = transaction.commit(&mut self.host.netfilter);
        done.map_err(|source| Error::Kernel {
            operation: "guard",
            object: "the data path between nodes".into(),
            source,
        })
    }
}

fn resized(name: &str, mtu: u32) -> crate::netlink::Request {
    let change = LinkChange {
        mtu: Some(mtu),
        ..LinkChange::default()
    };
    Link::change(name, &change)
}
