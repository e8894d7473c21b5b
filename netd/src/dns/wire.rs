//! The outline of a packet: where its records are, without a look into what they say. Nothing here follows a compression
//! pointer, so nothing can loop.

use std::ops::Range;

/// Bytes of a DNS header.
pub(crate) const HEADER: usize = 12;
/// Type and class of a question; type, class, TTL and length of a record.
const QUESTION_TAIL: usize = 4;
const RECORD_TAIL: usize = 10;

pub(crate) const SOA: u16 = 6;
pub(crate) const OPT: u16 = 41;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// One record's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) section: Section,
    pub(crate) kind: u16,
    /// Where the TTL is.
    pub(crate) ttl: usize,
    pub(crate) whole: Range<usize>,
}

/// A packet with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// Where the question ends and the records begin.
    pub(crate) question: usize,
    pub(crate) records: Vec<Place>,
}

impl Outline {
    /// `None`: the packet is not whole, or has not exactly one question.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let question = question_end(packet)?;
        let (mut at, mut records) = (question, Vec::new());
        for (section, count) in [
            (Section::Answer, 6),
            (Section::Authority, 8),
            (Section::Additional, 10),
        ] {
            for _ in 0..u16_at(packet, count)? {
                let fixed = skip_name(packet, at)?;
                let end = fixed + RECORD_TAIL + usize::from(u16_at(packet, fixed + 8)?);
                packet.get(at..end)?;
                records.push(Place {
                    section,
                    kind: u16_at(packet, fixed)?,
                    ttl: fixed + 4,
                    whole: at..end,
                });
                at = end;
            }
        }
        Some(Self { question, records })
    }

    pub(crate) fn opt(&self) -> Option<&Place> {
        self.records
            .iter()
            .find(|r| r.kind == OPT && r.section == Section::Additional)
    }
}

/// Where the only question ends. Its name must be written out: there is nothing before it to point to.
pub(crate) fn question_end(packet: &[u8]) -> Option<usize> {
    if u16_at(packet, 4)? != 1 {
        return None;
    }
    let mut at = HEADER;
    loop {
        match *packet.get(at)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    let end = at + 1 + QUESTION_TAIL;
    packet.get(..end).map(|_| end)
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

pub(crate) fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    let bytes = packet.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

pub(crate) fn u32_at(packet: &[u8], at: usize) -> Option<u32> {
    let bytes = packet.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_found_behind_compressed_names() {
        let mut packet = vec![0, 0, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, b'a', 0, 0, 1, 0, 1];
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4]);
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let outline = Outline::of(&packet).unwrap();
        assert_eq!(outline.question, 19);
        assert_eq!(u32_at(&packet, outline.records[0].ttl), Some(60));
        assert_eq!(outline.opt().map(|r| r.whole.clone()), Some(35..46));
        assert_eq!(Outline::of(&packet[..45]), None, "torn");
        packet[12] = 0xc0;
        assert_eq!(Outline::of(&packet), None, "a question that points");
    }

    proptest! {
        #[test]
        fn no_packet_has_records_outside_of_itself(mut packet in proptest::collection::vec(any::<u8>(), 0..200), few: bool) {
            if few && packet.len() > 12 {
                packet[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 1, 0, 1]);
            }
            if let Some(outline) = Outline::of(&packet) {
                prop_assert!(outline.records.iter().all(|r| r.ttl + 4 <= r.whole.end && r.whole.end <= packet.len()));
            }
        }
    }
}
