//! Layers: the file system changes of one image step, keyed by the digest of their uncompressed tar (diff ID).
//!
//! Keyed so and not by position, layers may arrive in any order and are shared between all images. A layer is
//! unpacked into `ingest/`, synced, renamed to `layers/<diff id>` and then committed.

mod compose;
mod extract;
mod path;
mod recipe;
mod tree;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::compose::{LayerData, LayerEntry};
use self::extract::Purpose;
use crate::compression::{self, CompressionError};
use crate::digest::{DiffId, Hashing};
use crate::durable;
use crate::error::{Error, Kind, Result};
use crate::lease::Lease;
use crate::metadata::{self, LayerForm, LayerRow, Tx};
use crate::root_fd::RootFd;
use crate::store::{self, Storage};
use crate::tar::{TarError, TarReader};

pub(crate) use self::path::InRoot;
pub(crate) use self::tree::{Replaced, Tree};

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub diff_id: DiffId,
    /// Sum of the sizes of its regular files, in bytes; a file with several links counts once.
    pub size: u64,
    /// Length of its uncompressed tar, in bytes.
    pub tar_size: u64,
}

/// Why a layer could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Compression(#[from] CompressionError),
    #[error("tar entry {entry:?} climbs out of the root ({path:?}): refused; repack the archive without it")]
    ClimbsOut { entry: String, path: String },
    #[error("tar entry {entry:?} is nested too deeply: at most 400 directories are accepted")]
    TooDeep { entry: String },
    #[error("{operation} {entry:?}")]
    Apply {
        operation: &'static str,
        entry: String,
        source: io::Error,
    },
    #[error("{0:?} cannot be a name in a layer: names that begin with .wh. mean removal there")]
    WhiteoutName(String),
    #[error("{operation}")]
    Io {
        operation: &'static str,
        source: io::Error,
    },
    #[error("layer {0} is not in the store")]
    Missing(DiffId),
    #[error("write the tar of layer {layer}")]
    Export { layer: DiffId, source: io::Error },
    #[error("layer {0} was changed on disk: its tar no longer has this digest")]
    Changed(DiffId),
}

impl LayerError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Tar(TarError::Read { .. }) | Self::Io { .. } | Self::Export { .. } | Self::Changed(_) => {
                Kind::Internal
            }
            Self::Missing(_) => Kind::NotFound,
            Self::Tar(_)
            | Self::Compression(_)
            | Self::ClimbsOut { .. }
            | Self::TooDeep { .. }
            | Self::WhiteoutName(_)
            | Self::Apply { .. } => Kind::Invalid,
        }
    }
}

/// The layers of a store.
#[derive(Debug, Clone)]
pub struct Layers(Storage);

/// Unpacked files that belong to nothing; they go when this is dropped.
#[derive(Debug)]
pub struct Unpacked {
    root: Arc<RootFd>,
    _dir: Staging,
}

impl Unpacked {
    /// The files.
    pub fn root(&self) -> Arc<RootFd> {
        Arc::clone(&self.root)
    }
}

/// Whether the stream is a tar, plain or compressed. One that is compressed in a way that cannot be read is an error.
pub fn looks_like_tar(from: &mut dyn Read) -> Result<bool> {
    let plain = compression::decoder(from).map_err(LayerError::from)?;
    Ok(matches!(TarReader::new(plain, false).next_entry(), Ok(Some(_))))
}

/// A layer that is unpacked but not yet durable or visible; dropped, its files go.
#[derive(Debug)]
pub(crate) struct Staged {
    dir: Staging,
    pub(crate) diff_id: DiffId,
    row: LayerRow,
    entries: u64,
}

impl Layers {
    pub(crate) fn new(storage: Storage) -> Self {
        Self(storage)
    }

    /// Unpacks a layer tar (plain, gzip or zstd) and keeps it as long as `lease` lives or an image refers to it.
    pub fn apply_tar(&self, tar: &mut dyn Read, lease: &Lease) -> Result<Layer> {
        let applied = self.stage(tar).and_then(|staged| {
            let layer = staged.layer();
            self.publish(vec![staged], lease).map(|()| layer)
        });
        applied.map_err(|error| error.explain_space("unpack layer", self.0.root()))
    }

    /// Makes a layer of entries, in the order given. The same entries give the same layer.
    pub fn apply_entries(&self, entries: Vec<LayerEntry>, lease: &Lease) -> Result<Layer> {
        compose::check(&entries)?;
        self.apply_tar(&mut compose::EntryReader::new(entries), lease)
    }

    /// Unpacks a tar of plain files (plain, gzip or zstd) aside, for as long as the result lives.
    pub fn unpack(&self, tar: &mut dyn Read) -> Result<Unpacked> {
        let unpacked = (|| {
            let dir = Staging::create(&self.0, "files")?;
            extract::extract(compression::decoder(tar)?, dir.path(), Purpose::Files)?;
            let root = RootFd::open_host(&dir.path().join("fs")).map_err(|error| LayerError::Io {
                operation: "open unpacked files",
                source: io::Error::other(error),
            })?;
            Ok::<_, LayerError>(Unpacked {
                root: Arc::new(root),
                _dir: dir,
            })
        })();
        unpacked.map_err(|error| Error::from(error).explain_space("unpack files", self.0.root()))
    }

    /// Unpacks the plain tar of a volume aside: the directory with its files in `fs`, and how many entries they are.
    pub(crate) fn unpack_volume(&self, tar: &mut dyn Read) -> Result<(Staging, u64)> {
        let dir = Staging::create(&self.0, "volume")?;
        let found = extract::extract(tar, dir.path(), Purpose::Volume)?;
        Ok((dir, found.entries))
    }

    /// Looks up a layer and protects it with `lease`.
    pub fn get(&self, diff_id: &DiffId, lease: &Lease) -> Result<Option<Layer>> {
        let key = diff_id.hex();
        // Most layers of an archive are new: no transaction for those.
        if self.row(diff_id)?.is_none() {
            return Ok(None);
        }
        let row = self.0.inner().metadata.update(|tx| {
            let row: Option<LayerRow> = tx.get(metadata::Kind::Layers, &key)?;
            if row.is_some() {
                lease.hold(tx, [*diff_id])?;
            }
            Ok::<_, Error>(row)
        })?;
        Ok(row.map(|row| layer(*diff_id, &row)))
    }

    /// Writes the layer's tar, byte for byte as it came.
    pub fn write_tar(&self, diff_id: &DiffId, to: &mut dyn Write) -> Result<()> {
        if self.row(diff_id)?.is_none() {
            return Err(LayerError::Missing(*diff_id).into());
        }
        let mut hashing = Hashing::new(to);
        recipe::replay(&self.dir(diff_id), &mut hashing).map_err(|source| LayerError::Export {
            layer: *diff_id,
            source,
        })?;
        let (digest, _, _) = hashing.finish();
        if digest != diff_id.0 {
            return Err(LayerError::Changed(*diff_id).into());
        }
        Ok(())
    }

    /// Unpacks without making anything visible.
    pub(crate) fn stage(&self, tar: &mut dyn Read) -> Result<Staged> {
        self.stage_plain(compression::decoder(tar).map_err(LayerError::from)?)
    }

    /// The same from a tar that is known to be plain.
    pub(crate) fn stage_plain(&self, plain: impl Read) -> Result<Staged> {
        let dir = Staging::create(&self.0, "layer")?;
        let found = extract::extract(plain, dir.path(), Purpose::Layer)?;
        let row = LayerRow {
            form: LayerForm::Directory,
            size: found.size,
            tar_size: found.tar_size,
            names_root: found.names_root,
        };
        Ok(Staged {
            dir,
            diff_id: found.diff_id,
            row,
            entries: found.entries,
        })
    }

    /// Makes staged layers durable and visible, held by `lease`. Layers that are there already are dropped.
    pub(crate) fn publish(&self, staged: Vec<Staged>, lease: &Lease) -> Result<()> {
        let failed = |source| LayerError::Io {
            operation: "sync layer",
            source,
        };
        let entries = staged.iter().map(|s| s.entries).sum();
        let trees: Vec<&Path> = staged.iter().map(|s| s.dir.path()).collect();
        durable::sync_trees(&trees, entries).map_err(failed)?;
        let inner = self.0.inner();
        let _shelf = inner.shelf();
        for layer in &staged {
            self.place(layer)?;
        }
        durable::sync_dir(&inner.dir("layers")).map_err(failed)?;
        inner.metadata.update(|tx| {
            for layer in &staged {
                tx.put(metadata::Kind::Layers, &layer.diff_id.hex(), &layer.row)?;
            }
            lease.hold(tx, staged.iter().map(|s| s.diff_id))
        })
    }

    /// Renames into place; a directory that is there without a row is what a crash has left.
    fn place(&self, staged: &Staged) -> Result<()> {
        if self.row(&staged.diff_id)?.is_some() {
            return Ok(());
        }
        let target = self.dir(&staged.diff_id);
        let placed = self
            .0
            .inner()
            .discard(&target)
            .and_then(|()| fs::rename(staged.dir.path(), &target));
        placed.map_err(|source| {
            LayerError::Io {
                operation: "place layer",
                source,
            }
            .into()
        })
    }

    pub(crate) fn row(&self, diff_id: &DiffId) -> Result<Option<LayerRow>> {
        Ok(self
            .0
            .inner()
            .metadata
            .get(metadata::Kind::Layers, &diff_id.hex())?)
    }

    /// The rows of these layers in a transaction; the first one that is missing is the error.
    pub(crate) fn rows_in(tx: &Tx, diff_ids: &[DiffId]) -> Result<Vec<LayerRow>> {
        let row = |diff_id: &DiffId| {
            tx.get(metadata::Kind::Layers, &diff_id.hex())?
                .ok_or(LayerError::Missing(*diff_id).into())
        };
        diff_ids.iter().map(row).collect()
    }

    pub(crate) fn dir(&self, diff_id: &DiffId) -> PathBuf {
        self.0.inner().dir("layers").join(diff_id.hex())
    }

    /// The overlay lower directories of a stack given bottom first: top first, never empty.
    pub(crate) fn lowers(&self, diff_ids: &[DiffId]) -> Vec<PathBuf> {
        if diff_ids.is_empty() {
            return vec![self.0.inner().dir("layers/empty")];
        }
        diff_ids
            .iter()
            .rev()
            .map(|diff_id| self.dir(diff_id).join("fs"))
            .collect()
    }
}

impl Staged {
    pub(crate) fn layer(&self) -> Layer {
        layer(self.diff_id, &self.row)
    }
}

fn layer(diff_id: DiffId, row: &LayerRow) -> Layer {
    Layer {
        diff_id,
        size: row.size,
        tar_size: row.tar_size,
    }
}

/// A directory under `ingest/` that is removed when it is dropped where it is.
#[derive(Debug)]
pub(crate) struct Staging(PathBuf);

impl Staging {
    pub(crate) fn create(storage: &Storage, prefix: &str) -> Result<Self, LayerError> {
        let failed = |source| LayerError::Io {
            operation: "create directory for incoming data",
            source,
        };
        let name = store::unique(prefix).map_err(failed)?;
        let path = storage.inner().dir("ingest").join(name);
        fs::create_dir(&path).map_err(failed)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_any(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "incoming data not removed; the next start does");
        }
    }
}
