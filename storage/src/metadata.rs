//! The database of the store: one redb file, `meta.redb`.
//!
//! ```text
//! images      image id (hex)                → ImageRow     which manifest, when it came
//! references  full name ("docker.io/…:tag") → image id (hex)
//! layers      diff id (hex)                 → LayerRow     sizes, whether the tar names the root directory
//! snapshots   key                           → SnapshotRow  image and layers a container stands on
//! volumes     name                          → VolumeRow    labels and options
//! leases      lease id                      → LeaseRow     owner, expiry, layers held
//! steps       build cache key (hex)         → StepRow      the layer a build step made
//! ```
//!
//! Values are JSON. A row is committed only after the data that it names is on disk, and removed before that data
//! is. Nothing outside this module touches a table: callers pass a closure that sees one consistent [`Tx`].

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TransactionError, WriteTransaction,
};
use rustix::fs::FallocateFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest, ImageId};

/// Memory that redb may use to cache pages, in bytes: the daemon has to stay small.
const CACHE: usize = 2 << 20;
/// Bytes of disk set aside beyond the database's end, so that on a full disk rows can still be removed, which is how
/// space comes free.
const RESERVE: u64 = 1 << 20;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// Names of the tables; the module documentation draws them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Images,
    References,
    Layers,
    Snapshots,
    Volumes,
    Leases,
    Steps,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Images,
        Self::References,
        Self::Layers,
        Self::Snapshots,
        Self::Volumes,
        Self::Leases,
        Self::Steps,
    ];

    fn table(self) -> Table {
        TableDefinition::new(match self {
            Self::Images => "images",
            Self::References => "references",
            Self::Layers => "layers",
            Self::Snapshots => "snapshots",
            Self::Volumes => "volumes",
            Self::Leases => "leases",
            Self::Steps => "steps",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRow {
    /// Manifest blob, if the image came with one.
    pub(crate) manifest: Option<Digest>,
    /// The layers named by the configuration, kept here so that the collector reads no blob.
    pub(crate) layers: Vec<DiffId>,
    pub(crate) last_tagged: Option<String>,
    /// It came from another node, and nobody here has loaded, built or named it since.
    #[serde(default)]
    pub(crate) fetched: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerRow {
    pub(crate) form: LayerForm,
    pub(crate) size: u64,
    pub(crate) tar_size: u64,
    /// The tar says which mode and owner the root directory has.
    pub(crate) names_root: bool,
}

/// How a layer lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LayerForm {
    /// A directory that is an overlay lower directory as it is.
    Directory,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SnapshotRow {
    pub(crate) image: ImageId,
    /// Bottom first.
    pub(crate) layers: Vec<DiffId>,
    pub(crate) created: String,
}

/// What a build step made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepRow {
    pub(crate) layer: Option<DiffId>,
    pub(crate) created: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeaseRow {
    pub(crate) owner: String,
    /// Unix seconds.
    pub(crate) expires: i64,
    pub(crate) layers: BTreeSet<DiffId>,
}

/// Why the database could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("{} is in use: another agent runs with this root; stop it or choose another --root", .0.display())]
    InUse(PathBuf),
    #[error("open {}", path.display())]
    Open { path: PathBuf, source: Box<redb::Error> },
    #[error("{operation} in the store's database")]
    Database {
        operation: &'static str,
        source: Box<redb::Error>,
    },
    #[error("read row {key:?} of the store's database")]
    Row { key: String, source: serde_json::Error },
}

/// The open database. redb gives a database up after the first failed write (a full disk, say), for good: it is closed
/// and opened again then, when it is used next.
#[derive(Debug)]
pub(crate) struct Metadata {
    path: PathBuf,
    /// `None`: given up, and not opened again yet. Transactions hold the lock for reading.
    database: RwLock<Option<Database>>,
    /// A read or write of the file has failed.
    broken: Broken,
}

/// Set by whoever meets an error of the file system.
#[derive(Debug, Default)]
struct Broken(AtomicBool);

impl Broken {
    fn failed(&self, operation: &'static str, source: impl Into<redb::Error>) -> MetadataError {
        let source = source.into();
        if matches!(source, redb::Error::Io(_) | redb::Error::PreviousIo) {
            self.0.store(true, Ordering::SeqCst);
        }
        MetadataError::Database {
            operation,
            source: Box::new(source),
        }
    }
}

impl Metadata {
    pub(crate) fn open(path: &Path) -> Result<Self, MetadataError> {
        let metadata = Self {
            path: path.to_owned(),
            database: RwLock::new(Some(open(path)?)),
            broken: Broken::default(),
        };
        metadata.update(|tx| Kind::ALL.iter().try_for_each(|kind| tx.touch(*kind)))?;
        Ok(metadata)
    }

    /// Runs `body` in a write transaction and commits it durably; an error from `body` rolls back.
    pub(crate) fn update<T, E: From<MetadataError>>(
        &self,
        body: impl FnOnce(&Tx) -> Result<T, E>,
    ) -> Result<T, E> {
        let (_open, inner) = self.begin(Database::begin_write)?;
        let tx = Tx {
            inner,
            broken: &self.broken,
        };
        let value = body(&tx)?;
        tx.inner.commit().map_err(|e| self.broken.failed("commit", e))?;
        Ok(value)
    }

    /// One row.
    pub(crate) fn get<T: DeserializeOwned>(&self, kind: Kind, key: &str) -> Result<Option<T>, MetadataError> {
        let (_open, tx) = self.begin_read()?;
        let table = tx
            .open_table(kind.table())
            .map_err(|e| self.broken.failed("open table", e))?;
        let row = table.get(key).map_err(|e| self.broken.failed("read", e))?;
        row.map(|row| parse(key, row.value())).transpose()
    }

    /// All rows of a table, by key.
    pub(crate) fn all<T: DeserializeOwned>(&self, kind: Kind) -> Result<Vec<(String, T)>, MetadataError> {
        let (_open, tx) = self.begin_read()?;
        let table = tx
            .open_table(kind.table())
            .map_err(|e| self.broken.failed("open table", e))?;
        rows(&table, &self.broken)
    }

    fn begin_read(&self) -> Result<(Guard<'_>, ReadTransaction), MetadataError> {
        self.begin(ReadableDatabase::begin_read)
    }

    /// Begins a transaction, in a database opened anew if the old one was given up.
    fn begin<T>(
        &self,
        begin: impl FnOnce(&Database) -> Result<T, TransactionError>,
    ) -> Result<(Guard<'_>, T), MetadataError> {
        if self.broken.0.load(Ordering::SeqCst) {
            self.reopen()?;
        }
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard
            .as_ref()
            .ok_or_else(|| self.broken.failed("begin", StorageError::PreviousIo))?;
        let transaction = begin(database).map_err(|error| self.broken.failed("begin", error))?;
        Ok((guard, transaction))
    }

    fn reopen(&self) -> Result<(), MetadataError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been here before.
        if self.broken.0.load(Ordering::SeqCst) {
            // The old one holds the file's lock.
            drop(database.take());
            *database = Some(open(&self.path)?);
            self.broken.0.store(false, Ordering::SeqCst);
        }
        Ok(())
    }
}

type Guard<'a> = RwLockReadGuard<'a, Option<Database>>;

fn open(path: &Path) -> Result<Database, MetadataError> {
    let database = match redb::Builder::new().set_cache_size(CACHE).create(path) {
        Ok(database) => database,
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
            return Err(MetadataError::InUse(path.to_owned()));
        }
        Err(source) => {
            return Err(MetadataError::Open {
                path: path.to_owned(),
                source: Box::new(source.into()),
            });
        }
    };
    reserve(path);
    Ok(database)
}

/// Gives every byte of the database its place on the disk, and [`RESERVE`] more. What the file system cannot do or has no
/// room for is left.
fn reserve(path: &Path) {
    let Ok(file) = File::options().write(true).open(path) else {
        return;
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, length + RESERVE);
}

/// A write transaction: sees its own writes.
pub(crate) struct Tx<'a> {
    inner: WriteTransaction,
    broken: &'a Broken,
}

impl Tx<'_> {
    pub(crate) fn put<T: Serialize>(&self, kind: Kind, key: &str, value: &T) -> Result<(), MetadataError> {
        let json = serde_json::to_vec(value).map_err(|source| MetadataError::Row {
            key: key.to_owned(),
            source,
        })?;
        let mut table = self
            .inner
            .open_table(kind.table())
            .map_err(|e| self.broken.failed("open table", e))?;
        table
            .insert(key, json.as_slice())
            .map_err(|e| self.broken.failed("write", e))?;
        Ok(())
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, kind: Kind, key: &str) -> Result<Option<T>, MetadataError> {
        let table = self
            .inner
            .open_table(kind.table())
            .map_err(|e| self.broken.failed("open table", e))?;
        let row = table.get(key).map_err(|e| self.broken.failed("read", e))?;
        row.map(|row| parse(key, row.value())).transpose()
    }

    /// Removes a row; whether there was one.
    pub(crate) fn remove(&self, kind: Kind, key: &str) -> Result<bool, MetadataError> {
        let mut table = self
            .inner
            .open_table(kind.table())
            .map_err(|e| self.broken.failed("open table", e))?;
        let old = table.remove(key).map_err(|e| self.broken.failed("remove", e))?;
        Ok(old.is_some())
    }

    pub(crate) fn all<T: DeserializeOwned>(&self, kind: Kind) -> Result<Vec<(String, T)>, MetadataError> {
        let table = self
            .inner
            .open_table(kind.table())
            .map_err(|e| self.broken.failed("open table", e))?;
        rows(&table, self.broken)
    }

    fn touch(&self, kind: Kind) -> Result<(), MetadataError> {
        self.inner
            .open_table(kind.table())
            .map_err(|e| self.broken.failed("create table", e))?;
        Ok(())
    }
}

fn rows<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    broken: &Broken,
) -> Result<Vec<(String, T)>, MetadataError> {
    let mut found = Vec::new();
    for row in table.iter().map_err(|e| broken.failed("read", e))? {
        let (key, value) = row.map_err(|e| broken.failed("read", e))?;
        found.push((key.value().to_owned(), parse(key.value(), value.value())?));
    }
    Ok(found)
}

fn parse<T: DeserializeOwned>(key: &str, json: &[u8]) -> Result<T, MetadataError> {
    serde_json::from_slice(json).map_err(|source| MetadataError::Row {
        key: key.to_owned(),
        source,
    })
}
