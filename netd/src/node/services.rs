//! Services: names, virtual IPs in the sandboxes that can see them, published ports in the fabric.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::{Errors, Node, Sandbox, Service, Vips};
use crate::dns::Zone;
use crate::error::{Error, Result};
use crate::firewall::{FabricFirewall, Frontend, TaskFirewall};
use crate::names;
use crate::netlink::{Flow, Socket};
use crate::nft::{Ip, Key, Transaction};
use crate::ports::Wanted;
use crate::sockets::VirtualIp;
use crate::types::{Backend, IngressPort, ServiceEndpoint, ServiceNetwork};

impl Node {
    /// See [`crate::Netd::set_service`].
    pub(crate) fn set_service(&mut self, wanted: ServiceEndpoint) -> Result<()> {
        names::check_id(&wanted.id)?;
        let old = self.services.remove(&wanted.id);
        let lead = virtual_ips(&wanted);
        let mut touched = networks_of(&wanted);
        touched.extend(old.iter().flat_map(|s| networks_of(&s.wanted)));
        let led = old.as_ref().map(|s| virtual_ips(&s.wanted)).unwrap_or_default();
        let mut errors = Errors::default();
        let before = old.map(|s| s.frontends).unwrap_or_default();
        let (kept, dropped): (Vec<_>, Vec<_>) = before
            .into_iter()
            .partition(|f| wanted.ports.iter().any(|p| serves(f, p)));
        self.ports.release(&owner(&wanted.name), &dropped);
        let new = self.reserve_missing(&wanted, &kept, &mut errors);
        let service = Service {
            frontends: [kept, new.clone()].concat(),
            wanted,
        };
        errors.collect(self.stores.services.write(&service.wanted.id, &service));
        self.services.insert(service.wanted.id.clone(), service);
        errors.collect(self.steer_sockets(&led, lead));
        errors.collect(self.extend_mesh());
        self.apply_services(&touched, &new, &dropped, &mut errors);
        errors.collect(self.follow_mesh());
        errors.first()
    }

    /// See [`crate::Netd::services`].
    pub(crate) fn service_ids(&self) -> Vec<String> {
        self.services.keys().cloned().collect()
    }

    /// See [`crate::Netd::services_on`].
    pub(crate) fn services_on(&self, network: &str) -> Vec<ServiceEndpoint> {
        let services = self.services.values().map(|service| &service.wanted);
        let on = |service: &&ServiceEndpoint| service.networks.iter().any(|on| on.network == network);
        services.filter(on).cloned().collect()
    }

    /// See [`crate::Netd::remove_service`].
    pub(crate) fn remove_service(&mut self, id: &str) -> Result<()> {
        let Some(service) = self.services.remove(id) else {
            return Ok(());
        };
        self.ports
            .release(&owner(&service.wanted.name), &service.frontends);
        let touched = networks_of(&service.wanted);
        let mut errors = Errors::default();
        errors.collect(self.stores.services.remove(id));
        errors.collect(self.steer_sockets(&virtual_ips(&service.wanted), Vec::new()));
        self.apply_services(&touched, &[], &service.frontends, &mut errors);
        errors.collect(self.follow_mesh());
        errors.first()
    }

    /// Hold the ports that are not held yet. One that another program has does not keep the service from the others.
    fn reserve_missing(
        &mut self,
        wanted: &ServiceEndpoint,
        kept: &[Frontend],
        errors: &mut Errors,
    ) -> Vec<Frontend> {
        let mut new = Vec::new();
        for port in wanted.ports.iter().filter(|p| !kept.iter().any(|f| serves(f, p))) {
            let one = Wanted {
                address: None,
                port: Some(port.published),
                same: false,
                protocol: port.protocol,
            };
            let reserved = self.ports.reserve(&self.host.netns, &owner(&wanted.name), &[one]);
            new.extend(errors.collect(reserved).into_iter().flatten());
        }
        new
    }

    /// Bring the kernel and the names in line after a service has changed. Goes on after errors.
    fn apply_services(
        &mut self,
        touched: &BTreeSet<String>,
        new: &[Frontend],
        old: &[Frontend],
        errors: &mut Errors,
    ) {
        errors.collect(self.change_fabric(Transaction::default(), "publish ports in"));
        errors.collect(self.anchor_vips());
        let mut host = Transaction::default();
        self.host_firewall.remove(&mut host, old);
        self.host_firewall.add(&mut host, new);
        errors.collect(self.change_host(host, "publish a service's ports in"));
        let sandboxes: Vec<String> = self
            .sandboxes
            .iter()
            .filter(|(_, s)| sees(s, touched))
            .map(|(id, _)| id.clone())
            .collect();
        for sandbox in &sandboxes {
            errors.collect(self.balance_sandbox(sandbox));
        }
        touched.iter().for_each(|network| self.refresh_zone(network));
    }

    /// Bring the virtual IPs in one sandbox's namespace in line.
    pub(super) fn balance_sandbox(&mut self, id: &str) -> Result<()> {
        self.admit_sandbox(id)?;
        let Some(sandbox) = self.sandboxes.get(id) else {
            return Ok(());
        };
        let vips = if sandbox.record.by_rules {
            self.virtual_ips_of(sandbox)
        } else {
            BTreeMap::new()
        };
        let (mut transaction, before) = match (&sandbox.vips, vips.is_empty()) {
            (Vips::Absent, true) => return Ok(()),
            (_, true) => (TaskFirewall::remove(), None),
            (Vips::Absent, false) => (TaskFirewall::ruleset(), Some(TaskFirewall::balancer())),
            (Vips::Unknown, false) => (TaskFirewall::replacement(), Some(TaskFirewall::balancer())),
            (Vips::Present(balancer), false) => (Transaction::default(), Some(balancer.clone())),
        };
        let next = before.map(|b| b.update(TaskFirewall::elements(&vips), &mut transaction));
        let Some(sandbox) = self.sandboxes.get_mut(id) else {
            return Ok(());
        };
        let Some(socket) = &mut sandbox.netfilter else {
            return Ok(());
        };
        let lost = match (&sandbox.vips, &next) {
            (Vips::Present(before), Some(next)) => before.lost(next),
            _ => Vec::new(), // without a table nothing is translated any more
        };
        let done = transaction
            .commit(socket)
            .and_then(|()| forget_flows(socket, &lost));
        sandbox.vips = match (&done, next) {
            (Err(_), _) => Vips::Unknown,
            (Ok(()), None) => Vips::Absent,
            (Ok(()), Some(balancer)) => Vips::Present(balancer),
        };
        let gone = matches!(sandbox.vips, Vips::Absent);
        done.map_err(|source| Error::Kernel {
            operation: "set virtual IPs in sandbox",
            object: id.to_owned(),
            source,
        })?;
        if gone { self.forget_rules(id) } else { Ok(()) }
    }

    /// A network's names of services.
    pub(super) fn name_services(&self, network: &str, zone: &mut Zone) {
        for service in self.services.values() {
            let ServiceEndpoint {
                name,
                networks,
                backends,
                ..
            } = &service.wanted;
            let Some(on) = networks.iter().find(|n| n.network == network) else {
                continue;
            };
            let tasks: Vec<_> = addresses(backends, network).collect();
            for alias in std::iter::once(name).chain(&on.aliases) {
                match on.vip {
                    Some(vip) => zone.add(alias, [vip]),
                    None => zone.add(alias, tasks.clone()),
                }
                zone.add(&format!("tasks.{alias}"), tasks.clone());
            }
            if let Some(vip) = on.vip {
                zone.point(vip, name);
            }
            name_ipv6(&service.wanted, on, zone);
            offer_ports(&service.wanted, on, zone);
            for backend in backends {
                if let Some(address) = address_on(backend, network) {
                    zone.add(&backend.name, [address]);
                    zone.point(address, &backend.name);
                }
            }
        }
    }

    fn virtual_ips_of(&self, sandbox: &Sandbox) -> BTreeMap<Ipv4Addr, Vec<Ipv4Addr>> {
        let mut vips = BTreeMap::new();
        for service in self.services.values() {
            for on in &service.wanted.networks {
                if let Some(vip) = on.vip
                    && sandbox.record.endpoints.iter().any(|e| e.network == on.network)
                {
                    vips.insert(vip, addresses(&service.wanted.backends, &on.network).collect());
                }
            }
        }
        vips
    }

    /// Everything that is published, by port at the fabric's uplink.
    pub(super) fn published(&self, ip: Ip) -> BTreeMap<Key, Vec<Key>> {
        let mut all = BTreeMap::new();
        for sandbox in self.sandboxes.values() {
            let Some(address) = self.way_out(sandbox, ip) else {
                continue;
            };
            for p in &sandbox.record.published {
                let front = FabricFirewall::frontend(p.publish.protocol, p.fabric_port);
                all.insert(
                    front,
                    vec![FabricFirewall::backend(address, p.publish.container_port)],
                );
            }
        }
        for service in self.services.values() {
            for frontend in &service.frontends {
                let Some(port) = service.wanted.ports.iter().find(|p| serves(frontend, p)) else {
                    continue;
                };
                let front = FabricFirewall::frontend(frontend.protocol, frontend.fabric_port);
                let backends = self.nearest(&service.wanted.backends, ip).into_iter();
                let backends = backends.map(|address| FabricFirewall::backend(address, port.target));
                all.insert(front, backends.collect());
            }
        }
        all
    }

    /// The tasks that answer at this node's published ports: its own or, only if it has none, those of other nodes. What
    /// another node answers has crossed the wire twice more. Between nodes that is IPv4.
    fn nearest(&self, backends: &[Backend], ip: Ip) -> Vec<IpAddr> {
        let (far, near): (Vec<_>, Vec<_>) = backends.iter().partition(|backend| backend.node.is_some());
        let near: Vec<_> = near
            .into_iter()
            .filter_map(|backend| self.reachable(backend, ip))
            .collect();
        if near.is_empty() && ip == Ip::V4 {
            return far
                .into_iter()
                .filter_map(|backend| self.reachable_far(backend))
                .map(Into::into)
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

/// Let UDP clients of lost backends find another one.
fn forget_flows(socket: &mut Socket, lost: &[(Key, Key)]) -> std::io::Result<()> {
    if !lost.is_empty() {
        Flow::forget(socket, |flow| TaskFirewall::is_stale(flow, lost))?;
    }
    Ok(())
}

/// Who holds a service's ports.
pub(super) fn owner(service: &str) -> String {
    format!("service {service}")
}

/// The service's virtual IPs with what is behind each.
pub(super) fn virtual_ips(service: &ServiceEndpoint) -> Vec<VirtualIp> {
    let mut found = Vec::new();
    for ServiceNetwork {
        network, vip, vip6, ..
    } in &service.networks
    {
        let behind =
            |of: &dyn Fn(&Backend) -> Option<IpAddr>| service.backends.iter().filter_map(of).collect();
        let v4 = |b: &Backend| address_on(b, network).map(IpAddr::from);
        let v6 = |b: &Backend| {
            let mut all = b.addresses6.iter().filter(|(on, _)| on == network);
            all.next().map(|(_, address)| IpAddr::from(*address))
        };
        let one = |address, backends| VirtualIp {
            address,
            network: network.clone(),
            backends,
        };
        found.extend(vip.map(|vip| one(vip.into(), behind(&v4))));
        found.extend(vip6.map(|vip| one(vip.into(), behind(&v6))));
    }
    found
}

/// A service's names on a network that has IPv6.
fn name_ipv6(service: &ServiceEndpoint, on: &ServiceNetwork, zone: &mut Zone) {
    let address = |b: &Backend| {
        let mut all = b.addresses6.iter().filter(|(network, _)| *network == on.network);
        all.next().map(|(_, address)| *address)
    };
    let tasks: Vec<_> = service.backends.iter().filter_map(address).collect();
    for alias in std::iter::once(&service.name).chain(&on.aliases) {
        match (on.vip6, on.vip) {
            (Some(vip), _) => zone.add(alias, [vip]),
            (None, None) => zone.add(alias, tasks.clone()),
            (None, Some(_)) => {} // reached through its virtual address, which is of the other family
        }
        zone.add(&format!("tasks.{alias}"), tasks.clone());
    }
    if let Some(vip) = on.vip6 {
        zone.point(vip, &service.name);
    }
    for backend in &service.backends {
        if let Some(address) = address(backend) {
            zone.add(&backend.name, [address]);
            zone.point(address, &backend.name);
        }
    }
}

/// Where a service's ports are, for those who ask for them by name (SRV): at its virtual address, or at its tasks.
fn offer_ports(service: &ServiceEndpoint, on: &ServiceNetwork, zone: &mut Zone) {
    let ports: Vec<_> = service.ports.iter().map(|p| (p.protocol, p.target)).collect();
    let here = |b: &&Backend| address_on(b, &on.network).is_some();
    let tasks: Vec<_> = service
        .backends
        .iter()
        .filter(here)
        .map(|b| b.name.clone())
        .collect();
    for alias in std::iter::once(&service.name).chain(&on.aliases) {
        match on.vip {
            Some(_) => zone.offer(alias, &ports, std::slice::from_ref(alias)),
            None => zone.offer(alias, &ports, &tasks),
        }
        zone.offer(&format!("tasks.{alias}"), &ports, &tasks);
    }
    for task in &tasks {
        zone.offer(task, &ports, std::slice::from_ref(task));
    }
}

fn networks_of(service: &ServiceEndpoint) -> BTreeSet<String> {
    service.networks.iter().map(|n| n.network.clone()).collect()
}

fn serves(frontend: &Frontend, port: &IngressPort) -> bool {
    frontend.port == port.published && frontend.protocol == port.protocol
}

pub(super) fn sees(sandbox: &Sandbox, networks: &BTreeSet<String>) -> bool {
    sandbox
        .record
        .endpoints
        .iter()
        .any(|e| networks.contains(&e.network))
}

pub(super) fn address_on(backend: &Backend, network: &str) -> Option<Ipv4Addr> {
    backend
        .addresses
        .iter()
        .find(|(n, _)| n == network)
        .map(|(_, address)| *address)
}

fn addresses<'a>(backends: &'a [Backend], network: &'a str) -> impl Iterator<Item = Ipv4Addr> + 'a {
    backends.iter().filter_map(move |b| address_on(b, network))
}
