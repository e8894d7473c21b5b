//! From a packet to what should be done about it. Pure, and the place where hostile packets end: whatever is not a single
//! ordinary question gets a bare header or nothing, never more than it sent.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use super::directory::View;
use super::resolve::{Answer, Resolved, resolve};
use super::upstream::{Question, UDP_MOST};
use super::wire::HEADER;

/// What a client without EDNS can take over UDP (RFC 1035).
const UDP_PLAIN: usize = 512;

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
        question: Box<Question>,
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
    match read(packet, header) {
        Ok((request, query)) => decide(packet, &request, &query, view, transport),
        Err(code) => Outcome::Reply(bare(header, code)),
    }
}

/// The one question of a packet, or why it is not answered.
fn read(packet: &[u8], header: &[u8]) -> Result<(Message, Query), ResponseCode> {
    if header[2] & 0x78 != 0 {
        return Err(ResponseCode::NotImp); // an operation other than a question
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 2 {
        return Err(ResponseCode::FormErr);
    }
    let request = Message::from_vec(packet).map_err(|_| ResponseCode::FormErr)?;
    let query = request.queries.first().ok_or(ResponseCode::FormErr)?.clone();
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || transfer {
        return Err(ResponseCode::Refused);
    }
    Ok((request, query))
}

fn decide(packet: &[u8], request: &Message, query: &Query, view: &View<'_>, transport: Transport) -> Outcome {
    let limit = match (&request.edns, transport) {
        (_, Transport::Tcp) => usize::from(u16::MAX),
        (Some(edns), Transport::Udp) => usize::from(edns.max_payload()).clamp(UDP_PLAIN, UDP_MOST.into()),
        (None, Transport::Udp) => UDP_PLAIN,
    };
    let reply =
        |answer| encode(request, answer, limit).unwrap_or_else(|| bare(packet, ResponseCode::ServFail));
    let only = |code| {
        reply(Answer {
            code,
            ..Answer::default()
        })
    };
    if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Outcome::Reply(only(ResponseCode::BADVERS));
    }
    let fleeting = match resolve(query, view) {
        Resolved::Ours(answer) => return Outcome::Reply(reply(answer)),
        Resolved::Outside { .. } if !view.reaches_out() => {
            return Outcome::Reply(only(ResponseCode::NXDomain));
        }
        Resolved::Outside { fleeting } => fleeting,
    };
    let dnssec = request.edns.as_ref().map(|edns| edns.flags().dnssec_ok);
    match Question::new(packet, limit, dnssec, fleeting) {
        Some(question) => Outcome::Forward {
            question: Box::new(question),
            failure: only(ResponseCode::ServFail),
        },
        None => Outcome::Reply(only(ResponseCode::FormErr)),
    }
}

fn encode(request: &Message, answer: Answer, limit: usize) -> Option<Vec<u8>> {
    let mut reply = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = answer.code;
    reply.queries.clone_from(&request.queries);
    reply.answers = answer.records;
    reply.additionals = answer.hints;
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MOST);
        edns.set_rcode_high(answer.code.high());
        reply.edns = Some(edns);
    }
    loop {
        let bytes = reply.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        // Hints are the first to go, and no loss. Of the answers as much as fits is for clients that cannot do TCP (musl
        // before 1.2.4), and the flag for those that can.
        if !reply.additionals.is_empty() {
            reply.additionals.clear();
            continue;
        }
        reply.metadata.truncation = true;
        let mean = bytes.len().div_ceil(reply.answers.len().max(1));
        let excess = ((bytes.len() - limit) / mean).max(1);
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;
    use crate::dns::{Directory, Names, Scope, Source, Zone};

    fn directory(internal: bool, backends: u8) -> Directory {
        let mut zone = Zone::new(
            "backend",
            internal,
            ["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        );
        let mut names = Names::default();
        names.add("web", [Ipv4Addr::new(10, 0, 1, 2)]);
        names.add(
            "tasks.web",
            (0..backends).map(|n| Ipv4Addr::new(10, 0, 1, 10 + n)),
        );
        names.point(Ipv4Addr::new(10, 0, 1, 2), "web");
        zone.set(&Source::Service("web".into()), names);
        let mut directory = Directory::default();
        directory.set_zone("n", zone);
        directory
    }

    fn ask(directory: &Directory, packet: &[u8], transport: Transport) -> Outcome {
        let client = IpAddr::from([10, 0, 1, 200]);
        let view = directory.view(&Scope::Network("n".into()), client).unwrap();
        answer(packet, &view, transport)
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
    fn what_is_not_for_us_to_do_is_refused_by_its_proper_code() {
        let d = directory(false, 1);
        let code = |packet: &[u8]| match ask(&d, packet, Transport::Udp) {
            Outcome::Reply(bytes) => bytes[3] & 15,
            other => panic!("no reply: {other:?}"),
        };
        let update = [0, 1, 5 << 3, 0, 0, 1, 0, 0, 0, 1, 0, 0];
        assert_eq!(
            code(&update),
            4,
            "an update (RFC 2136) has records where a question has none"
        );
        assert_eq!(code(&question("web.", RecordType::AXFR, None)), 5);
        let mut chaos = question("web.", RecordType::TXT, None);
        *chaos.last_mut().unwrap() = 3;
        assert_eq!(code(&chaos), 5);
        let mut two = question("web.", RecordType::A, None);
        two[5] = 2;
        two.extend_from_within(12..);
        assert_eq!(code(&two), 1);
        let mut looped = question("web.", RecordType::A, None);
        looped[12..14].copy_from_slice(&[0xc0, 12]);
        assert_eq!(code(&looped), 1, "a name that points to itself");
        let mut version = question("web.", RecordType::A, Some(1232));
        let at = version.len() - 5;
        version[at] = 1;
        let refused = reply(ask(&d, &version, Transport::Udp));
        assert_eq!(u16::from(refused.metadata.response_code), 16, "BADVERS");
    }

    #[test]
    fn the_case_of_a_question_is_that_of_its_answer() {
        let d = directory(false, 1);
        for name in ["wEb.", "WEB.bacKEND.", "tAsks.Web."] {
            let answer = reply(ask(&d, &question(name, RecordType::A, None), Transport::Udp));
            assert_eq!(answer.queries[0].name().to_string(), name);
            assert_eq!(answer.answers[0].name.to_string(), name);
        }
        let any = reply(ask(
            &d,
            &question("localhost.", RecordType::ANY, None),
            Transport::Udp,
        ));
        assert_eq!(any.answers.len(), 2);
    }

    proptest! {
        /// Ordinary questions with a few bytes changed, added or missing: most of what is wrong is deep inside.
        #[test]
        fn no_mutation_of_a_question_does_harm(
            kind in prop::sample::select(vec![1u16, 6, 12, 28, 33, 41, 65, 255]),
            name in prop::sample::select(vec!["tasks.web.backend.", "_80._tcp.web.", "2.1.0.10.in-addr.arpa.", "x.example.com."]),
            edns in proptest::option::of(any::<u16>()),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in 0usize..8,
            more in proptest::collection::vec(any::<u8>(), 0..8),
            tcp: bool,
        ) {
            let mut packet = question(name, kind.into(), edns);
            for (at, byte) in changes {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            packet.truncate(packet.len() - cut.saturating_sub(4));
            packet.extend(more);
            let transport = if tcp { Transport::Tcp } else { Transport::Udp };
            match ask(&directory(false, 200), &packet, transport) {
                Outcome::Ignore => prop_assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
                Outcome::Reply(bytes) | Outcome::Forward { failure: bytes, .. } => {
                    prop_assert!(tcp || bytes.len() <= usize::from(UDP_MOST));
                    prop_assert!(bytes[..2] == packet[..2] && bytes[2] & 0x80 != 0);
                    prop_assert!(Message::from_vec(&bytes).is_ok());
                }
            }
        }

        #[test]
        fn no_packet_crashes_or_amplifies(mut packet in proptest::collection::vec(any::<u8>(), 0..600), flip: u8) {
            let d = directory(false, 200);
            if flip & 1 == 0 && packet.len() > 12 {
                packet[2] &= 0x07;
                packet[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, flip >> 7]);
            }
            if let Outcome::Reply(bytes) = ask(&d, &packet, Transport::Udp) {
                prop_assert!(bytes.len() <= usize::from(UDP_MOST));
                prop_assert!(bytes[2] & 0x80 != 0);
            }
        }
    }
}
