//! Leases and heartbeats: a lease outlasts some heartbeats, or tasks would end although nothing is wrong.

use std::time::Duration;

use proto::{Cluster, Service, ServiceSpec, upkeep};

use super::{ControlError, Result};
use crate::dispatcher::period_of;
use crate::state::Reader;

/// Heartbeats that a lease lasts at least: as many as a node may miss before it counts as lost.
const HEARTBEATS: u32 = 3;

/// Whether the spec asks for a lease that this cluster can keep up.
pub(super) fn check_service(tx: &impl Reader, spec: &ServiceSpec) -> Result<()> {
    let Some(lease) = upkeep::fencing(&spec.labels) else {
        return Ok(());
    };
    let heartbeat = period_of(tx.all::<Cluster>().first().map(|cluster| &**cluster));
    check(lease, heartbeat)
        .map_err(|reason| ControlError::invalid(format!("label {}: {reason}", upkeep::FENCING)))
}

/// Whether all leases can be kept up with the heartbeats of a changed cluster.
pub(super) fn check_cluster(tx: &impl Reader, cluster: &Cluster) -> Result<()> {
    let heartbeat = period_of(Some(cluster));
    for service in tx.all::<Service>() {
        if let Some(lease) = upkeep::fencing(&service.spec.labels) {
            check(lease, heartbeat).map_err(|reason| {
                ControlError::FailedPrecondition(format!("service {}: {reason}", service.spec.name))
            })?;
        }
    }
    Ok(())
}

fn check(lease: Duration, heartbeat: Duration) -> std::result::Result<(), String> {
    if lease >= heartbeat * HEARTBEATS {
        return Ok(());
    }
    Err(format!(
        "a lease lasts at least three heartbeats, which are {heartbeat:?} apart; it is {lease:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_three_heartbeats() {
        let second = Duration::from_secs(1);
        assert!(check(3 * second, second).is_ok());
        assert!(
            check(14 * second, 5 * second)
                .unwrap_err()
                .contains("three heartbeats")
        );
    }
}
