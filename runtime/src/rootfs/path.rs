//! Paths inside a container's root, by descriptors only.
//!
//! Every lookup is one `openat2(2)` from the root's own descriptor with `RESOLVE_IN_ROOT` and
//! `RESOLVE_NO_MAGICLINKS`; what is missing is created by a walk from descriptor to descriptor ([`walk`]). A path that was
//! looked up once is never looked up again: later steps use the descriptor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::walk::{Make, make};

/// How often a lookup is repeated that lost a race against a rename (openat2(2), `EAGAIN`).
const ATTEMPTS: usize = 128;

/// Whether symbolic links inside the root may be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// Followed, as the container itself would.
    Follow,
    /// An error (`ELOOP`) anywhere on the path.
    Refuse,
}

/// The root directory of a container.
#[derive(Debug)]
pub(crate) struct Root(pub(crate) OwnedFd);

impl Root {
    /// Opens `path` with `flags`.
    pub(crate) fn open(&self, path: &Path, flags: OFlags, links: Links) -> io::Result<OwnedFd> {
        open_in(self.0.as_fd(), path, flags, links)
    }

    /// Opens `path` as a location (`O_PATH`) to mount on.
    pub(crate) fn locate(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH, links)
    }

    /// The directory `path`, made with all its parents (mode 0755) where missing.
    pub(crate) fn make_dirs(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY, links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(self, path, links, Make::Directory),
            found => found,
        }
    }

    /// The file `path`, made empty where missing, as a location to mount on.
    pub(crate) fn make_file(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        match self.locate(path, links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(self, path, links, Make::File),
            found => found,
        }
    }
}

/// `openat2` of `path` below `root`, repeated while the kernel cannot decide (`EAGAIN`).
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags, links: Links) -> io::Result<OwnedFd> {
    let empty = path.as_os_str().is_empty();
    let path = if empty { Path::new(".") } else { path };
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    for _ in 1..ATTEMPTS {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            done => return Ok(done?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// The names of a path as it was written, `.` and the leading `/` left out and `..` taken back.
pub(crate) fn names(path: &Path) -> Vec<&OsStr> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    names
}

/// Parent and last name; `None` for the root itself.
pub(crate) fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root(dir: &Path) -> Root {
        Root(fs::File::open(dir).unwrap().into())
    }

    #[test]
    fn links_inside_are_followed_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        symlink("/usr/lib", dir.path().join("lib")).unwrap();
        let root = root(dir.path());
        root.make_dirs(Path::new("/lib/x"), Links::Follow).unwrap();
        assert!(dir.path().join("usr/lib/x").is_dir());
        let refused = root.make_dirs(Path::new("/lib/y"), Links::Refuse).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_file_is_made_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let made = root(dir.path()).make_file(Path::new("/etc/app/conf"), Links::Follow);
        assert!(made.is_ok() && dir.path().join("etc/app/conf").is_file());
    }

    /// CVE-2024-21626: a path through a descriptor of the runtime.
    #[test]
    fn magic_links_are_refused() {
        let root = root(Path::new("/"));
        for path in ["/proc/self/cwd", "/proc/self/fd/0", "/proc/self/root/etc"] {
            assert!(root.locate(Path::new(path), Links::Follow).is_err(), "{path}");
        }
    }
}
