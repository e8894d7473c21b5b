//! The store: transactions over a replica, agreed upon by a proposer.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use proto::Timestamp;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::batch::Batch;
use super::error::StoreError;
use super::layer::Layer;
use super::proposer::{MemoryProposer, ProposeError, Proposer};
use super::replica::Replica;
use super::tx::{ReadTx, WriteTx};
use super::watch::{Filter, WatchStream};

/// The writer's turn, from the first read of a transaction until it is applied.
#[derive(Debug)]
pub(super) struct Turn {
    _one_at_a_time: OwnedMutexGuard<()>,
    /// In which this manager led before anything was read; a leader may be another's follower for a while and lead again.
    term: Option<u64>,
}

/// The state of the cluster. Cheap to clone: all clones are the same store.
#[derive(Clone)]
pub struct Store {
    replica: Replica,
    proposer: Arc<dyn Proposer>,
    /// One writing transaction at a time, from its first read until it is applied; in the order of arrival.
    writer: Arc<Mutex<()>>,
}

impl Store {
    /// A store over a replica that only `proposer` writes to.
    pub fn new(replica: Replica, proposer: Arc<dyn Proposer>) -> Self {
        Self {
            replica,
            proposer,
            writer: Arc::default(),
        }
    }

    /// An empty store that is kept nowhere: for tests and simulations.
    pub fn in_memory() -> Self {
        let replica = Replica::default();
        Self::new(replica.clone(), Arc::new(MemoryProposer::new(replica)))
    }

    /// Looks at the state after the last commit. Writers wait meanwhile: take what you need (objects are shared) and go.
    pub fn view<R>(&self, look: impl FnOnce(ReadTx<'_>) -> R) -> R {
        self.replica.read(|tables| look(ReadTx::new(tables)))
    }

    /// Runs a transaction and returns once it is agreed upon and applied, so that a following view sees it.
    /// Without a change nothing is proposed. If the closure fails, nothing happens.
    ///
    /// # Errors
    /// The closure's, or [`StoreError::Propose`]. When the future is dropped the commit may still happen.
    pub async fn update<R, E, F>(&self, change: F) -> Result<R, E>
    where
        E: From<StoreError>,
        F: FnOnce(&mut WriteTx<'_>) -> Result<R, E>,
    {
        let turn = self.turn().await;
        let (mut layer, now) = (Layer::default(), Timestamp::now());
        let result = self
            .replica
            .read(|base| change(&mut WriteTx::new(base, &mut layer, now)))?;
        self.commit(turn, layer)
            .await
            .map_err(|error| E::from(StoreError::Propose(error)))?;
        Ok(result)
    }

    /// Begins a batch: many small changes, each whole or not at all, committed in as few transactions as allowed.
    pub async fn batch(&self) -> Batch<'_> {
        Batch::new(self, self.turn().await)
    }

    /// Follows the store from now on.
    pub fn watch(&self, filter: Filter) -> WatchStream {
        self.replica.watch(filter, |_| ()).1
    }

    /// Looks at the state and follows it from exactly there: no change is missed or seen twice.
    pub fn view_and_watch<R>(&self, filter: Filter, look: impl FnOnce(ReadTx<'_>) -> R) -> (R, WatchStream) {
        self.replica.watch(filter, |tables| look(ReadTx::new(tables)))
    }

    /// How long ago, at most, most managers agreed that this one leads; `None` if it is not known.
    pub fn confirmed_ago(&self) -> Option<Duration> {
        self.proposer.confirmed_ago()
    }

    /// The replica beneath.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Waits for the writer's turn.
    pub(super) async fn turn(&self) -> Turn {
        Turn {
            _one_at_a_time: self.writer.clone().lock_owned().await,
            term: self.proposer.term(),
        }
    }

    /// Proposes the layer. The writer's turn ends when the change is applied, even if the caller stops waiting.
    pub(super) async fn commit(&self, turn: Turn, layer: Layer) -> Result<Turn, ProposeError> {
        let actions = self.replica.read(|base| layer.into_actions(base));
        if actions.is_empty() {
            return Ok(turn);
        }
        let term = turn.term.ok_or(ProposeError::NotLeader)?;
        let proposer = self.proposer.clone();
        let mut commit = Box::pin(async move { proposer.propose(term, actions).await.map(|_| turn) });
        // Who agrees with itself has agreed at once, on this very thread, where the objects were made.
        if let Poll::Ready(done) = futures::poll!(&mut commit) {
            // Others hear of it while it is fresh, however much the writer has yet to write.
            tokio::task::yield_now().await;
            return done;
        }
        tokio::spawn(commit).await.unwrap_or(Err(ProposeError::Unknown))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
