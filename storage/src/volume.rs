//! Named volumes of the `local` driver: a directory each, kept until it is removed by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Kind, Result};
use crate::root_fd::RootFd;
use crate::store::Storage;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub mountpoint: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// RFC 3339.
    pub created_at: String,
    /// `local`.
    pub scope: String,
    /// Made for a container that named none (the Docker label `com.docker.volume.anonymous`).
    pub anonymous: bool,
}

/// What a volume is made from.
#[derive(Debug, Clone, Default)]
pub struct CreateVolume {
    /// `None` makes an anonymous volume: 64 random hex digits.
    pub name: Option<String>,
    /// Empty means `local`.
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// Why a volume operation failed. Texts are Docker's where Docker has one.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("get {0}: no such volume")]
    NotFound(String),
    #[error(
        "{0:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    Name(String),
    #[error("remove {name}: volume is in use - [{}]", users.join(", "))]
    InUse { name: String, users: Vec<String> },
}

impl VolumeError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Name(_) => Kind::Invalid,
            Self::InUse { .. } => Kind::Conflict,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VolumeRow {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) created: String,
    pub(crate) anonymous: bool,
}

/// The volumes of a store.
#[derive(Debug, Clone)]
pub struct Volumes(Storage);

impl Volumes {
    pub(crate) fn new(storage: Storage) -> Self {
        Self(storage)
    }

    /// Makes a volume; one of that name and driver that exists already is returned as it is.
    pub fn create(&self, request: CreateVolume) -> Result<Volume> {
        let _ = &self.0;
        Err(VolumeError::NotFound(request.name.unwrap_or_default()).into())
    }

    /// One volume.
    pub fn get(&self, name: &str) -> Result<Volume> {
        Err(VolumeError::NotFound(name.to_owned()).into())
    }

    /// All volumes, by name.
    pub fn list(&self) -> Result<Vec<Volume>> {
        Ok(Vec::new())
    }

    /// Removes a volume with its data. `users` names the containers that use it; with `force` absence is success.
    pub fn remove(&self, name: &str, force: bool, users: &dyn Fn(&str) -> Vec<String>) -> Result<()> {
        let _ = (force, users);
        Err(VolumeError::NotFound(name.to_owned()).into())
    }

    /// Removes all volumes that `selected` accepts and nobody uses: names, and bytes freed.
    pub fn prune(
        &self,
        selected: &dyn Fn(&Volume) -> bool,
        users: &dyn Fn(&str) -> Vec<String>,
    ) -> Result<(Vec<String>, u64)> {
        let _ = (selected, users);
        Ok((Vec::new(), 0))
    }

    /// Bytes of regular files in the volume.
    pub fn usage(&self, name: &str) -> Result<u64> {
        Err(VolumeError::NotFound(name.to_owned()).into())
    }

    /// Copies what the image has at `path` into the volume if the volume is empty; whether it did. Owner, mode, times,
    /// xattrs and symlinks are kept. A path that is absent or no directory in the image copies nothing.
    pub fn copy_up(&self, name: &str, image: &RootFd, path: &str) -> Result<bool> {
        let _ = (image, path);
        Err(VolumeError::NotFound(name.to_owned()).into())
    }
}
