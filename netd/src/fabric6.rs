//! The fabric's IPv6: the uplink and those bridges whose network has it, and no other link. Addresses are given, never
//! learned: no link of ours heeds a router's advertisement, and none asks whether its own address is taken.

use std::io;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::error::{Error, Result};
use crate::fabric::Fabric;
use crate::host::Host;
use crate::netlink::{Link, LinkAddress, Route};
use crate::types::Ipv6State;
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
            let add = LinkAddress::add6(link.index, state.gateway, state.subnet.prefix_len());
            self.route.request(add)
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
        let mut work = || -> io::Result<()> {
            let link = Link::find(&mut self.route, names::UPLINK)?.ok_or(io::ErrorKind::NotFound)?;
            self.route.batch(vec![
                LinkAddress::add6(link.index, uplink.fabric, uplink.prefix_len),
                Route::add(Ipv6Net::default(), Some(uplink.host), link.index),
            ])
        };
        work().map_err(|source| Error::Kernel {
            operation: "give an IPv6 address to",
            object: "the uplink".into(),
            source,
        })?;
        self.uplink6 = Some(uplink);
        Ok(())
    }

    /// Switch IPv6 on for a link.
    pub(crate) fn enable6(&self, link: &str) -> Result<()> {
        netns::run(&self.path, &self.netns, || {
            netns::sysctl("ipv6/conf/all/forwarding", "1")?;
            enable(link)
        })
    }
}
