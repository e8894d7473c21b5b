//! An address that somebody asks for: a service in its spec, a container on the command line, or one that a container had
//! before. Given if nobody has it; else the reason says who has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proto::object::NodeState;
use proto::spec::NetworkAttachmentConfig;
use proto::{Network, Node, Service, ServiceId, Task, TaskState};

use super::ledger::{Ledger, parse};
use super::pool::Holder;
use crate::state::Reader;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// This address or none.
    Only(Ipv4Addr),
    /// This address if it is free.
    Rather(Ipv4Addr),
}

impl Wanted {
    /// Whether no other address will do.
    pub(super) fn is_firm(self) -> bool {
        matches!(self, Self::Only(_))
    }

    fn address(self) -> Ipv4Addr {
        match self {
            Self::Only(address) | Self::Rather(address) => address,
        }
    }
}

/// Why an address is not given.
#[derive(Debug, thiserror::Error)]
pub(super) enum FixedError {
    #[error("address {address} is not one of network {network} ({subnet})")]
    Outside {
        network: String,
        address: IpAddr,
        subnet: IpNet,
    },
    #[error("address {address}: network {network} has no IPv6")]
    NoIpv6 { network: String, address: Ipv6Addr },
    #[error("address {address} of network {network} is in use by {holder}")]
    Held {
        network: String,
        address: IpAddr,
        holder: String,
    },
    #[error("address {address} of network {network} is kept for service {service}, which asks for it too")]
    Claimed {
        network: String,
        address: IpAddr,
        service: String,
    },
}

/// What the task asks for on the network, if anything.
pub(super) fn wanted(task: &Task, on: Option<&NetworkAttachmentConfig>) -> Option<Wanted> {
    let v4 = |text: &String| match parse(text)? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let asked = on.and_then(|on| on.addresses.iter().find_map(v4));
    let preferred = || v4(&task.attachment()?.preferred_address);
    asked
        .map(Wanted::Only)
        .or_else(|| preferred().map(Wanted::Rather))
}

/// The IPv6 address that is asked for, if any; then it or none.
pub(super) fn wanted6(on: Option<&NetworkAttachmentConfig>) -> Option<Ipv6Addr> {
    on?.addresses.iter().find_map(|text| match parse(text)? {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    })
}

/// Gives the task the IPv6 address that it asks for; it holds it from then on.
pub(super) fn take6(
    tx: &impl Reader,
    ledger: &mut Ledger,
    network: &Network,
    task: &Task,
    address: Ipv6Addr,
) -> Result<(), FixedError> {
    let name = || network.spec.name.clone();
    is_nobodys(tx, ledger, network, task, address.into())?;
    let pool = ledger.pool(&network.id);
    let plan = pool.and_then(|pool| Some((pool.plan6()?, pool)));
    let (plan, pool) = plan.ok_or_else(|| FixedError::NoIpv6 {
        network: name(),
        address,
    })?;
    match pool.hand6(address, Holder::Task(task.id.clone())) {
        true => Ok(()),
        false => Err(FixedError::Outside {
            network: name(),
            address: address.into(),
            subnet: plan.subnet.into(),
        }),
    }
}

/// No service keeps the address for itself, and nobody holds it who does not give way.
fn is_nobodys(
    tx: &impl Reader,
    ledger: &mut Ledger,
    network: &Network,
    task: &Task,
    address: IpAddr,
) -> Result<(), FixedError> {
    let claimant = ledger.claimant(&network.id, address);
    if let Some(claimant) = claimant.filter(|claimant| **claimant != task.service_id) {
        return Err(FixedError::Claimed {
            network: network.spec.name.clone(),
            address,
            service: service_name(tx, claimant),
        });
    }
    let holder = ledger.pool(&network.id).and_then(|pool| match address {
        IpAddr::V4(address) => pool.holder(address),
        IpAddr::V6(address) => pool.holder6(address),
    });
    let own = Holder::Task(task.id.clone());
    match holder.filter(|holder| **holder != own && !gives_way(tx, holder, task)) {
        None => Ok(()),
        Some(holder) => Err(FixedError::Held {
            network: network.spec.name.clone(),
            address,
            holder: describe(tx, holder),
        }),
    }
}

/// Gives the task its address; it holds it from then on. `has_ipv6`: it has asked for the IPv6 address beside it.
pub(super) fn take(
    tx: &impl Reader,
    ledger: &mut Ledger,
    network: &Network,
    task: &Task,
    wanted: Wanted,
    has_ipv6: bool,
) -> Result<Ipv4Addr, FixedError> {
    let address = wanted.address();
    let outside = |subnet: IpNet| FixedError::Outside {
        network: network.spec.name.clone(),
        address: address.into(),
        subnet,
    };
    is_nobodys(tx, ledger, network, task, address.into())?;
    let beside = ledger.pool(&network.id).and_then(|pool| pool.beside(address));
    if let Some(beside) = beside.filter(|_| !has_ipv6) {
        // It would come with it.
        is_nobodys(tx, ledger, network, task, beside.into())?;
    }
    // Who asks has seen that the network has a pool.
    let pool = ledger
        .pool(&network.id)
        .ok_or_else(|| outside(IpNet::default()))?;
    match pool.hand(address, Holder::Task(task.id.clone())) {
        true => Ok(address),
        false => Err(outside(pool.plan().subnet.into())),
    }
}

/// Whether the holder is an earlier task of the same slot that was lost with its node: it is replaced, and nobody can tell
/// when it will have ended.
fn gives_way(tx: &impl Reader, holder: &Holder, task: &Task) -> bool {
    let Holder::Task(id) = holder else { return false };
    let Some(other) = tx.get::<Task>(id) else {
        return true;
    };
    let replaced = !task.service_id.is_empty()
        && other.service_id == task.service_id
        && other.desired_state > TaskState::Complete;
    let node = tx.get::<Node>(&other.node_id);
    replaced && node.is_none_or(|node| node.status.state == NodeState::Down)
}

fn describe(tx: &impl Reader, holder: &Holder) -> String {
    match holder {
        Holder::Network => "the network itself: it is its gateway".to_owned(),
        Holder::Service(id) => format!("service {} as its virtual address", service_name(tx, id)),
        Holder::Task(id) => match tx.get::<Task>(id) {
            Some(task) => occupant(tx, &task),
            None => format!("task {id}"),
        },
    }
}

fn occupant(tx: &impl Reader, task: &Task) -> String {
    let node = tx.get::<Node>(&task.node_id);
    let place = node.map_or_else(String::new, |node| {
        format!(" on node {}", node.description.hostname)
    });
    match task.attachment() {
        Some(_) => format!("container {}{place}", task.short_name()),
        None => format!(
            "task {}{place}, which is {}",
            task.short_name(),
            task.status.state
        ),
    }
}

fn service_name(tx: &impl Reader, id: &ServiceId) -> String {
    let service = tx.get::<Service>(id);
    service.map_or_else(|| id.to_string(), |service| service.spec.name.clone())
}
