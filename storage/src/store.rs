//! The open store: its directories, its database and the start-up repair.

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
use crate::snapshot::Snapshots;
use crate::volume::Volumes;

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
        };
        let storage = Self(Arc::new(inner));
        for dir in ["ingest", "trash"] {
            let path = root.join(dir);
            durable::empty_dir(&path).map_err(|source| OpenError::Clean { path, source })?;
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
