//! How a change set becomes agreed upon.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;

use super::object::StoreAction;
use super::replica::Replica;

/// A change set that was not agreed upon. Nothing of it will be applied, except after [`ProposeError::Unknown`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// More bytes than one change set may have.
    #[error("the change is {size} bytes large; at most {limit} are allowed in one transaction")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// This manager is not the leader.
    #[error("this manager is not the leader of the cluster")]
    NotLeader,
    /// No room on the disk that keeps the log. Reading goes on.
    #[error("no space left for the cluster's state in {path}; free some and try again")]
    DiskFull {
        /// The directory of the log.
        path: String,
    },
    /// Consensus has stopped.
    #[error("the cluster's state cannot be changed: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// Leadership was lost while waiting; the change may or may not be applied.
    #[error("the leader changed while the change was being agreed upon")]
    Unknown,
}

/// Agrees on change sets, one after the other, and applies them to a [`Replica`].
pub trait Proposer: Send + Sync + 'static {
    /// The term of this leader; `None` where it does not lead. To be asked before the state is read of which a change set
    /// is computed.
    fn term(&self) -> Option<u64>;

    /// Returns once the change set, which was computed in this term, is agreed upon, durable and applied; the version that it
    /// got. In another term it does not count.
    ///
    /// # Errors
    /// See [`ProposeError`].
    fn propose(&self, term: u64, actions: Vec<StoreAction>) -> BoxFuture<'_, Result<u64, ProposeError>>;

    /// How long ago, at most, most of those who decide agreed that this one proposes; `None` if it is not known. Who
    /// decides alone agrees now.
    fn confirmed_ago(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

/// Agrees with itself and keeps nothing: for tests and simulations.
#[derive(Debug, Default)]
pub struct MemoryProposer {
    replica: Replica,
    version: AtomicU64,
}

impl MemoryProposer {
    /// Applies to the replica at once.
    pub fn new(replica: Replica) -> Self {
        Self {
            replica,
            version: AtomicU64::new(0),
        }
    }
}

impl Proposer for MemoryProposer {
    fn term(&self) -> Option<u64> {
        Some(0)
    }

    fn propose(&self, _: u64, actions: Vec<StoreAction>) -> BoxFuture<'_, Result<u64, ProposeError>> {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        self.replica.apply(version, actions);
        Box::pin(async move { Ok(version) })
    }
}
