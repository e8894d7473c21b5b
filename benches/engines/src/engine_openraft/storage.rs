//! The disk of a member: what is in memory is gone with the process, what was synced stays.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, BasicNode, Entry, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, Vote,
};
use tokio::sync::Notify;

use super::Types;
use crate::world::{Life, World};

type Meta = SnapshotMeta<u64, BasicNode>;
type Failed = StorageError<u64>;

#[derive(Debug, Clone, Default)]
struct Content {
    vote: Option<Vote<u64>>,
    purged: Option<LogId<u64>>,
    log: BTreeMap<u64, Entry<Types>>,
    snapshot: Option<(Meta, Vec<u64>)>,
}

/// What survives crashes.
#[derive(Clone, Default)]
pub(super) struct Disk {
    content: Arc<Mutex<Content>>,
    snapshot_safe: Arc<Notify>,
}

impl Disk {
    pub(super) fn is_empty(&self) -> bool {
        let content = self.content();
        content.vote.is_none() && content.log.is_empty() && content.snapshot.is_none()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }
}

fn died() -> Failed {
    StorageIOError::write(AnyError::error("the process died")).into()
}

#[derive(Clone)]
pub(super) struct Log {
    world: World,
    life: Life,
    memory: Arc<Mutex<Content>>,
    disk: Disk,
    patient: bool,
}

impl Log {
    pub(super) fn open(world: &World, life: Life, disk: &Disk, patient: bool) -> Self {
        let memory = Arc::new(Mutex::new(disk.content().clone()));
        Self {
            world: world.clone(),
            life,
            memory,
            disk: disk.clone(),
            patient,
        }
    }

    fn memory(&self) -> MutexGuard<'_, Content> {
        self.memory.lock().unwrap()
    }

    /// Changes memory at once, and the disk when it has been synced.
    async fn keep(&self, change: impl Fn(&mut Content)) -> Result<(), Failed> {
        change(&mut self.memory());
        if !self.world.sync(self.life).await {
            return Err(died());
        }
        change(&mut self.disk.content());
        Ok(())
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, Failed> {
        Ok(self
            .memory()
            .log
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Failed> {
        let memory = self.memory();
        let last = memory.log.values().next_back().map(|entry| entry.log_id);
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: last.or(memory.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Failed> {
        self.keep(|content| content.vote = Some(*vote)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Failed> {
        Ok(self.memory().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Failed>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let put = |content: &mut Content| {
            content
                .log
                .extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())))
        };
        let kept = self.keep(put).await;
        callback.log_io_completed(kept.map_err(|error| std::io::Error::other(error.to_string())));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), Failed> {
        self.keep(|content| drop(content.log.split_off(&from.index)))
            .await
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), Failed> {
        while self.patient {
            let safe = self.disk.snapshot_safe.notified();
            let snapshot = self
                .disk
                .content()
                .snapshot
                .as_ref()
                .and_then(|(meta, _)| meta.last_log_id);
            if snapshot >= Some(upto) {
                break;
            }
            if !self.world.lives(self.life) {
                return Err(died());
            }
            safe.await;
        }
        self.keep(|content| {
            content.log = content.log.split_off(&(upto.index + 1));
            content.purged = Some(upto);
        })
        .await
    }
}

#[derive(Debug, Clone, Default)]
struct State {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    values: Vec<u64>,
}

#[derive(Clone)]
pub(super) struct Machine {
    world: World,
    life: Life,
    disk: Disk,
    state: Arc<Mutex<State>>,
}

impl Machine {
    pub(super) fn open(world: &World, life: Life, disk: &Disk) -> Self {
        let machine = Self {
            world: world.clone(),
            life,
            disk: disk.clone(),
            state: Arc::default(),
        };
        let snapshot = disk.content().snapshot.clone();
        if let Some((meta, values)) = snapshot {
            machine.take_over(&meta, values);
        }
        machine
    }

    /// The last entry that is safe on the disk.
    pub(super) fn last_log(&self) -> Option<LogId<u64>> {
        let content = self.disk.content();
        let last = content.log.values().next_back().map(|entry| entry.log_id);
        last.max(content.purged)
    }

    pub(super) fn values(&self) -> Vec<u64> {
        self.state.lock().unwrap().values.clone()
    }

    fn take_over(&self, meta: &Meta, values: Vec<u64>) {
        if let Some(last) = meta.last_log_id {
            self.world.oracle().restored(self.life, last.index, &values);
        }
        *self.state.lock().unwrap() = State {
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
            values,
        };
    }

    async fn save(&self, meta: Meta, values: Vec<u64>) -> Result<(), Failed> {
        for _ in 0..3 {
            if !self.world.sync(self.life).await {
                return Err(died());
            }
        }
        let mut content = self.disk.content();
        if content
            .snapshot
            .as_ref()
            .is_none_or(|(old, _)| old.last_log_id < meta.last_log_id)
        {
            content.snapshot = Some((meta, values));
        }
        self.disk.snapshot_safe.notify_waiters();
        Ok(())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), Failed> {
        let state = self.state.lock().unwrap();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Failed>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            let mut state = self.state.lock().unwrap();
            let mut value = None;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(normal) => {
                    state.values.push(normal);
                    value = Some(normal);
                }
                EntryPayload::Membership(members) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), members)
                }
            }
            state.last = Some(entry.log_id);
            let term = entry.log_id.leader_id.term;
            self.world
                .oracle()
                .applied(self.life, entry.log_id.index, term, value);
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Failed> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, data: Box<Cursor<Vec<u8>>>) -> Result<(), Failed> {
        let bytes = data.into_inner();
        let values: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()))
            .collect();
        self.take_over(meta, values.clone());
        self.save(meta.clone(), values).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Failed> {
        let snapshot = self.disk.content().snapshot.clone();
        Ok(snapshot.map(|(meta, values)| Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(
                values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            )),
        }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Failed> {
        let state = self.state.lock().unwrap().clone();
        let meta = Meta {
            last_log_id: state.last,
            last_membership: state.membership,
            snapshot_id: format!("{}-{}-{:?}", self.life.id, self.life.count, state.last),
        };
        self.save(meta, state.values).await?;
        let current = self.get_current_snapshot().await?;
        current.ok_or_else(died)
    }
}
