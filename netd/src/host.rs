//! The host's side: its namespace as the agent sees it, one veth and one table in it, and what it says about itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::error::{Error, Result};
use crate::netlink::{Link, LinkAddress, LinkChange, Request, Route, Socket, Subnet, Veth, errno};
use crate::{firewall::HostFirewall, names, netlink};

const USUAL_MTU: u32 = 1500;

/// The host's namespace, with sockets open in it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) netns: OwnedFd,
    pub(crate) route: Socket,
    pub(crate) netfilter: Socket,
    /// Name of our veth.
    pub(crate) uplink: String,
    alias: String,
    table: String,
}

impl Host {
    /// The calling thread's namespace is the host's.
    pub(crate) fn open(instance: &str) -> Result<Self> {
        let failed = |source| Error::Kernel {
            operation: "enter",
            object: "the host's network namespace".into(),
            source,
        };
        let netns = sys::netns::current().map_err(failed)?;
        Ok(Self {
            netns,
            route: Socket::route().map_err(failed)?,
            netfilter: Socket::netfilter().map_err(failed)?,
            uplink: names::host_uplink(instance),
            alias: names::alias(instance),
            table: names::host_table(instance),
        })
    }

    pub(crate) fn firewall(&self, fabric: Ipv4Addr) -> HostFirewall {
        HostFirewall {
            table: self.table.clone(),
            uplink: self.uplink.clone(),
            fabric,
            fabric6: None,
        }
    }

    /// The addresses of one of the host's interfaces, but for those that are valid on its link alone; `None` if there is no
    /// such interface.
    pub(crate) fn addresses(&mut self, name: &str) -> Result<Option<Vec<IpAddr>>> {
        let failed = |source| Error::Kernel {
            operation: "list",
            object: format!("the addresses of {name}"),
            source,
        };
        let Some(link) = Link::find(&mut self.route, name).map_err(failed)? else {
            return Ok(None);
        };
        let all = LinkAddress::list(&mut self.route).map_err(failed)?;
        let own = all.into_iter().filter(|one| one.link == link.index);
        let addresses = own.map(|one| one.address);
        Ok(Some(addresses.filter(|one| !is_link_local(*one)).collect()))
    }

    /// The link that carries an address; `None` if the host does not have it.
    pub(crate) fn carrier(&mut self, address: IpAddr) -> Result<Option<Link>> {
        let mut find = || -> io::Result<Option<Link>> {
            let all = LinkAddress::list(&mut self.route)?;
            let Some(own) = all.into_iter().find(|one| one.address == address) else {
                return Ok(None);
            };
            let links = Link::list(&mut self.route)?;
            Ok(links.into_iter().find(|link| link.index == own.link))
        };
        find().map_err(|source| Error::Kernel {
            operation: "find",
            object: format!("the link with address {address}"),
            source,
        })
    }

    /// Whether our veth is there, up and addressed.
    pub(crate) fn is_connected(&mut self, address: Ipv4Addr) -> Result<bool> {
        let Some(link) = self.find_uplink()?.filter(|link| link.up) else {
            return Ok(false);
        };
        let all = LinkAddress::list(&mut self.route).map_err(|e| self.failed("list the addresses of", e))?;
        let own = |one: &LinkAddress| (one.link, one.address) == (link.index, address.into());
        Ok(all.iter().any(own))
    }

    /// Bytes that packets to these addresses may have, by the host's routes; what there is no way to is left out.
    pub(crate) fn path_mtus(&mut self, to: &[IpAddr]) -> Vec<u32> {
        let Ok(links) = Link::list(&mut self.route) else {
            return Vec::new();
        };
        let mtu = |path: netlink::Path| {
            let link = links.iter().find(|link| Some(link.index) == path.link)?;
            Some(path.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)))
        };
        to.iter()
            .filter_map(|address| netlink::Path::find(&mut self.route, *address).ok().and_then(mtu))
            .collect()
    }

    /// The link on which an address is reached without a router in between; `None` if there is none.
    pub(crate) fn neighbour_link(&mut self, to: IpAddr) -> Option<u32> {
        let path = netlink::Path::find(&mut self.route, to).ok()?;
        path.link.filter(|_| !path.routed)
    }

    /// What the host's routes lay claim to, ours not counted.
    pub(crate) fn claimed<N: Subnet + std::fmt::Display>(&mut self) -> Result<Vec<(N, String)>> {
        let failed = |source| Error::Kernel {
            operation: "list",
            object: "the host's routes".into(),
            source,
        };
        let links = Link::list(&mut self.route).map_err(failed)?;
        let name = |index: Option<u32>| {
            links
                .iter()
                .find(|l| Some(l.index) == index)
                .map(|l| l.name.as_str())
        };
        let routes = Route::<N>::list(&mut self.route).map_err(failed)?;
        let others = routes
            .iter()
            .filter(|r| name(r.link) != Some(&self.uplink) && !r.direct);
        Ok(others
            .map(|r| {
                (
                    r.destination,
                    format!(
                        "the host's route {} on {}",
                        r.destination,
                        name(r.link).unwrap_or("?")
                    ),
                )
            })
            .collect())
    }

    /// MTU of the link with the default route.
    pub(crate) fn mtu(&mut self) -> u32 {
        let mut find = || -> io::Result<Option<u32>> {
            let default = Route::<Ipv4Net>::list(&mut self.route)?
                .into_iter()
                .find(|r| r.destination.prefix_len() == 0);
            let Some(index) = default.and_then(|r| r.link) else {
                return Ok(None);
            };
            Ok(Link::list(&mut self.route)?
                .into_iter()
                .find(|l| l.index == index)
                .map(|l| l.mtu))
        };
        find()
            .ok()
            .flatten()
            .filter(|mtu| (576..=65535).contains(mtu))
            .unwrap_or(USUAL_MTU)
    }

    /// Our veth, if it is there. Somebody else's link of that name is an error.
    pub(crate) fn find_uplink(&mut self) -> Result<Option<Link>> {
        let name = self.uplink.clone();
        let link = Link::find(&mut self.route, &name).map_err(|e| self.failed("find", e))?;
        match link {
            // Between its birth and its naming a crash may leave it without an alias.
            Some(link) if link.alias.as_ref().is_some_and(|a| *a != self.alias) => {
                let other = format!("it belongs to {}", link.alias.unwrap_or_default());
                Err(self.failed("adopt", io::Error::new(io::ErrorKind::AlreadyExists, other)))
            }
            other => Ok(other),
        }
    }

    /// Make the veth to the fabric, whose end is born in `fabric`.
    pub(crate) fn create_uplink(&mut self, fabric: &OwnedFd) -> Result<()> {
        use std::os::fd::AsFd;
        let mtu = self.mtu();
        let name = self.uplink.clone();
        let veth = Veth {
            name: &name,
            master: None,
            mtu,
            peer: names::UPLINK,
            peer_netns: fabric.as_fd(),
            peer_mac: None,
        };
        self.route
            .request(veth.create())
            .map_err(|e| self.failed("create", e))
    }

    /// Mark, raise and address the veth. 127.0.0.0/8 may pass on this one device, so that a published port answers on
    /// 127.0.0.1; its only neighbour is the fabric, which drops such packets from containers.
    pub(crate) fn configure_uplink(&mut self, address: Ipv4Addr, prefix_len: u8) -> Result<u32> {
        let name = self.uplink.clone();
        let alias = self.alias.clone();
        let change = LinkChange {
            alias: Some(&alias),
            up: true,
            route_localnet: true,
            ..LinkChange::default()
        };
        self.route
            .request(Link::change(&name, &change))
            .map_err(|e| self.failed("configure", e))?;
        let link = self
            .find_uplink()?
            .ok_or_else(|| self.failed("find", io::ErrorKind::NotFound.into()))?;
        let add = Route::add_address(link.index, address, prefix_len);
        self.route.request(add).map_err(|e| self.failed("address", e))?;
        Ok(link.index)
    }

    /// Give the veth an IPv6 address beside the other one. A port published on ::1 is answered over this one device.
    pub(crate) fn address_uplink6(&mut self, index: u32, address: Ipv6Addr, prefix_len: u8) -> Result<()> {
        let add = LinkAddress::add6(index, address, prefix_len);
        self.route
            .request(add)
            .map_err(|e| self.failed("give an IPv6 address to", e))?;
        match self.route.request(Route::take_loopback(index)) {
            Err(error) if errno(&error) != Some(libc::EEXIST) => Err(self.failed("route ::1 by", error)),
            _ => Ok(()),
        }
    }

    /// Who is at the other end of our veth.
    pub(crate) fn set_neighbour(&mut self, request: Request) -> Result<()> {
        let set = self.route.request(request);
        set.map_err(|e| self.failed("set the neighbour of", e))
    }

    /// Delete our veth if there is one; refuse to touch another's.
    pub(crate) fn delete_uplink(&mut self) -> Result<()> {
        if self.find_uplink()?.is_none() {
            return Ok(());
        }
        let name = self.uplink.clone();
        Link::ensure_deleted(&mut self.route, &name).map_err(|e| self.failed("delete", e))
    }

    /// Whether the host forwards IPv4; what cannot be read counts as yes.
    pub(crate) fn forwards(&self) -> bool {
        self.is_on("ipv4/ip_forward")
    }

    /// Whether the host forwards IPv6; what cannot be read counts as yes.
    pub(crate) fn forwards6(&self) -> bool {
        self.is_on("ipv6/conf/all/forwarding")
    }

    /// Links by their indices, each with its own address as the next hop of IPv6 packets; none on a host that does not forward
    /// them.
    pub(crate) fn next_hops6(&mut self) -> BTreeMap<u32, Ipv6Addr> {
        let mut hops = BTreeMap::new();
        if !self.forwards6() {
            return hops;
        }
        for one in LinkAddress::list(&mut self.route).unwrap_or_default() {
            if let IpAddr::V6(address) = one.address
                && address.is_unicast_link_local()
            {
                let least = hops.entry(one.link).or_insert(address);
                *least = address.min(*least);
            }
        }
        hops
    }

    fn is_on(&self, sysctl: &str) -> bool {
        let path = Path::new("/proc/sys/net").join(sysctl);
        let value = sys::netns::run_in(&self.netns, || fs::read_to_string(path));
        !matches!(value, Ok(Ok(value)) if value.trim() == "0")
    }

    /// What limits networking on this host.
    pub(crate) fn warnings(&self) -> Vec<String> {
        if self.forwards() {
            return Vec::new();
        }
        vec![
            "IPv4 forwarding is disabled on this host: published ports answer local clients only, and containers \
             cannot reach the outside (remedy: sysctl net.ipv4.ip_forward=1)"
                .into(),
        ]
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Kernel {
            operation,
            object: format!("link {}", self.uplink),
            source,
        }
    }
}

/// Of IPv6: without the link's name such an address leads nowhere.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
