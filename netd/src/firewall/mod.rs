//! What nftables does for us, as plain data: a table for each IP version in the host's namespace and others beside them
//! where nodes talk to one another, three in the fabric, one or two in each sandbox that
//! can see a virtual IP. The rulesets are static; published ports, backends and addresses are elements.

mod balancer;
mod direct;
mod fabric;
mod host;
mod identity;
mod resolver;
mod task;
mod transit;
mod underlay;

pub(crate) use balancer::{Balancer, Leads, Step};
pub(crate) use direct::{Admitted, Direct};
pub(crate) use fabric::FabricFirewall;
pub(crate) use host::{Frontend, HostFirewall};
pub(crate) use identity::Binding;
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
/// Before the bridge's own filters (NF_BR_PRI_FILTER_BRIDGED).
const FILTER_BRIDGED: i32 = -200;

/// Our table in a namespace that is ours.
pub(crate) fn own_table(family: Family) -> Table {
    Table {
        family,
        name: "shoal".into(),
    }
}
