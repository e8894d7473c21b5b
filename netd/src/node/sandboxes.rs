//! Sandboxes: the network namespaces of containers, with their interfaces and published ports.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};

use ipnet::Ipv4Net;

use super::{Errors, Node, PublishRecord, Sandbox, SandboxRecord};
use crate::dns::{DnsSockets, Scope};
use crate::error::{Error, Result};
use crate::firewall::{Binding, FabricFirewall, Frontend, ResolverFirewall};
use crate::netlink::{Link, LinkChange, Request, Route, Socket, Veth};
use crate::nft::Transaction;
use crate::ports::Wanted;
use crate::types::{self, AttachRequest, Endpoint, EndpointRequest, Mac, Publish};
use crate::{names, netns};

/// Where Docker's resolver answers, and where configuration files expect it.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

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
        };
        // From here on `detach` knows everything that there may be to undo.
        self.sandboxes.insert(
            id.clone(),
            Sandbox {
                record,
                balancer: None,
                dns: None,
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
        let SandboxRecord { endpoints, .. } = &sandbox.record;
        let frontends = sandbox.record.frontends();
        let mut errors = Errors::default();
        self.directory().remove_sandbox(id);
        self.refresh_zones(endpoints);
        drop(sandbox.dns);
        if !frontends.is_empty() {
            let mut host = Transaction::default();
            self.host_firewall.remove(&mut host, &frontends);
            errors.collect(self.commit_host(host, "withdraw ports from"));
        }
        let mut fabric = Transaction::default();
        FabricFirewall::unbind(&mut fabric, &bindings(id, endpoints));
        errors.collect(self.balance_ports(fabric));
        for endpoint in endpoints {
            errors.collect(self.fabric.delete_link(&names::port(id, &endpoint.network)));
        }
        errors.collect(netns::remove(&names::netns(&self.config.run_dir, id)));
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
        self.name_sandbox(id);
        self.refresh_zone(network);
        let mut fabric = Transaction::default();
        FabricFirewall::unbind(&mut fabric, &bindings(id, std::slice::from_ref(endpoint)));
        errors.collect(self.balance_ports(fabric));
        errors.collect(self.fabric.delete_link(&names::port(id, network)));
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

    /// The endpoint with the default route: the first whose network has a way out.
    pub(super) fn default_endpoint<'a>(&self, endpoints: &'a [Endpoint]) -> Option<&'a Endpoint> {
        let open = |e: &&Endpoint| {
            self.networks
                .get(&e.network)
                .is_some_and(|n| !n.record.config.internal)
        };
        endpoints.iter().find(open)
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

    /// Answer DNS inside the sandbox on these sockets.
    pub(super) fn serve_sandbox(&mut self, id: &str, sockets: DnsSockets) -> Result<()> {
        let tasks = self
            .dns
            .serve(sockets, Scope::Sandbox(id.to_owned()))
            .map_err(|source| Error::Kernel {
                operation: "serve DNS in sandbox",
                object: id.to_owned(),
                source,
            })?;
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.dns = Some(tasks);
        }
        Ok(())
    }

    /// Make the veth of one endpoint, the far end in `namespace`, addressed and up.
    pub(super) fn make_links(
        &mut self,
        id: &str,
        namespace: &OwnedFd,
        inside: &mut Socket,
        endpoints: &[Endpoint],
    ) -> Result<()> {
        let failed = |source| Error::Kernel {
            operation: "create interfaces of sandbox",
            object: id.to_owned(),
            source,
        };
        let bridges: Vec<_> = self
            .fabric
            .links()?
            .into_iter()
            .filter(|l| l.name.starts_with(names::BRIDGE_PREFIX))
            .collect();
        let mut requests = Vec::new();
        for endpoint in endpoints {
            let state = &self.network(&endpoint.network)?.state;
            let master = bridges.iter().find(|l| l.name == state.bridge).map(|l| l.index);
            let veth = Veth {
                name: &names::port(id, &endpoint.network),
                master: Some(master.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?),
                mtu: state.mtu,
                peer: &endpoint.interface,
                peer_netns: namespace.as_fd(),
                peer_mac: Some(endpoint.mac),
            };
            requests.push(veth.create());
        }
        self.fabric.route.batch(requests).map_err(failed)?;
        let routed = self.default_endpoint(endpoints).cloned();
        address_links(inside, endpoints, routed.as_ref()).map_err(failed)
    }

    fn make_sandbox(&mut self, id: &str) -> Result<types::Sandbox> {
        let record = self.record(id)?.clone();
        self.save(id)?;
        let path = names::netns(&self.config.run_dir, id);
        let with_dns = !record.endpoints.is_empty();
        let (namespace, prepared) = netns::create(&path, || prepare(with_dns))?;
        let (mut inside, sockets) = prepared.map_err(|source| Error::Namespace {
            path,
            operation: "prepare",
            source,
        })?;
        if !record.endpoints.is_empty() {
            self.make_links(id, &namespace, &mut inside, &record.endpoints)?;
            let mut fabric = Transaction::default();
            FabricFirewall::bind(&mut fabric, &bindings(id, &record.endpoints));
            self.balance_ports(fabric)?;
            self.balance_sandbox(id)?;
        }
        let frontends = record.frontends();
        if !frontends.is_empty() {
            let mut host = Transaction::default();
            self.host_firewall.add(&mut host, &frontends);
            self.commit_host(host, "publish ports in")?;
        }
        self.name_sandbox(id);
        self.refresh_zones(&record.endpoints);
        if let Some(sockets) = sockets {
            self.serve_sandbox(id, sockets)?;
        }
        self.sandbox(id)
            .ok_or_else(|| Error::SandboxNotFound(id.to_owned()))
    }

    fn make_connection(&mut self, id: &str, endpoint: &Endpoint) -> Result<()> {
        self.save(id)?;
        let path = names::netns(&self.config.run_dir, id);
        let namespace = netns::open(&path)?.ok_or_else(|| Error::SandboxNotFound(id.to_owned()))?;
        let needs_dns = self.sandboxes.get(id).is_some_and(|s| s.dns.is_none());
        let (mut inside, sockets) = netns::run(&path, &namespace, || {
            let sockets = if needs_dns { Some(bind_resolver()?) } else { None };
            Ok((Socket::route()?, sockets))
        })?;
        self.make_links(id, &namespace, &mut inside, std::slice::from_ref(endpoint))?;
        let mut fabric = Transaction::default();
        FabricFirewall::bind(&mut fabric, &bindings(id, std::slice::from_ref(endpoint)));
        self.balance_ports(fabric)?;
        self.route_sandbox(id)?;
        self.balance_sandbox(id)?;
        self.name_sandbox(id);
        self.refresh_zone(&endpoint.network);
        sockets.map_or(Ok(()), |sockets| self.serve_sandbox(id, sockets))
    }

    /// Point the default route at the endpoint that should have it now.
    fn route_sandbox(&self, id: &str) -> Result<()> {
        let record = self.record(id)?;
        let Some(endpoint) = self.default_endpoint(&record.endpoints) else {
            return Ok(());
        };
        let path = names::netns(&self.config.run_dir, id);
        let Some(namespace) = netns::open(&path)? else {
            return Ok(());
        };
        netns::run(&path, &namespace, || {
            let mut inside = Socket::route()?;
            let link = Link::find(&mut inside, &endpoint.interface)?.ok_or(io::ErrorKind::NotFound)?;
            inside.request(Route::add(Ipv4Net::default(), Some(endpoint.gateway), link.index))
        })
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
        let state = &self.network(&wanted.network)?.state;
        Ok(Endpoint {
            network: wanted.network.clone(),
            interface,
            mac: wanted.mac.unwrap_or_else(|| Mac::from_ipv4(ipv4)),
            ipv4,
            prefix_len: state.subnet.prefix_len(),
            gateway: state.gateway,
            aliases: wanted.aliases.clone(),
        })
    }

    fn reserve_ports(
        &mut self,
        id: &str,
        publish: &[Publish],
        endpoints: &[Endpoint],
    ) -> Result<Vec<PublishRecord>> {
        if publish.is_empty() {
            return Ok(Vec::new());
        }
        if self.default_endpoint(endpoints).is_none() {
            return Err(Error::PublishNowhere(id.to_owned()));
        }
        let wanted = publish.iter().map(wanted_port).collect::<Result<Vec<_>>>()?;
        let frontends = self.ports.reserve(&self.host.netns, &owner(id), &wanted)?;
        let records = publish.iter().zip(frontends).map(|(p, f)| PublishRecord {
            publish: Publish {
                host_port: Some(f.port),
                ..p.clone()
            },
            fabric_port: f.fabric_port,
        });
        Ok(records.collect())
    }

    fn push_endpoint(&mut self, id: &str, endpoint: Endpoint) {
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.record.endpoints.push(endpoint);
        }
    }

    fn refresh_zones(&self, endpoints: &[Endpoint]) {
        endpoints.iter().for_each(|e| self.refresh_zone(&e.network));
    }

    fn record(&self, id: &str) -> Result<&SandboxRecord> {
        self.sandboxes
            .get(id)
            .map(|s| &s.record)
            .ok_or_else(|| Error::SandboxNotFound(id.to_owned()))
    }

    fn save(&self, id: &str) -> Result<()> {
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
            search: Vec::new(),
            options: vec!["ndots:0".into()],
        }
    }
}

impl SandboxRecord {
    pub(super) fn frontends(&self) -> Vec<Frontend> {
        let frontend = |p: &PublishRecord| Frontend {
            address: host_address(p.publish.host_ip).unwrap_or_default(),
            protocol: p.publish.protocol,
            port: p.publish.host_port.unwrap_or_default(),
            fabric_port: p.fabric_port,
        };
        self.published.iter().map(frontend).collect()
    }
}

/// Who may speak on the sandbox's bridge ports.
pub(super) fn bindings(id: &str, endpoints: &[Endpoint]) -> Vec<Binding> {
    let bind = |e: &Endpoint| Binding {
        port: names::port(id, &e.network),
        mac: e.mac,
        address: e.ipv4,
    };
    endpoints.iter().map(bind).collect()
}

/// Who holds a sandbox's ports.
pub(super) fn owner(sandbox: &str) -> String {
    format!("container {sandbox}")
}

/// `None`: every address.
fn host_address(ip: Option<IpAddr>) -> Result<Option<Ipv4Addr>> {
    match ip {
        None => Ok(None),
        Some(any) if any.is_unspecified() => Ok(None),
        Some(IpAddr::V4(address)) => Ok(Some(address)),
        Some(v6) => Err(Error::PublishIpv6(v6)),
    }
}

fn wanted_port(publish: &Publish) -> Result<Wanted> {
    Ok(Wanted {
        address: host_address(publish.host_ip)?,
        port: publish.host_port.filter(|port| *port != 0),
        protocol: publish.protocol,
    })
}

fn free_interface(endpoints: &[Endpoint]) -> String {
    let taken: BTreeSet<_> = endpoints.iter().map(|e| e.interface.as_str()).collect();
    (0..)
        .map(|n| format!("eth{n}"))
        .find(|name| !taken.contains(name.as_str()))
        .unwrap_or_default()
}

/// Inside the new namespace: no IPv6 on interfaces to come, loopback up, and the resolver's sockets bound.
fn prepare(with_dns: bool) -> io::Result<(Socket, Option<DnsSockets>)> {
    netns::sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    let mut socket = Socket::route()?;
    socket.request(Link::change(
        "lo",
        &LinkChange {
            up: true,
            ..LinkChange::default()
        },
    ))?;
    let sockets = if with_dns { Some(bind_resolver()?) } else { None };
    Ok((socket, sockets))
}

/// Sockets for 127.0.0.11 in the calling thread's namespace, and the rules that lead port 53 there.
pub(super) fn bind_resolver() -> io::Result<DnsSockets> {
    let sockets = DnsSockets::bind(RESOLVER, 0)?;
    let (udp, tcp) = sockets.ports()?;
    ResolverFirewall {
        address: RESOLVER,
        udp,
        tcp,
    }
    .ruleset()
    .commit(&mut Socket::netfilter()?)?;
    Ok(sockets)
}

/// Give the interfaces inside a sandbox their addresses, and the default route to one of them.
fn address_links(inside: &mut Socket, endpoints: &[Endpoint], routed: Option<&Endpoint>) -> io::Result<()> {
    let index: BTreeMap<String, u32> = Link::list(inside)?
        .into_iter()
        .map(|l| (l.name, l.index))
        .collect();
    let find = |e: &Endpoint| index.get(&e.interface).copied().ok_or(io::ErrorKind::NotFound);
    let mut requests: Vec<Request> = Vec::new();
    for endpoint in endpoints {
        requests.push(Link::change(
            &endpoint.interface,
            &LinkChange {
                up: true,
                ..LinkChange::default()
            },
        ));
        requests.push(Route::add_address(
            find(endpoint)?,
            endpoint.ipv4,
            endpoint.prefix_len,
        ));
    }
    if let Some(endpoint) = routed {
        requests.push(Route::add(
            Ipv4Net::default(),
            Some(endpoint.gateway),
            find(endpoint)?,
        ));
    }
    inside.batch(requests)
}
