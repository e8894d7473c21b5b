//! Snapshots: the writable file system of a container, as overlay directories.
//!
//! containerd's words: `prepare` makes an active snapshot over an image, `mounts` says how to mount it, `view`
//! reads it, `remove` ends it. Nothing is mounted in the host's tree: the runtime mounts inside the container's own mount
//! namespace, and a view is a detached mount that dies with its descriptor.

mod diff;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use self::diff::{Change, ChangeKind};
use crate::digest::{DiffId, ImageId};
use crate::durable;
use crate::error::{Error, Kind, Result};
use crate::image::ImageError;
use crate::layer::Layers;
use crate::metadata::{self, ImageRow, LayerRow, SnapshotRow};
use crate::overlay;
use crate::root_fd::RootFd;
use crate::store::{self, Storage};

/// Layers that overlayfs stacks at most (`OVL_MAX_STACK`), less the writable one.
const MAX_LAYERS: usize = 499;

/// What overlayfs is mounted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayPaths {
    /// Read-only directories, top first; never empty. Use `lowerdir+` per directory: there can be hundreds.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// A snapshot as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub key: String,
    pub image: ImageId,
    /// RFC 3339.
    pub created: String,
}

/// Why a snapshot operation failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("no such snapshot: {0}")]
    NotFound(String),
    #[error("snapshot {0} exists already")]
    Exists(String),
    #[error("{0:?} is no snapshot key: use letters, digits, '_', '.' and '-'")]
    Key(String),
    #[error(
        "image {image} has {count} layers, more than the {MAX_LAYERS} that overlayfs can stack: squash it"
    )]
    TooManyLayers { image: ImageId, count: usize },
    #[error("{operation} snapshot {key}")]
    Io {
        operation: &'static str,
        key: String,
        source: io::Error,
    },
    #[error("mount a view of {of}")]
    View { of: String, source: io::Error },
}

impl SnapshotError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Exists(_) => Kind::Conflict,
            Self::Key(_) | Self::TooManyLayers { .. } => Kind::Invalid,
            Self::Io { .. } | Self::View { .. } => Kind::Internal,
        }
    }
}

/// The snapshots of a store.
#[derive(Debug, Clone)]
pub struct Snapshots(Storage);

impl Snapshots {
    pub(crate) fn new(storage: Storage) -> Self {
        Self(storage)
    }

    /// Makes a writable file system over the image. The image's layers stay until [`Snapshots::remove`].
    pub fn prepare(&self, key: &str, image: &ImageId) -> Result<OverlayPaths> {
        self.prepare_new(key, image)
            .map_err(|error| error.explain_space("prepare container", self.0.root()))
    }

    /// How to mount an existing snapshot.
    pub fn mounts(&self, key: &str) -> Result<OverlayPaths> {
        let row = self.row(key)?;
        Ok(self.paths(key, &row.layers))
    }

    /// A read-only look at the whole file system, through a mount that no path leads to.
    pub fn view(&self, key: &str) -> Result<RootFd> {
        let paths = self.mounts(key)?;
        let mut dirs = vec![paths.upper];
        dirs.extend(paths.lower);
        open_view(&dirs, key)
    }

    /// The same for an image without a container.
    pub fn view_image(&self, image: &ImageId) -> Result<RootFd> {
        let row: Option<ImageRow> = self
            .0
            .inner()
            .metadata
            .get(metadata::Kind::Images, &image.hex())?;
        let row = row.ok_or_else(|| ImageError::NotFound(image.to_string()))?;
        self.view_layers(&row.layers)
    }

    /// The same for a stack of layers, bottom first.
    pub fn view_layers(&self, layers: &[DiffId]) -> Result<RootFd> {
        let of = layers
            .last()
            .map_or("no layers".to_owned(), |top| format!("layer {top}"));
        open_view(&self.0.layers().lowers(layers), &of)
    }

    /// Removes the snapshot and its files; absence is success.
    pub fn remove(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let inner = self.0.inner();
        inner
            .metadata
            .update(|tx| tx.remove(metadata::Kind::Snapshots, key))?;
        inner
            .discard(&self.dir(key))
            .map_err(|source| failed("remove", key, source))?;
        Ok(())
    }

    /// Bytes of regular files in the writable layer (`SizeRw`).
    pub fn usage(&self, key: &str) -> Result<u64> {
        let upper = self.mounts(key)?.upper;
        store::tree_size(&upper).map_err(|source| failed("measure", key, source).into())
    }

    /// All snapshots, by key.
    pub fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let rows = self
            .0
            .inner()
            .metadata
            .all::<SnapshotRow>(metadata::Kind::Snapshots)?;
        let info = |(key, row): (String, SnapshotRow)| SnapshotInfo {
            key,
            image: row.image,
            created: row.created,
        };
        Ok(rows.into_iter().map(info).collect())
    }

    /// What the container changed, sorted by path.
    pub fn diff(&self, key: &str) -> Result<Vec<Change>> {
        let paths = self.mounts(key)?;
        let lower = open_view(&paths.lower, key)?;
        let upper = RootFd::open_host(&paths.upper)?;
        Ok(diff::changes(&upper, &lower)?)
    }

    fn prepare_new(&self, key: &str, image: &ImageId) -> Result<OverlayPaths> {
        check_key(key)?;
        let dir = self.dir(key);
        // The row comes first in one respect: it is what keeps a collector off the layers. A crash before the
        // directories are there is repaired by dropping the row.
        let layers = self.register(key, image)?;
        let made = self
            .make_dirs(&dir, &layers)
            .map_err(|source| failed("prepare", key, source).into());
        if let Err(error) = made {
            if let Err(error) = self.remove(key) {
                tracing::warn!(snapshot.key = key, %error, "half-made snapshot not removed; the next start does");
            }
            return Err(error);
        }
        Ok(self.paths(key, &layers))
    }

    fn register(&self, key: &str, image: &ImageId) -> Result<Vec<DiffId>> {
        self.0.inner().metadata.update(|tx| {
            if tx.get::<SnapshotRow>(metadata::Kind::Snapshots, key)?.is_some() {
                return Err(SnapshotError::Exists(key.to_owned()).into());
            }
            let row: Option<ImageRow> = tx.get(metadata::Kind::Images, &image.hex())?;
            let layers = row.ok_or_else(|| ImageError::NotFound(image.to_string()))?.layers;
            if layers.len() > MAX_LAYERS {
                return Err(SnapshotError::TooManyLayers {
                    image: *image,
                    count: layers.len(),
                }
                .into());
            }
            let row = SnapshotRow {
                image: *image,
                layers: layers.clone(),
                created: store::rfc3339_now(),
            };
            tx.put(metadata::Kind::Snapshots, key, &row)?;
            Ok::<_, Error>(layers)
        })
    }

    fn make_dirs(&self, dir: &Path, layers: &[DiffId]) -> io::Result<()> {
        self.0.inner().discard(dir)?;
        let make = |path: &Path, mode| DirBuilder::new().mode(mode).create(path);
        make(dir, 0o700)?;
        make(&dir.join("fs"), 0o755)?;
        make(&dir.join("work"), 0o700)?;
        if let Some(root) = self.root_attributes(layers)? {
            std::os::unix::fs::chown(dir.join("fs"), Some(root.uid()), Some(root.gid()))?;
            fs::set_permissions(dir.join("fs"), fs::Permissions::from_mode(root.mode() & 0o7777))?;
        }
        durable::sync_dir(dir)?;
        durable::sync_dir(&self.0.inner().dir("snapshots"))
    }

    /// Owner and mode of the image's root directory: those of the topmost layer that names it.
    fn root_attributes(&self, layers: &[DiffId]) -> io::Result<Option<fs::Metadata>> {
        let store = self.0.layers();
        for diff_id in layers.iter().rev() {
            let row = store.row(diff_id).map_err(io::Error::other)?;
            if row.is_some_and(|row: LayerRow| row.names_root) {
                return fs::metadata(store.dir(diff_id).join("fs")).map(Some);
            }
        }
        Ok(None)
    }

    fn row(&self, key: &str) -> Result<SnapshotRow> {
        check_key(key)?;
        let row = self.0.inner().metadata.get(metadata::Kind::Snapshots, key)?;
        row.ok_or_else(|| SnapshotError::NotFound(key.to_owned()).into())
    }

    fn paths(&self, key: &str, layers: &[DiffId]) -> OverlayPaths {
        let dir = self.dir(key);
        let lower = Layers::new(self.0.clone()).lowers(layers);
        OverlayPaths {
            lower,
            upper: dir.join("fs"),
            work: dir.join("work"),
        }
    }

    fn dir(&self, key: &str) -> PathBuf {
        self.0.inner().dir("snapshots").join(key)
    }
}

fn open_view(dirs: &[PathBuf], of: &str) -> Result<RootFd> {
    let fd = overlay::read_only(dirs).map_err(|source| SnapshotError::View {
        of: of.to_owned(),
        source,
    })?;
    Ok(RootFd::new(fd))
}

fn check_key(key: &str) -> Result<(), SnapshotError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if key.is_empty() || key.len() > 200 || key.starts_with('.') || !key.bytes().all(plain) {
        return Err(SnapshotError::Key(key.chars().take(200).collect()));
    }
    Ok(())
}

fn failed(operation: &'static str, key: &str, source: io::Error) -> SnapshotError {
    SnapshotError::Io {
        operation,
        key: key.to_owned(),
        source,
    }
}
