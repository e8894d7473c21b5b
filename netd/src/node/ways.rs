//! The direct way in the kernel: what is there, and the change to what is wanted.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::Node;
use crate::direct::{Hop, Routes, difference, is_probe_address};
use crate::error::{Error, Result};
use crate::firewall::{Admitted, Direct};
use crate::netlink::{DirectRoute, LinkAddress, Proxy, Request, Socket, errno};
use crate::nft::{Ip, Transaction};

/// Index of `lo`, in every namespace.
const LOOPBACK: u32 = 1;

impl Node {
    /// Reads the kernel's routes.
    pub(super) fn reload_direct(&mut self) -> Result<()> {
        let outside = DirectRoute::list(&mut self.host.route).map_err(|e| failed("the host", e))?;
        let inside = DirectRoute::list(&mut self.fabric.route).map_err(|e| failed("the fabric", e))?;
        let proxies = Proxy::list(&mut self.fabric.route).map_err(|e| failed("the fabric", e))?;
        let addresses = self.fabric.addresses()?;
        let routed: BTreeSet<IpAddr> = inside.iter().map(|route| route.to).collect();
        for ip in Ip::BOTH {
            let of_version = |address: IpAddr| Ip::of(address) == ip;
            // One without the other is made again, and half of it is there already.
            let answered = proxies.iter().filter(|proxy| routed.contains(&proxy.address));
            let answered = answered.filter(|proxy| of_version(proxy.address));
            let outside = outside.iter().filter(|route| of_version(route.to));
            let mut own = addresses.iter().filter(|one| one.link == LOOPBACK);
            let own = own.find(|one| of_version(one.address) && is_probe_address(one.address));
            let routes = &mut self.direct.of_mut(ip).routes;
            routes.inside = answered.map(|proxy| (proxy.address, proxy.link)).collect();
            routes.outside = outside.map(|route| (route.to, hop(route))).collect();
            routes.own = own.map(|one| one.address);
        }
        Ok(())
    }

    /// Addresses that are let in. None of a version that the host has no table for.
    pub(super) fn admitted(&self, ip: Ip) -> Admitted {
        let open = self.home(ip).is_some();
        let admitted = &self.direct.of(ip).routes.admitted;
        if open { admitted.clone() } else { Admitted::new() }
    }

    pub(super) fn apply_direct(&mut self, ip: Ip, present: &Routes, wanted: &Routes) -> Result<()> {
        if present == wanted {
            return Ok(());
        }
        // Let in before anybody sends, and as long as somebody may.
        let mut both = present.admitted.clone();
        both.extend(&wanted.admitted);
        self.admit(ip, &present.admitted, &both)?;
        self.move_own(present.own, wanted.own)?;
        let (gone, new) = outside_requests(present, wanted);
        change(&mut self.host.route, gone, new).map_err(|e| failed("the host", e))?;
        let (gone, new) = self.inside_requests(ip, present, wanted)?;
        change(&mut self.fabric.route, gone, new).map_err(|e| failed("the fabric", e))?;
        self.admit(ip, &both, &wanted.admitted)
    }

    fn admit(&mut self, ip: Ip, present: &Admitted, wanted: &Admitted) -> Result<()> {
        self.direct.of_mut(ip).routes.admitted.clone_from(wanted);
        if present == wanted {
            return Ok(());
        }
        let (mut host, mut fabric) = (Transaction::default(), Transaction::default());
        Direct::change(ip, &mut host, &self.host_firewall.table(ip), present, wanted);
        Direct::change_fabric(ip, &mut fabric, present, wanted);
        self.change_host(host, "admit containers of other nodes to")?;
        self.change_fabric_at(fabric, Default::default(), "admit containers of other nodes to")
    }

    /// The fabric takes the probe address.
    fn move_own(&mut self, present: Option<IpAddr>, wanted: Option<IpAddr>) -> Result<()> {
        if present == wanted {
            return Ok(());
        }
        if wanted.is_some_and(|address| address.is_ipv6()) {
            self.fabric.enable6("lo")?;
        }
        let old = present.map(|old| LinkAddress::delete_single(LOOPBACK, old));
        let new = wanted.map(|new| LinkAddress::add_single(LOOPBACK, new));
        let (old, new) = (old.into_iter().collect(), new.into_iter().collect());
        change(&mut self.fabric.route, old, new).map_err(|e| failed("the fabric", e))
    }

    fn inside_requests(
        &mut self,
        ip: Ip,
        present: &Routes,
        wanted: &Routes,
    ) -> Result<(Vec<Request>, Vec<Request>)> {
        let link = self.fabric.uplink()?;
        let Some(via) = self.host_end(ip) else {
            return Ok(Default::default()); // nothing is wanted, and what there was is gone with the uplink's addresses
        };
        let route = |address: &IpAddr| DirectRoute {
            to: *address,
            via,
            link,
        };
        let proxy = |address: &IpAddr, link: u32| Proxy {
            link,
            address: *address,
        };
        let (gone, new) = difference(&present.inside, &wanted.inside);
        let gone = gone.flat_map(|(to, bridge)| [proxy(to, *bridge).delete(), route(to).delete()]);
        let new = new.flat_map(|(to, bridge)| [route(to).set(), proxy(to, *bridge).set()]);
        Ok((gone.collect(), new.collect()))
    }

    /// The host's address on the uplink.
    fn host_end(&self, ip: Ip) -> Option<IpAddr> {
        match ip {
            Ip::V4 => Some(self.fabric.host_address.into()),
            Ip::V6 => self.fabric.uplink6.map(|uplink| uplink.host.into()),
        }
    }
}

fn outside_requests(present: &Routes, wanted: &Routes) -> (Vec<Request>, Vec<Request>) {
    let route = |address: &IpAddr, hop: &Hop| DirectRoute {
        to: *address,
        via: hop.via,
        link: hop.link,
    };
    let (gone, new) = difference(&present.outside, &wanted.outside);
    let gone = gone.map(|(address, hop)| route(address, hop).delete());
    let new = new.map(|(address, hop)| route(address, hop).set());
    (gone.collect(), new.collect())
}

fn hop(route: &DirectRoute) -> Hop {
    Hop {
        via: route.via,
        link: route.link,
    }
}

/// What is to go one by one, for it may be gone already, also with its link; then all that is new.
fn change(socket: &mut Socket, gone: Vec<Request>, new: Vec<Request>) -> io::Result<()> {
    for request in gone {
        match socket.request(request) {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    if new.is_empty() { Ok(()) } else { socket.batch(new) }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::EADDRNOTAVAIL)
    )
}

fn failed(place: &str, source: io::Error) -> Error {
    Error::Kernel {
        operation: "route containers of other nodes in",
        object: place.to_owned(),
        source,
    }
}
