//! The interfaces of a sandbox: veths from the fabric's bridges, addresses and routes inside, and the resolver's sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use ipnet::Ipv4Net;

use super::Node;
use crate::dns::{DnsSockets, Scope};
use crate::error::{Error, Result};
use crate::firewall::{Binding, ResolverFirewall};
use crate::netlink::{Link, LinkChange, Request, Route, Socket, Veth, errno};
use crate::types::Endpoint;
use crate::{names, netns};

/// Where Docker's resolver answers, and where configuration files expect it.
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

impl Node {
    /// Answer DNS inside the sandbox on these sockets.
    pub(super) fn serve_sandbox(&mut self, id: &str, sockets: DnsSockets, netfilter: Socket) -> Result<()> {
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
            sandbox.netfilter = Some(netfilter);
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
        let mut requests = Vec::new();
        for endpoint in endpoints {
            let network = self.networks.get(&endpoint.network);
            let network = network.ok_or_else(|| Error::NetworkNotFound(endpoint.network.clone()))?;
            let veth = Veth {
                name: &names::port(id, &endpoint.network),
                master: Some(network.bridge),
                mtu: network.record.state.mtu,
                peer: &endpoint.interface,
                peer_netns: namespace.as_fd(),
                peer_mac: Some(endpoint.mac),
            };
            requests.push(veth.create());
        }
        if let Err(error) = self.fabric.route.batch(requests.clone()) {
            if errno(&error) != Some(libc::EEXIST) {
                return Err(failed(error));
            }
            // A sandbox of this id was removed a moment ago, and the kernel is still at it.
            for endpoint in endpoints {
                self.fabric.delete_link(&names::port(id, &endpoint.network))?;
            }
            self.fabric.route.batch(requests).map_err(failed)?;
        }
        let routed = self.default_endpoint(endpoints).cloned();
        address_links(inside, endpoints, routed.as_ref()).map_err(failed)
    }

    /// Point the default route at the endpoint that should have it now.
    pub(super) fn route_sandbox(&self, id: &str) -> Result<()> {
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

/// Inside the new namespace: no IPv6 on interfaces to come, loopback up, and the resolver's sockets bound.
pub(super) fn prepare(with_dns: bool) -> io::Result<(Socket, Option<(DnsSockets, Socket)>)> {
    netns::sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    let mut socket = Socket::route()?;
    socket.request(Link::change(
        "lo",
        &LinkChange {
            up: true,
            ..LinkChange::default()
        },
    ))?;
    let sockets = if with_dns {
        Some(bind_resolver(true)?)
    } else {
        None
    };
    Ok((socket, sockets))
}

/// Sockets for 127.0.0.11 in the calling thread's namespace, and the rules that lead port 53 there; with the socket that
/// wrote them. `fresh` if there cannot be such rules yet.
pub(super) fn bind_resolver(fresh: bool) -> io::Result<(DnsSockets, Socket)> {
    let sockets = DnsSockets::bind(RESOLVER, 0)?;
    let (udp, tcp) = sockets.ports()?;
    let mut netfilter = Socket::netfilter()?;
    ResolverFirewall {
        address: RESOLVER,
        udp,
        tcp,
    }
    .ruleset(fresh)
    .commit(&mut netfilter)?;
    Ok((sockets, netfilter))
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
