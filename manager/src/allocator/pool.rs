//! The addresses of one network, and who holds them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::Ipv4Addr;

use proto::{ServiceId, TaskId};

use super::subnets::Plan;

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// The network itself: the gateway.
    Network,
    /// A service: its virtual address.
    Service(ServiceId),
    /// A task.
    Task(TaskId),
}

/// The addresses of one network.
#[derive(Debug)]
pub(super) struct Pool {
    plan: Plan,
    held: BTreeMap<u32, Holder>,
    /// Where the search begins: behind the last address given, so that one that was given back rests for a while.
    next: u32,
}

impl Pool {
    /// All addresses are free but the gateway's.
    pub(super) fn new(plan: Plan) -> Self {
        let held = BTreeMap::from([(u32::from(plan.gateway), Holder::Network)]);
        Self {
            plan,
            held,
            next: u32::from(plan.range.network()),
        }
    }

    /// The addresses that there are.
    pub(super) fn plan(&self) -> Plan {
        self.plan
    }

    /// A free address of which `may` holds, now held; `None` if there is none.
    pub(super) fn take(&mut self, holder: Holder, may: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let (first, last) = self.bounds();
        let start = self.next.clamp(first, last);
        let free = (start..=last)
            .chain(first..start)
            .find(|address| !self.held.contains_key(address) && may((*address).into()))?;
        self.held.insert(free, holder);
        self.next = free.checked_add(1).filter(|&next| next <= last).unwrap_or(first);
        Some(free.into())
    }

    /// Who holds the address.
    pub(super) fn holder(&self, address: Ipv4Addr) -> Option<&Holder> {
        self.held.get(&address.into())
    }

    /// Gives an address to a new holder, whoever had it; whether there is such an address. Where free ones are searched
    /// does not change.
    pub(super) fn hand(&mut self, address: Ipv4Addr, holder: Holder) -> bool {
        let subnet = self.plan.subnet;
        let usable =
            subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast();
        if usable {
            self.held.insert(address.into(), holder);
        }
        usable
    }

    /// An address is held by somebody who has it already; nobody loses one to another.
    pub(super) fn hold(&mut self, address: Ipv4Addr, holder: Holder) {
        let address = u32::from(address);
        // What was given here has been counted.
        if let Entry::Vacant(free) = self.held.entry(address) {
            free.insert(holder);
            self.next = self.next.max(address.saturating_add(1));
        }
    }

    /// Gives an address back if it is held by this holder; whether it was.
    pub(super) fn release(&mut self, address: Ipv4Addr, holder: &Holder) -> bool {
        let ours = self.held.get(&address.into()) == Some(holder);
        if ours {
            self.held.remove(&address.into());
        }
        ours
    }

    /// The first and the last address that can be given: not the subnet's own and not the broadcast address.
    fn bounds(&self) -> (u32, u32) {
        let (subnet, range) = (self.plan.subnet, self.plan.range);
        let first = u32::from(range.network()).max(u32::from(subnet.network()) + 1);
        let last = u32::from(range.broadcast()).min(u32::from(subnet.broadcast()) - 1);
        (first, last)
    }
}
