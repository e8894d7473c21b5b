//! Virtual IPs as addresses of their network's bridge. A socket is led to a task before its first packet; what comes to
//! the address itself all the same is an echo request, which is answered, or for a service without a ready task, and
//! refused at once in the protocol's own words.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Errors, Node, Service};
use crate::error::{Error, Result};
use crate::firewall::FabricFirewall;
use crate::netlink::{LinkAddress, Request, errno};
use crate::nft::Transaction;
use crate::types::ServiceNetwork;

/// Acknowledgements of one batch must fit a socket's buffer.
const BATCH: usize = 64;

/// Network and virtual IP.
pub(super) type Anchor = (String, IpAddr);

impl Node {
    /// Bring the bridges' addresses in line with the services.
    pub(super) fn anchor_vips(&mut self) -> Result<()> {
        let wanted = self.wanted_anchors();
        let gone = self.anchors.difference(&wanted).cloned().collect();
        let new = wanted.difference(&self.anchors).cloned().collect();
        self.change_anchors(new, gone)
    }

    /// The same for these virtual IPs, which the service has got or lost.
    pub(super) fn anchor_these(&mut self, service: &str, vips: &BTreeSet<(IpAddr, String)>) -> Result<()> {
        let anchors = vips.iter().map(|(vip, network)| (network.clone(), *vip));
        let is_wrong = |anchor: &Anchor| self.wants_anchor(service, anchor) != self.anchors.contains(anchor);
        let wrong = anchors.filter(is_wrong);
        let (gone, new) = wrong.partition(|anchor| self.anchors.contains(anchor));
        self.change_anchors(new, gone)
    }

    fn change_anchors(&mut self, new: Vec<Anchor>, gone: Vec<Anchor>) -> Result<()> {
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.anchors.extend(new.iter().cloned());
        for anchor in &gone {
            self.anchors.remove(anchor);
        }
        let mut filter = Transaction::default();
        self.admit_anchors(&mut filter, &new, true);
        self.admit_anchors(&mut filter, &gone, false);
        let mut errors = Errors::default();
        errors.collect(self.change_fabric_at(filter, Default::default(), "admit virtual IPs to"));
        errors.collect(self.address_anchors(&new, LinkAddress::add_single));
        errors.collect(self.address_anchors(&gone, LinkAddress::delete_single));
        errors.first()
    }

    /// The virtual IPs with the bridges that have them.
    pub(super) fn anchored(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        let bridge = |network: &String| self.networks.get(network).map(|n| n.bridge);
        let all = self.anchors.iter();
        all.filter_map(move |(network, vip)| Some((bridge(network)?, *vip)))
    }

    /// Add to `filter` that every virtual IP may be spoken to from its own network.
    pub(super) fn restore_anchors(&self, filter: &mut Transaction) {
        let all: Vec<_> = self.anchors.iter().cloned().collect();
        self.admit_anchors(filter, &all, true);
    }

    fn wanted_anchors(&self) -> BTreeSet<Anchor> {
        let on = self.services.values().flat_map(|s| &s.wanted.networks);
        let all = on.flat_map(|on| vips(on).map(|vip| (on.network.clone(), vip)));
        all.filter(|anchor| self.has_room(anchor)).collect()
    }

    /// Whether the service has it or, which is not looked at first because they are many, another one.
    fn wants_anchor(&self, service: &str, anchor: &Anchor) -> bool {
        let (network, vip) = anchor;
        let has = |service: &Service| {
            let mut networks = service.wanted.networks.iter();
            networks.any(|on| on.network == *network && vips(on).any(|own| own == *vip))
        };
        let wanted = self.services.get(service).is_some_and(has) || self.services.values().any(has);
        wanted && self.has_room(anchor)
    }

    /// Whether the network is there, and its bridge has addresses of this version.
    fn has_room(&self, (network, vip): &Anchor) -> bool {
        let network = self.networks.get(network);
        network.is_some_and(|n| vip.is_ipv4() || n.record.state.ipv6.is_some())
    }

    fn admit_anchors(&self, filter: &mut Transaction, anchors: &[Anchor], admit: bool) {
        let spoken: Vec<_> = anchors
            .iter()
            .map(|(network, vip)| (crate::names::bridge(network), *vip))
            .collect();
        if admit {
            FabricFirewall::admit(filter, &spoken);
        } else {
            FabricFirewall::dismiss(filter, &spoken);
        }
    }

    fn address_anchors(&mut self, anchors: &[Anchor], request: fn(u32, IpAddr) -> Request) -> Result<()> {
        let requests: Vec<_> = anchors
            .iter()
            .filter_map(|(network, vip)| {
                let bridge = self.networks.get(network)?.bridge;
                Some(request(bridge, *vip))
            })
            .collect();
        for batch in requests.chunks(BATCH) {
            match self.fabric.route.batch(batch.to_vec()) {
                // Gone already, with its bridge or by another hand.
                Err(error) if errno(&error) == Some(libc::EADDRNOTAVAIL) => {}
                done => done.map_err(|source| Error::Kernel {
                    operation: "address",
                    object: "virtual IPs".into(),
                    source,
                })?,
            }
        }
        Ok(())
    }
}

/// A service's virtual IPs on a network.
fn vips(on: &ServiceNetwork) -> impl Iterator<Item = IpAddr> {
    let v6 = on.vip6.map(IpAddr::from);
    on.vip.map(IpAddr::from).into_iter().chain(v6)
}
