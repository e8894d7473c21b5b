//! What users and tools may do with the cluster's objects: typed operations, checked before anything is stored.
//!
//! Owns the rules of refusal (names, versions, conflicts, things in use); knows nothing of HTTP. Each operation is one
//! transaction: it happens whole or not at all.
//!
//! - [`Control`]: the operations, one file per kind of object
//! - [`ControlError`]: why something was refused, in words for the user
//! - `lookup`: by identifier, name or a unique beginning of an identifier

mod cluster;
mod error;
mod lookup;
mod material;
mod network;
mod node;
mod service;
#[cfg(test)]
mod tests;
mod validate;

pub use cluster::Rotate;
pub use error::{ControlError, ErrorKind};

use std::sync::Arc;

use proto::Task;
use proto::spec::ClusterSpec;

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
