//! Snapshots: the writable file system of a container, as overlay directories.
//!
//! containerd's words: `prepare` makes an active snapshot over an image, `mounts` says how to mount it, `view`
//! reads it, `remove` ends it. Nothing is mounted in the host's tree: the runtime mounts inside the container's own mount
//! namespace, and a view is a detached mount that dies with its descriptor.

use std::path::PathBuf;

use crate::digest::ImageId;
use crate::error::{Kind, Result};
use crate::root_fd::RootFd;
use crate::store::Storage;

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

/// How a path differs from the image (`docker diff`); `path` is absolute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub path: String,
    pub kind: ChangeKind,
}

/// Docker's numbers: modified 0, added 1, deleted 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

/// Why a snapshot operation failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("no such snapshot: {0}")]
    NotFound(String),
}

impl SnapshotError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
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
        let _ = (&self.0, image);
        Err(SnapshotError::NotFound(key.to_owned()).into())
    }

    /// How to mount an existing snapshot.
    pub fn mounts(&self, key: &str) -> Result<OverlayPaths> {
        Err(SnapshotError::NotFound(key.to_owned()).into())
    }

    /// A read-only look at the whole file system, through a mount that no path leads to.
    pub fn view(&self, key: &str) -> Result<RootFd> {
        Err(SnapshotError::NotFound(key.to_owned()).into())
    }

    /// The same for an image without a container.
    pub fn view_image(&self, image: &ImageId) -> Result<RootFd> {
        Err(SnapshotError::NotFound(image.to_string()).into())
    }

    /// Removes the snapshot and its files; absence is success.
    pub fn remove(&self, key: &str) -> Result<()> {
        let _ = key;
        Ok(())
    }

    /// Bytes of regular files in the writable layer (`SizeRw`).
    pub fn usage(&self, key: &str) -> Result<u64> {
        Err(SnapshotError::NotFound(key.to_owned()).into())
    }

    /// All snapshots, by key.
    pub fn list(&self) -> Result<Vec<SnapshotInfo>> {
        Ok(Vec::new())
    }

    /// What the container changed, sorted by path.
    pub fn diff(&self, key: &str) -> Result<Vec<Change>> {
        Err(SnapshotError::NotFound(key.to_owned()).into())
    }
}
