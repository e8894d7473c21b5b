//! Files that survive a crash: written beside, synced, and put in place in one step.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file could not be worked with.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Makes the directory, readable by root alone.
pub(crate) fn make_dir(dir: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(error("make", dir))
}

/// Puts a file in place: after a crash there is the old one or the new one. Returns the new one and its size in bytes.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(File, u64), FileError> {
    let beside = path.with_extension("new");
    let written = write_beside(&beside, path, write);
    if written.is_err() {
        // Best effort: the next attempt truncates it.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(error("write", path))
}

fn write_beside(
    beside: &Path,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(beside)?;
    let mut buffer = BufWriter::new(&file);
    write(&mut buffer)?;
    buffer.flush()?;
    drop(buffer);
    file.sync_all()?;
    std::fs::rename(beside, path)?;
    sync_dir(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Makes the names in a file's directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// What failed, on which file.
pub(crate) fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

/// The error with its causes, for logs.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
