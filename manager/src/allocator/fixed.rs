//! An address that somebody asks for: a service in its spec, a container on the command line, or one that a container had
//! before. Given if nobody has it; else the reason says who has.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
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
        address: Ipv4Addr,
        subnet: Ipv4Net,
    },
    #[error("address {address} of network {network} is in use by {holder}")]
    Held {
        network: String,
        address: Ipv4Addr,
        holder: String,
    },
    #[error("address {address} of network {network} is kept for service {service}, which asks for it too")]
    Claimed {
        network: String,
        address: Ipv4Addr,
        service: String,
    },
}

/// What the task asks for on the network, if anything.
pub(super) fn wanted(task: &Task, on: Option<&NetworkAttachmentConfig>) -> Option<Wanted> {
    let asked = on.and_then(|on| parse(on.addresses.first()?));
    let preferred = || parse(&task.attachment()?.preferred_address);
    asked
        .map(Wanted::Only)
        .or_else(|| preferred().map(Wanted::Rather))
}

/// Gives the task its address; it holds it from then on.
pub(super) fn take(
    tx: &impl Reader,
    ledger: &mut Ledger,
    network: &Network,
    task: &Task,
    wanted: Wanted,
) -> Result<Ipv4Addr, FixedError> {
    let address = wanted.address();
    let name = || network.spec.name.clone();
    let claimant = ledger.claimant(&network.id, address);
    if let Some(claimant) = claimant.filter(|claimant| **claimant != task.service_id) {
        return Err(FixedError::Claimed {
            network: name(),
            address,
            service: service_name(tx, claimant),
        });
    }
    // Who asks has seen that the network has a pool.
    let Some(pool) = ledger.pool(&network.id) else {
        return Err(FixedError::Outside {
            network: name(),
            address,
            subnet: Ipv4Net::default(),
        });
    };
    if let Some(holder) = pool.holder(address).filter(|holder| !gives_way(tx, holder, task)) {
        return Err(FixedError::Held {
            network: name(),
            address,
            holder: describe(tx, holder),
        });
    }
    match pool.hand(address, Holder::Task(task.id.clone())) {
        true => Ok(address),
        false => Err(FixedError::Outside {
            network: name(),
            address,
            subnet: pool.plan().subnet,
        }),
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
