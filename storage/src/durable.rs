//! Steps that make files survive a power cut: write + fsync, rename + fsync of both directories, move to the trash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Creates `path` (which must not exist) with `bytes` and syncs it.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Syncs a directory, so that the names in it are durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Renames and makes the new name durable. `from` must be durable already.
pub(crate) fn publish(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Syncs whole trees: file by file when they have few `entries`, with one `syncfs` when they have many.
pub(crate) fn sync_trees(trees: &[&Path], entries: u64) -> io::Result<()> {
    const FEW: u64 = 256;
    match trees {
        [first, ..] if entries > FEW => Ok(rustix::fs::syncfs(File::open(first)?)?),
        _ => trees.iter().try_for_each(|tree| sync_tree(tree)),
    }
}

fn sync_tree(path: &Path) -> io::Result<()> {
    let mut pending = vec![path.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        sync_dir(&dir)?;
    }
    Ok(())
}

/// Removes a file or a tree, whatever it is; absence is success.
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes everything inside a directory.
pub(crate) fn empty_dir(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        remove_any(&entry?.path())?;
    }
    Ok(())
}
