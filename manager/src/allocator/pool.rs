//! The addresses of one network, and who holds them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{Ipv4Addr, Ipv6Addr};

use proto::{ServiceId, TaskId};

use super::subnets::Plan;
use super::subnets6::Plan6;

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
    plan6: Option<Plan6>,
    held: BTreeMap<u32, Holder>,
    /// IPv6 addresses that do not follow from their holders' IPv4 addresses.
    held6: BTreeMap<Ipv6Addr, Holder>,
    /// Where the search begins: behind the last address given, so that one that was given back rests for a while.
    next: u32,
}

impl Pool {
    /// All addresses are free but the gateway's.
    pub(super) fn new(plan: Plan, plan6: Option<Plan6>) -> Self {
        let held = BTreeMap::from([(u32::from(plan.gateway), Holder::Network)]);
        Self {
            plan,
            plan6,
            held,
            held6: BTreeMap::new(),
            next: u32::from(plan.range.network()),
        }
    }

    /// The addresses that there are.
    pub(super) fn plan(&self) -> Plan {
        self.plan
    }

    /// The IPv6 addresses that there are, if the network has them.
    pub(super) fn plan6(&self) -> Option<Plan6> {
        self.plan6
    }

    /// The IPv6 address that goes with an IPv4 address.
    pub(super) fn beside(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        Some(self.plan6?.beside(&self.plan, address))
    }

    /// A free address of which `may` holds, now held; `None` if there is none.
    pub(super) fn take(&mut self, holder: Holder, may: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let (first, last) = self.bounds();
        let start = self.next.clamp(first, last);
        let free = (start..=last).chain(first..start).find(|address| {
            !self.held.contains_key(address) && may((*address).into()) && self.is_whole((*address).into())
        })?;
        self.held.insert(free, holder);
        self.next = free.checked_add(1).filter(|&next| next <= last).unwrap_or(first);
        Some(free.into())
    }

    /// Who holds the address.
    pub(super) fn holder(&self, address: Ipv4Addr) -> Option<&Holder> {
        self.held.get(&address.into())
    }

    /// Who holds the IPv6 address, because it asked for it or because it goes with its IPv4 address.
    pub(super) fn holder6(&self, address: Ipv6Addr) -> Option<&Holder> {
        self.held6.get(&address).or_else(|| {
            let mate = self.plan6?.mate(&self.plan, address)?;
            let holder = self.holder(mate)?;
            // Who asked for another does not have this one.
            (!self.held6.values().any(|other| other == holder)).then_some(holder)
        })
    }

    /// Gives an IPv6 address to a new holder, whoever had it; whether there is such an address.
    pub(super) fn hand6(&mut self, address: Ipv6Addr, holder: Holder) -> bool {
        let usable = self.plan6.is_some_and(|plan| plan.is_host(address));
        if usable {
            self.held6.insert(address, holder);
        }
        usable
    }

    /// An IPv6 address is held by somebody who has it already; nothing is written down if it goes with its IPv4 address.
    pub(super) fn hold6(&mut self, address: Ipv6Addr, holder: Holder) {
        let mate = self.plan6.and_then(|plan| plan.mate(&self.plan, address));
        if mate.and_then(|mate| self.holder(mate)) != Some(&holder) {
            self.held6.entry(address).or_insert(holder);
        }
    }

    /// Gives an IPv6 address back if this holder asked for it; whether it did.
    pub(super) fn release6(&mut self, address: Ipv6Addr, holder: &Holder) -> bool {
        let ours = self.held6.get(&address) == Some(holder);
        if ours {
            self.held6.remove(&address);
        }
        ours
    }

    /// Whether the IPv6 address that goes with it is nobody else's.
    fn is_whole(&self, address: Ipv4Addr) -> bool {
        let beside = self.beside(address);
        beside.is_none_or(|beside| !self.held6.contains_key(&beside))
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
