//! The state that agreed changes are applied to: tables and watchers under one lock.
//!
//! Consensus (or [`MemoryProposer`](super::MemoryProposer)) is the only writer.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::object::{Object, StoreAction};
use super::tables::Tables;
use super::watch::{Event, Filter, WatchStream, Watchers};

/// One manager's copy of the state. Cheap to clone: all clones are the same copy.
#[derive(Debug, Clone, Default)]
pub struct Replica {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    tables: Tables,
    watchers: Watchers,
}

impl Replica {
    /// Applies a change set that was agreed upon at `version`, and tells the watchers. Versions only grow.
    pub fn apply(&self, version: u64, actions: Vec<StoreAction>) {
        let inner = &mut *self.write();
        let mut events = inner.tables.apply(version, actions);
        events.push(Event::Commit(version));
        inner.watchers.tell(&events);
    }

    /// Takes over another replica's state, and tells the watchers what differs.
    pub fn restore(&self, tables: Tables) {
        let inner = &mut *self.write();
        let mut events = inner.tables.replace(tables);
        events.push(Event::Commit(inner.tables.version));
        inner.watchers.tell(&events);
    }

    /// A copy of the tables; the objects themselves are shared.
    pub fn snapshot(&self) -> Tables {
        self.read(Tables::clone)
    }

    /// Every object, as [`Tables::objects`] lists them, and the version: what a snapshot holds, without the indexes.
    pub(super) fn content(&self) -> (u64, Vec<Object>) {
        self.read(|tables| (tables.version, tables.objects().collect()))
    }

    pub(super) fn read<R>(&self, look: impl FnOnce(&Tables) -> R) -> R {
        look(&self.lock().tables)
    }

    pub(super) fn watch<R>(&self, filter: Filter, look: impl FnOnce(&Tables) -> R) -> (R, WatchStream) {
        let inner = &mut *self.write();
        (look(&inner.tables), inner.watchers.add(filter))
    }

    // A panic while the lock is held can only come from a reader's closure or a filter: the tables stay whole.
    fn lock(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}
