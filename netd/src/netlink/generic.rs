//! Generic netlink: families that register by name (linux/genetlink.h), and attributes in the host's byte order.

use std::io;

use netlink_packet_core::NlasIterator;

use super::socket::{Request, Socket};

/// The family that knows the others.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`: command, version, reserved.
pub(super) const GENLMSGHDR: usize = 4;
const NLA_F_NESTED: u16 = 0x8000;

/// The number that a family has on this kernel; `None` if it is not there.
pub(super) fn family(socket: &mut Socket, name: &str) -> io::Result<Option<u16>> {
    let all = request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1, &Attributes::default());
    let found = socket.dump(&all, |_, body| {
        let (mut number, mut found) = (None, false);
        for nla in NlasIterator::new(body.get(GENLMSGHDR..)?).flatten() {
            match nla.kind() {
                CTRL_ATTR_FAMILY_ID => number = nla.value().try_into().ok().map(u16::from_ne_bytes),
                CTRL_ATTR_FAMILY_NAME => found = nla.value().strip_suffix(&[0]) == Some(name.as_bytes()),
                _ => {}
            }
        }
        number.filter(|_| found)
    })?;
    Ok(found.into_iter().next())
}

pub(super) fn request(family: u16, command: u8, version: u8, attributes: &Attributes) -> Request {
    let mut body = vec![command, version, 0, 0];
    body.extend_from_slice(&attributes.0);
    Request {
        kind: family,
        flags: 0,
        body,
    }
}

/// A growing list of attributes.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // The callers' lists are cut so that a nest stays below 64 KiB.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.put(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.put(kind | NLA_F_NESTED, &inner.0)
    }
}
