//! The fabric: the namespace in which all bridges of the node live, and its link to the host.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::fabric6::Uplink6;
use crate::firewall::{Balancer, FabricFirewall};
use crate::host::Host;
use crate::netlink::{Link, LinkAddress, LinkChange, Request, Route, Socket, resolution};
use crate::types::Mac;
use crate::{names, netns};

/// Set inside the fabric namespace only, when we make it.
const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    // No IPv6 but where a network has it (see `fabric6`), and no router advertisement may configure anything
    // (CVE-2020-10749).
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    // Bridged packets do not pass the IP tables: a tenth of the round trip, and no use.
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
    ("ipv4/conf/all/arp_ignore", "1"),
    // What another node passes on comes from where its client's address does not lead.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Every published connection is tracked here too; two minutes of memory for each would fill the table under load.
    ("netfilter/nf_conntrack_tcp_timeout_time_wait", "10"),
];

/// The uplink's network has room for its two ends.
const UPLINK_PREFIX: u8 = 30;

/// The fabric namespace, with sockets open in it.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) path: PathBuf,
    pub(crate) netns: OwnedFd,
    pub(crate) route: Socket,
    pub(crate) netfilter: Socket,
    frames: OwnedFd,
    /// Published ports to backends, as the kernel has them, for IPv4 and IPv6.
    pub(crate) balancers: [Balancer; 2],
    /// Ours and the host's address on the uplink.
    pub(crate) address: Ipv4Addr,
    pub(crate) host_address: Ipv4Addr,
    /// Index of the uplink in the host's namespace.
    pub(crate) host_uplink: u32,
    /// Once a network with IPv6 needs it.
    pub(crate) uplink6: Option<Uplink6>,
}

impl Fabric {
    /// Adopt the fabric of `run_dir`, or make it.
    pub(crate) fn open(run_dir: &Path, instance: &str, host: &mut Host) -> Result<Self> {
        let path = names::netns(run_dir, "fabric");
        let (namespace, (mut route, netfilter, frames)) = match netns::open(&path)? {
            Some(namespace) => {
                let sockets = netns::run(&path, &namespace, sockets)?;
                (namespace, sockets)
            }
            None => {
                let (namespace, sockets) = netns::create(&path, || prepare().and_then(|()| sockets()))?;
                (namespace, sockets.map_err(|e| failed("prepare", e))?)
            }
        };
        ensure_uplink(&mut route, &namespace, host)?;
        let link = uplink_subnet(run_dir, instance, host)?;
        let [host_address, address] = ends(link);
        let mut fabric = Self {
            path,
            netns: namespace,
            route,
            netfilter,
            frames,
            balancers: FabricFirewall::balancers(),
            address,
            host_address,
            host_uplink: 0,
            uplink6: None,
        };
        fabric.reconnect(host)?;
        Ok(fabric)
    }

    /// Make the uplink if it is not there, and have both its ends up and addressed.
    pub(crate) fn reconnect(&mut self, host: &mut Host) -> Result<()> {
        ensure_uplink(&mut self.route, &self.netns, host)?;
        self.host_uplink = host.configure_uplink(self.host_address, UPLINK_PREFIX)?;
        self.configure_uplink(UPLINK_PREFIX)
            .map_err(|e| failed("address uplink of", e))
    }

    /// Put a frame on a link of this index: everybody on a bridge gets it.
    pub(crate) fn say(&self, link: u32, frame: &[u8]) -> io::Result<()> {
        sys::packet::send(&self.frames, link, frame)
    }

    /// All addresses of its links.
    pub(crate) fn addresses(&mut self) -> Result<Vec<LinkAddress>> {
        LinkAddress::list(&mut self.route).map_err(|e| failed("list addresses of", e))
    }

    /// Carry out what is idempotent or may come too late: what is there already, or gone already, is fine.
    pub(crate) fn carry_out(&mut self, requests: &[Request], operation: &'static str) -> Result<()> {
        let fine = [libc::EEXIST, libc::EADDRNOTAVAIL, libc::ENOENT];
        let refusals = self.route.bulk(requests).map_err(|e| failed(operation, e))?;
        match refusals
            .into_iter()
            .find(|refusal| !fine.contains(&refusal.errno))
        {
            Some(refusal) => Err(failed(operation, refusal.into())),
            None => Ok(()),
        }
    }

    pub(crate) fn firewall(&self) -> FabricFirewall {
        FabricFirewall {
            uplink: names::UPLINK,
            address: self.address,
            address6: self.uplink6.map(|uplink| uplink.fabric),
            port_prefix: names::PORT_PREFIX,
        }
    }

    /// Make the bridge of a network, or bring the one that is there in line; its index.
    pub(crate) fn ensure_bridge(
        &mut self,
        name: &str,
        gateway: Ipv4Addr,
        subnet: Ipv4Net,
        mtu: u32,
    ) -> Result<u32> {
        let mut work = || -> io::Result<u32> {
            if Link::find(&mut self.route, name)?.is_none() {
                self.route
                    .request(Link::create_bridge(name, Mac::from_ipv4(gateway), mtu))?;
            }
            let index = Link::find(&mut self.route, name)?
                .ok_or(io::ErrorKind::NotFound)?
                .index;
            let raise = LinkChange {
                up: true,
                ..LinkChange::default()
            };
            let address = Route::add_address(index, gateway, subnet.prefix_len());
            // Addresses that the fabric answers for: see `direct`.
            let answer = resolution::answer_at_once(index, false);
            self.route
                .batch(vec![answer, Link::change(name, &raise), address])?;
            Ok(index)
        };
        work().map_err(|source| Error::Kernel {
            operation: "create",
            object: format!("bridge {name}"),
            source,
        })
    }

    pub(crate) fn delete_link(&mut self, name: &str) -> Result<()> {
        Link::ensure_deleted(&mut self.route, name).map_err(|source| Error::Kernel {
            operation: "delete",
            object: format!("link {name}"),
            source,
        })
    }

    pub(crate) fn links(&mut self) -> Result<Vec<Link>> {
        Link::list(&mut self.route).map_err(|e| failed("list links of", e))
    }

    /// Index of the uplink.
    pub(crate) fn uplink(&mut self) -> Result<u32> {
        let found = Link::find(&mut self.route, names::UPLINK).map_err(|e| failed("find uplink of", e))?;
        let link = found.ok_or_else(|| failed("find uplink of", io::ErrorKind::NotFound.into()))?;
        Ok(link.index)
    }

    fn configure_uplink(&mut self, prefix_len: u8) -> io::Result<()> {
        let uplink = Link::find(&mut self.route, names::UPLINK)?
            .ok_or(io::ErrorKind::NotFound)?
            .index;
        self.route.batch(vec![
            Link::change(
                "lo",
                &LinkChange {
                    up: true,
                    ..LinkChange::default()
                },
            ),
            Link::change(
                names::UPLINK,
                &LinkChange {
                    up: true,
                    ..LinkChange::default()
                },
            ),
            Route::add_address(uplink, self.address, prefix_len),
            Route::add(Ipv4Net::default(), Some(self.host_address), uplink),
        ])
    }
}

fn ensure_uplink(route: &mut Socket, namespace: &OwnedFd, host: &mut Host) -> Result<()> {
    let found = Link::find(route, names::UPLINK).map_err(|e| failed("find uplink of", e))?;
    if found.is_none() {
        host.delete_uplink()?;
        host.create_uplink(namespace)?;
    }
    Ok(())
}

fn prepare() -> io::Result<()> {
    SYSCTLS
        .iter()
        .try_for_each(|(name, value)| netns::sysctl(name, value))
}

fn sockets() -> io::Result<(Socket, Socket, OwnedFd)> {
    Ok((Socket::route()?, Socket::netfilter()?, sys::packet::socket()?))
}

/// The /30 between host and fabric: the one in use, or the first that nothing on the host overlaps, beginning at a place
/// that differs between instances.
fn uplink_subnet(run_dir: &Path, instance: &str, host: &mut Host) -> Result<Ipv4Net> {
    let path = run_dir.join("netd/uplink");
    let claimed = host.claimed::<Ipv4Net>()?;
    let kept = fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse::<Ipv4Net>().ok());
    if let Some(kept) = kept.filter(|net| overlap(*net, &claimed).is_none()) {
        return Ok(kept);
    }
    let chosen = candidates(instance)
        .find(|net| overlap(*net, &claimed).is_none())
        .ok_or_else(|| Error::NoFreeSubnet {
            network: "fabric uplink".into(),
        })?;
    fs::write(&path, chosen.to_string()).map_err(|source| Error::State {
        path: path.clone(),
        operation: "write",
        source,
    })?;
    Ok(chosen)
}

/// A zeroconf route 169.254.0.0/16 is in nobody's way: ours is more specific.
fn overlap(net: Ipv4Net, claimed: &[(Ipv4Net, String)]) -> Option<&(Ipv4Net, String)> {
    let mut specific = claimed.iter().filter(|(other, _)| other.prefix_len() > 16);
    specific.find(|(other, _)| other.contains(&net) || net.contains(other))
}

/// 169.254.100.0 to 169.254.163.255 in /30: link-local, for that is what it is; away from clouds' metadata addresses.
fn candidates(instance: &str) -> impl Iterator<Item = Ipv4Net> {
    const COUNT: u32 = 64 * 64;
    let digest = Sha256::digest(instance.as_bytes());
    let start = u32::from(u16::from_be_bytes([digest[0], digest[1]]));
    (0..COUNT).filter_map(move |n| {
        let offset = (start + n) % COUNT * 4;
        Ipv4Net::new(
            Ipv4Addr::from(u32::from(Ipv4Addr::new(169, 254, 100, 0)) + offset),
            UPLINK_PREFIX,
        )
        .ok()
    })
}

/// The host's and the fabric's address.
fn ends(link: Ipv4Net) -> [Ipv4Addr; 2] {
    let base = u32::from(link.network());
    [Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2)]
}

fn failed(operation: &'static str, source: io::Error) -> Error {
    Error::Kernel {
        operation,
        object: "the fabric namespace".into(),
        source,
    }
}
