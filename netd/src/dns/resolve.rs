//! What a question about one of our names is answered with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::seq::SliceRandom;

use super::directory::View;
use super::zone::{Entry, Zone};
use crate::types::Protocol;

/// Seconds. Answers change whenever a task does.
pub(crate) const TTL: u32 = 1;

/// An answer of ours.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) records: Vec<Record>,
    /// Addresses of the names in `records`.
    pub(crate) hints: Vec<Record>,
}

/// Whose question it is.
#[derive(Debug)]
pub(crate) enum Resolved {
    Ours(Answer),
    /// Nothing of ours. `fleeting`: it looks like a name that may be ours the next moment.
    Outside {
        fleeting: bool,
    },
}

/// A name of ours exists whatever is asked about it: where the type is not there the answer is empty (NODATA). It is never
/// "no such name", which clients take to be said of every type, nor anybody else's business.
pub(crate) fn resolve(query: &Query, view: &View<'_>) -> Resolved {
    let Some(name) = plain(query.name()) else {
        return Resolved::Outside { fleeting: false };
    };
    if query.query_type() == RecordType::PTR
        && let Some(address) = reversed(&name)
    {
        return pointer(query.name(), address, view);
    }
    if name == "localhost" || name.ends_with(".localhost") {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return ours(addresses(query.name(), query.query_type(), &loopback), vec![]);
    }
    if let Some((_, entry)) = view.find(&name) {
        return ours(
            addresses(query.name(), query.query_type(), &entry.addresses),
            vec![],
        );
    }
    service(query, &name, view).unwrap_or_else(|| unknown(&name, view))
}

fn ours(records: Vec<Record>, hints: Vec<Record>) -> Resolved {
    Resolved::Ours(Answer {
        code: ResponseCode::NoError,
        records,
        hints,
    })
}

fn no_such_name() -> Resolved {
    Resolved::Ours(Answer {
        code: ResponseCode::NXDomain,
        ..Answer::default()
    })
}

/// A name that we do not know is asked outside, as Docker does, even if it is a single label: the resolvers of many homes
/// and offices know such names (`nas`, `printer`), and containers are meant to reach them. What is said of a name that
/// could become one of ours is fleeting, or a client that came a moment too early would be told for a day, by the root's
/// negative TTL, that there is no such service.
///
/// `NAME.NETWORK` stays here only if no name on the Internet can end so: a network may well be called `dev`, and
/// `web.dev` must still be found.
fn unknown(name: &str, view: &View<'_>) -> Resolved {
    match view.of_network(name) {
        Some(network) if !is_top_level(network) => no_such_name(),
        below => Resolved::Outside {
            fleeting: below.is_some() || !name.contains('.') || name.starts_with("tasks."),
        },
    }
}

/// Could it be a top-level domain, or one below? Those are letters, or encoded letters of other alphabets.
fn is_top_level(network: &str) -> bool {
    let last = network.rsplit('.').next().unwrap_or(network);
    last.starts_with("xn--") || last.bytes().all(|b| b.is_ascii_alphabetic())
}

fn addresses(owner: &Name, kind: RecordType, addresses: &[IpAddr]) -> Vec<Record> {
    let wanted = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        kind => kind == RecordType::ANY,
    };
    let record = |address: &IpAddr| {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        };
        Record::from_rdata(owner.clone(), TTL, data)
    };
    let mut records: Vec<_> = addresses.iter().filter(wanted).map(record).collect();
    records.shuffle(&mut rand::rng());
    records
}

/// `_PORT._PROTOCOL.NAME` (RFC 2782): the port by its number, or by the name that it has for everybody. As with addresses,
/// NAME of a service with a virtual address is one target, and `tasks.NAME` has as many as there are tasks.
fn service(query: &Query, name: &str, view: &View<'_>) -> Option<Resolved> {
    let (port, rest) = name.strip_prefix('_')?.split_once("._")?;
    let (protocol, name) = rest.split_once('.')?;
    let (zone, entry) = view.find(name)?;
    let wanted = offered(entry, port, protocol);
    if !matches!(query.query_type(), RecordType::SRV | RecordType::ANY) || wanted.is_none() {
        return Some(ours(vec![], vec![]));
    }
    let mut targets: Vec<_> = entry.targets.iter().filter_map(|t| qualified(t, zone)).collect();
    targets.shuffle(&mut rand::rng());
    let record = |target: &(Name, &str)| {
        let data = SRV::new(0, 0, wanted.unwrap_or_default(), target.0.clone());
        Record::from_rdata(query.name().clone(), TTL, RData::SRV(data))
    };
    let hints = |(target, name): &(Name, &str)| addresses(target, RecordType::ANY, zone.addresses(name));
    Some(ours(
        targets.iter().map(record).collect(),
        targets.iter().flat_map(hints).collect(),
    ))
}

fn offered(entry: &Entry, port: &str, protocol: &str) -> Option<u16> {
    let number: u16 = match port {
        "domain" => 53,
        "http" => 80,
        "https" => 443,
        "mysql" => 3306,
        "postgresql" => 5432,
        "redis" => 6379,
        "smtp" => 25,
        other => other.parse().ok()?,
    };
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    entry.ports.contains(&(protocol, number)).then_some(number)
}

fn qualified<'t>(target: &'t str, zone: &Zone) -> Option<(Name, &'t str)> {
    let name = Name::from_ascii(format!("{target}.{}.", zone.name)).ok()?;
    Some((name, target))
}

fn pointer(owner: &Name, address: IpAddr, view: &View<'_>) -> Resolved {
    let target = view.pointer(address);
    match target.and_then(|t| Name::from_ascii(format!("{t}.")).ok()) {
        Some(target) => {
            let record = Record::from_rdata(owner.clone(), TTL, RData::PTR(PTR(target)));
            ours(vec![record], vec![])
        }
        None if view.is_ours(address) => no_such_name(),
        None => Resolved::Outside { fleeting: false },
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
    let digit = |digit: &str| match digit.len() {
        1 => u8::from_str_radix(digit, 16).ok(),
        _ => None,
    };
    let digits = name.strip_suffix(".ip6.arpa")?.rsplit('.').map(digit);
    let digits = <[u8; 32]>::try_from(digits.collect::<Option<Vec<_>>>()?).ok()?;
    Some(IpAddr::from(std::array::from_fn::<u8, 16, _>(|n| {
        digits[2 * n] << 4 | digits[2 * n + 1]
    })))
}

/// Lower case, no final dot. `None` for labels that no name of ours has.
fn plain(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names_are_read_whole_or_not_at_all() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(reversed("4.3.2.10.in-addr.arpa"), ip("10.2.3.4"));
        let v6 = format!("{}0.0.d.f.ip6.arpa", "1.".to_owned() + &"0.".repeat(27));
        assert_eq!(reversed(&v6), ip("fd00::1"));
        for partial in [
            "3.2.10.in-addr.arpa",
            "x.3.2.10.in-addr.arpa",
            "d.f.ip6.arpa",
            "1.2.3.4.5.in-addr.arpa",
        ] {
            assert_eq!(reversed(partial), None, "{partial}");
        }
    }

    #[test]
    fn a_network_may_be_named_like_a_domain() {
        for name in ["dev", "xn--p1ai", "example.com"] {
            assert!(is_top_level(name), "{name}");
        }
        for name in ["app_default", "front-1", "net2"] {
            assert!(!is_top_level(name), "{name}");
        }
    }
}
