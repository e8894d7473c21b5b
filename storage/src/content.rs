//! Content-addressed blobs: configurations and manifests, byte for byte.
//!
//! A blob is visible under its digest only when it is complete and on disk. Readers verify nothing again: a file
//! under `content/` was hashed while it was written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::durable;

/// Why a blob could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("write blob {digest}")]
    Write { digest: Digest, source: io::Error },
    #[error("read blob {digest}")]
    Read { digest: Digest, source: io::Error },
    #[error("remove blob {digest}")]
    Remove { digest: Digest, source: io::Error },
    #[error("list blobs")]
    List { source: io::Error },
}

/// The blob directory and where its incomplete files live.
#[derive(Debug)]
pub(crate) struct Content {
    dir: PathBuf,
    ingest: PathBuf,
}

impl Content {
    pub(crate) fn new(dir: PathBuf, ingest: PathBuf) -> Self {
        Self { dir, ingest }
    }

    /// Keeps `bytes`; durable when it returns.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let digest = Digest::of(bytes);
        self.write(&digest, bytes)
            .map_err(|source| ContentError::Write { digest, source })?;
        Ok(digest)
    }

    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        fs::read(self.path(digest)).map_err(|source| ContentError::Read {
            digest: *digest,
            source,
        })
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), ContentError> {
        match fs::remove_file(self.path(digest)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ContentError::Remove {
                digest: *digest,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Every blob with its size in bytes. Files that are no blobs are passed over.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>, ContentError> {
        self.walk().map_err(|source| ContentError::List { source })
    }

    fn write(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let target = self.path(digest);
        if target.exists() {
            return Ok(());
        }
        let shelf = target.parent().unwrap_or(&self.dir);
        if !shelf.exists() {
            fs::create_dir_all(shelf)?;
            durable::sync_dir(&self.dir)?;
        }
        let staged = tempfile_in(&self.ingest)?;
        let written = durable::write_new(&staged, bytes).and_then(|()| durable::publish(&staged, &target));
        if written.is_err() {
            // The write's own error is what counts; the start-up repair empties `ingest/` in any case.
            let _ = fs::remove_file(&staged);
        }
        written
    }

    fn walk(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for shelf in fs::read_dir(&self.dir)? {
            let shelf = shelf?.path();
            if !shelf.is_dir() {
                continue;
            }
            for blob in fs::read_dir(&shelf)? {
                let blob = blob?;
                if let Some(digest) = blob.file_name().to_str().and_then(|n| Digest::from_hex(n).ok()) {
                    found.push((digest, blob.metadata()?.len()));
                }
            }
        }
        Ok(found)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.join(&hex[..2]).join(hex)
    }
}

/// A name in `dir` that nothing else uses.
fn tempfile_in(dir: &Path) -> io::Result<PathBuf> {
    Ok(dir.join(crate::store::unique("blob")?))
}
