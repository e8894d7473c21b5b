//! One container in memory: its record, its state as a watch, and the locks that order what happens to it.
//!
//! A change is durable before it is visible: [`Container::update`] writes the record, then lets readers and watchers see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::attach::Pending;
use super::error::{EngineError, Result};
use super::id::ContainerId;
use super::lease::BootTime;
use super::record::{ContainerRecord, Paths};
use super::restart::Backoff;
use super::shim::Shim;
use super::state::ContainerState;

/// One container. Cheap to share.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) paths: Paths,
    record: RwLock<Arc<ContainerRecord>>,
    state: watch::Sender<ContainerState>,
    /// Held by whoever starts it, puts it away after its end, or removes it.
    pub(crate) lifecycle: tokio::sync::Mutex<Lifecycle>,
    saving: tokio::sync::Mutex<()>,
    /// Clients that attached before the start.
    pending: Mutex<Vec<Pending>>,
    prober: Mutex<Option<AbortHandle>>,
    /// Told when a waiting restart is called off.
    delay: Mutex<Option<oneshot::Sender<()>>>,
    /// Until when it may run, as was said at its start.
    lease: Mutex<Option<BootTime>>,
}

/// What only the holder of the lifecycle lock may touch.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    pub(crate) backoff: Backoff,
    /// Its removal is complete: whoever waited for the lock came too late.
    pub(crate) gone: bool,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord, paths: Paths) -> Self {
        Self {
            id: record.id.clone(),
            paths,
            state: watch::Sender::new(record.state.clone()),
            record: RwLock::new(Arc::new(record)),
            lifecycle: tokio::sync::Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            pending: Mutex::default(),
            prober: Mutex::default(),
            delay: Mutex::default(),
            lease: Mutex::default(),
        }
    }

    /// The record as it is now; its `state` is the watch's.
    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<ContainerState> {
        self.state.subscribe()
    }

    pub(crate) fn shim(&self) -> Shim {
        Shim::new(&self.paths.bundle, &self.id)
    }

    /// Changes the record durably, then visibly. Nothing changes on an error.
    pub(crate) async fn update(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        let _saving = self.saving.lock().await;
        let mut fresh = (*self.record()).clone();
        change(&mut fresh);
        self.save(fresh.clone()).await?;
        self.publish(fresh);
        Ok(())
    }

    /// As [`Self::update`] for what has happened already and must be known even if the disk is full. A restart of the agent
    /// would then see the older record, and put it right from what it finds.
    pub(crate) async fn update_regardless(&self, change: impl FnOnce(&mut ContainerRecord)) {
        let _saving = self.saving.lock().await;
        let mut fresh = (*self.record()).clone();
        change(&mut fresh);
        if let Err(error) = self.save(fresh.clone()).await {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(container.id = %self.id, "the record could not be saved: {}", crate::api::error::chain(error));
        }
        self.publish(fresh);
    }

    /// A change that is not worth a write: lost with the agent.
    pub(crate) async fn update_in_memory(&self, change: impl FnOnce(&mut ContainerRecord)) {
        let _saving = self.saving.lock().await;
        let mut fresh = (*self.record()).clone();
        change(&mut fresh);
        self.publish(fresh);
    }

    async fn save(&self, record: ContainerRecord) -> Result<()> {
        let dir = self.paths.dir.clone();
        let saved = tokio::task::spawn_blocking(move || record.save(&dir)).await;
        saved.unwrap_or_else(|panic| {
            Err(EngineError::file("write", &self.paths.dir)(
                std::io::Error::other(panic),
            ))
        })
    }

    fn publish(&self, fresh: ContainerRecord) {
        let state = fresh.state.clone();
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        if *self.state.borrow() != state {
            self.state.send_replace(state);
        }
    }

    /// Registers a client that attaches before the start.
    pub(crate) fn add_pending(&self, pending: Pending) {
        let mut waiting = lock(&self.pending);
        waiting.retain(|other| !other.is_abandoned());
        waiting.push(pending);
    }

    /// Takes the clients that wait for the start.
    pub(crate) fn take_pending(&self) -> Vec<Pending> {
        std::mem::take(&mut *lock(&self.pending))
    }

    /// Remembers the task that probes it; an earlier one is ended.
    pub(crate) fn set_prober(&self, prober: Option<AbortHandle>) {
        if let Some(old) = std::mem::replace(&mut *lock(&self.prober), prober) {
            old.abort();
        }
    }

    /// Remembers how to call off the waiting restart.
    pub(crate) fn set_delay(&self, delay: oneshot::Sender<()>) {
        *lock(&self.delay) = Some(delay);
    }

    /// Until when it may run once it is started; `None`: for ever.
    pub(crate) fn lease(&self) -> Option<BootTime> {
        *lock(&self.lease)
    }

    /// See [`Self::lease`].
    pub(crate) fn set_lease(&self, until: Option<BootTime>) {
        *lock(&self.lease) = until;
    }

    /// A restart is waiting for its time.
    pub(crate) fn has_delay(&self) -> bool {
        lock(&self.delay).as_ref().is_some_and(|delay| !delay.is_closed())
    }

    /// Calls off a waiting restart.
    pub(crate) fn cancel_delay(&self) {
        drop(lock(&self.delay).take());
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
