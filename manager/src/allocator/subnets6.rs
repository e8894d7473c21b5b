//! The IPv6 side of networks that have one.
//!
//! An address follows from its holder's IPv4 address on the same network, its place in the one subnet being its place in the
//! other, or in the part of it that is given out (the range), so that addresses of both IP versions come and go together;
//! unless the holder asks for another one, which alone is written down (`pool`).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use proto::Cluster;
use proto::spec::IpamConfig;
use sha2::{Digest, Sha256};

use super::subnets::{Plan, SubnetError};

/// The smallest subnet, and the smallest range, has a place for each IPv4 address.
const LONGEST_PREFIX: u8 = 96;
const SHORTEST_PREFIX: u8 = 16;
/// The subnets of a cluster's own prefix.
const SUBNETS: u128 = 1 << 16;

/// IPv6 addresses of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan6 {
    /// All addresses.
    pub(crate) subnet: Ipv6Net,
    /// Those that are given to services and tasks that ask for none.
    pub(crate) range: Ipv6Net,
    /// The network's own.
    pub(crate) gateway: Ipv6Addr,
}

impl Plan6 {
    /// A whole subnet with its first address as the gateway.
    pub(super) fn whole(subnet: Ipv6Net) -> Self {
        let subnet = subnet.trunc();
        Self {
            subnet,
            range: subnet,
            gateway: Ipv6Addr::from(u128::from(subnet.network()) + 1),
        }
    }

    /// What a spec or a network says.
    pub(super) fn read(config: &IpamConfig) -> Result<Self, SubnetError> {
        let malformed = |_| SubnetError::Malformed(config.subnet.clone());
        let subnet: Ipv6Net = config.subnet.parse().map_err(malformed)?;
        if !is_usable(subnet) {
            return Err(SubnetError::Unusable6(subnet));
        }
        let mut plan = Self::whole(subnet);
        if !config.ip_range.is_empty() {
            plan.range = range(&config.ip_range, plan.subnet)?;
        }
        if !config.gateway.is_empty() {
            let inside =
                |gateway: &Ipv6Addr| plan.subnet.contains(gateway) && *gateway != plan.subnet.network();
            let gateway = config.gateway.parse().ok().filter(inside);
            plan.gateway = gateway.ok_or_else(|| SubnetError::Gateway {
                gateway: config.gateway.clone(),
                subnet: plan.subnet.into(),
            })?;
        }
        Ok(plan)
    }

    /// As it is written down in a network.
    pub(super) fn to_config(self) -> IpamConfig {
        let range = (self.range != self.subnet).then(|| self.range.to_string());
        IpamConfig {
            subnet: self.subnet.to_string(),
            ip_range: range.unwrap_or_default(),
            gateway: self.gateway.to_string(),
        }
    }

    /// The address of whoever has this IPv4 address. The place of the gateway is taken; who would come to it gets the
    /// place of the IPv4 gateway, to which nobody else comes.
    pub(super) fn beside(self, plan: &Plan, address: Ipv4Addr) -> Ipv6Addr {
        let place = |address: Ipv4Addr| {
            let offset = u32::from(address).wrapping_sub(u32::from(plan.subnet.network()));
            Ipv6Addr::from(u128::from(self.range.network()) + u128::from(offset))
        };
        let own = place(address);
        if own == self.gateway {
            place(plan.gateway)
        } else {
            own
        }
    }

    /// The IPv4 address whose holder has this one, unless it asks for another; `None`: it goes with nobody's.
    pub(super) fn mate(self, plan: &Plan, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let with = |address: Ipv6Addr| {
            let offset = u128::from(address).checked_sub(u128::from(self.range.network()))?;
            let number = u32::from(plan.subnet.network()).checked_add(u32::try_from(offset).ok()?)?;
            Some(Ipv4Addr::from(number))
        };
        let candidates = [address, self.gateway].into_iter().filter_map(with);
        let is_mate = |mate: &Ipv4Addr| {
            plan.subnet.contains(mate) && *mate != plan.gateway && self.beside(plan, *mate) == address
        };
        candidates.into_iter().find(is_mate)
    }

    /// Whether somebody can have this address. The first is every router's (RFC 4291, section 2.6.1).
    pub(super) fn is_host(self, address: Ipv6Addr) -> bool {
        self.subnet.contains(&address) && address != self.subnet.network() && address != self.gateway
    }
}

fn range(text: &str, subnet: Ipv6Net) -> Result<Ipv6Net, SubnetError> {
    let range = text.parse::<Ipv6Net>().ok();
    let range = range.filter(|range| subnet.contains(range));
    let range = range.ok_or_else(|| SubnetError::Range {
        range: text.to_owned(),
        subnet: subnet.into(),
    })?;
    match range.prefix_len() {
        ..=LONGEST_PREFIX => Ok(range.trunc()),
        _ => Err(SubnetError::Range6(range)),
    }
}

/// Whether nodes can make a network of it.
fn is_usable(subnet: Ipv6Net) -> bool {
    let first = subnet.network();
    (SHORTEST_PREFIX..=LONGEST_PREFIX).contains(&subnet.prefix_len())
        && !first.is_multicast()
        && !first.is_unicast_link_local()
        && first.segments()[0] != 0
}

/// The first free /64 of the cluster's own prefix: fd00::/8 and 40 bits that nobody else is likely to have, because they
/// are drawn from the cluster's identifier (RFC 4193, section 3.2).
pub(super) fn choose(cluster: Option<&Cluster>, taken: &[Ipv6Net]) -> Result<Ipv6Net, SubnetError> {
    let digest = Sha256::digest(cluster.map(|cluster| cluster.id.as_str()).unwrap_or_default());
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&digest[..5]);
    let prefix = u128::from_be_bytes(octets);
    let subnets = (0..SUBNETS).filter_map(|number| Ipv6Net::new((prefix | number << 64).into(), 64).ok());
    let free = |subnet: &Ipv6Net| {
        let overlaps = |other: &Ipv6Net| other.contains(subnet) || subnet.contains(other);
        !taken.iter().any(overlaps)
    };
    let found = subnets.into_iter().find(free);
    found.ok_or_else(|| SubnetError::Exhausted(format!("{}/48", Ipv6Addr::from(prefix))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    #[test]
    fn each_cluster_has_subnets_of_its_own() {
        let cluster = |id: &str| Cluster {
            id: id.into(),
            ..Cluster::default()
        };
        let (one, two) = (cluster("one"), cluster("two"));
        let first = choose(Some(&one), &[]).unwrap();
        assert_eq!((first.addr().octets()[0], first.prefix_len()), (0xfd, 64));
        assert_ne!(choose(Some(&two), &[]).unwrap(), first);
        let second = choose(Some(&one), &[first]).unwrap();
        assert_ne!(second, first);
        assert_eq!(first.supernet().map(|_| ()), second.supernet().map(|_| ()));
        assert!(choose(Some(&one), &[net("fd00::/8")]).is_err());
    }

    fn ranged(subnet: &str, range: &str, gateway: &str) -> Result<Plan6, SubnetError> {
        Plan6::read(&IpamConfig {
            subnet: subnet.into(),
            ip_range: range.into(),
            gateway: gateway.into(),
        })
    }

    #[test]
    fn a_range_is_a_part_of_the_subnet_with_room_for_all() {
        let plan = ranged("fd00::/64", "fd00::1:2:3:4/80", "").unwrap();
        assert_eq!(plan.range, net("fd00::1:0:0:0/80"));
        assert_eq!(plan.gateway, "fd00::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(Plan6::read(&plan.to_config()), Ok(plan), "reads as it is written");
        let whole = ranged("fd00::/64", "", "").unwrap();
        assert_eq!(
            (whole.range, whole.to_config().ip_range),
            (whole.subnet, String::new())
        );
        let refusal = |range: &str| ranged("fd00::/64", range, "").unwrap_err().to_string();
        for elsewhere in ["fd01::/80", "fd00::/63", "10.0.0.0/24", "fd00::"] {
            assert!(
                refusal(elsewhere).contains("is not within the subnet fd00::/64"),
                "{elsewhere}"
            );
        }
        assert!(refusal("fd00::/112").contains("96"));
    }

    #[test]
    fn addresses_follow_from_ipv4_and_never_meet() {
        let plan = Plan::whole("10.0.1.0/24".parse().unwrap());
        let config = |subnet: &str, gateway: &str| IpamConfig {
            subnet: subnet.into(),
            gateway: gateway.into(),
            ..IpamConfig::default()
        };
        for six in [
            Plan6::whole(net("fd00::/64")),
            Plan6::read(&config("fd00::/64", "fd00::7")).unwrap(),
            ranged("fd00::/64", "fd00::1:0:0/96", "").unwrap(),
            ranged("fd00::/64", "fd00::/96", "fd00::7").unwrap(),
            ranged("fd00::/64", "fd00::8000:0:0:0/65", "fd00::8000:0:0:7").unwrap(),
        ] {
            let all = (2..=254).map(|n| six.beside(&plan, [10, 0, 1, n].into()));
            let all: std::collections::BTreeSet<_> = all.collect();
            assert_eq!(all.len(), 253);
            assert!(!all.contains(&six.gateway) && !all.contains(&six.subnet.network()));
            assert!(all.iter().all(|address| six.range.contains(address)));
            for n in 2..=254 {
                let own = [10, 0, 1, n].into();
                assert_eq!(six.mate(&plan, six.beside(&plan, own)), Some(own));
            }
            for nobodys in [
                six.gateway,
                "fd00::2:1:2".parse().unwrap(),
                "fc00::2".parse().unwrap(),
            ] {
                assert_eq!(six.mate(&plan, nobodys), None, "{nobodys}");
            }
        }
        for (subnet, gateway) in [
            ("fe80::/64", ""),
            ("fd00::/120", ""),
            ("::/64", ""),
            ("fd00::/64", "fd01::1"),
            ("fd00::/64", "fd00::"),
        ] {
            assert!(
                Plan6::read(&config(subnet, gateway)).is_err(),
                "{subnet} {gateway}"
            );
        }
    }
}
