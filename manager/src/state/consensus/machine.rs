//! openraft's state machine: applies what was agreed upon to the replica, and turns the replica into snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, Entry, EntryPayload, LogId, Membership, OptionalSend, RaftSnapshotBuilder, Snapshot,
    StorageError, StorageIOError, StoredMembership,
};
use tokio::sync::watch;

use super::{ConsensusError, Member, Types, Verdict, snapshot};
use crate::disk;
use crate::state::replica::Replica;
use crate::vault::AtRest;

/// The state machine. Cheap to clone: all clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    dir: PathBuf,
    at_rest: AtRest,
    replica: Replica,
    applied: Arc<Mutex<Applied>>,
    /// The last entry that the snapshot on the disk holds.
    kept: watch::Sender<Option<u64>>,
    /// What openraft knows of that snapshot.
    written: Arc<Mutex<Option<snapshot::Meta>>>,
    /// One snapshot is written at a time, so that an older one never takes a newer one's place.
    saving: Arc<Mutex<()>>,
    /// Old snapshots that are kept.
    keep: Arc<AtomicU64>,
}

/// How far the replica is.
#[derive(Debug, Default)]
struct Applied {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, Member>,
}

impl Machine {
    /// Restores the replica from the directory's snapshot, if there is one.
    pub(super) fn open(dir: &Path, at_rest: &AtRest, replica: Replica) -> Result<Self, ConsensusError> {
        let machine = Self {
            dir: dir.to_owned(),
            at_rest: at_rest.clone(),
            replica,
            applied: Arc::default(),
            kept: watch::Sender::default(),
            written: Arc::default(),
            saving: Arc::default(),
            keep: Arc::default(),
        };
        if let Some(bytes) = snapshot::bytes(dir, at_rest)? {
            machine.take_over(&bytes)?;
            let meta = machine.applied().meta();
            machine.note_written(&meta);
        }
        Ok(machine)
    }

    /// The last entry that the snapshot on the disk holds, to watch.
    pub(super) fn kept(&self) -> watch::Receiver<Option<u64>> {
        self.kept.subscribe()
    }

    /// So many snapshots are kept beside the last one.
    pub(super) fn set_keep(&self, snapshots: u64) {
        self.keep.store(snapshots, Ordering::Relaxed);
    }

    /// Writes the state to the directory's snapshot.
    pub(super) async fn write_snapshot(&self) -> Result<snapshot::Meta, ConsensusError> {
        let this = self.clone();
        let written = disk::work(&self.dir, move || {
            let _one_at_a_time = this.saving.lock().unwrap_or_else(PoisonError::into_inner);
            let (meta, content) = {
                let applied = this.applied();
                (applied.meta(), this.replica.content())
            };
            snapshot::set_aside(&this.dir, this.keep.load(Ordering::Relaxed))?;
            snapshot::save(&this.dir, &this.at_rest, &meta, content)?;
            this.note_written(&meta);
            Ok(meta)
        });
        written.await.map_err(super::stopped)?
    }

    fn note_written(&self, meta: &snapshot::Meta) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(meta.clone());
        self.kept.send_replace(meta.last_log_id.map(|last| last.index));
    }

    /// The last entry that was applied.
    pub(super) fn last(&self) -> Option<LogId<u64>> {
        self.applied().last
    }

    /// Applies an entry without openraft.
    pub(super) fn apply_alone(&self, entry: Entry<Types>) {
        self.apply_entry(entry);
    }

    /// Says that this is the only member from here on.
    pub(super) fn make_sole(&self, id: u64, member: Member) {
        let mut applied = self.applied();
        let sole = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, member)]));
        applied.membership = StoredMembership::new(applied.last, sole);
    }

    fn take_over(&self, bytes: &[u8]) -> Result<(), ConsensusError> {
        let damaged = |offset| ConsensusError::Damaged {
            path: snapshot::path(&self.dir),
            offset,
        };
        let (meta, tables) = snapshot::decode(bytes).map_err(damaged)?;
        let mut applied = self.applied();
        self.replica.restore(tables);
        *applied = Applied {
            last: meta.last_log_id,
            membership: meta.last_membership,
        };
        Ok(())
    }

    fn current(&self) -> Result<Option<Snapshot<Types>>, ConsensusError> {
        let Some(bytes) = snapshot::bytes(&self.dir, &self.at_rest)? else {
            return Ok(None);
        };
        let damaged = |offset| ConsensusError::Damaged {
            path: snapshot::path(&self.dir),
            offset,
        };
        // The seal has told that it is whole; whoever gets it looks at the rest.
        let meta = snapshot::meta(&bytes).map_err(damaged)?;
        Ok(Some(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(bytes)),
        }))
    }

    /// Held while the replica changes, so that both are always at the same entry.
    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_entry(&self, entry: Entry<Types>) -> Verdict {
        let mut applied = self.applied();
        applied.last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(change) if !change.is_of(entry.log_id.leader_id.term) => {
                return Verdict::Void;
            }
            EntryPayload::Normal(change) => self.replica.apply(entry.log_id.index, change.actions),
            EntryPayload::Membership(members) => {
                applied.membership = StoredMembership::new(Some(entry.log_id), members);
            }
        }
        Verdict::Applied
    }
}

impl Applied {
    fn meta(&self) -> snapshot::Meta {
        let id = self
            .last
            .map_or_else(|| "empty".to_owned(), |last| last.to_string());
        snapshot::Meta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: id,
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Member>), StorageError<u64>> {
        let applied = self.applied();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Verdict>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(entries.into_iter().map(|entry| self.apply_entry(entry)).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        _meta: &snapshot::Meta,
        data: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        self.take_over(data.get_ref()).map_err(failed)?;
        self.write_snapshot().await.map(drop).map_err(failed)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        let this = self.clone();
        let current = disk::work(&self.dir, move || this.current()).await;
        current
            .unwrap_or_else(|error| Err(super::stopped(error)))
            .map_err(failed)
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    /// The snapshot has been written before openraft asks: it would stop for good if it failed here for lack of space. What
    /// is in it openraft asks for with [`RaftStateMachine::get_current_snapshot`], when a member needs it: here it looks at
    /// the meta alone, and a large state need not be read back from the disk for that.
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        let written = self
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let meta = match written {
            Some(meta) => meta,
            None => self.write_snapshot().await.map_err(failed)?,
        };
        Ok(Snapshot {
            meta,
            snapshot: Box::default(),
        })
    }
}

fn failed(error: ConsensusError) -> StorageError<u64> {
    StorageIOError::read_snapshot(None, AnyError::new(&error)).into()
}
