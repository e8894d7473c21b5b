//! Virtual IPs as addresses of their network's bridge. A socket is led to a task before its first packet; what comes to
//! the address itself all the same is an echo request, which is answered, or for a service without a ready task, and
//! refused at once in the protocol's own words.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::{Errors, Node, Service};
use crate::error::{Error, Result};
use crate::firewall::FabricFirewall;
use crate::netlink::{Request, Route, errno};
use crate::nft::Transaction;

/// Acknowledgements of one batch must fit a socket's buffer.
const BATCH: usize = 64;

/// Network and virtual IP.
pub(super) type Anchor = (String, Ipv4Addr);

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
        let anchors = vips.iter().filter_map(|(vip, network)| match vip {
            IpAddr::V4(vip) => Some((network.clone(), *vip)),
            IpAddr::V6(_) => None,
        });
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
        errors.collect(self.address_anchors(&new, Route::add_address));
        errors.collect(self.address_anchors(&gone, Route::delete_address));
        errors.first()
    }

    /// The virtual IPs with the bridges that have them.
    pub(super) fn anchored(&self) -> impl Iterator<Item = (u32, Ipv4Addr)> {
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
        on.filter(|on| self.networks.contains_key(&on.network))
            .filter_map(|on| Some((on.network.clone(), on.vip?)))
            .collect()
    }

    /// Whether the service has it or, which is not looked at first because they are many, another one.
    fn wants_anchor(&self, service: &str, (network, vip): &Anchor) -> bool {
        let has = |service: &Service| {
            let mut networks = service.wanted.networks.iter();
            networks.any(|on| on.network == *network && on.vip == Some(*vip))
        };
        let wanted = self.services.get(service).is_some_and(has) || self.services.values().any(has);
        wanted && self.networks.contains_key(network)
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

    fn address_anchors(
        &mut self,
        anchors: &[Anchor],
        request: fn(u32, Ipv4Addr, u8) -> Request,
    ) -> Result<()> {
        let requests: Vec<_> = anchors
            .iter()
            .filter_map(|(network, vip)| {
                let bridge = self.networks.get(network)?.bridge;
                Some(request(bridge, *vip, 32))
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
