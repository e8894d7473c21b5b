//! The interfaces of a sandbox: veths from the fabric's bridges, addresses and routes inside, and the resolver's sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};

use ipnet::{Ipv4Net, Ipv6Net};

use super::Node;
use crate::dns::{DnsSockets, Scope};
use crate::error::{Error, Result};
use crate::firewall::{Binding, ResolverFirewall};
use crate::netlink::{Link, LinkAddress, LinkChange, Request, Route, Socket, Veth, errno, resolution};
use crate::types::Endpoint;
use crate::{fabric6, names, netns};

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
        self.enable_ipv6(id, namespace, endpoints)?;
        let routed = self.default_endpoint(endpoints).cloned();
        let routed6 = self.default_endpoint6(endpoints).cloned();
        address_links(inside, endpoints, routed.as_ref(), routed6.as_ref()).map_err(failed)?;
        self.settle_links(id, inside, endpoints).map_err(failed)?;
        self.lead_to(id, endpoints);
        Ok(())
    }

    /// Both ends, and the bridge if they are its first port, take packets from now on.
    fn settle_links(&mut self, id: &str, inside: &mut Socket, endpoints: &[Endpoint]) -> io::Result<()> {
        for endpoint in endpoints {
            let port = names::port(id, &endpoint.network);
            Link::settle(inside, &endpoint.interface)?;
            Link::settle(&mut self.fabric.route, &port)?;
            if let Some(network) = self.networks.get(&endpoint.network) {
                Link::settle(&mut self.fabric.route, &network.record.state.bridge)?;
            }
        }
        Ok(())
    }

    /// On those interfaces whose network has it.
    fn enable_ipv6(&self, id: &str, namespace: &OwnedFd, endpoints: &[Endpoint]) -> Result<()> {
        let mut links = endpoints.iter().filter(|e| e.ipv6.is_some()).peekable();
        if links.peek().is_none() {
            return Ok(());
        }
        let path = names::netns(&self.config.run_dir, id);
        netns::run(&path, namespace, || {
            links.try_for_each(|e| fabric6::enable(&e.interface))
        })
    }

    /// Point the default routes at the endpoints that should have them now.
    pub(super) fn route_sandbox(&self, id: &str) -> Result<()> {
        let record = self.record(id)?;
        let endpoint = self.default_endpoint(&record.endpoints);
        let endpoint6 = self.default_endpoint6(&record.endpoints);
        if endpoint.is_none() && endpoint6.is_none() {
            return Ok(());
        }
        let path = names::netns(&self.config.run_dir, id);
        let Some(namespace) = netns::open(&path)? else {
            return Ok(());
        };
        netns::run(&path, &namespace, || {
            let mut inside = Socket::route()?;
            let requests = default_routes(&links_by_name(&mut inside)?, endpoint, endpoint6)?;
            inside.batch(requests)
        })
    }
}

/// Who may speak on the sandbox's bridge ports.
pub(super) fn bindings(id: &str, endpoints: &[Endpoint]) -> Vec<Binding> {
    let bind = |e: &Endpoint| Binding {
        port: names::port(id, &e.network),
        mac: e.mac,
        addresses: own_addresses(e).collect(),
    };
    endpoints.iter().map(bind).collect()
}

/// With IPv6 comes a link-local address, from which neighbours are asked for.
fn own_addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let link_local = endpoint.ipv6.map(|_| endpoint.mac.link_local().into());
    endpoint.addresses().chain(link_local)
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
        Some(bind_resolver(true, None)?)
    } else {
        None
    };
    Ok((socket, sockets))
}

/// Sockets for 127.0.0.11 in the calling thread's namespace, and the rules that lead port 53 there; with the socket that
/// wrote them. `fresh` if there cannot be such rules yet; `kept`: the UDP socket of earlier.
pub(super) fn bind_resolver(fresh: bool, kept: Option<OwnedFd>) -> io::Result<(DnsSockets, Socket)> {
    let sockets = match kept {
        Some(kept) => DnsSockets::resume(RESOLVER, kept)?,
        None => DnsSockets::bind(RESOLVER, 0)?,
    };
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
fn address_links(
    inside: &mut Socket,
    endpoints: &[Endpoint],
    routed: Option<&Endpoint>,
    routed6: Option<&Endpoint>,
) -> io::Result<()> {
    let index = links_by_name(inside)?;
    let mut requests: Vec<Request> = Vec::new();
    for endpoint in endpoints {
        requests.push(Link::change(
            &endpoint.interface,
            &LinkChange {
                up: true,
                ..LinkChange::default()
            },
        ));
        requests.push(resolution::ask_often(find(&index, endpoint)?, false));
        requests.push(Route::add_address(
            find(&index, endpoint)?,
            endpoint.ipv4,
            endpoint.prefix_len,
        ));
        if let Some(v6) = endpoint.ipv6 {
            let link = find(&index, endpoint)?;
            requests.push(resolution::ask_often(link, true));
            requests.push(LinkAddress::add6(link, v6.address, v6.prefix_len));
        }
    }
    requests.extend(default_routes(&index, routed, routed6)?);
    inside.batch(requests)
}

fn links_by_name(inside: &mut Socket) -> io::Result<BTreeMap<String, u32>> {
    let links = Link::list(inside)?.into_iter();
    Ok(links.map(|l| (l.name, l.index)).collect())
}

fn find(index: &BTreeMap<String, u32>, endpoint: &Endpoint) -> io::Result<u32> {
    let link = index.get(&endpoint.interface).copied();
    link.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn default_routes(
    index: &BTreeMap<String, u32>,
    routed: Option<&Endpoint>,
    routed6: Option<&Endpoint>,
) -> io::Result<Vec<Request>> {
    let mut requests = Vec::new();
    if let Some(endpoint) = routed {
        let link = find(index, endpoint)?;
        requests.push(Route::add(Ipv4Net::default(), Some(endpoint.gateway), link));
    }
    if let Some((endpoint, v6)) = routed6.and_then(|e| Some((e, e.ipv6?))) {
        let link = find(index, endpoint)?;
        requests.push(Route::add(Ipv6Net::default(), Some(v6.gateway), link));
    }
    Ok(requests)
}
