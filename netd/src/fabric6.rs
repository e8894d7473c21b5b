//! The fabric's IPv6: the uplink and those bridges whose network has it, and no other link. Addresses are given, never
//! learned: no link of ours heeds a router's advertisement, and none asks whether its own address is taken.

use std::io;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::error::{Error, Result};
use crate::fabric::Fabric;
use crate::host::Host;
use crate::netlink::{Link, LinkAddress, Neighbour, Request, Route, resolution};
use crate::types::{Ipv6State, Mac};
use crate::{names, netns};

/// Of a link that has IPv6, in a namespace of ours; the last one switches it on. The link-local address follows from the
/// hardware address.
const LINK: [(&str, &str); 6] = [
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
    ("accept_dad", "0"),
    ("dad_transmits", "0"),
    ("addr_gen_mode", "0"),
    ("disable_ipv6", "0"),
];

/// Of link-local addresses (RFC 4291, section 2.5.6).
const LINK_LOCAL_PREFIX: u8 = 64;

/// The addresses of both ends of the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uplink6 {
    pub(crate) host: Ipv6Addr,
    pub(crate) fabric: Ipv6Addr,
    prefix_len: u8,
}

impl Uplink6 {
    pub(crate) fn new(subnet: Ipv6Net) -> Self {
        let base = u128::from(subnet.network());
        Self {
            host: (base + 1).into(),
            fabric: (base + 2).into(),
            prefix_len: subnet.prefix_len(),
        }
    }
}

/// Switch IPv6 on for a link of the calling thread's namespace, which must be one of ours.
pub(crate) fn enable(link: &str) -> io::Result<()> {
    LINK.iter()
        .try_for_each(|(name, value)| netns::sysctl(&format!("ipv6/conf/{link}/{name}"), value))
}

impl Fabric {
    /// Give a bridge its IPv6 gateway address.
    pub(crate) fn ensure_bridge6(&mut self, bridge: &str, state: &Ipv6State) -> Result<()> {
        self.enable6(bridge)?;
        let mut work = || -> io::Result<()> {
            let link = Link::find(&mut self.route, bridge)?.ok_or(io::ErrorKind::NotFound)?;
            // The kernel gives it the link-local one with its first port, and asks nobody without.
            let asks_from = link.mac.map(|mac| (mac.link_local(), LINK_LOCAL_PREFIX));
            let all = [(state.gateway, state.subnet.prefix_len())]
                .into_iter()
                .chain(asks_from);
            let add = |(address, prefix_len)| LinkAddress::add6(link.index, address, prefix_len);
            // Addresses that the fabric answers for: see `direct`.
            let answer = resolution::answer_at_once(link.index, true);
            self.route
                .batch([answer].into_iter().chain(all.map(add)).collect())
        };
        work().map_err(|source| Error::Kernel {
            operation: "give an IPv6 address to",
            object: format!("bridge {bridge}"),
            source,
        })
    }

    /// Give the uplink IPv6 at both ends. A host without IPv6 refuses its own.
    pub(crate) fn ensure_uplink6(&mut self, host: &mut Host, uplink: Uplink6) -> Result<()> {
        host.address_uplink6(self.host_uplink, uplink.host, uplink.prefix_len)?;
        self.enable6(names::UPLINK)?;
        let host_mac = host.find_uplink()?.and_then(|link| link.mac);
        let mut work = || -> io::Result<Option<Mac>> {
            let link = Link::find(&mut self.route, names::UPLINK)?.ok_or(io::ErrorKind::NotFound)?;
            let mut requests = vec![
                LinkAddress::add6(link.index, uplink.fabric, uplink.prefix_len),
                Route::add(Ipv6Net::default(), Some(uplink.host), link.index),
            ];
            requests.extend(host_mac.map(|mac| known(link.index, uplink.host, mac)));
            self.route.batch(requests)?;
            Ok(link.mac)
        };
        let mac = work().map_err(|source| Error::Kernel {
            operation: "give an IPv6 address to",
            object: "the uplink".into(),
            source,
        })?;
        if let Some(mac) = mac {
            host.set_neighbour(known(self.host_uplink, uplink.fabric, mac))?;
        }
        self.uplink6 = Some(uplink);
        Ok(())
    }

    /// Switch IPv6 on for a link. The fabric forwards it, and answers for those neighbours that it is told of.
    pub(crate) fn enable6(&self, link: &str) -> Result<()> {
        netns::run(&self.path, &self.netns, || {
            netns::sysctl("ipv6/conf/all/forwarding", "1")?;
            netns::sysctl("ipv6/conf/all/proxy_ndp", "1")?;
            enable(link)
        })
    }
}

/// One end of the uplink, as the other knows it from the beginning: nobody can ask before his own link-local address is in use,
/// and on the host that takes as long as its settings say.
fn known(link: u32, address: Ipv6Addr, mac: Mac) -> Request {
    let address = address.into();
    Neighbour { link, address, mac }.set()
}
