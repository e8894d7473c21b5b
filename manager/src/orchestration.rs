//! The loops that turn services into tasks on nodes, run together and kept alive.
//!
//! Runs on the manager that leads. Each loop watches the store and nothing else. A loop that panics or whose change the
//! store refuses is started again from the store's state, after a pause that doubles while it keeps failing.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep};

use crate::ca::{rotation, unseen};
use crate::contacts::Contacts;
use crate::scheduler::loads::Loads;
use crate::state::{Store, StoreError};
use crate::{allocator, network_key, orchestrator, reaper, scheduler};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Orchestrators, rebalancer, allocator, scheduler, reaper, and the exchange of the root.
#[derive(Debug, Clone, Copy)]
pub struct Orchestration;

impl Orchestration {
    /// Runs every loop until `shutdown` is done or the store is gone. Nothing is left running afterwards; a change
    /// that was being agreed upon may still be applied.
    pub async fn run(store: Store, shutdown: impl Future<Output = ()>) {
        Self::run_with(store, Loads::default(), Contacts::default(), shutdown).await;
    }

    /// As [`Self::run`], with what the dispatcher hears: how busy nodes are, which the ranking of nodes looks at last,
    /// and when they were heard, which says when the leases of their tasks are over.
    pub async fn run_with(
        store: Store,
        loads: Loads,
        contacts: Contacts,
        shutdown: impl Future<Output = ()>,
    ) {
        let loops = async {
            tokio::join!(
                supervise("orchestrator", || orchestrator::run(
                    store.clone(),
                    contacts.clone()
                )),
                supervise("allocator", || allocator::run(store.clone())),
                supervise("scheduler", || scheduler::run(store.clone(), loads.clone())),
                supervise("rebalancer", || orchestrator::rebalance(store.clone())),
                supervise("root rotation", || rotation::run(store.clone())),
                supervise("unseen nodes", || unseen::run(store.clone())),
                supervise("orphans", || orchestrator::orphans(store.clone())),
                supervise("network key", || network_key::run(store.clone())),
                supervise("reaper", || reaper::run(store.clone())),
            )
        };
        tokio::select! {
            biased;
            _ = loops => {}
            () = shutdown => {}
        }
    }
}

/// Runs a loop again and again until it ends by itself.
async fn supervise<F>(name: &'static str, mut start: impl FnMut() -> F)
where
    F: Future<Output = Result<(), StoreError>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        match AssertUnwindSafe(start()).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::warn!(name, error = chain(&error), "a loop of the manager stopped"),
            Err(panic) => tracing::error!(name, panic = text(&*panic), "a loop of the manager panicked"),
        }
        pause = if begun.elapsed() > LONGEST_PAUSE {
            FIRST_PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        sleep(pause).await;
    }
}

/// The error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What a panic said.
fn text(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_or_fails_is_started_again() {
        let runs = AtomicU32::new(0);
        supervise("test", || async {
            match runs.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("once"),
                1 => Err(StoreError::NotFound {
                    kind: crate::state::Kind::Task,
                    id: "t".into(),
                }),
                _ => Ok(()),
            }
        })
        .await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }
}
