//! An answer from outside, stripped of everything that concerned only the one who asked, and made up again for each client.

use std::time::Duration;

use super::question::Question;
use crate::dns::wire::{HEADER, Outline, Place, SOA, Section, u16_at, u32_at};

/// The longest that an answer is believed, and that a name is believed not to exist.
const LONGEST: u32 = 300;
const LONGEST_NEGATIVE: u32 = 30;
/// TTL of what may be answered differently at any moment.
const FLEETING: u32 = 1;

/// An answer to be given to whoever asks the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Without OPT record.
    packet: Vec<u8>,
    outline: Outline,
    /// `None`: not to be kept.
    pub(super) lifetime: Option<Duration>,
}

impl Reply {
    /// `None`: not a packet that can be passed on.
    pub(super) fn new(mut packet: Vec<u8>, fleeting: bool) -> Option<Self> {
        let mut outline = Outline::of(&packet)?;
        if let Some(opt) = outline.opt().cloned() {
            cut_opt(&mut packet, &opt, &outline)?;
            outline = Outline::of(&packet)?;
        }
        if fleeting {
            outline
                .records
                .iter()
                .for_each(|r| cap_ttl(&mut packet, r.ttl, FLEETING));
        }
        let lifetime = lifetime(&packet, &outline);
        Some(Self {
            packet,
            outline,
            lifetime,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.packet.len() + self.outline.records.len() * size_of::<Place>()
    }

    /// The server knew an answer, be it that there is nothing of the name.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.packet[3] & 0x0f, 0 | 3)
    }

    /// For this client, `age` after it came.
    pub(super) fn to(&self, question: &Question, age: Duration) -> Vec<u8> {
        let mut packet = self.packet.clone();
        packet[..2].copy_from_slice(&question.head[..2]);
        // A response, with the client's wish for recursion; neither authoritative nor, as yet, truncated.
        packet[2] = 0x80 | question.head[2] & 0x01;
        packet[3] |= 0x80;
        packet[HEADER..self.outline.question].copy_from_slice(&question.section);
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for place in &self.outline.records {
            let left = u32_at(&packet, place.ttl).unwrap_or(0).saturating_sub(age);
            packet[place.ttl..place.ttl + 4].copy_from_slice(&left.to_be_bytes());
        }
        let opt = question.opt();
        let room = question.limit - opt.map_or(0, |opt| opt.len());
        if packet.len() > room {
            self.truncate(&mut packet, room);
        }
        if let Some(opt) = opt {
            packet.extend(opt);
            let count = u16_at(&packet, 10).unwrap_or(0).saturating_add(1);
            packet[10..12].copy_from_slice(&count.to_be_bytes());
        }
        packet
    }

    /// As many answers as fit, for clients that cannot do TCP, and the flag for those that can.
    fn truncate(&self, packet: &mut Vec<u8>, room: usize) {
        let answers = self
            .outline
            .records
            .iter()
            .filter(|r| r.section == Section::Answer);
        let kept: Vec<_> = answers.take_while(|r| r.whole.end <= room).collect();
        packet.truncate(kept.last().map_or(self.outline.question, |r| r.whole.end));
        packet[2] |= 0x02;
        packet[6..8].copy_from_slice(&(kept.len() as u16).to_be_bytes());
        packet[8..12].fill(0);
    }
}

/// Take the OPT record out, and what follows it: only hints, whose names might be compressed by pointing behind it.
fn cut_opt(packet: &mut Vec<u8>, opt: &Place, outline: &Outline) -> Option<()> {
    let extended_code = packet[opt.ttl];
    if extended_code != 0 {
        return None;
    }
    let hints = outline
        .records
        .iter()
        .filter(|r| r.section == Section::Additional);
    let kept = hints.take_while(|r| *r != opt).count();
    packet[10..12].copy_from_slice(&u16::try_from(kept).ok()?.to_be_bytes());
    packet.truncate(opt.whole.start);
    Some(())
}

fn cap_ttl(packet: &mut [u8], at: usize, most: u32) {
    let ttl = u32_at(packet, at).unwrap_or(0).min(most);
    packet[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
}

/// How long it may be kept: as RFC 2308 says, within bounds of our own.
fn lifetime(packet: &[u8], outline: &Outline) -> Option<Duration> {
    let of = |section| outline.records.iter().filter(move |r| r.section == section);
    let positive = packet[3] & 0x0f == 0 && of(Section::Answer).next().is_some();
    let seconds = match packet[3] & 0x0f {
        0 if positive => of(Section::Answer)
            .filter_map(|r| u32_at(packet, r.ttl))
            .min()?
            .min(LONGEST),
        0 | 3 => {
            let soa = of(Section::Authority).find(|r| r.kind == SOA)?;
            let minimum = u32_at(packet, soa.whole.end.checked_sub(4)?)?;
            u32_at(packet, soa.ttl)?.min(minimum).min(LONGEST_NEGATIVE)
        }
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn message(kind: MessageType, name: &str) -> Message {
        let mut message = Message::new(7, kind, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    fn answers(ttls: &[u32]) -> Message {
        let mut message = message(MessageType::Response, "example.com.");
        let owner = Name::from_ascii("example.com.").unwrap();
        let record = |(n, ttl): (usize, &u32)| {
            Record::from_rdata(owner.clone(), *ttl, RData::A(A::new(10, 0, 0, n as u8)))
        };
        message.answers = ttls.iter().enumerate().map(record).collect();
        message.edns = Some(Edns::new());
        message
    }

    fn client(name: &str, limit: usize, edns: bool) -> Question {
        let packet = message(MessageType::Query, name).to_vec().unwrap();
        Question::new(&packet, limit, edns.then_some(false), false).unwrap()
    }

    fn read(packet: &[u8]) -> Message {
        Message::from_vec(packet).unwrap()
    }

    #[test]
    fn each_client_gets_its_own_spelling_age_and_options() {
        let reply = Reply::new(answers(&[60, 40]).to_vec().unwrap(), false).unwrap();
        assert_eq!(reply.lifetime, Some(Duration::from_secs(40)));
        let plain = read(&reply.to(&client("EXAMPLE.com.", 512, false), Duration::from_secs(15)));
        assert_eq!(plain.queries[0].name().to_string(), "EXAMPLE.com.");
        let ttls: Vec<_> = plain.answers.iter().map(|r| r.ttl).collect();
        assert_eq!((ttls, plain.edns.is_some()), (vec![45, 25], false));
        let edns = read(&reply.to(&client("example.com.", 512, true), Duration::ZERO));
        assert!(edns.edns.is_some() && edns.answers.len() == 2);
    }

    #[test]
    fn what_does_not_fit_is_cut_between_records_and_flagged() {
        let reply = Reply::new(answers(&[60; 100]).to_vec().unwrap(), false).unwrap();
        for edns in [false, true] {
            let packet = reply.to(&client("example.com.", 512, edns), Duration::ZERO);
            let cut = read(&packet);
            assert!(packet.len() <= 512 && cut.metadata.truncation);
            assert!(cut.answers.len() >= 29 && cut.edns.is_some() == edns);
        }
        let whole = read(&reply.to(&client("example.com.", 65535, true), Duration::ZERO));
        assert!(!whole.metadata.truncation && whole.answers.len() == 100);
    }

    #[test]
    fn what_is_not_there_is_believed_as_long_as_its_zone_says_and_not_longer() {
        let negative = |soa: Option<(u32, u32)>| {
            let mut message = message(MessageType::Response, "no.example.com.");
            message.metadata.response_code = ResponseCode::NXDomain;
            let name = Name::from_ascii("example.com.").unwrap();
            message.authorities = soa
                .iter()
                .map(|(ttl, minimum)| {
                    let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, *minimum);
                    Record::from_rdata(name.clone(), *ttl, RData::SOA(soa))
                })
                .collect();
            Reply::new(message.to_vec().unwrap(), false).unwrap().lifetime
        };
        assert_eq!(negative(Some((60, 5))), Some(Duration::from_secs(5)));
        assert_eq!(negative(Some((3600, 3600))), Some(Duration::from_secs(30)));
        assert_eq!(negative(None), None);
        let long = Reply::new(answers(&[86400]).to_vec().unwrap(), false).unwrap();
        assert_eq!(long.lifetime, Some(Duration::from_secs(300)));
        let none = Reply::new(answers(&[60, 0]).to_vec().unwrap(), false).unwrap();
        assert_eq!(none.lifetime, None);
    }

    #[test]
    fn a_name_that_may_become_ours_is_not_to_be_kept_by_anybody() {
        let reply = Reply::new(answers(&[86400]).to_vec().unwrap(), true).unwrap();
        assert_eq!(reply.lifetime, Some(Duration::from_secs(1)));
        assert_eq!(
            read(&reply.to(&client("example.com.", 512, false), Duration::ZERO)).answers[0].ttl,
            1
        );
    }

    proptest! {
        #[test]
        fn no_answer_from_outside_does_harm(at in 0usize..200, byte: u8, cut in 0usize..200, fleeting: bool) {
            let mut packet = answers(&[60, 60, 60]).to_vec().unwrap();
            let at = at % packet.len();
            packet[at] = byte;
            packet.truncate(packet.len().max(cut) - cut / 4);
            let question = client("example.com.", 512, true);
            if let Some(reply) = Reply::new(packet, fleeting).filter(|r| r.outline.question == 29) {
                prop_assert!(reply.to(&question, Duration::ZERO).len() <= 512);
            }
        }
    }
}
