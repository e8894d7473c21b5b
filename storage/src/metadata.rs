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
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest, ImageId};

/// Memory that redb may use to cache pages, in bytes: the daemon has to stay small.
const CACHE: usize = 2 << 20;

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

/// The open database.
#[derive(Debug)]
pub(crate) struct Metadata {
    database: Database,
}

impl Metadata {
    pub(crate) fn open(path: &Path) -> Result<Self, MetadataError> {
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
        let metadata = Self { database };
        metadata.update(|tx| Kind::ALL.iter().try_for_each(|kind| tx.touch(*kind)))?;
        Ok(metadata)
    }

    /// Runs `body` in a write transaction and commits it durably; an error from `body` rolls back.
    pub(crate) fn update<T, E: From<MetadataError>>(
        &self,
        body: impl FnOnce(&Tx) -> Result<T, E>,
    ) -> Result<T, E> {
        let inner = self.database.begin_write().map_err(|e| failed("begin", e))?;
        let tx = Tx { inner };
        let value = body(&tx)?;
        tx.inner.commit().map_err(|e| failed("commit", e))?;
        Ok(value)
    }

    /// One row.
    pub(crate) fn get<T: DeserializeOwned>(&self, kind: Kind, key: &str) -> Result<Option<T>, MetadataError> {
        let tx = self
            .database
            .begin_read()
            .map_err(|e| failed("begin reading", e))?;
        let table = tx.open_table(kind.table()).map_err(|e| failed("open table", e))?;
        let row = table.get(key).map_err(|e| failed("read", e))?;
        row.map(|row| parse(key, row.value())).transpose()
    }

    /// All rows of a table, by key.
    pub(crate) fn all<T: DeserializeOwned>(&self, kind: Kind) -> Result<Vec<(String, T)>, MetadataError> {
        let tx = self
            .database
            .begin_read()
            .map_err(|e| failed("begin reading", e))?;
        let table = tx.open_table(kind.table()).map_err(|e| failed("open table", e))?;
        rows(&table)
    }
}

/// A write transaction: sees its own writes.
pub(crate) struct Tx {
    inner: WriteTransaction,
}

impl Tx {
    pub(crate) fn put<T: Serialize>(&self, kind: Kind, key: &str, value: &T) -> Result<(), MetadataError> {
        let json = serde_json::to_vec(value).map_err(|source| MetadataError::Row {
            key: key.to_owned(),
            source,
        })?;
        let mut table = self
            .inner
            .open_table(kind.table())
            .map_err(|e| failed("open table", e))?;
        table
            .insert(key, json.as_slice())
            .map_err(|e| failed("write", e))?;
        Ok(())
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, kind: Kind, key: &str) -> Result<Option<T>, MetadataError> {
        let table = self
            .inner
            .open_table(kind.table())
            .map_err(|e| failed("open table", e))?;
        let row = table.get(key).map_err(|e| failed("read", e))?;
        row.map(|row| parse(key, row.value())).transpose()
    }

    /// Removes a row; whether there was one.
    pub(crate) fn remove(&self, kind: Kind, key: &str) -> Result<bool, MetadataError> {
        let mut table = self
            .inner
            .open_table(kind.table())
            .map_err(|e| failed("open table", e))?;
        let old = table.remove(key).map_err(|e| failed("remove", e))?;
        Ok(old.is_some())
    }

    pub(crate) fn all<T: DeserializeOwned>(&self, kind: Kind) -> Result<Vec<(String, T)>, MetadataError> {
        let table = self
            .inner
            .open_table(kind.table())
            .map_err(|e| failed("open table", e))?;
        rows(&table)
    }

    fn touch(&self, kind: Kind) -> Result<(), MetadataError> {
        self.inner
            .open_table(kind.table())
            .map_err(|e| failed("create table", e))?;
        Ok(())
    }
}

fn rows<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<(String, T)>, MetadataError> {
    let mut found = Vec::new();
    for row in table.iter().map_err(|e| failed("read", e))? {
        let (key, value) = row.map_err(|e| failed("read", e))?;
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

fn failed(operation: &'static str, source: impl Into<redb::Error>) -> MetadataError {
    MetadataError::Database {
        operation,
        source: Box::new(source.into()),
    }
}
