//! A client's question as it is asked outside, and what the answers to it are kept under.

use std::sync::Arc;

use crate::dns::wire;

/// Flags of a header's fourth byte: the client wants to know whether data are authentic, or does not want them checked.
const AUTHENTIC: u8 = 0x20;
const UNCHECKED: u8 = 0x10;
/// What we take over UDP: fits a frame on every link.
pub(crate) const UDP_MOST: u16 = 1232;

/// What makes two questions one: name in lower case, type, class, and the flags that change the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The question section.
    pub(super) section: Arc<[u8]>,
    flags: u8,
    /// The client wants signatures.
    dnssec: bool,
    /// The name may become one of ours at any moment: nobody may keep an answer.
    pub(super) fleeting: bool,
}

/// A question for the world outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(super) key: Key,
    /// The client's id and flags.
    pub(super) head: [u8; 4],
    /// The question section as the client wrote it.
    pub(super) section: Box<[u8]>,
    /// Bytes that the client takes.
    pub(super) limit: usize,
    pub(super) edns: bool,
}

impl Question {
    /// `dnssec`: the flag of the client's OPT record, if it has one.
    pub(crate) fn new(packet: &[u8], limit: usize, dnssec: Option<bool>, fleeting: bool) -> Option<Self> {
        let section = packet.get(wire::HEADER..wire::question_end(packet)?)?;
        let key = Key {
            section: lower(section).into(),
            flags: packet[3] & (AUTHENTIC | UNCHECKED),
            dnssec: dnssec == Some(true),
            fleeting,
        };
        Some(Self {
            key,
            head: [packet[0], packet[1], packet[2], packet[3]],
            section: section.into(),
            limit,
            edns: dnssec.is_some(),
        })
    }

    /// The OPT record of an answer to this client.
    pub(super) fn opt(&self) -> Option<[u8; 11]> {
        self.edns.then(|| opt(self.key.dnssec))
    }
}

impl Key {
    /// The packet that asks. Nothing of the client's but the question goes out: no id, no options.
    pub(super) fn packet(&self, id: [u8; 2], edns: bool) -> Vec<u8> {
        let mut packet = vec![
            id[0],
            id[1],
            0x01,
            self.flags,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            u8::from(edns),
        ];
        packet.extend_from_slice(&self.section);
        if edns {
            packet.extend(opt(self.dnssec));
        }
        packet
    }

    /// Is this an answer to our packet with this id? Whoever guesses the id must guess the question as well.
    pub(super) fn is_answered_by(&self, id: [u8; 2], packet: &[u8]) -> bool {
        let section = wire::question_end(packet).and_then(|end| packet.get(wire::HEADER..end));
        packet.starts_with(&id)
            && packet.get(2).is_some_and(|flags| flags & 0x80 != 0)
            && section.is_some_and(|s| s.eq_ignore_ascii_case(&self.section))
    }

    /// What an answer to it takes in memory besides itself.
    pub(super) fn len(&self) -> usize {
        self.section.len()
    }
}

fn opt(dnssec: bool) -> [u8; 11] {
    let size = UDP_MOST.to_be_bytes();
    [0, 0, 41, size[0], size[1], 0, 0, u8::from(dnssec) << 7, 0, 0, 0]
}

/// Lengths of labels are below `A`, so only names change; type and class are put back.
fn lower(section: &[u8]) -> Vec<u8> {
    let mut lower = section.to_ascii_lowercase();
    let name = section.len().saturating_sub(4);
    lower[name..].copy_from_slice(&section[name..]);
    lower
}
