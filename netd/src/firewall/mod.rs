//! What nftables does for us, as plain data: one table in the host's namespace and another beside it
//! where nodes talk to one another, two in the fabric, one in each sandbox that
//! can see a virtual IP. The rulesets are static; published ports, backends and addresses are elements.

mod balancer;
mod direct;
mod fabric;
mod host;
mod resolver;
mod task;
mod transit;
mod underlay;

pub(crate) use balancer::Balancer;
pub(crate) use direct::Direct;
pub(crate) use fabric::{Binding, FabricFirewall};
pub(crate) use host::{Frontend, HostFirewall};
pub(crate) use resolver::ResolverFirewall;
pub(crate) use task::TaskFirewall;
pub(crate) use transit::TransitSets;
pub(crate) use underlay::UnderlayFirewall;

use crate::nft::{Family, Table};

/// Before connection tracking (NF_IP_PRI_RAW).
const RAW: i32 = -300;
/// Where destination addresses are rewritten (NF_IP_PRI_NAT_DST), source addresses (NF_IP_PRI_NAT_SRC), and filters work.
const DESTINATION: i32 = -100;
const SOURCE: i32 = 100;
const FILTER: i32 = 0;

/// Our table in a namespace that is ours.
pub(crate) fn own_table(family: Family) -> Table {
    Table {
        family,
        name: "shoal".into(),
    }
}
