//! Keys and values of sets and maps: concatenations of fields, each padded to a 32-bit register.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::types::Mac;

/// Type of one field; the number is nft(8)'s datatype, which the kernel only stores (for listing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Ipv4,
    Ipv6,
    Ether,
    Protocol,
    Port,
    /// Host-endian 32-bit number (numgen); listed as a mark.
    Slot,
    Interface,
    /// Host-endian index of an interface.
    Link,
}

impl Field {
    pub(crate) const fn datatype(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Ether => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Slot => 19,
            Self::Link => 20,
            Self::Interface => 41,
        }
    }

    /// Bytes in the packet or in nft's value, before padding.
    pub(crate) const fn size(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Slot | Self::Link => 4,
            Self::Ipv6 | Self::Interface => 16,
            Self::Ether => 6,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    pub(crate) const fn padded(self) -> u32 {
        self.size().next_multiple_of(4)
    }
}

/// Length of a value of these fields: a single one is not padded, a concatenation is.
pub(crate) fn length(fields: &[Field]) -> u32 {
    match fields {
        [single] => single.size(),
        many => many.iter().map(|f| f.padded()).sum(),
    }
}

/// nft's number for a concatenation: six bits a field.
pub(crate) fn datatype(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |sum, field| sum << 6 | field.datatype())
}

/// The bytes of a key or value, built field by field in the set's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) Vec<u8>);

impl Key {
    pub(crate) fn ipv4(self, address: Ipv4Addr) -> Self {
        self.field(&address.octets(), Field::Ipv4)
    }

    pub(crate) fn ipv6(self, address: Ipv6Addr) -> Self {
        self.field(&address.octets(), Field::Ipv6)
    }

    pub(crate) fn ip(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.ipv4(address),
            IpAddr::V6(address) => self.ipv6(address),
        }
    }

    pub(crate) fn mac(self, mac: Mac) -> Self {
        self.field(&mac.0, Field::Ether)
    }

    pub(crate) fn protocol(self, number: u8) -> Self {
        self.field(&[number], Field::Protocol)
    }

    pub(crate) fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes(), Field::Port)
    }

    pub(crate) fn slot(self, number: u32) -> Self {
        self.field(&number.to_ne_bytes(), Field::Slot)
    }

    pub(crate) fn interface(self, name: &str) -> Self {
        self.field(&interface_name(name), Field::Interface)
    }

    /// An interface by its index.
    pub(crate) fn link(self, index: u32) -> Self {
        self.field(&index.to_ne_bytes(), Field::Link)
    }

    fn field(mut self, bytes: &[u8], field: Field) -> Self {
        self.0.extend_from_slice(bytes);
        self.0
            .resize(self.0.len() + (field.padded() as usize - bytes.len()), 0);
        self
    }

    /// As the kernel wants it for these fields.
    pub(crate) fn bytes(&self, fields: &[Field]) -> &[u8] {
        &self.0[..self.0.len().min(length(fields) as usize)]
    }
}

/// `IFNAMSIZ` bytes, zero-filled; meta iifname loads the same.
pub(crate) fn interface_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let n = name.len().min(15);
    bytes[..n].copy_from_slice(&name.as_bytes()[..n]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concatenation_is_padded_and_a_single_field_is_not() {
        let key = Key::default().protocol(6).port(8080);
        assert_eq!(
            key.bytes(&[Field::Protocol, Field::Port]),
            [6, 0, 0, 0, 0x1f, 0x90, 0, 0]
        );
        assert_eq!(Key::default().port(80).bytes(&[Field::Port]), [0, 80]);
        assert_eq!(datatype(&[Field::Protocol, Field::Port]), 12 << 6 | 13);
        assert_eq!(length(&[Field::Interface, Field::Ether, Field::Ipv4]), 28);
    }
}
