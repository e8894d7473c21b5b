//! Subnets of networks: reading them from specs, and choosing free ones from the cluster's pools.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::spec::{IpamConfig, NetworkSpec};
use proto::{Cluster, Network, Node};

use super::subnets6::Plan6;

/// The pool that a cluster has where its user named none.
pub(crate) const DEFAULT_POOL: &str = "10.0.0.0/8";
/// The prefix length of the subnets cut from the pools.
pub(crate) const DEFAULT_SUBNET_SIZE: u32 = 24;

/// An address or subnet that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubnetError {
    /// Not a subnet.
    #[error("subnet {0:?} is not a subnet such as 10.1.0.0/24 or fd00:1::/64")]
    Malformed(String),
    /// Of no use for a network.
    #[error("subnet {0} is not usable: it must be unicast, and its prefix length between 8 and 29")]
    Unusable(Ipv4Net),
    /// The same for IPv6.
    #[error("subnet {0} is not usable: it must be unicast, and its prefix length between 16 and 96")]
    Unusable6(Ipv6Net),
    /// IPv6 addresses follow from IPv4 addresses.
    #[error(
        "IP range {0} is too small: its prefix length must be 96 at most, for a place beside each IPv4 address"
    )]
    Range6(Ipv6Net),
    /// A subnet for what the network is not to have.
    #[error("an IPv6 subnet needs IPv6 enabled for the network (--ipv6, enable_ipv6)")]
    NotEnabled,
    /// The gateway is elsewhere.
    #[error("gateway {gateway} is not an address of the subnet {subnet}")]
    Gateway {
        /// What was given.
        gateway: String,
        /// Where it should be.
        subnet: IpNet,
    },
    /// The range is elsewhere.
    #[error("IP range {range} is not within the subnet {subnet}")]
    Range {
        /// What was given.
        range: String,
        /// Where it should be.
        subnet: IpNet,
    },
    /// More than one.
    #[error("a network has one subnet of each IP version; more were given")]
    Several,
    /// Addresses without a subnet.
    #[error("a gateway or IP range needs a subnet")]
    NoSubnet,
    /// Every subnet is taken.
    #[error("no free subnet in the address pools {0}; remove unused networks or add a pool")]
    Exhausted(String),
}

/// Addresses of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All addresses.
    pub(crate) subnet: Ipv4Net,
    /// Those that are given to services and tasks.
    pub(crate) range: Ipv4Net,
    /// The network's own.
    pub(crate) gateway: Ipv4Addr,
}

impl Plan {
    /// A whole subnet with its first address as the gateway.
    pub(crate) fn whole(subnet: Ipv4Net) -> Self {
        let subnet = subnet.trunc();
        let gateway = Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1));
        Self {
            subnet,
            range: subnet,
            gateway,
        }
    }

    /// What a spec or a network says; `None` if it leaves the choice to us.
    fn read(config: &IpamConfig) -> Result<Option<Self>, SubnetError> {
        if config.subnet.is_empty() {
            let nothing = config.gateway.is_empty() && config.ip_range.is_empty();
            return if nothing {
                Ok(None)
            } else {
                Err(SubnetError::NoSubnet)
            };
        }
        let subnet: Ipv4Net = config
            .subnet
            .parse()
            .map_err(|_| SubnetError::Malformed(config.subnet.clone()))?;
        if !is_usable(subnet) {
            return Err(SubnetError::Unusable(subnet));
        }
        let mut plan = Self::whole(subnet);
        if !config.gateway.is_empty() {
            plan.gateway = gateway(&config.gateway, plan.subnet)?;
        }
        if !config.ip_range.is_empty() {
            plan.range = range(&config.ip_range, plan.subnet)?;
        }
        Ok(Some(plan))
    }

    /// As it is written down in a network.
    pub(crate) fn to_config(self) -> IpamConfig {
        let range = (self.range != self.subnet).then(|| self.range.to_string());
        IpamConfig {
            subnet: self.subnet.to_string(),
            ip_range: range.unwrap_or_default(),
            gateway: self.gateway.to_string(),
        }
    }
}

/// Whether nodes can make a network of it.
fn is_usable(subnet: Ipv4Net) -> bool {
    let first = subnet.network().octets()[0];
    (8..=29).contains(&subnet.prefix_len()) && (1..224).contains(&first) && first != 127
}

fn gateway(text: &str, subnet: Ipv4Net) -> Result<Ipv4Addr, SubnetError> {
    let inside = |address: &Ipv4Addr| {
        subnet.contains(address) && *address != subnet.network() && *address != subnet.broadcast()
    };
    let address = text.parse().ok().filter(inside);
    address.ok_or_else(|| SubnetError::Gateway {
        gateway: text.to_owned(),
        subnet: subnet.into(),
    })
}

fn range(text: &str, subnet: Ipv4Net) -> Result<Ipv4Net, SubnetError> {
    let range = text
        .parse::<Ipv4Net>()
        .ok()
        .filter(|range| subnet.contains(range));
    range
        .map(|range| range.trunc())
        .ok_or_else(|| SubnetError::Range {
            range: text.to_owned(),
            subnet: subnet.into(),
        })
}

/// What is said of a network's addresses; `None` where the choice is ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Of IPv4.
    pub(crate) plan: Option<Plan>,
    /// Of IPv6.
    pub(crate) plan6: Option<Plan6>,
}

impl Said {
    fn read(configs: &[IpamConfig]) -> Result<Self, SubnetError> {
        let is_ipv6 = |config: &&IpamConfig| config.subnet.contains(':');
        let (v6, v4): (Vec<_>, Vec<_>) = configs.iter().partition(is_ipv6);
        if v4.len() > 1 || v6.len() > 1 {
            return Err(SubnetError::Several);
        }
        let plan = v4.first().map(|config| Plan::read(config)).transpose()?;
        Ok(Self {
            plan: plan.flatten(),
            plan6: v6.first().map(|config| Plan6::read(config)).transpose()?,
        })
    }

    fn subnets(self) -> impl Iterator<Item = IpNet> {
        let v4 = self.plan.map(|plan| plan.subnet.into());
        v4.into_iter().chain(self.plan6.map(|plan| plan.subnet.into()))
    }
}

/// The addresses that a spec asks for.
pub(crate) fn said_of_spec(spec: &NetworkSpec) -> Result<Said, SubnetError> {
    let ipam = spec.ipam_options.as_ref();
    let said = Said::read(ipam.map(|ipam| ipam.configs.as_slice()).unwrap_or_default())?;
    if said.plan6.is_some() && !spec.ipv6_enabled {
        return Err(SubnetError::NotEnabled);
    }
    Ok(said)
}

/// The addresses that a network was given; `None` if the allocator has not seen it.
pub(crate) fn plan_of(network: &Network) -> Option<Plan> {
    said_of(network).plan
}

/// The IPv6 addresses that a network was given, if it has any.
pub(super) fn plan6_of(network: &Network) -> Option<Plan6> {
    said_of(network).plan6
}

fn said_of(network: &Network) -> Said {
    Said::read(&network.ipam.configs).unwrap_or_default()
}

/// The subnets that a spec asks for.
pub(crate) fn of_spec(spec: &NetworkSpec) -> Result<Vec<IpNet>, SubnetError> {
    Ok(said_of_spec(spec)?.subnets().collect())
}

/// The subnets that a network has or asks for.
pub(crate) fn of(network: &Network) -> Vec<IpNet> {
    let said = said_of(network);
    match said.plan {
        Some(_) => said.subnets().collect(),
        // What was stored has been checked before.
        None => of_spec(&network.spec).unwrap_or_default(),
    }
}

/// What the nodes reach otherwise, each with the node.
pub(crate) fn of_nodes(nodes: &[Arc<Node>]) -> impl Iterator<Item = (IpNet, &Node)> {
    let subnets = |node: &Arc<Node>| node.description.subnets.clone();
    let each = nodes
        .iter()
        .flat_map(move |node| subnets(node).into_iter().map(move |subnet| (subnet, node)));
    each.filter_map(|(subnet, node)| Some((subnet.parse().ok()?, node.as_ref())))
}

/// What keeps tasks of a network from a node: an address of the one is reached otherwise by the other.
pub(crate) fn conflict(network: &Network, node: &Node) -> Option<(IpNet, IpNet)> {
    let ours = of(network);
    let theirs = node
        .description
        .subnets
        .iter()
        .filter_map(|text| text.parse().ok());
    theirs
        .flat_map(|theirs: IpNet| ours.iter().map(move |ours| (*ours, theirs)))
        .find(|(ours, theirs)| overlap(*ours, *theirs))
}

/// Whether two subnets have an address in common: one then contains the other.
pub(crate) fn overlap<N: Into<IpNet>>(one: N, two: N) -> bool {
    let (one, two): (IpNet, IpNet) = (one.into(), two.into());
    one.contains(&two) || two.contains(&one)
}

/// The first subnet of the cluster's pools that overlaps none of `taken`.
pub(crate) fn choose(cluster: Option<&Cluster>, taken: &[Ipv4Net]) -> Result<Ipv4Net, SubnetError> {
    let (pools, size) = pools(cluster);
    let found = pools
        .iter()
        .find_map(|pool| free_subnet(pool, size.max(pool.prefix_len()), taken));
    found.ok_or_else(|| {
        SubnetError::Exhausted(
            pools
                .iter()
                .map(Ipv4Net::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        )
    })
}

fn pools(cluster: Option<&Cluster>) -> (Vec<Ipv4Net>, u8) {
    let named = cluster
        .map(|cluster| cluster.default_addr_pool.clone())
        .unwrap_or_default();
    let named = if named.is_empty() {
        vec![DEFAULT_POOL.to_owned()]
    } else {
        named
    };
    let size = cluster
        .map(|cluster| cluster.subnet_size)
        .filter(|&size| size != 0)
        .unwrap_or(DEFAULT_SUBNET_SIZE);
    let pools = named
        .iter()
        .filter_map(|pool| pool.parse::<Ipv4Net>().ok())
        .map(|pool| pool.trunc());
    (pools.collect(), u8::try_from(size).unwrap_or(24).min(29))
}

/// Steps over what is taken instead of trying every subnet.
fn free_subnet(pool: &Ipv4Net, size: u8, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let step = 1u64 << (32 - size);
    let end = u64::from(u32::from(pool.broadcast()));
    let mut start = u64::from(u32::from(pool.network()));
    while start < end {
        let candidate = Ipv4Net::new(Ipv4Addr::from(u32::try_from(start).ok()?), size).ok()?;
        let Some(obstacle) = taken.iter().find(|taken| overlap(**taken, candidate)) else {
            return Some(candidate);
        };
        let past = u64::from(u32::from(obstacle.broadcast())) + 1;
        start = past.max(start + 1).next_multiple_of(step);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn free_subnets_are_found_in_order_and_never_overlap() {
        assert_eq!(choose(None, &[]), Ok(net("10.0.0.0/24")));
        assert_eq!(choose(None, &[net("10.0.0.0/24")]), Ok(net("10.0.1.0/24")));
        assert_eq!(
            choose(None, &[net("10.0.0.128/25"), net("10.0.0.0/9")]),
            Ok(net("10.128.0.0/24"))
        );
        let small = Cluster {
            default_addr_pool: vec!["10.9.0.0/29".into()],
            ..Cluster::default()
        };
        assert_eq!(choose(Some(&small), &[]), Ok(net("10.9.0.0/29")));
        assert_eq!(
            choose(Some(&small), &[net("10.9.0.0/29")])
                .unwrap_err()
                .to_string(),
            "no free subnet in the address pools 10.9.0.0/29; remove unused networks or add a pool"
        );
        assert!(choose(None, &[net("0.0.0.0/0")]).is_err());
    }

    #[test]
    fn the_end_of_the_address_space_is_no_trap() {
        let last = Cluster {
            default_addr_pool: vec!["255.255.255.0/24".into()],
            ..Cluster::default()
        };
        assert_eq!(choose(Some(&last), &[]), Ok(net("255.255.255.0/24")));
        assert!(choose(Some(&last), &[net("255.255.255.0/24")]).is_err());
    }

    #[test]
    fn what_a_user_asks_for_is_checked() {
        let read = |subnet: &str, ip_range: &str, gateway: &str| {
            let [subnet, ip_range, gateway] = [subnet, ip_range, gateway].map(str::to_owned);
            Plan::read(&IpamConfig {
                subnet,
                ip_range,
                gateway,
            })
        };
        let plan = read("10.1.0.7/24", "10.1.0.128/25", "10.1.0.254")
            .unwrap()
            .unwrap();
        assert_eq!(
            (plan.subnet, plan.range),
            (net("10.1.0.0/24"), net("10.1.0.128/25"))
        );
        assert_eq!(plan.gateway, Ipv4Addr::new(10, 1, 0, 254));
        assert_eq!(read("", "", ""), Ok(None));
        for (subnet, range, gateway) in [
            ("fd00::/64", "", ""),
            ("10.1.0.0/30", "", ""),
            ("127.0.0.0/16", "", ""),
            ("224.0.0.0/16", "", ""),
            ("10.0.0.0/7", "", ""),
            ("10.1.0.0/24", "10.2.0.0/25", ""),
            ("10.1.0.0/24", "", "10.1.0.0"),
            ("10.1.0.0/24", "", "10.1.0.255"),
            ("", "", "10.1.0.1"),
        ] {
            assert!(
                read(subnet, range, gateway).is_err(),
                "{subnet} {range} {gateway}"
            );
        }
    }
}
