//! Generic netlink: families that register by name (linux/genetlink.h).

use std::io;

use netlink_packet_core::NlasIterator;

use super::attribute::Attributes;
use super::socket::{Request, Socket};

/// The family that knows the others.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`: command, version, reserved.
pub(super) const GENLMSGHDR: usize = 4;

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
    body.extend_from_slice(attributes.bytes());
    Request {
        kind: family,
        flags: 0,
        body,
    }
}
