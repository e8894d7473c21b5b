//! Services: names, virtual IPs in the sandboxes that can see them, published ports in the fabric.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Errors, Node, Sandbox, Service, Vips};
use crate::dns::{Names, Source};
use crate::error::{Error, Result};
use crate::firewall::{Balancer, Frontend, Leads, Step, TaskFirewall};
use crate::names;
use crate::netlink::{Flow, Socket};
use crate::nft::{Ip, Key, Transaction};
use crate::ports::Wanted;
use crate::sockets::VirtualIp;
use crate::types::{Backend, IngressPort, ServiceEndpoint, ServiceNetwork};

/// A change of one service.
#[derive(Debug)]
struct Changed {
    id: String,
    /// On which it is, or was.
    networks: BTreeSet<String>,
    /// Virtual IPs that it has or had, each with its network.
    vips: BTreeSet<(IpAddr, String)>,
    /// Ports that it has now, and those that it has no longer.
    new: Vec<Frontend>,
    dropped: Vec<Frontend>,
}

/// What is to happen to the table of virtual IPs in a sandbox.
enum Rules {
    None,
    Remove,
    Change(Step),
    Anew(Balancer, Step),
}

impl Node {
    /// See [`crate::Netd::set_service`].
    pub(crate) fn set_service(&mut self, wanted: ServiceEndpoint) -> Result<()> {
        names::check_id(&wanted.id)?;
        self.open_ipv6(&wanted)?;
        let old = self.services.remove(&wanted.id);
        let lead = virtual_ips(&wanted);
        let mut touched = networks_of(&wanted);
        touched.extend(old.iter().flat_map(|s| networks_of(&s.wanted)));
        let led = old.as_ref().map(|s| virtual_ips(&s.wanted)).unwrap_or_default();
        let mut errors = Errors::default();
        let meshed = touched.iter().any(|network| self.is_ingress(network));
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
        let id = service.wanted.id.clone();
        errors.collect(self.stores.services.write(&id, &service));
        self.services.insert(id.clone(), service);
        let changed = Changed {
            id,
            vips: led
                .iter()
                .chain(&lead)
                .map(|vip| (vip.address, vip.network.clone()))
                .collect(),
            networks: touched,
            new,
            dropped,
        };
        errors.collect(self.steer_sockets(&led, lead));
        if meshed && errors.collect(self.extend_mesh()) != Some(false) {
            // Others may have become reachable, too.
            errors.collect(self.change_fabric(Transaction::default(), "publish ports in"));
        }
        self.apply_service(&changed, &mut errors);
        if meshed {
            errors.collect(self.follow_mesh());
        }
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
        let led = virtual_ips(&service.wanted);
        let changed = Changed {
            id: id.to_owned(),
            vips: led.iter().map(|vip| (vip.address, vip.network.clone())).collect(),
            networks: networks_of(&service.wanted),
            new: Vec::new(),
            dropped: service.frontends,
        };
        let mut errors = Errors::default();
        errors.collect(self.stores.services.remove(id));
        errors.collect(self.steer_sockets(&led, Vec::new()));
        self.apply_service(&changed, &mut errors);
        if changed.networks.iter().any(|network| self.is_ingress(network)) {
            errors.collect(self.follow_mesh());
        }
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
        for (port, ip) in self.missing(wanted, kept) {
            let one = Wanted {
                address: (ip == Ip::V6).then_some(Ipv6Addr::UNSPECIFIED.into()),
                port: Some(port.published),
                same: false,
                protocol: port.protocol,
            };
            let reserved = self.ports.reserve(&self.host.netns, &owner(&wanted.name), &[one]);
            new.extend(errors.collect(reserved).into_iter().flatten());
        }
        new
    }

    /// Bring the kernel and the names in line after a service has changed: what is its own, and nothing else, for there may
    /// be thousands of others. Goes on after errors.
    fn apply_service(&mut self, changed: &Changed, errors: &mut Errors) {
        let leads = self.leads_of_service(&changed.id, &changed.dropped);
        errors.collect(self.change_fabric_at(Transaction::default(), leads, "publish ports in"));
        errors.collect(self.anchor_these(&changed.id, &changed.vips));
        let mut host = Transaction::default();
        self.host_firewall.remove(&mut host, &changed.dropped);
        self.host_firewall.add(&mut host, &changed.new);
        errors.collect(self.change_host(host, "publish a service's ports in"));
        let ruled = |s: &Sandbox| s.record.by_rules && sees(s, &changed.networks);
        let sandboxes = self.sandboxes.iter().filter(|(_, s)| ruled(s));
        let sandboxes: Vec<_> = sandboxes.map(|(id, _)| id.clone()).collect();
        for sandbox in &sandboxes {
            for ip in Ip::BOTH {
                errors.collect(self.translate(sandbox, ip, Some(changed)));
            }
        }
        for network in &changed.networks {
            self.rename(network, Source::Service(changed.id.clone()));
        }
    }

    /// Bring the virtual IPs in one sandbox's namespace in line.
    pub(super) fn balance_sandbox(&mut self, id: &str) -> Result<()> {
        self.admit_sandbox(id)?;
        let mut errors = Errors::default();
        for ip in Ip::BOTH {
            errors.collect(self.translate(id, ip, None));
        }
        errors.first()
    }

    /// Bring the packet filters of one sandbox and IP version in line; as to this one service only, if they are known to be in line with
    /// the others.
    fn translate(&mut self, id: &str, ip: Ip, changed: Option<&Changed>) -> Result<()> {
        let mut transaction = Transaction::default();
        let plan = match self.sandboxes.get(id) {
            Some(sandbox) => self.plan_rules(sandbox, ip, changed, &mut transaction),
            None => return Ok(()),
        };
        let Some(sandbox) = self.sandboxes.get_mut(id) else {
            return Ok(());
        };
        let Some(socket) = sandbox
            .netfilter
            .as_mut()
            .filter(|_| !matches!(plan, Rules::None))
        else {
            return Ok(());
        };
        let vips = sandbox.vips.of_mut(ip);
        let lost = match (&*vips, &plan) {
            (Vips::Present(balancer), Rules::Change(step)) => balancer.lost(step),
            _ => Vec::new(), // without a table nothing is translated any more
        };
        let done = transaction
            .commit(socket)
            .and_then(|()| forget_flows(socket, &lost));
        match (&done, plan, vips) {
            (Ok(()), Rules::Change(step), Vips::Present(balancer)) => balancer.accept(step),
            (Ok(()), Rules::Anew(mut balancer, step), vips) => {
                balancer.accept(step);
                *vips = Vips::Present(balancer);
            }
            (Ok(()), _, vips) => *vips = Vips::Absent,
            (Err(_), _, vips) => *vips = Vips::Unknown,
        }
        let gone = sandbox.vips.are_absent();
        done.map_err(|source| Error::Kernel {
            operation: "set virtual IPs in sandbox",
            object: id.to_owned(),
            source,
        })?;
        if gone { self.forget_rules(id) } else { Ok(()) }
    }

    fn plan_rules(&self, sandbox: &Sandbox, ip: Ip, changed: Option<&Changed>, t: &mut Transaction) -> Rules {
        let present = sandbox.vips.of(ip);
        if let (Vips::Present(balancer), Some(changed)) = (present, changed) {
            let step = balancer.steer(self.vip_leads(sandbox, ip, changed), t);
            if !balancer.ends_with(&step) {
                return Rules::Change(step);
            }
        }
        let vips = match sandbox.record.by_rules {
            true => self.virtual_ips_of(sandbox, ip),
            false => BTreeMap::new(),
        };
        let (start, anew) = match (present, vips.is_empty()) {
            (Vips::Absent, true) => return Rules::None,
            (_, true) => (TaskFirewall::remove(ip), None),
            (Vips::Absent, false) => (TaskFirewall::ruleset(ip), Some(TaskFirewall::balancer(ip))),
            (Vips::Unknown, false) => (TaskFirewall::replacement(ip), Some(TaskFirewall::balancer(ip))),
            (Vips::Present(balancer), false) => {
                *t = Transaction::default();
                return Rules::Change(balancer.replace(TaskFirewall::elements(&vips), t));
            }
        };
        *t = start;
        anew.map_or(Rules::Remove, |balancer| {
            let step = balancer.replace(TaskFirewall::elements(&vips), t);
            Rules::Anew(balancer, step)
        })
    }

    /// The service's virtual IPs of one version that the sandbox sees or has seen, with what is behind each now.
    fn vip_leads(&self, sandbox: &Sandbox, ip: Ip, changed: &Changed) -> Leads {
        let seen = |network: &str| sandbox.record.endpoints.iter().any(|e| e.network == network);
        let service = self.services.get(&changed.id).map(|s| virtual_ips(&s.wanted));
        let behind = |(vip, network): &(IpAddr, String)| {
            let mut vips = service.iter().flatten();
            let now = vips.find(|now| now.network == *network && now.address == *vip)?;
            Some(now.backends.iter().map(TaskFirewall::address).collect())
        };
        let known = changed.vips.iter();
        known
            .filter(|(vip, network)| Ip::of(*vip) == ip && seen(network))
            .map(|known| (TaskFirewall::address(&known.0), behind(known)))
            .collect()
    }

    fn virtual_ips_of(&self, sandbox: &Sandbox, ip: Ip) -> BTreeMap<IpAddr, Vec<IpAddr>> {
        let services = self.services.values();
        let seen = services
            .flat_map(|service| virtual_ips(&service.wanted))
            .filter(|vip| {
                let mut endpoints = sandbox.record.endpoints.iter();
                Ip::of(vip.address) == ip && endpoints.any(|e| e.network == vip.network)
            });
        seen.map(|vip| (vip.address, vip.backends.into_iter().collect()))
            .collect()
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

/// A service's names on a network; none if it is not there.
pub(super) fn names_on(service: &ServiceEndpoint, network: &str) -> Names {
    let mut names = Names::default();
    let Some(on) = service.networks.iter().find(|on| on.network == network) else {
        return names;
    };
    let tasks: Vec<_> = addresses(&service.backends, network).collect();
    for alias in std::iter::once(&service.name).chain(&on.aliases) {
        match on.vip {
            Some(vip) => names.add(alias, [vip]),
            None => names.add(alias, tasks.clone()),
        }
        names.add(&format!("tasks.{alias}"), tasks.clone());
    }
    if let Some(vip) = on.vip {
        names.point(vip, &service.name);
    }
    name_ipv6(service, on, &mut names);
    offer_ports(service, on, &mut names);
    for backend in &service.backends {
        if let Some(address) = address_on(backend, network) {
            names.add(&backend.name, [address]);
            names.point(address, &backend.name);
        }
    }
    names
}

/// A service's names on a network that has IPv6.
fn name_ipv6(service: &ServiceEndpoint, on: &ServiceNetwork, names: &mut Names) {
    let address = |b: &Backend| {
        let mut all = b.addresses6.iter().filter(|(network, _)| *network == on.network);
        all.next().map(|(_, address)| *address)
    };
    let tasks: Vec<_> = service.backends.iter().filter_map(address).collect();
    for alias in std::iter::once(&service.name).chain(&on.aliases) {
        match (on.vip6, on.vip) {
            (Some(vip), _) => names.add(alias, [vip]),
            (None, None) => names.add(alias, tasks.clone()),
            (None, Some(_)) => {} // reached through its virtual address, which is of the other family
        }
        names.add(&format!("tasks.{alias}"), tasks.clone());
    }
    if let Some(vip) = on.vip6 {
        names.point(vip, &service.name);
    }
    for backend in &service.backends {
        if let Some(address) = address(backend) {
            names.add(&backend.name, [address]);
            names.point(address, &backend.name);
        }
    }
}

/// Where a service's ports are, for those who ask for them by name (SRV): at its virtual address, or at its tasks.
fn offer_ports(service: &ServiceEndpoint, on: &ServiceNetwork, names: &mut Names) {
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
            Some(_) => names.offer(alias, &ports, std::slice::from_ref(alias)),
            None => names.offer(alias, &ports, &tasks),
        }
        names.offer(&format!("tasks.{alias}"), &ports, &tasks);
    }
    for task in &tasks {
        names.offer(task, &ports, std::slice::from_ref(task));
    }
}

fn networks_of(service: &ServiceEndpoint) -> BTreeSet<String> {
    service.networks.iter().map(|n| n.network.clone()).collect()
}

pub(super) fn serves(frontend: &Frontend, port: &IngressPort) -> bool {
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
