//! What is published at the fabric's uplink, by port there, and where it leads: the ports of sandboxes and of services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::services::serves;
use super::{Node, Sandbox, Service};
use crate::firewall::{FabricFirewall, Frontend, Leads};
use crate::nft::{Ip, Key};
use crate::types::Backend;

impl Node {
    /// Everything.
    pub(super) fn published(&self, ip: Ip) -> BTreeMap<Key, Vec<Key>> {
        let sandboxes = self.sandboxes.values().flat_map(|s| self.published_by(s, ip));
        let services = self.services.values().flat_map(|s| self.published_for(s, ip));
        sandboxes.chain(services).collect()
    }

    /// Where a service's ports lead now, and that those which it has no longer lead nowhere.
    pub(super) fn leads_of_service(&self, id: &str, dropped: &[Frontend]) -> [Leads; 2] {
        [Ip::V4, Ip::V6].map(|ip| {
            let there = self.services.get(id).into_iter();
            let there = there.flat_map(|service| self.published_for(service, ip));
            let there = there.map(|(front, backs)| (front, Some(backs)));
            let dropped = dropped.iter().filter(|f| f.ip() == ip);
            dropped.map(nowhere).chain(there).collect()
        })
    }

    /// The same for a sandbox, whose ports are `own`, and for the services that it answers for.
    pub(super) fn leads_of_sandbox(&self, id: &str, own: &[Frontend]) -> [Leads; 2] {
        let answers = |service: &&Service| {
            let mut backends = service.wanted.backends.iter();
            !service.frontends.is_empty() && backends.any(|backend| backend.sandbox.as_deref() == Some(id))
        };
        let services: Vec<_> = self.services.values().filter(answers).collect();
        [Ip::V4, Ip::V6].map(|ip| {
            let sandbox = self.sandboxes.get(id).into_iter();
            let there = sandbox.flat_map(|sandbox| self.published_by(sandbox, ip));
            let beside = services
                .iter()
                .flat_map(|service| self.published_for(service, ip));
            let there = there.chain(beside).map(|(front, backs)| (front, Some(backs)));
            let own = own.iter().filter(|f| f.ip() == ip);
            own.map(nowhere).chain(there).collect()
        })
    }

    fn published_by(&self, sandbox: &Sandbox, ip: Ip) -> impl Iterator<Item = (Key, Vec<Key>)> {
        let address = self.way_out(sandbox, ip).into_iter();
        address.flat_map(move |address| {
            let published = sandbox.record.published.iter();
            published.filter(move |p| p.frontend().ip() == ip).map(move |p| {
                let front = FabricFirewall::frontend(p.publish.protocol, p.fabric_port);
                let back = FabricFirewall::backend(address, p.publish.container_port);
                (front, vec![back])
            })
        })
    }

    fn published_for(&self, service: &Service, ip: Ip) -> impl Iterator<Item = (Key, Vec<Key>)> {
        let held = service.frontends.iter().filter(move |f| f.ip() == ip);
        held.filter_map(move |frontend| {
            let port = service.wanted.ports.iter().find(|p| serves(frontend, p))?;
            let front = FabricFirewall::frontend(frontend.protocol, frontend.fabric_port);
            let backends = self.nearest(&service.wanted.backends, ip).into_iter();
            let backends = backends.map(|address| FabricFirewall::backend(address, port.target));
            Some((front, backends.collect()))
        })
    }

    /// The tasks that answer at this node's published ports: its own or, only if it has none, those of other nodes. What
    /// another node answers has crossed the wire twice more.
    fn nearest(&self, backends: &[Backend], ip: Ip) -> Vec<IpAddr> {
        let (far, near): (Vec<_>, Vec<_>) = backends.iter().partition(|backend| backend.node.is_some());
        let near: Vec<_> = near
            .into_iter()
            .filter_map(|backend| self.reachable(backend, ip))
            .collect();
        if near.is_empty() {
            return far
                .into_iter()
                .filter_map(|backend| self.reachable_far(backend, ip))
                .collect();
        }
        near
    }

    /// The address at which the fabric reaches a task and from which its answers come back: that of its default route.
    fn reachable(&self, backend: &Backend, ip: Ip) -> Option<IpAddr> {
        if let Some(sandbox) = backend.sandbox.as_ref().and_then(|id| self.sandboxes.get(id)) {
            return self.way_out(sandbox, ip);
        }
        let open = |network: &str| {
            self.networks
                .get(network)
                .is_some_and(|n| !n.record.config.internal)
        };
        let mut all = backend.all_addresses();
        all.find(|(network, address)| Ip::of(*address) == ip && open(network))
            .map(|(_, address)| address)
    }

    /// The address on the interface with the default route.
    fn way_out(&self, sandbox: &Sandbox, ip: Ip) -> Option<IpAddr> {
        let endpoints = &sandbox.record.endpoints;
        match ip {
            Ip::V4 => self.default_endpoint(endpoints).map(|e| e.ipv4.into()),
            Ip::V6 => self
                .default_endpoint6(endpoints)?
                .ipv6
                .map(|v6| v6.address.into()),
        }
    }
}

fn nowhere(frontend: &Frontend) -> (Key, Option<Vec<Key>>) {
    let front = FabricFirewall::frontend(frontend.protocol, frontend.fabric_port);
    (front, None)
}
