//! Named volumes of the `local` driver: a directory each, kept until it is removed by name.
//!
//! `volumes/<name>/_data` is what containers see, `volumes/<name>/volume.json` repeats the row, so that a lost
//! database loses no volume. Names are checked before they become a path.

mod carry;
mod copy_up;
mod watchers;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::carry::{Contents, Incoming};
pub(crate) use self::watchers::Watchers;
use crate::durable;
use crate::error::{Error, Kind, Result};
use crate::layer::Staging;
use crate::metadata::Kind as Table;
use crate::root_fd::RootFd;
use crate::store::{self, Storage};

const DRIVER: &str = "local";
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

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
    /// Made for a container that named none (it carries the label `com.docker.volume.anonymous`).
    pub anonymous: bool,
}

/// What a volume is made from.
#[derive(Debug, Clone, Default)]
pub struct CreateVolume {
    /// `None` or an empty name makes an anonymous volume: 64 random hex digits.
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
    #[error("volume name {0:?} is too short, names should be at least two alphanumeric characters")]
    ShortName(String),
    #[error("volume name is too long: {0:.40}… has more than 255 characters")]
    LongName(String),
    #[error("error looking up volume plugin {0}: plugin {0:?} not found")]
    Driver(String),
    #[error(
        "volume {name}: option {option:?} of the local driver is not built yet: create it without, and mount with a bind mount instead"
    )]
    Option { name: String, option: String },
    #[error("remove {name}: volume is in use - [{}]", users.join(", "))]
    InUse { name: String, users: Vec<String> },
    #[error("{operation} volume {name}")]
    Io {
        operation: &'static str,
        name: String,
        source: io::Error,
    },
    #[error("copy {entry:?} of the image into volume {name}")]
    CopyUp {
        name: String,
        entry: String,
        source: io::Error,
    },
    #[error("volume {name} is here already")]
    Exists { name: String },
    #[error(
        "volume {name} did not arrive as it was sent: {found} instead of {expected}; something may write to it"
    )]
    Differs {
        name: String,
        expected: Box<Contents>,
        found: Box<Contents>,
    },
    #[error("volume {name}: {entry:?} could not be copied")]
    Carry {
        name: String,
        entry: String,
        source: io::Error,
    },
    #[error("list volumes")]
    List { source: io::Error },
}

impl CreateVolume {
    /// Whether such a volume can be made at all, before anything is looked up.
    ///
    /// # Errors
    /// A name that is none, a driver that is not there, an option that is not built.
    pub fn check(&self) -> std::result::Result<(), VolumeError> {
        if !self.driver.is_empty() && self.driver != DRIVER {
            return Err(VolumeError::Driver(self.driver.clone()));
        }
        let name = self.name.clone().unwrap_or_default();
        if !name.is_empty() {
            check_name(&name)?;
        }
        match self.options.keys().next().cloned() {
            Some(option) => Err(VolumeError::Option { name, option }),
            None => Ok(()),
        }
    }
}

impl VolumeError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) | Self::Driver(_) => Kind::NotFound,
            Self::Name(_) | Self::ShortName(_) | Self::LongName(_) | Self::Option { .. } => Kind::Invalid,
            Self::InUse { .. } | Self::Exists { .. } | Self::Differs { .. } => Kind::Conflict,
            Self::Io { .. } | Self::CopyUp { .. } | Self::Carry { .. } | Self::List { .. } => Kind::Internal,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct VolumeRow {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) created: String,
}

/// The volumes of a store.
#[derive(Debug, Clone)]
pub struct Volumes(Storage);

impl Volumes {
    pub(crate) fn new(storage: Storage) -> Self {
        Self(storage)
    }

    /// Makes a volume; one of that name that exists already is returned as it is.
    pub fn create(&self, request: CreateVolume) -> Result<Volume> {
        self.create_or_find(request)
            .map_err(|error| error.explain_space("create volume", self.0.root()))
    }

    /// One volume.
    pub fn get(&self, name: &str) -> Result<Volume> {
        self.find(name)?
            .ok_or_else(|| VolumeError::NotFound(name.to_owned()).into())
    }

    /// All volumes, by name.
    pub fn list(&self) -> Result<Vec<Volume>> {
        let rows = self.0.inner().metadata.all(Table::Volumes)?;
        Ok(rows
            .into_iter()
            .map(|(name, row)| self.volume(name, row))
            .collect())
    }

    /// Removes a volume with its data. `users` names the containers that use it; with `force` absence is success.
    pub fn remove(&self, name: &str, force: bool, users: &dyn Fn(&str) -> Vec<String>) -> Result<()> {
        if self.find(name)?.is_none() {
            return if force {
                Ok(())
            } else {
                Err(VolumeError::NotFound(name.to_owned()).into())
            };
        }
        let users = users(name);
        if !users.is_empty() {
            return Err(VolumeError::InUse {
                name: name.to_owned(),
                users,
            }
            .into());
        }
        // The other way round than everywhere else: a directory without its row would be adopted at the next start.
        let buried = self
            .0
            .inner()
            .bury(&self.dir(name))
            .map_err(|e| failed("remove", name, e))?;
        self.0
            .inner()
            .metadata
            .update(|tx| tx.remove(Table::Volumes, name))?;
        self.0.inner().volume_watchers.tell(self);
        match buried {
            Some(grave) => durable::remove_any(&grave).map_err(|e| failed("remove", name, e)),
            None => Ok(()),
        }
    }

    /// Removes all volumes that `selected` accepts and nobody uses: names, and bytes freed.
    pub fn prune(
        &self,
        selected: &dyn Fn(&Volume) -> bool,
        users: &dyn Fn(&str) -> Vec<String>,
    ) -> Result<(Vec<String>, u64)> {
        let mut removed = Vec::new();
        let mut bytes = 0;
        for volume in self.list()?.into_iter().filter(|volume| selected(volume)) {
            if !users(&volume.name).is_empty() {
                continue;
            }
            let size = self.usage(&volume.name)?;
            self.remove(&volume.name, true, users)?;
            bytes += size;
            removed.push(volume.name);
        }
        Ok((removed, bytes))
    }

    /// Calls `watcher` after each change of which volumes there are, on the thread that made it, until it returns false. It
    /// may list the volumes that it is given; it may not change them, nor hold the storage, which holds it.
    pub fn on_change(&self, watcher: impl Fn(&Self) -> bool + Send + 'static) {
        self.0.inner().volume_watchers.add(Box::new(watcher));
    }

    /// Bytes of regular files in the volume.
    pub fn usage(&self, name: &str) -> Result<u64> {
        let volume = self.get(name)?;
        store::tree_size(&volume.mountpoint).map_err(|e| failed("measure", name, e))
    }

    /// Copies what the image has at `path` into the volume if the volume is empty; whether it did. Owner, mode, times,
    /// xattrs and symlinks are kept. A path that is absent or no directory in the image copies nothing.
    pub fn copy_up(&self, name: &str, image: &RootFd, path: &str) -> Result<bool> {
        self.get(name)?;
        let lock = self.0.inner().volume_lock(name);
        let _one_at_a_time = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        copy_up::copy_up(name, &self.dir(name), image, Path::new(path))
            .map_err(|error| error.explain_space("copy image data into volume", self.0.root()))
    }

    /// Adopts directories without a row, drops rows without a directory, finishes interrupted copies.
    pub(crate) fn repair(&self, notes: &mut Vec<String>) -> Result<()> {
        for volume in self.list()? {
            if !volume.mountpoint.is_dir() {
                self.0
                    .inner()
                    .metadata
                    .update(|tx| tx.remove(Table::Volumes, &volume.name))?;
                notes.push(format!("volume {} had no directory: forgotten", volume.name));
            }
        }
        for entry in
            fs::read_dir(self.0.inner().dir("volumes")).map_err(|source| VolumeError::List { source })?
        {
            let entry = entry.map_err(|source| VolumeError::List { source })?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if check_name(&name).is_err() || !entry.path().join("_data").is_dir() {
                continue;
            }
            if self.find(&name)?.is_none() {
                self.adopt(&name, &entry.path())?;
                notes.push(format!("volume {name} had no record: adopted"));
            }
            copy_up::finish(&entry.path()).map_err(|e| failed("finish copying into", &name, e))?;
        }
        Ok(())
    }

    fn create_or_find(&self, request: CreateVolume) -> Result<Volume> {
        request.check()?;
        let mut labels = request.labels;
        let name = match request.name.filter(|name| !name.is_empty()) {
            Some(name) => name,
            None => {
                labels.insert(ANONYMOUS_LABEL.into(), String::new());
                store::random_hex(32)?
            }
        };
        let _shelf = self.0.inner().shelf();
        if let Some(existing) = self.find(&name)? {
            return Ok(existing);
        }
        let row = VolumeRow {
            labels,
            options: request.options,
            created: store::rfc3339_now(),
        };
        self.place(&name, &row)?;
        self.0
            .inner()
            .metadata
            .update(|tx| tx.put(Table::Volumes, &name, &row))?;
        self.0.inner().volume_watchers.tell(self);
        Ok(self.volume(name, row))
    }

    fn place(&self, name: &str, row: &VolumeRow) -> Result<()> {
        let staging = Staging::create(&self.0, "volume")?;
        let written = write_volume(staging.path(), row)
            .and_then(|()| durable::sync_trees(&[staging.path()], 0))
            .and_then(|()| durable::publish(staging.path(), &self.dir(name)));
        written.map_err(|e| failed("create", name, e))
    }

    fn adopt(&self, name: &str, dir: &Path) -> Result<()> {
        let json = fs::read(dir.join("volume.json")).unwrap_or_default();
        let row: VolumeRow = serde_json::from_slice(&json).unwrap_or_else(|_| VolumeRow {
            created: store::rfc3339_now(),
            ..Default::default()
        });
        Ok(self
            .0
            .inner()
            .metadata
            .update(|tx| tx.put(Table::Volumes, name, &row))?)
    }

    fn find(&self, name: &str) -> Result<Option<Volume>> {
        let row = self.0.inner().metadata.get(Table::Volumes, name)?;
        Ok(row.map(|row| self.volume(name.to_owned(), row)))
    }

    fn volume(&self, name: String, row: VolumeRow) -> Volume {
        Volume {
            driver: DRIVER.into(),
            mountpoint: self.dir(&name).join("_data"),
            anonymous: row.labels.contains_key(ANONYMOUS_LABEL),
            labels: row.labels,
            options: row.options,
            created_at: row.created,
            scope: "local".into(),
            name,
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.0.inner().dir("volumes").join(name)
    }
}

fn write_volume(dir: &Path, row: &VolumeRow) -> io::Result<()> {
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    DirBuilder::new().mode(0o755).create(dir.join("_data"))?;
    // The mode above passes through the umask.
    fs::set_permissions(
        dir.join("_data"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    durable::write_new(&dir.join("volume.json"), &serde_json::to_vec(row)?)
}

/// Docker's `^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`, at least two characters.
fn check_name(name: &str) -> Result<(), VolumeError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.bytes().all(plain) {
        return Err(VolumeError::Name(name.chars().take(255).collect()));
    }
    match name.len() {
        0..2 => Err(VolumeError::ShortName(name.to_owned())),
        2..=255 => Ok(()),
        _ => Err(VolumeError::LongName(name.to_owned())),
    }
}

fn failed(operation: &'static str, name: &str, source: io::Error) -> Error {
    VolumeError::Io {
        operation,
        name: name.to_owned(),
        source,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_are_refused() {
        for bad in ["..", "../x", "a/b", "/etc", ".hidden", "-x", "a b", ""] {
            assert!(matches!(check_name(bad), Err(VolumeError::Name(_))), "{bad:?}");
        }
        assert!(matches!(check_name("a"), Err(VolumeError::ShortName(_))));
        assert!(matches!(
            check_name(&"a".repeat(256)),
            Err(VolumeError::LongName(_))
        ));
        for good in ["data", "a..b", "stack_data-1.x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }
}
