//! Which subnet, which address: pure choice among what is free. Nothing is stored here; what is taken is read from the
//! records of networks, sandboxes and services, so an address cannot leak.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Error, Result};

/// Smallest subnet with room for a gateway and a container.
const LONGEST_PREFIX: u8 = 29;
/// Routes shorter than this (default routes, halves of the Internet for a VPN) do not claim their addresses.
const SHORTEST_ROUTE: u8 = 8;
/// The same for IPv6. The longest has room as a /24 has; the shortest route is what a registry is given.
const LONGEST_PREFIX6: u8 = 120;
const SHORTEST_ROUTE6: u8 = 16;
/// Subnet identifiers of a /48.
const SUBNETS: u32 = 1 << 16;
/// The last of them lies between host and fabric.
const UPLINK: u16 = u16::MAX;

/// Why a subnet cannot be a network's.
pub(crate) fn invalid_subnet(subnet: Ipv4Net) -> Option<&'static str> {
    let first = subnet.network();
    if subnet.addr() != first {
        Some("it has host bits set")
    } else if subnet.prefix_len() > LONGEST_PREFIX {
        Some("it is smaller than /29")
    } else if subnet.prefix_len() < SHORTEST_ROUTE {
        Some("it is larger than /8")
    } else if first.is_loopback()
        || first.is_multicast()
        || first.octets()[0] == 0
        || first.octets()[0] >= 240
    {
        Some("it is not unicast")
    } else {
        None
    }
}

/// Why a subnet cannot be a network's.
pub(crate) fn invalid_subnet6(subnet: Ipv6Net) -> Option<&'static str> {
    let first = subnet.network();
    if subnet.addr() != first {
        Some("it has host bits set")
    } else if subnet.prefix_len() > LONGEST_PREFIX6 {
        Some("it is smaller than /120")
    } else if subnet.prefix_len() < SHORTEST_ROUTE6 {
        Some("it is larger than /16")
    } else if first.is_multicast() || first.segments()[0] == 0 {
        Some("it is not unicast")
    } else if first.is_unicast_link_local() {
        Some("it is link-local")
    } else {
        None
    }
}

/// Whether a route claims its addresses. What is link-local is each link's own.
pub(crate) fn claims(route: impl Into<IpNet>) -> bool {
    match route.into() {
        IpNet::V4(route) => route.prefix_len() >= SHORTEST_ROUTE,
        IpNet::V6(route) => route.prefix_len() >= SHORTEST_ROUTE6 && !route.network().is_unicast_link_local(),
    }
}

/// What overlaps with `subnet`, if anything.
pub(crate) fn overlap<N: Copy + Into<IpNet>>(subnet: N, taken: &[(N, String)]) -> Option<&(N, String)> {
    let subnet: IpNet = subnet.into();
    taken.iter().find(|(other, _)| {
        let other: IpNet = (*other).into();
        claims(other) && (other.contains(&subnet) || subnet.contains(&other))
    })
}

/// A prefix for the IPv6 networks of one node or cluster: fd00::/8 and 40 bits that nobody else is likely to have
/// (RFC 4193, section 3.2).
pub(crate) fn unique_local(random: [u8; 5]) -> Option<Ipv6Net> {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random);
    Ipv6Net::new(octets.into(), 48).ok()
}

/// A free /64 of the prefix, searched from `start` on, so that networks which come and go do not share one.
pub(crate) fn choose_subnet6(prefix: Ipv6Net, start: u16, taken: &[(Ipv6Net, String)]) -> Option<Ipv6Net> {
    (0..SUBNETS)
        .map(|n| start.wrapping_add(n as u16))
        .filter(|id| *id != UPLINK)
        .filter_map(|id| subnet6(prefix, id))
        .find(|candidate| overlap(*candidate, taken).is_none())
}

/// The /64 between host and fabric.
pub(crate) fn uplink6(prefix: Ipv6Net) -> Option<Ipv6Net> {
    subnet6(prefix, UPLINK)
}

fn subnet6(prefix: Ipv6Net, id: u16) -> Option<Ipv6Net> {
    let first = u128::from(prefix.network()) | u128::from(id) << 64;
    Ipv6Net::new(first.into(), 64).ok()
}

/// The first free subnet of the pools: 172.17.0.0/16 to 172.31.0.0/16, then 10.0.0.0/8 in /20.
pub(crate) fn choose_subnet(taken: &[(Ipv4Net, String)]) -> Option<Ipv4Net> {
    let large = (17..=31).map(|b| (Ipv4Addr::new(172, b, 0, 0), 16));
    let small = (0..4096u32).map(|n| (Ipv4Addr::from(0x0a00_0000 | n << 12), 20));
    large
        .chain(small)
        .filter_map(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .find(|candidate| overlap(*candidate, taken).is_none())
}

/// Is this an address that a container of the subnet can have?
pub(crate) fn is_host(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
}

/// Is this an address that a container of the subnet can have? The first is every router's (RFC 4291, section 2.6.1).
pub(crate) fn is_host6(subnet: Ipv6Net, address: Ipv6Addr) -> bool {
    subnet.contains(&address) && address != subnet.network()
}

/// Refuses a range that is no part of the subnet.
pub(crate) fn check_range(network: &str, range: impl Into<IpNet>, subnet: impl Into<IpNet>) -> Result<()> {
    let (range, subnet) = (range.into(), subnet.into());
    match subnet.contains(&range) {
        true => Ok(()),
        false => Err(Error::RangeOutside {
            network: network.to_owned(),
            range,
            subnet,
        }),
    }
}

/// The next free address of the range, which is a part of the subnet, after `last`, round and round, so that a freed address
/// rests before it is used again.
pub(crate) fn choose_address(
    subnet: Ipv4Net,
    range: Ipv4Net,
    taken: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let low = u32::from(range.network()).max(u32::from(subnet.network()) + 1);
    let high = u32::from(range.broadcast()).min(u32::from(subnet.broadcast()) - 1);
    let free = |number: &u128| !taken.contains(&Ipv4Addr::from(*number as u32));
    let last = last.map(|l| u32::from(l).into());
    let number = next((low.into(), high.into()), last, free)?;
    Some(Ipv4Addr::from(number as u32))
}

/// The same for IPv6.
pub(crate) fn choose_address6(
    subnet: Ipv6Net,
    range: Ipv6Net,
    taken: &BTreeSet<Ipv6Addr>,
    last: Option<Ipv6Addr>,
) -> Option<Ipv6Addr> {
    let low = u128::from(range.network()).max(u128::from(subnet.network()) + 1);
    let high = u128::from(range.broadcast());
    let free = |number: &u128| !taken.contains(&Ipv6Addr::from(*number));
    next((low, high), last.map(u128::from), free).map(Ipv6Addr::from)
}

fn next((low, high): (u128, u128), last: Option<u128>, free: impl Fn(&u128) -> bool) -> Option<u128> {
    let start = last.filter(|l| (low..high).contains(l)).map_or(low, |l| l + 1);
    (start..=high).chain(low..start).find(free)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_free_subnet_avoids_networks_and_routes_but_not_the_default_route() {
        let taken = |nets: &[&str]| nets.iter().map(|n| (net(n), String::new())).collect::<Vec<_>>();
        assert_eq!(
            choose_subnet(&taken(&["0.0.0.0/0", "128.0.0.0/1"])),
            Some(net("172.17.0.0/16"))
        );
        assert_eq!(
            choose_subnet(&taken(&["172.17.4.0/24"])),
            Some(net("172.18.0.0/16"))
        );
        assert_eq!(
            choose_subnet(&taken(&["172.16.0.0/12", "10.0.0.0/16"])),
            Some(net("10.1.0.0/20"))
        );
        assert_eq!(choose_subnet(&taken(&["172.16.0.0/12", "10.0.0.0/8"])), None);
    }

    #[test]
    fn subnets_that_cannot_work_are_named() {
        for bad in [
            "10.0.0.1/24",
            "10.0.0.0/30",
            "127.0.0.0/16",
            "224.0.0.0/8",
            "0.0.0.0/8",
            "10.0.0.0/7",
        ] {
            assert!(invalid_subnet(net(bad)).is_some(), "{bad}");
        }
        assert_eq!(invalid_subnet(net("10.0.0.0/29")), None);
    }

    #[test]
    fn unique_local_networks_do_not_meet() {
        let net6 = |text: &str| text.parse::<Ipv6Net>().unwrap();
        let prefix = unique_local([1, 2, 3, 4, 5]).unwrap();
        assert_eq!(prefix, net6("fd01:203:405::/48"));
        let taken = [(net6("fd01:203:405:7::/64"), String::new())];
        assert_eq!(
            choose_subnet6(prefix, 7, &taken),
            Some(net6("fd01:203:405:8::/64"))
        );
        assert_eq!(
            choose_subnet6(prefix, UPLINK, &[]),
            Some(net6("fd01:203:405::/64"))
        );
        assert_eq!(choose_subnet6(prefix, 0, &[(prefix, String::new())]), None);
        assert!(!claims(net6("fe80::/64")) && !claims(net6("2000::/3")));
        for bad in [
            "fd00::1/64",
            "fd00::/121",
            "fe80::/64",
            "ff02::/64",
            "::/16",
            "fd00::/8",
        ] {
            assert!(invalid_subnet6(net6(bad)).is_some(), "{bad}");
        }
        assert_eq!(invalid_subnet6(net6("2001:db8::/64")), None);
    }

    #[test]
    fn addresses_are_picked_from_the_range() {
        let (subnet, none) = (net("10.1.0.0/24"), BTreeSet::new());
        let pick = |range: &str, last| choose_address(subnet, net(range), &none, last);
        let ip = |last| Ipv4Addr::new(10, 1, 0, last);
        assert_eq!(
            pick("10.1.0.16/30", None),
            Some(ip(16)),
            "all of a range are hosts"
        );
        assert_eq!(pick("10.1.0.16/30", Some(ip(19))), Some(ip(16)), "round");
        assert_eq!(pick("10.1.0.16/30", Some(ip(200))), Some(ip(16)));
        assert_eq!(pick("10.1.0.0/25", None), Some(ip(1)), "but for the subnet's own");
        assert_eq!(pick("10.1.0.255/32", None), None);
        let net6 = |text: &str| text.parse::<Ipv6Net>().unwrap();
        let (subnet6, range6) = (net6("fd00::/64"), net6("fd00::5:0:0:0/80"));
        let picked = choose_address6(subnet6, range6, &BTreeSet::new(), None);
        assert_eq!(picked, Some(range6.network()));
        assert!(check_range("net", range6, subnet6).is_ok());
        assert!(check_range("net", net("10.2.0.0/25"), subnet).is_err());
        assert!(check_range("net", net("10.1.0.0/23"), subnet).is_err());
    }

    #[test]
    fn ipv6_addresses_rest_like_others() {
        let subnet: Ipv6Net = "fd00::/126".parse().unwrap();
        let ip = |n: u128| Ipv6Addr::from(u128::from(subnet.network()) + n);
        let taken = BTreeSet::from([ip(1)]);
        assert_eq!(choose_address6(subnet, subnet, &taken, None), Some(ip(2)));
        assert_eq!(choose_address6(subnet, subnet, &taken, Some(ip(2))), Some(ip(3)));
        assert_eq!(
            choose_address6(subnet, subnet, &taken, Some(ip(3))),
            Some(ip(2)),
            "round"
        );
        assert!(is_host6(subnet, ip(3)) && !is_host6(subnet, ip(0)));
    }

    proptest! {
        #[test]
        fn addresses_are_unique_hosts_until_the_subnet_is_full(prefix in 25u8..=29, seed: u32, frees in proptest::collection::vec(any::<u16>(), 0..40)) {
            let subnet = Ipv4Net::new(Ipv4Addr::from(seed), prefix).unwrap().trunc();
            let capacity = (1usize << (32 - prefix)) - 2;
            let (mut taken, mut last) = (BTreeSet::new(), None);
            for free in frees {
                if let Some(address) = choose_address(subnet, subnet, &taken, last) {
                    prop_assert!(is_host(subnet, address));
                    prop_assert!(taken.insert(address));
                    last = Some(address);
                }
                if free % 3 == 0 && let Some(&gone) = taken.iter().nth(free as usize % taken.len().max(1)) {
                    taken.remove(&gone);
                }
            }
            while let Some(address) = choose_address(subnet, subnet, &taken, last) {
                prop_assert!(taken.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(taken.len(), capacity);
        }
    }
}
