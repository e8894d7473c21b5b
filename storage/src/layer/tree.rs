//! Building a directory tree from untrusted entries, by directory descriptors only.
//!
//! The tree belongs to nobody else while it is built. Directories are reached with `openat2(2)` and
//! `RESOLVE_IN_ROOT`, so a symlink that the archive itself has made leads at most to another place of the tree; the
//! last component is never followed. Creation is exclusive: what is in the way is removed first.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::path::InRoot;
use crate::root_fd::open_in;
use crate::tar::{Entry, EntryKind};

/// Directories held open; small beside the usual limit of 1024 descriptors.
const CACHE: usize = 64;
/// Mode of a directory that the archive uses without naming it (Docker's too).
const IMPLIED_MODE: u32 = 0o755;
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// A file in the tree that a later entry replaces: the caller may want to keep it.
pub(crate) type OnReplaced<'a> = &'a mut dyn FnMut(Replaced<'_>) -> Result<(), Errno>;

/// Which file is about to be unlinked.
pub(crate) struct Replaced<'a> {
    pub(crate) parent: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
    pub(crate) inode: u64,
}

/// The tree under construction.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    cache: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Times of directories, set at the end because every new name in them changes them.
    times: Vec<(InRoot, (i64, u32))>,
    /// Overlay's own attributes are content like any other.
    exact: bool,
    pub(crate) entries: u64,
}

impl Tree {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            root,
            cache: HashMap::new(),
            times: Vec::new(),
            exact: false,
            entries: 0,
        })
    }

    /// For a copy that shall differ in nothing: what overlay mounts inside of a volume have noted stays too.
    pub(crate) fn exact(self) -> Self {
        Self { exact: true, ..self }
    }

    /// Makes a directory or takes the one that is there, and gives it the entry's attributes.
    pub(crate) fn directory(
        &mut self,
        at: &InRoot,
        entry: &Entry,
        replaced: OnReplaced<'_>,
    ) -> Result<(), Errno> {
        self.times.push((at.clone(), entry.mtime));
        let Some((parent, name)) = at.split() else {
            let root = self.root.try_clone().map_err(to_errno)?;
            return self.attributes(root.as_fd(), entry);
        };
        let parent = self.dir(&parent)?;
        let name = OsStr::from_bytes(name);
        let over_whiteout = match make_dir(parent.as_fd(), name) {
            Err(Errno::EXIST) => match self.make_room(parent.as_fd(), name, true, replaced)? {
                Room::Kept => false,
                Room::Free { was_whiteout } => {
                    make_dir(parent.as_fd(), name)?;
                    was_whiteout
                }
            },
            other => other.map(|()| false)?,
        };
        let fd = open_dir(parent.as_fd(), name)?;
        if over_whiteout {
            // The same layer deletes the lower directory and makes a new one.
            rustix::fs::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty())?;
        }
        self.attributes(fd.as_fd(), entry)
    }

    /// Makes an empty regular file; its attributes are set by [`Tree::finish_file`] after the data is written.
    pub(crate) fn file(&mut self, at: &InRoot, replaced: OnReplaced<'_>) -> Result<File, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = |parent: BorrowedFd<'_>, name: &OsStr| {
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
        };
        self.exclusively(at, replaced, create)
    }

    pub(crate) fn symlink(
        &mut self,
        at: &InRoot,
        entry: &Entry,
        replaced: OnReplaced<'_>,
    ) -> Result<(), Errno> {
        let target = OsStr::from_bytes(&entry.link);
        let exact = self.exact;
        self.exclusively(at, replaced, |parent, name| {
            rustix::fs::symlinkat(target, parent, name)?;
            own(parent, name, entry)?;
            xattrs_by_name(parent, name, entry, exact)?;
            set_times(parent, name, entry.mtime)
        })
    }

    /// Makes another name of what is at `target`, which must exist; a symlink there is linked, not followed.
    pub(crate) fn hard_link(
        &mut self,
        at: &InRoot,
        target: &InRoot,
        replaced: OnReplaced<'_>,
    ) -> Result<(), Errno> {
        if at == target {
            return Ok(());
        }
        let (target_dir, target_name) = target.split().ok_or(Errno::PERM)?;
        let target_dir = self.existing_dir(&target_dir)?;
        let target_name = OsStr::from_bytes(target_name).to_owned();
        self.exclusively(at, replaced, |parent, name| {
            rustix::fs::linkat(&target_dir, &target_name, parent, name, AtFlags::empty())
        })
    }

    /// Makes a device node or FIFO.
    pub(crate) fn node(&mut self, at: &InRoot, entry: &Entry, replaced: OnReplaced<'_>) -> Result<(), Errno> {
        let kind = match entry.kind {
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let exact = self.exact;
        self.exclusively(at, replaced, |parent, name| {
            rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)?;
            own(parent, name, entry)?;
            // Not a symlink: it was just created here, exclusively.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
            xattrs_by_name(parent, name, entry, exact)?;
            set_times(parent, name, entry.mtime)
        })
    }

    /// Gives a written file its owner, mode, xattrs and times, in the order in which the kernel clears the earlier.
    pub(crate) fn finish_file(&self, file: &File, entry: &Entry) -> Result<(), Errno> {
        self.attributes(file.as_fd(), entry)?;
        rustix::fs::futimens(file, &times(entry.mtime))
    }

    /// chown(2) clears setuid bits and capabilities, so it comes first.
    fn attributes(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
        rustix::fs::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
        for (name, value) in kept_xattrs(entry, self.exact) {
            ignore_unsupported(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    /// Hides what lower layers have at `at`. What this layer has put there itself stays.
    pub(crate) fn whiteout(&mut self, at: &InRoot) -> Result<(), Errno> {
        let (parent, name) = at.split().ok_or(Errno::PERM)?;
        let parent = self.dir(&parent)?;
        let name = OsStr::from_bytes(name);
        match rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => match open_dir(parent.as_fd(), name) {
                Ok(dir) => rustix::fs::fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty()),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(error),
            },
            other => other,
        }
    }

    /// Hides everything that lower layers have in the directory `at`.
    pub(crate) fn opaque(&mut self, at: &InRoot) -> Result<(), Errno> {
        let dir = self.dir(at)?;
        // The cached descriptor is O_PATH, which cannot carry attributes.
        let dir = rustix::fs::openat(
            &dir,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        rustix::fs::fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty())
    }

    /// Sets the directories' times; the tree is complete then.
    pub(crate) fn finish(self) -> Result<u64, Errno> {
        for (at, mtime) in &self.times {
            let path = OsStr::from_bytes(at.as_bytes());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match open_in(self.root.as_fd(), path, flags, Mode::empty()) {
                Ok(dir) => rustix::fs::futimens(&dir, &times(*mtime))?,
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.entries)
    }

    fn exclusively<T>(
        &mut self,
        at: &InRoot,
        replaced: OnReplaced<'_>,
        create: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (parent, name) = at.split().ok_or(Errno::ISDIR)?;
        let parent = self.dir(&parent)?;
        let name = OsStr::from_bytes(name);
        self.entries += 1;
        match create(parent.as_fd(), name) {
            Err(Errno::EXIST) => {
                self.make_room(parent.as_fd(), name, false, replaced)?;
                create(parent.as_fd(), name)
            }
            other => other,
        }
    }

    /// Removes what is at `name`; with `keep_dir` a directory stays.
    fn make_room(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        keep_dir: bool,
        replaced: OnReplaced<'_>,
    ) -> Result<Room, Errno> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory && keep_dir {
            return Ok(Room::Kept);
        }
        // Cached descriptors may lead through what goes away.
        self.cache.clear();
        remove_all(parent, name, kind, stat.st_ino, replaced)?;
        Ok(Room::Free {
            was_whiteout: kind == FileType::CharacterDevice && stat.st_rdev == 0,
        })
    }

    /// The directory `at`, made with its parents if it is missing.
    fn dir(&mut self, at: &InRoot) -> Result<Rc<OwnedFd>, Errno> {
        match self.existing_dir(at) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (parent, name) = at.split().ok_or(Errno::NOENT)?;
        let parent = self.dir(&parent)?;
        let name = OsStr::from_bytes(name);
        make_dir(parent.as_fd(), name)?;
        let dir = open_dir(parent.as_fd(), name)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(IMPLIED_MODE))?;
        rustix::fs::fchown(&dir, Some(Uid::ROOT), Some(Gid::ROOT))?;
        self.existing_dir(at)
    }

    fn existing_dir(&mut self, at: &InRoot) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(dir) = self.cache.get(at.as_bytes()) {
            return Ok(Rc::clone(dir));
        }
        let path = OsStr::from_bytes(at.as_bytes());
        let dir = open_in(
            self.root.as_fd(),
            path,
            OFlags::PATH | OFlags::DIRECTORY,
            Mode::empty(),
        )?;
        if self.cache.len() >= CACHE {
            self.cache.clear();
        }
        let dir = Rc::new(dir);
        self.cache.insert(at.as_bytes().to_vec(), Rc::clone(&dir));
        Ok(dir)
    }
}

enum Room {
    Kept,
    Free { was_whiteout: bool },
}

/// Overlay's own attributes are orders to the mount (redirects, opacity), not content: an archive cannot give them.
fn kept_xattrs(entry: &Entry, exact: bool) -> impl Iterator<Item = (&OsStr, &[u8])> {
    let private = |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    entry
        .xattrs
        .iter()
        .filter(move |(name, _)| exact || !private(name))
        .map(|(name, value)| (OsStr::from_bytes(name), value.as_slice()))
}

/// For nodes and symlinks, which cannot be opened: the directory's descriptor leads to the name.
fn xattrs_by_name(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry, exact: bool) -> Result<(), Errno> {
    let path = Path::new("/proc/self/fd")
        .join(parent.as_raw_fd().to_string())
        .join(name);
    for (key, value) in kept_xattrs(entry, exact) {
        match rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty()) {
            // user.* is for files and directories only (xattr(7)).
            Err(Errno::PERM) if key.as_bytes().starts_with(b"user.") => {}
            other => ignore_unsupported(other)?,
        }
    }
    Ok(())
}

/// Docker skips attributes that the file system does not know.
fn ignore_unsupported(set: Result<(), Errno>) -> Result<(), Errno> {
    match set {
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

fn own(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn set_times(parent: BorrowedFd<'_>, name: &OsStr, mtime: (i64, u32)) -> Result<(), Errno> {
    rustix::fs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn make_dir(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
}

fn open_dir(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Removes a name with all that is below it, without following anything.
fn remove_all(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileType,
    inode: u64,
    replaced: OnReplaced<'_>,
) -> Result<(), Errno> {
    if kind == FileType::RegularFile {
        replaced(Replaced { parent, name, inode })?;
    }
    if kind != FileType::Directory {
        return match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
    }
    let dir = open_dir(parent, name)?;
    for child in crate::root_fd::list(dir.as_fd())? {
        let stat = rustix::fs::statat(&dir, &child.name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        remove_all(dir.as_fd(), &child.name, kind, stat.st_ino, replaced)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn to_errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
