//! Steps that make files survive a power cut: write + fsync, rename + fsync of both directories, move to the trash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::root_fd::{self, FileKind};

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
        Ok(found) if found.is_dir() => empty_dir(path).and_then(|()| fs::remove_dir(path)),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes everything inside a directory.
///
/// A container can nest directories deeper than any stack, descriptor limit or `PATH_MAX`. So nothing here recurses:
/// what lies deeper is moved up into the top until the top is empty.
pub(crate) fn empty_dir(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty())?;
    loop {
        let entries = root_fd::list(top.as_fd())?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            if entry.kind == FileKind::Directory {
                let dir = rustix::fs::openat(&top, &entry.name, flags, Mode::empty())?;
                lift(dir.as_fd(), top.as_fd())?;
                rustix::fs::unlinkat(&top, &entry.name, AtFlags::REMOVEDIR)?;
            } else {
                rustix::fs::unlinkat(&top, &entry.name, AtFlags::empty())?;
            }
        }
    }
}

/// Unlinks the files of `dir` and moves its directories to `top`.
fn lift(dir: BorrowedFd<'_>, top: BorrowedFd<'_>) -> io::Result<()> {
    for entry in root_fd::list(dir)? {
        if entry.kind == FileKind::Directory {
            rustix::fs::renameat(dir, &entry.name, top, crate::store::unique("lifted")?)?;
        } else {
            rustix::fs::unlinkat(dir, &entry.name, AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let top = tempfile::tempdir().unwrap();
        let victim = top.path().join("victim");
        fs::create_dir(&victim).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(&victim, flags, Mode::empty()).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/etc", &at, "link").unwrap();
            at = rustix::fs::openat(&at, "deep", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove_any(&victim).unwrap();
        assert!(!victim.exists() && Path::new("/etc/passwd").exists());
        remove_any(&victim).unwrap();
    }
}
