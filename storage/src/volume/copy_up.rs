//! Filling an empty volume with what the image has at its mount point.
//!
//! The copy is made aside, synced, and then moved in name by name, so that no crash and no full disk leaves a
//! volume half filled: `incoming/` is a copy in progress (thrown away), `ready/` a finished one (moved on).

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::VolumeError;
use crate::durable;
use crate::error::{Error, Result};
use crate::layer::{InRoot, Tree};
use crate::root_fd::{FileKind, RootError, RootFd};
use crate::tar::{Entry, EntryKind, show};
use crate::walk::walk;

/// Copies if the volume at `dir` is empty and the image has a directory at `path`.
pub(super) fn copy_up(name: &str, dir: &Path, image: &RootFd, path: &Path) -> Result<bool> {
    let io = |source| {
        Error::from(VolumeError::Io {
            operation: "copy into",
            name: name.to_owned(),
            source,
        })
    };
    finish(dir).map_err(io)?;
    if !is_empty(&dir.join("_data")).map_err(io)? || !has_directory(image, path)? {
        return Ok(false);
    }
    let incoming = dir.join("incoming");
    fs::create_dir(&incoming).map_err(io)?;
    let copied = copy_tree(name, image, path, &incoming).and_then(|entries| {
        durable::sync_trees(&[&incoming], entries).map_err(io)?;
        durable::publish(&incoming, &dir.join("ready")).map_err(io)
    });
    if copied.is_err() {
        // The copy's own error is what counts; what is left is thrown away at the next use or start.
        let _ = durable::remove_any(&incoming);
    }
    copied?;
    finish(dir).map_err(io)?;
    Ok(true)
}

/// Throws away an unfinished copy and moves a finished one into place.
pub(super) fn finish(dir: &Path) -> io::Result<()> {
    durable::remove_any(&dir.join("incoming"))?;
    let ready = dir.join("ready");
    if !ready.is_dir() {
        return Ok(());
    }
    let data = dir.join("_data");
    for entry in fs::read_dir(&ready)? {
        let name = entry?.file_name();
        let moved = rustix::fs::renameat_with(
            rustix::fs::CWD,
            ready.join(&name),
            rustix::fs::CWD,
            data.join(&name),
            RenameFlags::NOREPLACE,
        );
        match moved {
            // A container has made that name meanwhile: its data wins.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    copy_root_attributes(&ready, &data)?;
    durable::sync_dir(&data)?;
    durable::remove_any(&ready)?;
    durable::sync_dir(dir)
}

fn copy_tree(name: &str, image: &RootFd, path: &Path, to: &Path) -> Result<u64> {
    let failed = |entry: &Entry, source: io::Error| {
        Error::from(VolumeError::CopyUp {
            name: name.to_owned(),
            entry: show(&entry.path),
            source,
        })
    };
    let open = |source| VolumeError::Io {
        operation: "copy into",
        name: name.to_owned(),
        source,
    };
    let mut tree = Tree::open(to).map_err(open)?;
    walk(image, path, &mut |entry, file| {
        put(&mut tree, entry, file).map_err(|e| failed(entry, e))
    })?;
    tree.finish().map_err(|errno| open(errno.into()).into())
}

fn put(tree: &mut Tree, entry: &Entry, file: Option<File>) -> io::Result<()> {
    let at = InRoot::parse(&entry.path).ok_or(io::ErrorKind::InvalidInput)?;
    // Nothing is ever replaced: the source has each name once.
    let kept = &mut |_: crate::layer::Replaced<'_>| Ok(());
    match (entry.kind, file) {
        (EntryKind::File, Some(mut source)) => {
            let mut target = tree.file(&at, kept)?;
            io::copy(&mut source, &mut target)?;
            tree.finish_file(&target, entry)?;
        }
        (EntryKind::Directory, _) => tree.directory(&at, entry, kept)?,
        (EntryKind::Symlink, _) => tree.symlink(&at, entry, kept)?,
        (EntryKind::HardLink, _) => {
            let target = InRoot::parse(&entry.link).ok_or(io::ErrorKind::InvalidInput)?;
            tree.hard_link(&at, &target, kept)?;
        }
        _ => tree.node(&at, entry, kept)?,
    }
    Ok(())
}

/// The volume's own directory takes owner, mode and attributes of the image's (Docker does so too).
fn copy_root_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let source = RootFd::open_host(from).map_err(io::Error::other)?;
    let mut tree = Tree::open(to)?;
    let mut first = true;
    let visited = walk(&source, Path::new("/"), &mut |entry, _| {
        if std::mem::take(&mut first) {
            put(&mut tree, entry, None).map_err(Stop::Io)?;
        }
        Err(Stop::Done)
    });
    match visited {
        Err(Stop::Io(error)) => Err(error),
        Err(Stop::Root(error)) => Err(io::Error::other(error)),
        Ok(()) | Err(Stop::Done) => Ok(tree.finish().map(drop)?),
    }
}

enum Stop {
    Done,
    Io(io::Error),
    Root(RootError),
}

impl From<RootError> for Stop {
    fn from(error: RootError) -> Self {
        Self::Root(error)
    }
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

fn has_directory(image: &RootFd, path: &Path) -> Result<bool, RootError> {
    match image.stat(path) {
        Ok(stat) => Ok(stat.kind == FileKind::Directory),
        Err(RootError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
