//! A manager whose machine is so busy that a change which it has computed reaches consensus late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::BoxFuture;
use manager::state::consensus::Consensus;
use manager::state::{ProposeError, Proposer, StoreAction};
use tokio::sync::Notify;

/// The way from a manager's transactions to its consensus, which can be closed for a while.
pub(crate) struct Way {
    consensus: Arc<Consensus>,
    closed: AtomicBool,
    waiting: AtomicUsize,
    opens: Notify,
}

impl Way {
    /// An open way.
    pub(crate) fn to(consensus: Arc<Consensus>) -> Arc<Self> {
        Arc::new(Self {
            consensus,
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            opens: Notify::new(),
        })
    }

    /// What is computed from now on waits.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// What has waited goes on.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.opens.notify_waiters();
    }

    /// Whether something waits.
    pub(crate) fn holds(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    async fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        loop {
            let opens = self.opens.notified();
            if !self.closed.load(Ordering::SeqCst) {
                break;
            }
            opens.await;
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Proposer for Way {
    fn term(&self) -> Option<u64> {
        self.consensus.term()
    }

    fn propose(&self, term: u64, actions: Vec<StoreAction>) -> BoxFuture<'_, Result<u64, ProposeError>> {
        Box::pin(async move {
            self.pass().await;
            self.consensus.propose(term, actions).await
        })
    }

    fn confirmed_ago(&self) -> Option<std::time::Duration> {
        self.consensus.confirmed_ago()
    }
}
