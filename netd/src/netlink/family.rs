//! The two address families, so that routes and addresses are said once.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteAddress;

/// A subnet of one family.
pub(crate) trait Subnet: Copy + Debug + Eq {
    type Address: Copy + Debug + Eq + Into<IpAddr>;
    const FAMILY: AddressFamily;
    const UNSPECIFIED: Self::Address;

    fn split(self) -> (Self::Address, u8);
    fn join(address: Self::Address, prefix_len: u8) -> Option<Self>;
    /// From the bytes of an attribute.
    fn address(bytes: &[u8]) -> Option<Self::Address>;
    fn route_address(address: Self::Address) -> RouteAddress;
}

impl Subnet for Ipv4Net {
    type Address = Ipv4Addr;
    const FAMILY: AddressFamily = AddressFamily::Inet;
    const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    fn split(self) -> (Ipv4Addr, u8) {
        (self.network(), self.prefix_len())
    }

    fn join(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        Self::new(address, prefix_len).ok()
    }

    fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
        Some(<[u8; 4]>::try_from(bytes).ok()?.into())
    }

    fn route_address(address: Ipv4Addr) -> RouteAddress {
        RouteAddress::Inet(address)
    }
}

impl Subnet for Ipv6Net {
    type Address = Ipv6Addr;
    const FAMILY: AddressFamily = AddressFamily::Inet6;
    const UNSPECIFIED: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

    fn split(self) -> (Ipv6Addr, u8) {
        (self.network(), self.prefix_len())
    }

    fn join(address: Ipv6Addr, prefix_len: u8) -> Option<Self> {
        Self::new(address, prefix_len).ok()
    }

    fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
        Some(<[u8; 16]>::try_from(bytes).ok()?.into())
    }

    fn route_address(address: Ipv6Addr) -> RouteAddress {
        RouteAddress::Inet6(address)
    }
}
