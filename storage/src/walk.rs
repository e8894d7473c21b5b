//! Reading a file tree through a [`RootFd`] as archive entries: the source side of copies and exports.
//!
//! Parents come before children, names in order; a second name of a file with several links is a hard link entry.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root_fd::{FileKind, RootError, RootFd, Stat};
use crate::tar::{Entry, EntryKind, NewEntry, TarWriter, Xattrs, show};

/// Called for each entry, with the open file if it is a plain one.
pub(crate) type Visit<'a, E> = &'a mut dyn FnMut(&Entry, Option<File>) -> Result<(), E>;

/// Calls `visit` for `base` itself (with an empty path) and everything below it. Sockets are passed over.
pub(crate) fn walk<E: From<RootError>>(root: &RootFd, base: &Path, visit: Visit<'_, E>) -> Result<(), E> {
    walk_counting(root, base, visit).map(drop)
}

/// The same; how many sockets were passed over.
pub(crate) fn walk_counting<E: From<RootError>>(
    root: &RootFd,
    base: &Path,
    visit: Visit<'_, E>,
) -> Result<u64, E> {
    let mut sockets = 0;
    let mut links = HashMap::new();
    // A stack of what is still to be visited, the next on top.
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = if relative.as_os_str().is_empty() {
            base.to_owned()
        } else {
            base.join(&relative)
        };
        let at_base = relative.as_os_str().is_empty();
        let stat = if at_base {
            root.stat(&path)?
        } else {
            root.lstat(&path)?
        };
        let Some(kind) = entry_kind(stat.kind) else {
            sockets += 1;
            continue;
        };
        let (entry, file) = describe(root, &path, &relative, kind, stat, &mut links)?;
        visit(&entry, file)?;
        if kind == EntryKind::Directory {
            let children = root.read_dir(&path)?;
            pending.extend(children.into_iter().rev().map(|child| relative.join(child.name)));
        }
    }
    Ok(sockets)
}

/// Writes a subtree as a tar; `prefix` is put before each name, and is the name of `base` itself.
pub(crate) fn write_tar(
    root: &RootFd,
    base: &Path,
    prefix: &str,
    to: &mut dyn Write,
) -> Result<(), RootError> {
    let failed = |path: &[u8], source| RootError::Io {
        operation: "export",
        path: show(path),
        source,
    };
    let mut tar = TarWriter::new(to);
    walk(root, base, &mut |entry, file| {
        let mut path = below(prefix, &entry.path);
        if path.is_empty() {
            return Ok(());
        }
        if entry.kind == EntryKind::Directory {
            path.push(b'/');
        }
        let is_hard_link = entry.kind == EntryKind::HardLink;
        let link = if is_hard_link {
            below(prefix, &entry.link)
        } else {
            entry.link.clone()
        };
        let new = NewEntry {
            path: &path,
            link: &link,
            kind: entry.kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size: entry.stored,
            mtime: entry.mtime,
            device: entry.device,
            xattrs: &entry.xattrs,
        };
        let written = match file {
            Some(mut file) => tar.append(&new, &mut file),
            None => tar.append(&new, &mut std::io::empty()),
        };
        written.map_err(|e| failed(&path, e))
    })?;
    tar.finish().map(drop).map_err(|e| failed(b"/", e))
}

/// The name of `path` below `prefix`, without slashes at its ends.
fn below(prefix: &str, path: &[u8]) -> Vec<u8> {
    let parts = prefix
        .as_bytes()
        .split(|b| *b == b'/')
        .chain(path.split(|b| *b == b'/'));
    parts
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(&b'/')
}

fn describe(
    root: &RootFd,
    path: &Path,
    relative: &Path,
    kind: EntryKind,
    stat: Stat,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
) -> Result<(Entry, Option<File>), RootError> {
    let name = relative.as_os_str().as_bytes().to_vec();
    let mut entry = plain_entry(name, kind, stat);
    if kind != EntryKind::Directory && stat.links > 1 {
        if let Some(first) = links.get(&(stat.device, stat.inode)) {
            entry.kind = EntryKind::HardLink;
            entry.link = first.clone();
            entry.stored = 0;
            return Ok((entry, None));
        }
        links.insert((stat.device, stat.inode), entry.path.clone());
    }
    match kind {
        EntryKind::Symlink => entry.link = root.read_link(path)?.into_os_string().as_encoded_bytes().to_vec(),
        EntryKind::File | EntryKind::Directory => {
            let extra = if kind == EntryKind::File {
                OFlags::NOFOLLOW
            } else {
                OFlags::DIRECTORY
            };
            let fd = root.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | extra)?;
            entry.xattrs = xattrs(&fd).map_err(|e| RootError::Io {
                operation: "read attributes of",
                path: path.display().to_string(),
                source: e.into(),
            })?;
            return Ok((entry, (kind == EntryKind::File).then(|| File::from(fd))));
        }
        _ => {}
    }
    Ok((entry, None))
}

fn plain_entry(path: Vec<u8>, kind: EntryKind, stat: Stat) -> Entry {
    Entry {
        path,
        link: Vec::new(),
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        device: (rustix::fs::major(stat.rdev), rustix::fs::minor(stat.rdev)),
        xattrs: Vec::new(),
        stored: if kind == EntryKind::File { stat.size } else { 0 },
        sparse: None,
    }
}

fn entry_kind(kind: FileKind) -> Option<EntryKind> {
    Some(match kind {
        FileKind::File => EntryKind::File,
        FileKind::Directory => EntryKind::Directory,
        FileKind::Symlink => EntryKind::Symlink,
        FileKind::Fifo => EntryKind::Fifo,
        FileKind::CharDevice => EntryKind::CharDevice,
        FileKind::BlockDevice => EntryKind::BlockDevice,
        FileKind::Socket | FileKind::Unknown => return None,
    })
}

/// Largest list of names and largest value the kernel allows (xattr(7)).
const MAX_XATTR: usize = 64 << 10;

pub(crate) fn xattrs(fd: impl AsFd) -> Result<Xattrs, Errno> {
    let mut names = vec![0u8; MAX_XATTR];
    let length = match rustix::fs::flistxattr(&fd, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; MAX_XATTR];
        let length = rustix::fs::fgetxattr(&fd, name, &mut value)?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}
