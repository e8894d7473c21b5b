//! What users and tools may do with the cluster's objects: typed operations, checked before anything is stored.
//!
//! Owns the rules of refusal (names, versions, conflicts, things in use); knows nothing of HTTP. Each operation is one
//! transaction: it happens whole or not at all.
//!
//! - [`Control`]: the operations, one file per kind of object
//! - [`ControlError`]: why something was refused, in words for the user
//! - `lookup`: by identifier, name or a unique beginning of an identifier

mod bound;
mod cluster;
mod error;
mod fencing;
mod lookup;
mod material;
#[cfg(test)]
mod material_tests;
mod network;
mod node;
mod rebalance;
mod service;
#[cfg(test)]
mod tests;
mod validate;
mod volume;

pub use bound::BoundVolume;
pub use cluster::Rotate;
pub(crate) use cluster::locks_managers;
pub use error::{ControlError, ErrorKind};
pub use material::HeldBy;
pub use rebalance::{PlannedMove, RebalancePlan, Unmoved};
pub use volume::VolumeMove;

use std::sync::Arc;

use proto::spec::ClusterSpec;
use proto::{Cluster, Node, Service, Task};

use crate::orchestrator::is_dirty;
use crate::state::{Reader, Store};

/// What a control operation gives.
pub type Result<T> = std::result::Result<T, ControlError>;

/// The operations on the cluster's objects. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    store: Store,
}

impl Control {
    /// Operations on the objects of `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Every task.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.store.view(|tx| tx.all())
    }

    /// The tasks that are what their services ask for now: an update would leave them alone.
    pub fn tasks_up_to_date(&self) -> Vec<Arc<Task>> {
        self.store.view(|tx| {
            let cluster = tx.all::<Cluster>().into_iter().next();
            let defaults = cluster
                .as_ref()
                .and_then(|cluster| cluster.spec.task_defaults.as_ref());
            let default_log = defaults.and_then(|defaults| defaults.log_driver.as_ref());
            let mut tasks = tx.all::<Task>();
            tasks.retain(|task| {
                let node = tx.get::<Node>(&task.node_id);
                tx.get::<Service>(&task.service_id)
                    .is_some_and(|service| !is_dirty(&service, default_log, task, node.as_deref()))
            });
            tasks
        })
    }

    /// One task by identifier, name or unique beginning of the identifier.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Ambiguous`].
    pub fn task(&self, reference: &str) -> Result<Arc<Task>> {
        self.store.view(|tx| lookup::task(&tx, reference))
    }
}

/// Checks the settings of a cluster that is yet to be made.
pub(crate) fn check_cluster_spec(spec: &ClusterSpec) -> Result<()> {
    validate::cluster(spec)
}
