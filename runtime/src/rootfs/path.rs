//! Paths inside a container's root, by descriptors only.
//!
//! Every lookup is one `openat2(2)` from the root's own descriptor with `RESOLVE_IN_ROOT` and
//! `RESOLVE_NO_MAGICLINKS`; what is missing is created component by component below a descriptor that was opened that
//! way. A path that was looked up once is never looked up again: later steps use the descriptor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

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
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags, links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let names: Vec<&OsStr> = names(path);
        let (mut at, existing) = self.deepest(&names, links)?;
        for name in &names[existing..] {
            match rustix::fs::mkdirat(&at, *name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            at = rustix::fs::openat(&at, *name, flags, Mode::empty())?;
        }
        Ok(at)
    }

    /// The file `path`, made empty where missing, as a location to mount on.
    pub(crate) fn make_file(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        match self.locate(path, links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let (parent, name) = split(path).ok_or(Errno::ISDIR)?;
        let parent = self.make_dirs(parent, links)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(rustix::fs::openat(
            &parent,
            name,
            flags,
            Mode::from_raw_mode(0o755),
        )?);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&parent, name, flags, Mode::empty())?)
    }

    /// The deepest directory on the way that exists, and how many of `names` lead to it.
    fn deepest(&self, names: &[&OsStr], links: Links) -> io::Result<(OwnedFd, usize)> {
        for count in (0..names.len()).rev() {
            let prefix: PathBuf = names[..count].iter().collect();
            match self.open(&prefix, OFlags::PATH | OFlags::DIRECTORY, links) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => return Ok((found?, count)),
            }
        }
        Ok((self.0.try_clone()?, 0))
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
    fn directories_are_made_inside_even_where_a_link_points_out() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), inside.path().join("out")).unwrap();
        // The link's target does not exist inside the root, and nothing is created through a dangling link.
        let made = root(inside.path()).make_dirs(Path::new("/out/a/b"), Links::Follow);
        assert!(made.is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let made = root(inside.path()).make_dirs(Path::new("/x/../a/b/c"), Links::Follow);
        assert!(made.is_ok() && inside.path().join("a/b/c").is_dir());
        assert!(!inside.path().join("x").exists());
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
