//! The open store: its directories, its database and the start-up repair.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::content::Content;
use crate::durable;
use crate::error::Result;
use crate::image::Images;
use crate::layer::Layers;
use crate::lease::Leases;
use crate::metadata::Metadata;
use crate::repair::repair;
use crate::snapshot::Snapshots;
use crate::steps::Steps;
use crate::volume::{Volumes, Watchers};

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct Storage(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) metadata: Metadata,
    pub(crate) content: Content,
    /// Held while a directory and its row appear or disappear together, so that a collector never removes a
    /// directory that somebody is just publishing again under the same digest.
    shelf: Mutex<()>,
    /// One lock per volume that is being filled.
    volume_locks: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Called after a volume has come or gone.
    pub(crate) volume_watchers: Watchers,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("create directory {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("clean up {}", path.display())]
    Clean { path: PathBuf, source: io::Error },
    #[error("read random bytes")]
    Random { source: io::Error },
}

impl Storage {
    /// Opens the store under `root`, creating it at first use, and repairs what a crash has left.
    pub fn open(root: &Path) -> Result<Self> {
        for dir in [
            "",
            "content/sha256",
            "layers",
            "layers/empty",
            "snapshots",
            "volumes",
            "ingest",
            "trash",
        ] {
            make_private(&root.join(dir))?;
        }
        let metadata = Metadata::open(&root.join("meta.redb"))?;
        let content = Content::new(root.join("content/sha256"), root.join("ingest"));
        let inner = Inner {
            root: root.to_owned(),
            metadata,
            content,
            shelf: Mutex::new(()),
            volume_locks: Mutex::default(),
            volume_watchers: Watchers::default(),
        };
        let storage = Self(Arc::new(inner));
        for note in repair(&storage)? {
            tracing::warn!(store = %root.display(), "{note}");
        }
        Ok(storage)
    }

    /// The images.
    pub fn images(&self) -> Images {
        Images::new(self.clone())
    }

    /// The layers.
    pub fn layers(&self) -> Layers {
        Layers::new(self.clone())
    }

    /// The containers' file systems.
    pub fn snapshots(&self) -> Snapshots {
        Snapshots::new(self.clone())
    }

    /// The named volumes.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(self.clone())
    }

    /// What the builder remembers.
    pub fn steps(&self) -> Steps {
        Steps::new(self.clone())
    }

    /// The leases.
    pub fn leases(&self) -> Leases {
        Leases::new(self.clone())
    }

    /// Where the store lies.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Moves a file or tree, if it exists, to the trash and removes it there: no half-removed thing keeps its name.
    pub(crate) fn discard(&self, path: &Path) -> io::Result<()> {
        self.bury(path)?
            .map_or(Ok(()), |grave| durable::remove_any(&grave))
    }

    /// Moves a file or tree, if it exists, to the trash; where it is now.
    pub(crate) fn bury(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let grave = self.dir("trash").join(unique("gone")?);
        match fs::rename(path, &grave) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Some(grave)),
        }
    }

    /// The lock under which a volume is filled.
    pub(crate) fn volume_lock(&self, name: &str) -> Arc<Mutex<()>> {
        let mut locks = self.volume_locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }

    pub(crate) fn shelf(&self) -> MutexGuard<'_, ()> {
        // The lock guards files, not memory: a panic elsewhere has broken nothing that the next holder reads.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Directories are 0700: no other user of the host reaches a setuid program inside a layer or a volume's data.
fn make_private(path: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| OpenError::Create {
            path: path.to_owned(),
            source,
        })
}

/// A name that no other thread or earlier process of this store has used.
pub(crate) fn unique(prefix: &str) -> io::Result<String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(format!("{prefix}-{}-{count}", hex::encode(random::<8>()?)))
}

/// `2 × bytes` random hex digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String, OpenError> {
    let full = random::<32>().map_err(|source| OpenError::Random { source })?;
    Ok(hex::encode(&full[..bytes.min(32)]))
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    use std::io::Read;
    let mut bytes = [0u8; N];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of the regular files below `path`; a file with several links counts once.
pub(crate) fn tree_size(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![path.to_owned()];
    let mut sum = 0;
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Containers write while this reads.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.is_file() && (meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino()))) {
                sum += meta.len();
            }
        }
    }
    Ok(sum)
}

/// Unix time in seconds.
pub(crate) fn unix_now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// Now, as Docker writes times.
pub(crate) fn rfc3339_now() -> String {
    let now = time::OffsetDateTime::now_utc();
    now.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}
