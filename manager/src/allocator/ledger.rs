//! All pools, as the objects of the store say.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use proto::{Network, NetworkId, Service, ServiceId, Task};

use super::claims::Claims;
use super::pool::{Holder, Pool};
use super::subnets;

/// Who holds which address of which network.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pools: HashMap<NetworkId, Pool>,
    claims: Claims,
}

impl Ledger {
    /// Learns of a network; one without a subnet has no pool. Subnets never change.
    pub(super) fn add_network(&mut self, network: &Network) {
        if let Some(plan) = subnets::plan_of(network) {
            self.pools
                .entry(network.id.clone())
                .or_insert_with(|| Pool::new(plan, subnets::plan6_of(network)));
        }
    }

    /// Forgets a network.
    pub(super) fn remove_network(&mut self, id: &NetworkId) {
        self.pools.remove(id);
    }

    /// The pool of a network that has one.
    pub(super) fn pool(&mut self, id: &NetworkId) -> Option<&mut Pool> {
        self.pools.get_mut(id)
    }

    /// A free address that no service asks for, now held.
    pub(super) fn take(&mut self, network: &NetworkId, holder: Holder) -> Option<Ipv4Addr> {
        let claims = &self.claims;
        let pool = self.pools.get_mut(network)?;
        let plans = (pool.plan(), pool.plan6());
        pool.take(holder, |address| {
            let beside = plans.1.map(|plan6| plan6.beside(&plans.0, address));
            claims.owner(network, address).is_none()
                && beside.is_none_or(|beside| claims.owner(network, beside).is_none())
        })
    }

    /// The service that alone may have the address.
    pub(super) fn claimant(&self, network: &NetworkId, address: impl Into<IpAddr>) -> Option<&ServiceId> {
        self.claims.owner(network, address)
    }

    /// The service's virtual addresses are held, and those that it asks for are kept for it.
    pub(super) fn hold_service(&mut self, service: &Service) {
        self.claims.add(service);
        for (network, address) in virtual_ips(service) {
            self.hold(network, address, Holder::Service(service.id.clone()));
        }
    }

    /// Gives the addresses back that `old` had or asked for and `new` has not; whether there were any.
    pub(super) fn release_service(&mut self, old: &Service, new: Option<&Service>) -> bool {
        let unclaimed = self.claims.remove(old, new);
        let kept: Vec<_> = new.into_iter().flat_map(virtual_ips).collect();
        let holder = Holder::Service(old.id.clone());
        let gone = virtual_ips(old).filter(|address| !kept.contains(address));
        gone.fold(unclaimed, |any, (network, address)| {
            self.release(network, address, &holder) || any
        })
    }

    /// The task's addresses are held.
    pub(super) fn hold_task(&mut self, task: &Task) {
        for (network, address) in attached(task) {
            self.hold(network, address, Holder::Task(task.id.clone()));
        }
    }

    /// Gives the task's addresses back; whether there were any.
    pub(super) fn release_task(&mut self, task: &Task) -> bool {
        let holder = Holder::Task(task.id.clone());
        attached(task).fold(false, |any, (network, address)| {
            self.release(network, address, &holder) || any
        })
    }

    fn hold(&mut self, network: &NetworkId, address: IpAddr, holder: Holder) {
        match (self.pools.get_mut(network), address) {
            (Some(pool), IpAddr::V4(address)) => pool.hold(address, holder),
            (Some(pool), IpAddr::V6(address)) => pool.hold6(address, holder),
            (None, _) => {}
        }
    }

    /// Gives an address back if it is held by this holder; whether it was.
    pub(super) fn release(&mut self, network: &NetworkId, address: IpAddr, holder: &Holder) -> bool {
        match (self.pools.get_mut(network), address) {
            (Some(pool), IpAddr::V4(address)) => pool.release(address, holder),
            (Some(pool), IpAddr::V6(address)) => pool.release6(address, holder),
            (None, _) => false,
        }
    }
}

/// The address without its prefix length.
pub(super) fn parse(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn virtual_ips(service: &Service) -> impl Iterator<Item = (&NetworkId, IpAddr)> {
    service
        .endpoint
        .virtual_ips
        .iter()
        .filter_map(|vip| Some((&vip.network_id, parse(&vip.addr)?)))
}

fn attached(task: &Task) -> impl Iterator<Item = (&NetworkId, IpAddr)> {
    let attachments = task.networks_attachments.iter();
    attachments.flat_map(|on| {
        on.addresses
            .iter()
            .filter_map(|address| Some((&on.network.id, parse(address)?)))
    })
}
