//! A bridge in a namespace of its own, with hosts plugged into it: `node1` has 10.99.0.1, `node2` has 10.99.0.2 and so on;
//! over IPv6 fd99::1, fd99::2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::Host;

/// IP versions of the addresses that hosts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both; the hosts are known by their IPv4 addresses.
    Both,
}

/// The bridge.
#[derive(Debug)]
pub struct Switch {
    host: Host,
    versions: Versions,
}

impl Switch {
    /// A bridge that nothing is plugged into.
    pub fn new(versions: Versions) -> Result<Self> {
        let host = Host::new()?;
        host.ip("link add switch type bridge")?;
        host.ip("link set switch up")?;
        Ok(Self { host, versions })
    }

    /// A new host, its cable in the switch.
    pub fn plug_in(&self, number: u8) -> Result<Host> {
        let host = Host::new()?.named(&format!("node{number}"));
        let place = host.namespace();
        self.host.ip(&format!(
            "link add port{number} type veth peer name eth0 netns {}",
            place.display()
        ))?;
        self.host.ip(&format!("link set port{number} master switch up"))?;
        if self.versions != Versions::V6 {
            host.ip(&format!("address add {}/24 dev eth0", v4(number)))?;
        }
        if self.versions != Versions::V4 {
            // It is used at once: nobody asks first whether it is taken.
            host.ip(&format!("address add {}/64 dev eth0 nodad", v6(number)))?;
        }
        host.ip("link set eth0 up")?;
        Ok(host)
    }

    /// Cuts a host off, or connects it again. Neither side is told: packets are lost.
    pub fn set_cable(&self, number: u8, connected: bool) -> Result<()> {
        // The link stays up for both ends; it only leads nowhere.
        let place = if connected { "master switch" } else { "nomaster" };
        self.host.ip(&format!("link set port{number} {place}"))
    }

    /// The namespace that the bridge is in.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The address by which a host is known.
    pub fn address(&self, number: u8) -> IpAddr {
        match self.versions {
            Versions::V6 => v6(number).into(),
            Versions::V4 | Versions::Both => v4(number).into(),
        }
    }
}

fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}

fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into())
}
