//! The disk of a member: what is in memory is gone with the process, what was synced stays.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::world::{Id, Life, World};

/// Entries kept behind a snapshot.
const KEPT: u64 = 5;

/// The state at one entry.
#[derive(Clone, Default)]
struct State {
    index: u64,
    term: u64,
    members: ConfState,
    values: Vec<u64>,
}

#[derive(Clone, Default)]
struct Content {
    hard: HardState,
    /// The entry before the first one of the log.
    before: (u64, u64),
    log: Vec<Entry>,
    snapshot: State,
}

/// What survives crashes.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Content>>);

impl Disk {
    pub(super) fn is_empty(&self) -> bool {
        self.content().before == (0, 0)
    }

    /// A group of one begins with a snapshot, so that those who join get one first.
    pub(super) fn found(&self, id: Id) {
        let mut content = self.content();
        content.snapshot.index = 1;
        content.snapshot.term = 1;
        content.snapshot.members.voters = vec![id];
        content.before = (1, 1);
        content.hard.term = 1;
        content.hard.commit = 1;
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }
}

/// The store of one life.
#[derive(Clone)]
pub(super) struct Store {
    world: World,
    life: Life,
    disk: Disk,
    memory: Arc<Mutex<(Content, State)>>,
}

impl Store {
    pub(super) fn open(world: &World, life: Life, disk: &Disk) -> Self {
        let content = disk.content().clone();
        let state = content.snapshot.clone();
        world.oracle().restored(life, state.index, &state.values);
        Self {
            world: world.clone(),
            life,
            disk: disk.clone(),
            memory: Arc::new(Mutex::new((content, state))),
        }
    }

    fn memory(&self) -> MutexGuard<'_, (Content, State)> {
        self.memory.lock().unwrap()
    }

    /// Brings all that memory holds to the disk. False if the process died meanwhile.
    pub(super) async fn sync(&self) -> bool {
        let content = self.memory().0.clone();
        if !self.world.sync(self.life).await {
            return false;
        }
        *self.disk.content() = content;
        true
    }

    pub(super) fn applied(&self) -> u64 {
        self.memory().1.index
    }

    pub(super) fn values(&self) -> Vec<u64> {
        self.memory().1.values.clone()
    }

    pub(super) fn voters(&self) -> BTreeSet<Id> {
        self.memory().1.members.voters.iter().copied().collect()
    }

    pub(super) fn learners(&self) -> BTreeSet<Id> {
        self.memory().1.members.learners.iter().copied().collect()
    }

    pub(super) fn set_conf_state(&self, members: ConfState) {
        self.memory().1.members = members;
    }

    pub(super) fn set_hard_state(&self, hard: HardState) {
        self.memory().0.hard = hard;
    }

    pub(super) fn commit(&self, index: u64) {
        self.memory().0.hard.commit = index;
    }

    pub(super) fn append(&self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let content = &mut self.memory().0;
        let keep = (first.index - content.before.0 - 1) as usize;
        content.log.truncate(keep);
        content.log.extend_from_slice(entries);
    }

    pub(super) fn apply(&self, entry: &Entry, value: Option<u64>) {
        let mut memory = self.memory();
        memory.1.index = entry.index;
        memory.1.term = entry.term;
        memory.1.values.extend(value);
        self.world
            .oracle()
            .applied(self.life, entry.index, entry.term, value);
    }

    /// The state becomes the snapshot; it is safe with the next sync.
    pub(super) fn compact(&self) {
        let (content, state) = &mut *self.memory();
        content.snapshot = state.clone();
        let upto = state.index.saturating_sub(KEPT);
        if upto > content.before.0 {
            let gone = (upto - content.before.0) as usize;
            content.before = (upto, content.log[gone - 1].term);
            content.log.drain(..gone);
        }
    }

    pub(super) fn install(&self, snapshot: &Snapshot) {
        let meta = snapshot.get_metadata();
        let bytes = snapshot.get_data().chunks_exact(8);
        let state = State {
            index: meta.index,
            term: meta.term,
            members: meta.get_conf_state().clone(),
            values: bytes
                .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()))
                .collect(),
        };
        self.world
            .oracle()
            .restored(self.life, state.index, &state.values);
        let (content, now) = &mut *self.memory();
        content.log.clear();
        content.before = (state.index, state.term);
        content.hard.commit = content.hard.commit.max(state.index);
        content.hard.term = content.hard.term.max(state.term);
        content.snapshot = state.clone();
        *now = state;
    }
}

impl Storage for Store {
    fn initial_state(&self) -> Result<RaftState> {
        let (content, state) = &*self.memory();
        Ok(RaftState::new(content.hard.clone(), state.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        _max: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let content = &self.memory().0;
        if low <= content.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let at = |index: u64| (index - content.before.0 - 1) as usize;
        Ok(content.log[at(low)..at(high)].to_vec())
    }

    fn term(&self, index: u64) -> Result<u64> {
        let content = &self.memory().0;
        if index == content.before.0 {
            return Ok(content.before.1);
        }
        let Some(at) = index.checked_sub(content.before.0 + 1) else {
            return Err(Error::Store(StorageError::Compacted));
        };
        let entry = content.log.get(at as usize);
        entry
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.memory().0.before.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        let content = &self.memory().0;
        Ok(content.before.0 + content.log.len() as u64)
    }

    fn snapshot(&self, request: u64, _to: u64) -> Result<Snapshot> {
        let state = self.memory().1.clone();
        if state.index < request {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = state.index;
        snapshot.mut_metadata().term = state.term;
        snapshot.mut_metadata().set_conf_state(state.members.clone());
        snapshot.set_data(
            state
                .values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect::<Vec<u8>>()
                .into(),
        );
        Ok(snapshot)
    }
}
