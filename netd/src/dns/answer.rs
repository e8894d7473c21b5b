//! From a packet to what should be done about it. Pure, and the place where hostile packets end: whatever is not a single
//! ordinary question gets a bare header or nothing, never more than it sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rand::seq::SliceRandom;

use super::directory::View;

/// Seconds. Answers change whenever a task does.
const TTL: u32 = 1;
/// Bytes of a DNS header.
const HEADER: usize = 12;
/// What a client without EDNS can take over UDP (RFC 1035), and what fits a frame on every link.
const UDP_PLAIN: usize = 512;
const UDP_MOST: usize = 1232;

/// How the question arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reply(Vec<u8>),
    /// Ask upstream; if that fails, `failure` is the reply.
    Forward {
        failure: Vec<u8>,
    },
    Ignore,
}

/// Decide about a packet from a client that sees `view`.
pub(crate) fn answer(packet: &[u8], view: &View<'_>, transport: Transport) -> Outcome {
    let Some(header) = packet.get(..HEADER) else {
        return Outcome::Ignore;
    };
    if header[2] & 0x80 != 0 {
        return Outcome::Ignore; // an answer: replying could start a loop
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let ordinary = count(4) == 1 && count(6) == 0 && count(8) == 0 && count(10) <= 2;
    let Some(request) = Message::from_vec(packet).ok().filter(|_| ordinary) else {
        return Outcome::Reply(bare(header, ResponseCode::FormErr));
    };
    if request.metadata.op_code != OpCode::Query {
        return Outcome::Reply(bare(header, ResponseCode::NotImp));
    }
    let Some(query) = request.queries.first() else {
        return Outcome::Reply(bare(header, ResponseCode::FormErr));
    };
    if query.query_class() != DNSClass::IN {
        return Outcome::Reply(bare(header, ResponseCode::Refused));
    }
    let limit = match (&request.edns, transport) {
        (_, Transport::Tcp) => usize::from(u16::MAX),
        (Some(edns), Transport::Udp) => usize::from(edns.max_payload()).clamp(UDP_PLAIN, UDP_MOST),
        (None, Transport::Udp) => UDP_PLAIN,
    };
    let reply = |code, records| {
        encode(&request, code, records, limit).unwrap_or_else(|| bare(header, ResponseCode::ServFail))
    };
    if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Outcome::Reply(reply(ResponseCode::BADVERS, vec![]));
    }
    match resolve(query, view) {
        Some((code, records)) => Outcome::Reply(reply(code, records)),
        None if view.reaches_out() => Outcome::Forward {
            failure: reply(ResponseCode::ServFail, vec![]),
        },
        None => Outcome::Reply(reply(ResponseCode::NXDomain, vec![])),
    }
}

/// `None`: not ours to answer.
fn resolve(query: &Query, view: &View<'_>) -> Option<(ResponseCode, Vec<Record>)> {
    let name = plain(query.name())?;
    if query.query_type() == RecordType::PTR
        && let Some(address) = reversed(&name)
    {
        return pointer(query.name(), address, view);
    }
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let addresses = if name == "localhost" {
        &loopback[..]
    } else {
        view.lookup(&name)?
    };
    // The name exists: where this type does not, the answer is empty (NODATA), never that there is no such name.
    let wanted = |address: &&IpAddr| match query.query_type() {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        kind => kind == RecordType::ANY,
    };
    let mut records: Vec<_> = addresses
        .iter()
        .filter(wanted)
        .map(|address| Record::from_rdata(query.name().clone(), TTL, data(*address)))
        .collect();
    records.shuffle(&mut rand::rng());
    Some((ResponseCode::NoError, records))
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn pointer(owner: &Name, address: IpAddr, view: &View<'_>) -> Option<(ResponseCode, Vec<Record>)> {
    match view.pointer(address) {
        Some(target) => {
            let target = Name::from_ascii(format!("{target}.")).ok()?;
            let record = Record::from_rdata(owner.clone(), TTL, RData::PTR(PTR(target)));
            Some((ResponseCode::NoError, vec![record]))
        }
        None if view.is_ours(address) => Some((ResponseCode::NXDomain, vec![])),
        None => None,
    }
}

/// The address that a whole reverse name stands for.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = octets
            .rsplit('.')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        return Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?));
    }
    let digits: Vec<u8> = name
        .strip_suffix(".ip6.arpa")?
        .rsplit('.')
        .map(|digit| {
            if digit.len() == 1 {
                u8::from_str_radix(digit, 16).ok()
            } else {
                None
            }
        })
        .collect::<Option<_>>()?;
    let octets: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |o, d| o << 4 | d))
        .collect();
    match digits.len() {
        32 => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => None,
    }
}

/// Lower case, no final dot. `None` for labels that no name of ours has.
fn plain(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        if !label.iter().all(|b| b.is_ascii_graphic() && *b != b'.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
    }
    Some(text)
}

fn encode(request: &Message, code: ResponseCode, answers: Vec<Record>, limit: usize) -> Option<Vec<u8>> {
    let mut reply = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&request.queries);
    reply.answers = answers;
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MOST as u16);
        edns.set_rcode_high(code.high());
        reply.edns = Some(edns);
    }
    loop {
        let bytes = reply.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        // As much as fits, for clients that cannot do TCP (musl before 1.2.4), and the flag for those that can.
        reply.metadata.truncation = true;
        let excess = (bytes.len() - limit).div_ceil(16).max(1);
        let keep = reply.answers.len().checked_sub(excess)?;
        reply.answers.truncate(keep);
    }
}

/// A reply that is nothing but a header.
fn bare(header: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&header[..2]);
    reply[2] = 0x80 | header[2] & 0x79; // response; opcode and recursion desired as asked
    reply[3] = 0x80 | code.low();
    reply
}

/// Does a packet from upstream answer this question? The id was checked by the caller.
pub(crate) fn is_answer_to(packet: &[u8], question: &[u8]) -> bool {
    let section = |bytes: &[u8]| -> Option<Vec<u8>> {
        let mut at = HEADER;
        loop {
            let length = usize::from(*bytes.get(at)?);
            if length > 63 {
                return None; // no compression in a question
            }
            at += 1 + length;
            if length == 0 {
                return Some(bytes.get(HEADER..at + 4)?.to_ascii_lowercase());
            }
        }
    };
    packet.len() >= HEADER
        && packet[2] & 0x80 != 0
        && section(packet).is_some_and(|s| Some(s) == section(question))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::dns::{Directory, Scope, Zone};

    fn directory(internal: bool, backends: u8) -> Directory {
        let mut zone = Zone::new(
            "backend",
            internal,
            ["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        );
        zone.add("web", [Ipv4Addr::new(10, 0, 1, 2)]);
        zone.add(
            "tasks.web",
            (0..backends).map(|n| Ipv4Addr::new(10, 0, 1, 10 + n)),
        );
        zone.point(Ipv4Addr::new(10, 0, 1, 2), "web");
        let mut directory = Directory::default();
        directory.set_zone("n", zone);
        directory
    }

    fn ask(directory: &Directory, packet: &[u8], transport: Transport) -> Outcome {
        answer(
            packet,
            &directory.view(&Scope::Network("n".into()), IpAddr::V4(Ipv4Addr::LOCALHOST)),
            transport,
        )
    }

    fn question(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        if let Some(size) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.edns = Some(edns);
        }
        message.to_vec().unwrap()
    }

    fn reply(outcome: Outcome) -> Message {
        match outcome {
            Outcome::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("no reply: {other:?}"),
        }
    }

    #[test]
    fn names_answer_whatever_their_case_and_other_types_are_nodata() {
        let d = directory(false, 3);
        let a = reply(ask(&d, &question("WEB.", RecordType::A, None), Transport::Udp));
        assert_eq!(a.metadata.response_code, ResponseCode::NoError);
        assert_eq!(a.answers.len(), 1);
        assert!(a.answers[0].ttl <= 1);
        assert_eq!(a.metadata.id, 77);
        let aaaa = reply(ask(
            &d,
            &question("web.backend.", RecordType::AAAA, None),
            Transport::Udp,
        ));
        assert_eq!(
            (aaaa.metadata.response_code, aaaa.answers.len()),
            (ResponseCode::NoError, 0)
        );
        let ptr = reply(ask(
            &d,
            &question("2.1.0.10.in-addr.arpa.", RecordType::PTR, None),
            Transport::Udp,
        ));
        assert_eq!(ptr.answers[0].data.to_string(), "web.backend.");
        let none = reply(ask(
            &d,
            &question("3.1.0.10.in-addr.arpa.", RecordType::PTR, None),
            Transport::Udp,
        ));
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn many_tasks_are_truncated_over_udp_and_whole_over_tcp() {
        let d = directory(false, 60);
        let cut = ask(&d, &question("tasks.web.", RecordType::A, None), Transport::Udp);
        let Outcome::Reply(bytes) = &cut else { panic!() };
        assert!(bytes.len() <= 512);
        let cut = reply(cut);
        assert!(cut.metadata.truncation && cut.answers.len() > 20);
        for whole in [
            ask(&d, &question("tasks.web.", RecordType::A, None), Transport::Tcp),
            ask(
                &d,
                &question("tasks.web.", RecordType::A, Some(1232)),
                Transport::Udp,
            ),
        ] {
            let whole = reply(whole);
            assert!(!whole.metadata.truncation);
            assert_eq!(whole.answers.len(), 60);
        }
    }

    #[test]
    fn the_order_of_tasks_varies() {
        let d = directory(false, 20);
        let packet = question("tasks.web.", RecordType::A, None);
        let orders: std::collections::HashSet<_> = (0..20)
            .map(|_| format!("{:?}", reply(ask(&d, &packet, Transport::Udp)).answers))
            .collect();
        assert!(orders.len() > 1);
    }

    #[test]
    fn only_networks_with_a_way_out_ask_upstream() {
        let packet = question("example.com.", RecordType::A, None);
        assert!(matches!(
            ask(&directory(false, 0), &packet, Transport::Udp),
            Outcome::Forward { .. }
        ));
        let inside = reply(ask(&directory(true, 0), &packet, Transport::Udp));
        assert_eq!(inside.metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn packets_that_are_no_question_get_a_header_or_nothing() {
        let d = directory(false, 1);
        let good = question("web.", RecordType::A, None);
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(ask(&d, &response, Transport::Udp), Outcome::Ignore);
        assert_eq!(ask(&d, &good[..11], Transport::Udp), Outcome::Ignore);
        let mut many = good.clone();
        many[5] = 200;
        let mut status = good.clone();
        status[2] = 2 << 3;
        for (packet, code) in [(&many[..], 1), (&good[..14], 1), (&status[..], 4)] {
            let Outcome::Reply(bytes) = ask(&d, packet, Transport::Udp) else {
                panic!()
            };
            assert_eq!((bytes.len(), bytes[3] & 15), (12, code));
        }
    }

    #[test]
    fn an_answer_must_repeat_the_question() {
        let asked = question("example.com.", RecordType::A, None);
        let mut answered = asked.clone();
        answered[2] |= 0x80;
        assert!(is_answer_to(&answered, &asked));
        assert!(!is_answer_to(&asked, &asked));
        let mut other = question("example.net.", RecordType::A, None);
        other[2] |= 0x80;
        assert!(!is_answer_to(&other, &asked));
        assert!(!is_answer_to(&answered[..20], &asked));
    }

    proptest! {
        #[test]
        fn no_packet_crashes_or_amplifies(mut packet in proptest::collection::vec(any::<u8>(), 0..600), flip: u8) {
            let d = directory(false, 200);
            if flip & 1 == 0 && packet.len() > 12 {
                packet[2] &= 0x07;
                packet[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, flip >> 7]);
            }
            if let Outcome::Reply(bytes) = ask(&d, &packet, Transport::Udp) {
                prop_assert!(bytes.len() <= UDP_MOST);
                prop_assert!(bytes[2] & 0x80 != 0);
            }
            let _ = is_answer_to(&packet, &packet);
        }
    }
}
