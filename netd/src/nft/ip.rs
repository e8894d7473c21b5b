//! What differs between the rules of the two IP versions.

use std::net::IpAddr;

use super::expr::{Base, Expr};
use super::key::Field;
use super::transaction::Family;

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Of tables.
    pub(crate) const fn family(self) -> Family {
        match self {
            Self::V4 => Family::Ipv4,
            Self::V6 => Family::Ipv6,
        }
    }

    /// Registers that an address takes.
    pub(crate) const fn registers(self) -> u32 {
        self.field().padded() / 4
    }

    /// The protocol number of its ICMP.
    pub(crate) const fn icmp(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }

    pub(crate) const fn source(self, reg: u32) -> Expr {
        let offset = match self {
            Self::V4 => 12,
            Self::V6 => 8,
        };
        self.address(offset, reg)
    }

    pub(crate) const fn destination(self, reg: u32) -> Expr {
        let offset = match self {
            Self::V4 => 16,
            Self::V6 => 24,
        };
        self.address(offset, reg)
    }

    /// Rewrite the destination to the address in these registers.
    pub(crate) const fn dnat(self, address: u32, port: Option<u32>) -> Expr {
        Expr::Dnat {
            ip: self,
            address,
            port,
        }
    }

    const fn field(self) -> Field {
        match self {
            Self::V4 => Field::Ipv4,
            Self::V6 => Field::Ipv6,
        }
    }

    const fn address(self, offset: u32, reg: u32) -> Expr {
        Expr::Payload {
            base: Base::Network,
            offset,
            len: self.field().size(),
            reg,
        }
    }
}
