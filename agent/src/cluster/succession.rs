//! A worker that is promoted becomes a manager, a manager that is demoted a worker. Containers run on meanwhile.

use std::sync::{Arc, Weak};
use std::time::Duration;

use manager::remote::{self, RemoteError};
use manager::{JoinManagers, Manager};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Cluster, ClusterError, Part};
use crate::api::error::chain;

/// Until the next attempt, after one that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Follows this node's role until the cluster is gone.
pub(super) async fn follow(cluster: Weak<Cluster>, mut part: watch::Receiver<Part>) {
    loop {
        let now = part.borrow_and_update().clone();
        tokio::select! {
            () = role_changes(&now) => {
                let Some(cluster) = cluster.upgrade() else { return };
                if let Err(error) = cluster.succeed(&now).await {
                    tracing::warn!("this node could not take on its role: {}", chain(&error));
                    sleep(RETRY).await;
                }
            }
            changed = part.changed() => if changed.is_err() { return },
        }
    }
}

/// Waits until this part is not the node's any more.
async fn role_changes(part: &Part) {
    match part {
        Part::Worker(worker) => worker.is_promoted().await,
        Part::Manager(manager) => manager.is_dismissed().await,
        Part::None | Part::Locked => std::future::pending().await,
    }
}

impl Cluster {
    async fn succeed(&self, part: &Part) -> Result<(), ClusterError> {
        match part {
            Part::Worker(_) => self.become_manager().await,
            Part::Manager(manager) => self.become_worker(manager).await,
            Part::None | Part::Locked => Ok(()),
        }
    }

    async fn become_manager(&self) -> Result<(), ClusterError> {
        let mut membership = self.membership.lock().await;
        if !matches!(self.part(), Part::Worker(_)) {
            return Ok(());
        }
        let named = self.named().advertised.map(|address| address.to_string());
        let request = JoinManagers {
            advertise_addr: named.unwrap_or_default(),
            ..JoinManagers::default()
        };
        let manager = Manager::join(self.manager_config().await, request).await?;
        tracing::info!("this node is a manager now");
        if let Some(worker) = membership.take() {
            worker.give_way().await;
        }
        let member = self.beside(manager).await?;
        self.take_up(&mut membership, Some(member));
        Ok(())
    }

    async fn become_worker(&self, manager: &Arc<Manager>) -> Result<(), ClusterError> {
        // It may take long: meanwhile the node may leave.
        manager.become_worker().await?;
        let mut membership = self.membership.lock().await;
        if !matches!(self.part(), Part::Manager(now) if Arc::ptr_eq(&now, manager)) {
            return Ok(());
        }
        tracing::info!("this node is a worker now");
        if let Some(manager) = membership.take() {
            manager.give_way().await;
        }
        let joined = remote::read(&self.config.state_dir)?.ok_or(RemoteError::Missing)?;
        let member = self.as_worker(joined).await?;
        self.take_up(&mut membership, Some(member));
        Ok(())
    }
}
