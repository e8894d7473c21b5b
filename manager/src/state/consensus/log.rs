//! openraft's log and vote: in memory for reading, in the journal for keeping.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, Entry, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogReader, StorageError,
    Vote,
};
use tokio::sync::{Notify, watch};

use super::journal::{Journal, Record};
use super::snapshot;
use super::{Compaction, ConsensusError, Types};
use crate::disk;
use crate::state::batch::size_of_json;
use crate::state::proposer::ProposeError;
use crate::vault::AtRest;

/// The journal asks for a snapshot when it has grown by as many bytes at least.
const GROWTH: u64 = 1 << 20;

/// Bytes of entries in one message, but for the last entry.
const MESSAGE: usize = 1 << 20;

/// The log. Cheap to clone: all clones are the same log.
#[derive(Debug, Clone)]
pub(super) struct Log {
    dir: Arc<Path>,
    memory: Arc<Mutex<Memory>>,
    disk: Arc<Mutex<Disk>>,
    grown: Arc<Notify>,
    /// The last entry that the snapshot on the disk holds.
    kept: watch::Receiver<Option<u64>>,
}

#[derive(Debug, Default)]
struct Memory {
    vote: Option<Vote<u64>>,
    purged: Option<LogId<u64>>,
    entries: BTreeMap<u64, Entry<Types>>,
}

#[derive(Debug)]
struct Disk {
    journal: Journal,
    /// The size at which the next snapshot is due.
    due: u64,
    /// Entries since the last one, and those at which the next one is due.
    entries: u64,
    interval: u64,
}

impl Log {
    /// Reads the journal of the directory, or begins one. `kept` is the last entry that the snapshot on the disk holds.
    pub(super) fn open(
        dir: &Path,
        at_rest: &AtRest,
        kept: watch::Receiver<Option<u64>>,
    ) -> Result<Self, ConsensusError> {
        let mut memory = Memory::default();
        let journal = Journal::open(dir, at_rest, |record| memory.replay(record))?;
        let due = due(&journal);
        Ok(Self {
            dir: dir.into(),
            memory: Arc::new(Mutex::new(memory)),
            disk: Arc::new(Mutex::new(Disk {
                journal,
                due,
                entries: 0,
                interval: Compaction::default().interval,
            })),
            grown: Arc::default(),
            kept,
        })
    }

    /// The entries after this one, in order.
    pub(super) fn entries_after(&self, last: Option<LogId<u64>>) -> Vec<Entry<Types>> {
        let from = last.map_or(0, |last| last.index + 1);
        self.memory()
            .entries
            .range(from..)
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// The last entry that there is, or was before it went into a snapshot.
    pub(super) fn last(&self) -> Option<LogId<u64>> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(|entry| entry.log_id);
        last.or(memory.purged)
    }

    /// The highest term that this member has heard of.
    pub(super) fn term(&self) -> u64 {
        let memory = self.memory();
        let entry = memory.entries.values().next_back();
        let terms = [
            memory.vote.map(|vote| vote.leader_id.term),
            entry.map(|entry| entry.log_id.leader_id.term),
            memory.purged.map(|id| id.leader_id.term),
        ];
        terms.into_iter().flatten().max().unwrap_or_default()
    }

    /// Begins anew: nothing but the vote, after an entry that a snapshot holds.
    pub(super) async fn begin_anew(&self, vote: Vote<u64>, after: Option<LogId<u64>>) {
        *self.memory() = Memory {
            vote: Some(vote),
            purged: after,
            entries: BTreeMap::new(),
        };
        self.shrink().await;
    }

    /// A snapshot is due after so many entries.
    pub(super) fn set_interval(&self, entries: u64) {
        lock(&self.disk).interval = entries;
    }

    /// Woken when a snapshot is due.
    pub(super) fn grown(&self) -> Arc<Notify> {
        self.grown.clone()
    }

    /// Makes sure that so many bytes can be appended.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<(), ProposeError> {
        let disk = self.disk.clone();
        let reserved = disk::work(&self.dir, move || {
            let disk = &mut *lock(&disk);
            let path = disk.journal.path().display().to_string();
            disk.journal.reserve(bytes).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ProposeError::DiskFull { path },
                _ => ProposeError::Stopped {
                    reason: format!("reserve space for {path}: {error}"),
                },
            })
        });
        reserved.await.unwrap_or_else(|error| {
            Err(ProposeError::Stopped {
                reason: error.to_string(),
            })
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// Appends to the journal, away from the threads that must not wait.
    async fn keep(&self, records: Vec<Record>) -> io::Result<()> {
        let this = self.clone();
        let kept = disk::work(&self.dir, move || {
            let disk = &mut *lock(&this.disk);
            disk.journal.append(&records)?;
            let entries = records.iter().filter(|record| matches!(record, Record::Entry(_)));
            disk.entries += entries.count() as u64;
            if disk.journal.size() >= disk.due || disk.entries >= disk.interval {
                disk.due = due(&disk.journal);
                disk.entries = 0;
                this.grown.notify_one();
            }
            Ok(())
        });
        kept.await?
    }

    /// Shrinks the journal to what is still needed.
    async fn shrink(&self) {
        let this = self.clone();
        let shrunk = disk::work(&self.dir, move || {
            let records = this.memory().records();
            let disk = &mut *lock(&this.disk);
            let shrunk = disk.journal.rewrite(&records);
            disk.due = due(&disk.journal);
            shrunk
        });
        // The old journal is still there and says the same, at greater length.
        if let Ok(Err(error)) = shrunk.await {
            tracing::warn!(
                error = crate::files::chain(&error),
                "the journal was not shortened"
            );
        }
    }
}

impl Memory {
    fn replay(&mut self, record: Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(entry) => drop(self.entries.insert(entry.log_id.index, entry)),
            Record::Truncate(from) => drop(self.entries.split_off(&from)),
            Record::Purge(upto) => self.purge(upto),
        }
    }

    fn purge(&mut self, upto: LogId<u64>) {
        self.entries = self.entries.split_off(&(upto.index + 1));
        self.purged = Some(upto);
    }

    /// The records that make this memory.
    fn records(&self) -> Vec<Record> {
        let vote = self.vote.map(Record::Vote);
        let purged = self.purged.map(Record::Purge);
        let entries = self.entries.values().cloned().map(Record::Entry);
        vote.into_iter().chain(purged).chain(entries).collect()
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        Ok(self
            .memory()
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    /// As many as fit in one message; one at least.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        let memory = self.memory();
        let mut bytes = 0;
        let fits = |entry: &&Entry<Types>| {
            let fits = bytes < MESSAGE;
            bytes += size_of_json(entry);
            fits
        };
        let entries = memory.entries.range(start..end).map(|(_, entry)| entry);
        Ok(entries.take_while(fits).cloned().collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: last.or(memory.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.keep(vec![Record::Vote(*vote)])
            .await
            .map_err(failed(ErrorSubject::Vote))?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        // Leadership does not outlive the process: it is won anew, in another term, before anything is said in its name.
        let uncommitted = |vote: Vote<u64>| Vote {
            committed: false,
            ..vote
        };
        Ok(self.memory().vote.map(uncommitted))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let readable = entries.iter().map(|entry| (entry.log_id.index, entry.clone()));
        self.memory().entries.extend(readable);
        callback.log_io_completed(self.keep(entries.into_iter().map(Record::Entry).collect()).await);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.keep(vec![Record::Truncate(log_id.index)])
            .await
            .map_err(failed(ErrorSubject::Logs))?;
        self.memory().entries.split_off(&log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        // openraft purges what a received snapshot holds while the state machine still writes it to the disk.
        let mut kept = self.kept.clone();
        let is_kept = kept.wait_for(|kept| *kept >= Some(log_id.index)).await.is_ok();
        if !is_kept {
            return Ok(());
        }
        self.memory().purge(log_id);
        self.shrink().await;
        Ok(())
    }
}

/// The size of the journal at which the next snapshot is due: when it has grown by as much as the last one has, which
/// holds the whole state. So a large state is written about twice, not once for every MiB.
fn due(journal: &Journal) -> u64 {
    let snapshot = journal.path().parent().map(snapshot::path);
    let size = snapshot
        .and_then(|path| std::fs::metadata(path).ok())
        .map_or(0, |file| file.len());
    journal.size() + GROWTH.max(size)
}

/// A panic under one of the locks leaves nothing half done: the maps are changed by single calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(subject: ErrorSubject<u64>) -> impl FnOnce(io::Error) -> StorageError<u64> {
    move |error| openraft::StorageIOError::new(subject, ErrorVerb::Write, AnyError::new(&error)).into()
}
