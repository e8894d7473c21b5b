//! A container's file system, read through one descriptor.
//!
//! Every lookup goes through `openat2(2)` with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`: symlinks, absolute or with
//! `..`, stay inside, and `/proc`-style links are refused. No path of the root is ever a host path.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::Kind;
use crate::tar::Xattrs;

/// The root directory of a file system that is open for reading.
#[derive(Debug)]
pub struct RootFd {
    fd: OwnedFd,
}

/// What a path is. Symlinks are reported, not followed, by [`RootFd::read_dir`] and [`RootFd::lstat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
    Unknown,
}

/// The inode's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time, Unix seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub device: u64,
    pub inode: u64,
    pub links: u64,
    /// Device number of a device node.
    pub rdev: u64,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    pub kind: FileKind,
}

/// Why something in a root could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("{path}: no such file or directory")]
    NotFound { path: String },
    #[error("{path} is larger than {limit} bytes")]
    TooLarge { path: String, limit: u64 },
    #[error("{path} is not a regular file")]
    NotAFile { path: String },
    #[error("{operation} {path}")]
    Io {
        operation: &'static str,
        path: String,
        source: io::Error,
    },
}

impl RootError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::TooLarge { .. } | Self::NotAFile { .. } => Kind::Invalid,
            Self::Io { .. } => Kind::Internal,
        }
    }
}

impl RootFd {
    /// Wraps the root directory's descriptor (an `O_PATH` one or a detached mount will do).
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens a directory of the host as a root, following the host's own path once.
    pub fn open_host(path: &Path) -> Result<Self, RootError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed("open", path.as_os_str(), e))?;
        Ok(Self { fd })
    }

    /// Opens a file for reading; never blocks on a FIFO. Symlinks are followed inside the root.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<File, RootError> {
        let path = path.as_ref();
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        Ok(File::from(fd))
    }

    /// A whole regular file of at most `limit` bytes.
    pub fn read_file(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, RootError> {
        let path = path.as_ref();
        // Look before opening: opening a device can have effects.
        if self.stat(path)?.kind != FileKind::File {
            return Err(RootError::NotAFile { path: show(path) });
        }
        let file = self.open(path)?;
        let mut bytes = Vec::new();
        let read = file.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|source| RootError::Io {
            operation: "read",
            path: show(path),
            source,
        })?;
        if bytes.len() as u64 > limit {
            return Err(RootError::TooLarge {
                path: show(path),
                limit,
            });
        }
        Ok(bytes)
    }

    /// The entries of a directory, sorted by name, without `.` and `..`.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>, RootError> {
        let path = path.as_ref();
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        list(fd.as_fd()).map_err(|e| failed("list", path.as_os_str(), e))
    }

    /// The attributes of what the path leads to.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat, RootError> {
        let path = path.as_ref();
        let fd = self.resolve(path, OFlags::PATH)?;
        stat_fd(fd.as_fd()).map_err(|e| failed("stat", path.as_os_str(), e))
    }

    /// The attributes of the path itself: a last component that is a symlink is not followed.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Stat, RootError> {
        let path = path.as_ref();
        let fd = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        stat_fd(fd.as_fd()).map_err(|e| failed("stat", path.as_os_str(), e))
    }

    /// Where a symlink points, as it is written.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf, RootError> {
        let path = path.as_ref();
        let fd = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let target = rustix::fs::readlinkat(&fd, "", Vec::new())
            .map_err(|e| failed("read link", path.as_os_str(), e))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Extended attributes of a file or directory, sorted by name; empty for anything else.
    pub fn xattrs(&self, path: impl AsRef<Path>) -> Result<Xattrs, RootError> {
        let path = path.as_ref();
        if !matches!(self.lstat(path)?.kind, FileKind::File | FileKind::Directory) {
            return Ok(Vec::new());
        }
        let fd = self.resolve(
            path,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY,
        )?;
        crate::walk::xattrs(&fd).map_err(|e| failed("read attributes of", path.as_os_str(), e))
    }

    /// Writes `path` and all below it as a tar, the names relative to `path` and below `prefix`.
    pub fn write_tar(
        &self,
        path: impl AsRef<Path>,
        prefix: &str,
        to: &mut dyn io::Write,
    ) -> Result<(), RootError> {
        crate::walk::write_tar(self, path.as_ref(), prefix, to)
    }

    /// Whether the path leads to anything.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.resolve(path.as_ref(), OFlags::PATH).is_ok()
    }

    /// A directory of this root as a root of its own. Symlinks in it then stay inside that directory.
    pub fn subdir(&self, path: impl AsRef<Path>) -> Result<Self, RootError> {
        let fd = self.resolve(path.as_ref(), OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Self { fd })
    }

    /// The descriptor at `path` with the given flags (`O_CLOEXEC` is added).
    pub(crate) fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, RootError> {
        open_in(self.fd.as_fd(), path.as_os_str(), flags, Mode::empty())
            .map_err(|e| failed("open", path.as_os_str(), e))
    }
}

impl AsFd for RootFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `openat2` confined to `root`. An empty path means the root itself.
pub(crate) fn open_in(
    root: BorrowedFd<'_>,
    path: &OsStr,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { OsStr::new("/") } else { path };
    let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, confined) {
            // openat2(2): a concurrent rename made the check of ".." inconclusive; try again.
            Err(Errno::AGAIN) if !flags.contains(OFlags::NONBLOCK) => {}
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The entries of an open directory, sorted.
pub(crate) fn list(fd: BorrowedFd<'_>) -> Result<Vec<DirEntry>, Errno> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems do not fill d_type.
            FileType::Unknown => {
                let stat = rustix::fs::statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                kind_of(FileType::from_raw_mode(stat.st_mode))
            }
            known => kind_of(known),
        };
        entries.push(DirEntry {
            name: OsStr::from_bytes(name).to_owned(),
            kind,
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    let raw = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Stat {
        kind: kind_of(FileType::from_raw_mode(raw.st_mode)),
        mode: raw.st_mode & 0o7777,
        uid: raw.st_uid,
        gid: raw.st_gid,
        size: u64::try_from(raw.st_size).unwrap_or(0),
        mtime: (raw.st_mtime, u32::try_from(raw.st_mtime_nsec).unwrap_or(0)),
        device: raw.st_dev,
        inode: raw.st_ino,
        links: raw.st_nlink as u64,
        rdev: raw.st_rdev,
    })
}

fn kind_of(kind: FileType) -> FileKind {
    match kind {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => FileKind::Unknown,
    }
}

fn failed(operation: &'static str, path: &OsStr, errno: Errno) -> RootError {
    let path = show(Path::new(path));
    match errno {
        Errno::NOENT | Errno::NOTDIR => RootError::NotFound { path },
        other => RootError::Io {
            operation,
            path,
            source: other.into(),
        },
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, RootFd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0\n").unwrap();
        let fd = RootFd::open_host(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn links_out_of_the_root_stay_inside() {
        let (dir, fd) = root();
        symlink("/etc/passwd", dir.path().join("abs")).unwrap();
        symlink("../../../../../etc/passwd", dir.path().join("etc/up")).unwrap();
        for path in ["/etc/passwd", "etc/passwd", "abs", "/etc/up", "../../etc/passwd"] {
            assert_eq!(fd.read_file(path, 100).unwrap(), b"root:x:0:0\n", "{path}");
        }
        symlink("/proc/self/root/etc/hostname", dir.path().join("magic")).unwrap();
        assert!(!fd.exists("magic"));
        assert_eq!(fd.read_link("abs").unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fd.lstat("abs").unwrap().kind, FileKind::Symlink);
        assert_eq!(fd.stat("abs").unwrap().kind, FileKind::File);
    }

    #[test]
    fn what_is_absent_too_long_or_no_file_is_said_so() {
        let (dir, fd) = root();
        assert!(matches!(
            fd.read_file("/nope", 1),
            Err(RootError::NotFound { .. })
        ));
        assert!(matches!(
            fd.read_file("/etc/passwd", 3),
            Err(RootError::TooLarge { limit: 3, .. })
        ));
        assert!(matches!(fd.read_file("/etc", 3), Err(RootError::NotAFile { .. })));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(
            fd.read_file("/fifo", 3),
            Err(RootError::NotAFile { .. })
        ));
        let names: Vec<_> = fd.read_dir("/").unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["etc", "fifo"]);
    }
}
