//! Which subnet, which address: pure choice among what is free. Nothing is stored here; what is taken is read from the
//! records of networks, sandboxes and services, so an address cannot leak.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Smallest subnet with room for a gateway and a container.
const LONGEST_PREFIX: u8 = 29;
/// Routes shorter than this (default routes, halves of the Internet for a VPN) do not claim their addresses.
const SHORTEST_ROUTE: u8 = 8;

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

/// Whether a route claims its addresses.
pub(crate) fn claims(route: Ipv4Net) -> bool {
    route.prefix_len() >= SHORTEST_ROUTE
}

/// What overlaps with `subnet`, if anything.
pub(crate) fn overlap(subnet: Ipv4Net, taken: &[(Ipv4Net, String)]) -> Option<&(Ipv4Net, String)> {
    taken
        .iter()
        .find(|(other, _)| claims(*other) && (other.contains(&subnet) || subnet.contains(other)))
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

/// The next free address after `last`, round and round, so that a freed address rests before it is used again.
pub(crate) fn choose_address(
    subnet: Ipv4Net,
    taken: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let (low, high) = (u32::from(subnet.network()) + 1, u32::from(subnet.broadcast()) - 1);
    let start = last
        .map(u32::from)
        .filter(|l| (low..high).contains(l))
        .map_or(low, |l| l + 1);
    (start..=high)
        .chain(low..start)
        .map(Ipv4Addr::from)
        .find(|address| !taken.contains(address))
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

    proptest! {
        #[test]
        fn addresses_are_unique_hosts_until_the_subnet_is_full(prefix in 25u8..=29, seed: u32, frees in proptest::collection::vec(any::<u16>(), 0..40)) {
            let subnet = Ipv4Net::new(Ipv4Addr::from(seed), prefix).unwrap().trunc();
            let capacity = (1usize << (32 - prefix)) - 2;
            let (mut taken, mut last) = (BTreeSet::new(), None);
            for free in frees {
                if let Some(address) = choose_address(subnet, &taken, last) {
                    prop_assert!(is_host(subnet, address));
                    prop_assert!(taken.insert(address));
                    last = Some(address);
                }
                if free % 3 == 0 && let Some(&gone) = taken.iter().nth(free as usize % taken.len().max(1)) {
                    taken.remove(&gone);
                }
            }
            while let Some(address) = choose_address(subnet, &taken, last) {
                prop_assert!(taken.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(taken.len(), capacity);
        }
    }
}
