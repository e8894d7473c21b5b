//! Sandboxes: the network namespaces of containers, with their interfaces and published ports.

use std::collections::BTreeSet;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use super::interfaces::{RESOLVER, bind_resolver, bindings, prepare};
use super::publish::owner;
use super::{Errors, Node, Sandbox, SandboxRecord, VersionVips};
use crate::dns::{Names, Source};
use crate::error::{Error, Result};
use crate::firewall::FabricFirewall;
use crate::netlink::Socket;
use crate::nft::Transaction;
use crate::types::{self, AttachRequest, Endpoint, EndpointRequest, Mac};
use crate::{names, netns};

impl Node {
    /// See [`crate::Netd::attach`].
    pub(crate) fn attach(&mut self, request: AttachRequest) -> Result<types::Sandbox> {
        let id = request.sandbox.clone();
        names::check_id(&id)?;
        if self.sandboxes.contains_key(&id) {
            return Err(Error::SandboxExists(id));
        }
        let endpoints = self.plan_endpoints(&request)?;
        let published = self.reserve_ports(&id, &request.publish, &endpoints)?;
        let record = SandboxRecord {
            id: id.clone(),
            hostname: request.hostname,
            endpoints,
            published,
            outside: request.outside,
            by_rules: self.needs_rules(request.outside),
        };
        // From here on `detach` knows everything that there may be to undo.
        self.sandboxes.insert(
            id.clone(),
            Sandbox {
                record,
                vips: VersionVips::default(),
                dns: None,
                netfilter: None,
            },
        );
        match self.make_sandbox(&id) {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                let _ = self.detach(&id);
                Err(error)
            }
        }
    }

    /// See [`crate::Netd::detach`].
    pub(crate) fn detach(&mut self, id: &str) -> Result<()> {
        let Some(sandbox) = self.sandboxes.remove(id) else {
            return Ok(());
        };
        let endpoints = &sandbox.record.endpoints;
        let frontends = sandbox.record.frontends();
        let mut errors = Errors::default();
        self.lead_no_more(endpoints);
        self.directory().remove_sandbox(id);
        self.rename_sandbox(id, endpoints);
        errors.collect(self.dismiss_sandbox(id));
        drop(sandbox.dns);
        if !frontends.is_empty() {
            let mut host = Transaction::default();
            self.host_firewall.remove(&mut host, &frontends);
            errors.collect(self.change_host(host, "withdraw ports from"));
        }
        let mut fabric = Transaction::default();
        FabricFirewall::unbind(&mut fabric, &bindings(id, endpoints));
        let leads = self.leads_of_sandbox(id, &frontends);
        errors.collect(self.change_fabric_at(fabric, leads, "change the ports of"));
        // The last reference to the namespace goes here, and the kernel removes its veths behind our back, many at a time;
        // deleting each here would wait for it. Nothing passes them any more, for they are unbound.
        self.runtime.spawn_blocking(move || drop(sandbox.netfilter));
        errors.collect(netns::remove(&names::netns(&self.config.run_dir, id)));
        self.sync_addresses(endpoints, &mut errors);
        self.ports.release(&owner(id), &frontends);
        errors.collect(self.stores.sandboxes.remove(id));
        errors.first()
    }

    /// See [`crate::Netd::connect`].
    pub(crate) fn connect(&mut self, id: &str, request: &EndpointRequest) -> Result<Endpoint> {
        let record = self.record(id)?.clone();
        if record.endpoints.iter().any(|e| e.network == request.network) {
            return Err(Error::AlreadyConnected {
                sandbox: id.to_owned(),
                network: request.network.clone(),
            });
        }
        let endpoint = self.plan_endpoint(request, free_interface(&record.endpoints), &BTreeSet::new())?;
        self.push_endpoint(id, endpoint.clone());
        if let Err(error) = self.make_connection(id, &endpoint) {
            let _ = self.disconnect(id, &request.network);
            return Err(error);
        }
        Ok(endpoint)
    }

    /// See [`crate::Netd::disconnect`].
    pub(crate) fn disconnect(&mut self, id: &str, network: &str) -> Result<()> {
        let record = self.record(id)?.clone();
        let Some(endpoint) = record.endpoints.iter().find(|e| e.network == network) else {
            return Err(Error::NotConnected {
                sandbox: id.to_owned(),
                network: network.to_owned(),
            });
        };
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.record.endpoints.retain(|e| e.network != network);
        }
        let mut errors = Errors::default();
        self.lead_no_more(std::slice::from_ref(endpoint));
        self.name_sandbox(id);
        self.rename(network, Source::Sandbox(id.to_owned()));
        let mut fabric = Transaction::default();
        FabricFirewall::unbind(&mut fabric, &bindings(id, std::slice::from_ref(endpoint)));
        let leads = self.leads_of_sandbox(id, &record.frontends());
        errors.collect(self.change_fabric_at(fabric, leads, "change the ports of"));
        errors.collect(self.fabric.delete_link(&names::port(id, network)));
        self.sync_addresses(std::slice::from_ref(endpoint), &mut errors);
        errors.collect(self.route_sandbox(id));
        errors.collect(self.balance_sandbox(id));
        errors.collect(self.save(id));
        errors.first()
    }

    pub(crate) fn sandbox(&self, id: &str) -> Option<types::Sandbox> {
        self.sandboxes.get(id).map(|s| self.describe(s))
    }

    /// See [`crate::Netd::retain`].
    pub(crate) fn retain(&mut self, keep: &[String]) -> Result<()> {
        let gone: Vec<_> = self
            .sandboxes
            .keys()
            .filter(|id| !keep.contains(id))
            .cloned()
            .collect();
        let mut errors = Errors::default();
        for id in gone {
            errors.collect(self.detach(&id));
        }
        errors.first()
    }

    /// The endpoint with the default route: that on the network of published ports, for answers to what other nodes pass on
    /// must leave by where it comes in, or the first whose network has a way out.
    pub(super) fn default_endpoint<'a>(&self, endpoints: &'a [Endpoint]) -> Option<&'a Endpoint> {
        let ingress = |e: &&Endpoint| self.is_ingress(&e.network);
        let open = |e: &&Endpoint| {
            self.networks
                .get(&e.network)
                .is_some_and(|n| !n.record.config.internal)
        };
        endpoints
            .iter()
            .find(ingress)
            .or_else(|| endpoints.iter().find(open))
    }

    /// The endpoint with the default route for IPv6, chosen likewise; it need not be the same.
    pub(super) fn default_endpoint6<'a>(&self, endpoints: &'a [Endpoint]) -> Option<&'a Endpoint> {
        let mut with = endpoints.iter().filter(|e| e.ipv6.is_some());
        let open = |e: &&Endpoint| {
            let network = self.networks.get(&e.network);
            network.is_some_and(|n| !n.record.config.internal)
        };
        let ingress = with.clone().find(|e| self.is_ingress(&e.network));
        ingress.or_else(|| with.find(open))
    }

    /// Let the directory know which networks the sandbox sees.
    pub(super) fn name_sandbox(&self, id: &str) {
        if let Some(sandbox) = self.sandboxes.get(id) {
            let networks = sandbox
                .record
                .endpoints
                .iter()
                .map(|e| e.network.clone())
                .collect();
            self.directory().set_sandbox(id, networks);
        }
    }

    fn make_sandbox(&mut self, id: &str) -> Result<types::Sandbox> {
        let record = self.record(id)?.clone();
        self.save(id)?;
        let path = names::netns(&self.config.run_dir, id);
        let with_dns = !record.endpoints.is_empty();
        let (namespace, prepared) = netns::create(&path, || prepare(with_dns))?;
        let (mut inside, resolver) = prepared.map_err(|source| Error::Namespace {
            path,
            operation: "prepare",
            source,
        })?;
        if let Some((sockets, netfilter)) = resolver {
            self.serve_sandbox(id, sockets, netfilter)?;
        }
        if !record.endpoints.is_empty() {
            self.claim(&record.endpoints)?;
            self.make_links(id, &namespace, &mut inside, &record.endpoints)?;
            let mut fabric = Transaction::default();
            FabricFirewall::bind(&mut fabric, &bindings(id, &record.endpoints));
            let leads = self.leads_of_sandbox(id, &record.frontends());
            self.change_fabric_at(fabric, leads, "change the ports of")?;
            self.balance_sandbox(id)?;
        }
        let frontends = record.frontends();
        if !frontends.is_empty() {
            let mut host = Transaction::default();
            self.host_firewall.add(&mut host, &frontends);
            self.change_host(host, "publish ports in")?;
        }
        self.name_sandbox(id);
        self.rename_sandbox(id, &record.endpoints);
        self.sandbox(id)
            .ok_or_else(|| Error::SandboxNotFound(id.to_owned()))
    }

    /// Whatever is still said of other nodes' containers with these addresses does not hold any more.
    fn claim(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        let mut errors = Errors::default();
        self.sync_addresses(endpoints, &mut errors);
        errors.first()
    }

    fn make_connection(&mut self, id: &str, endpoint: &Endpoint) -> Result<()> {
        self.save(id)?;
        let path = names::netns(&self.config.run_dir, id);
        let namespace = netns::open(&path)?.ok_or_else(|| Error::SandboxNotFound(id.to_owned()))?;
        let needs_dns = self.sandboxes.get(id).is_some_and(|s| s.dns.is_none());
        let (mut inside, resolver) = netns::run(&path, &namespace, || {
            let resolver = if needs_dns {
                Some(bind_resolver(false, None)?)
            } else {
                None
            };
            Ok((Socket::route()?, resolver))
        })?;
        if let Some((sockets, netfilter)) = resolver {
            self.serve_sandbox(id, sockets, netfilter)?;
        }
        self.claim(std::slice::from_ref(endpoint))?;
        self.make_links(id, &namespace, &mut inside, std::slice::from_ref(endpoint))?;
        let mut fabric = Transaction::default();
        FabricFirewall::bind(&mut fabric, &bindings(id, std::slice::from_ref(endpoint)));
        let leads = self.leads_of_sandbox(id, &self.record(id)?.frontends());
        self.change_fabric_at(fabric, leads, "change the ports of")?;
        self.route_sandbox(id)?;
        self.balance_sandbox(id)?;
        self.name_sandbox(id);
        self.rename_sandbox(id, std::slice::from_ref(endpoint));
        Ok(())
    }

    fn plan_endpoints(&mut self, request: &AttachRequest) -> Result<Vec<Endpoint>> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (n, wanted) in request.endpoints.iter().enumerate() {
            if endpoints.iter().any(|e| e.network == wanted.network) {
                let (sandbox, network) = (request.sandbox.clone(), wanted.network.clone());
                return Err(Error::AlreadyConnected { sandbox, network });
            }
            let chosen = endpoints.iter().map(|e| e.ipv4).collect();
            endpoints.push(self.plan_endpoint(wanted, format!("eth{n}"), &chosen)?);
        }
        Ok(endpoints)
    }

    fn plan_endpoint(
        &mut self,
        wanted: &EndpointRequest,
        interface: String,
        also: &BTreeSet<Ipv4Addr>,
    ) -> Result<Endpoint> {
        let ipv4 = self.choose_address(&wanted.network, wanted.ipv4, also)?;
        let ipv6 = self.plan_endpoint6(wanted)?;
        let state = &self.network(&wanted.network)?.state;
        Ok(Endpoint {
            network: wanted.network.clone(),
            interface,
            mac: wanted.mac.unwrap_or_else(|| Mac::from_ipv4(ipv4)),
            ipv4,
            prefix_len: state.subnet.prefix_len(),
            gateway: state.gateway,
            ipv6,
            aliases: wanted.aliases.clone(),
        })
    }

    fn push_endpoint(&mut self, id: &str, endpoint: Endpoint) {
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.record.endpoints.push(endpoint);
        }
    }

    fn rename_sandbox(&self, id: &str, endpoints: &[Endpoint]) {
        let source = Source::Sandbox(id.to_owned());
        endpoints
            .iter()
            .for_each(|e| self.rename(&e.network, source.clone()));
    }

    pub(super) fn record(&self, id: &str) -> Result<&SandboxRecord> {
        self.sandboxes
            .get(id)
            .map(|s| &s.record)
            .ok_or_else(|| Error::SandboxNotFound(id.to_owned()))
    }

    /// See [`crate::Netd::attach_to_keep`].
    pub(crate) fn resolver(&self, id: &str) -> Option<OwnedFd> {
        self.sandboxes.get(id)?.dns.as_ref()?.udp().ok()
    }

    pub(super) fn save(&self, id: &str) -> Result<()> {
        self.stores.sandboxes.write(id, self.record(id)?)
    }

    fn describe(&self, sandbox: &Sandbox) -> types::Sandbox {
        let record = &sandbox.record;
        let nameserver = match (&sandbox.dns, record.endpoints.first()) {
            (None, Some(endpoint)) => endpoint.gateway,
            _ => RESOLVER,
        };
        types::Sandbox {
            netns: names::netns(&self.config.run_dir, &record.id),
            endpoints: record.endpoints.clone(),
            published: record.published.iter().map(|p| p.publish.clone()).collect(),
            nameserver: nameserver.into(),
            search: if self.default_endpoint(&record.endpoints).is_some() {
                self.dns.search()
            } else {
                Vec::new()
            },
            options: vec!["ndots:0".into()],
        }
    }
}

/// A sandbox's names on a network.
pub(super) fn names_on(record: &SandboxRecord, network: &str) -> Names {
    let mut names = Names::default();
    for endpoint in record.endpoints.iter().filter(|e| e.network == network) {
        let aliases = endpoint.aliases.iter();
        for address in endpoint.addresses() {
            names.member(address, &record.id);
            aliases.clone().for_each(|alias| names.add(alias, [address]));
        }
        let Some(first) = aliases.clone().next() else {
            continue;
        };
        endpoint
            .addresses()
            .for_each(|address| names.point(address, first));
        let ports = record.container_ports();
        aliases.for_each(|alias| names.offer(alias, &ports, std::slice::from_ref(first)));
    }
    names
}

fn free_interface(endpoints: &[Endpoint]) -> String {
    let taken: BTreeSet<_> = endpoints.iter().map(|e| e.interface.as_str()).collect();
    (0..)
        .map(|n| format!("eth{n}"))
        .find(|name| !taken.contains(name.as_str()))
        .unwrap_or_default()
}
