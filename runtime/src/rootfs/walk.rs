//! Making what is missing of a path inside a container's root.
//!
//! openat2(2) cannot create directories, and says no more than "not found" of a link that dangles, which images have
//! (/etc/resolv.conf, /var/run). So the path is walked: one name at a time is opened below the directory before it, never
//! followed; a link is read and its names take its place; `..` goes back to the directory that was come from. Nobody who
//! renames things meanwhile can lead the walk out of the root, as it has no step that could leave it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;

use super::path::{Links, Root, names};

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What the last name is to be, if it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Make {
    /// A directory of mode 0755.
    Directory,
    /// An empty file of mode 0755.
    File,
}

/// Walks `path`, making what is missing; answers with its end as a location.
pub(super) fn make(root: &Root, path: &Path, links: Links, last: Make) -> io::Result<OwnedFd> {
    let mut rest: VecDeque<Step> = names(path)
        .into_iter()
        .map(|name| Step::Down(name.to_owned()))
        .collect();
    let mut way = Way {
        root: root.0.as_fd(),
        directories: Vec::new(),
    };
    let mut followed = 0;
    while let Some(step) = rest.pop_front() {
        let name = match step {
            Step::Up => {
                way.directories.pop();
                continue;
            }
            Step::Down(name) => name,
        };
        let missing = if rest.is_empty() { last } else { Make::Directory };
        let found = open_or_make(way.end(), &name, missing)?;
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Directory => way.directories.push(found),
            FileType::Symlink => {
                followed += 1;
                if links == Links::Refuse || followed > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                way.follow(&found, &mut rest)?;
            }
            _ if rest.is_empty() && last == Make::File => return Ok(found),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    match way.directories.pop() {
        Some(directory) => Ok(directory),
        None => root.0.try_clone(),
    }
}

enum Step {
    Down(OsString),
    Up,
}

/// The directories between the root and where the walk is.
struct Way<'a> {
    root: BorrowedFd<'a>,
    directories: Vec<OwnedFd>,
}

impl Way<'_> {
    fn end(&self) -> BorrowedFd<'_> {
        self.directories.last().map_or(self.root, AsFd::as_fd)
    }

    /// Puts the names of `link` before the rest.
    fn follow(&mut self, link: &OwnedFd, rest: &mut VecDeque<Step>) -> io::Result<()> {
        let target = OsString::from_vec(readlinkat(link, c"", Vec::new())?.into_bytes());
        let target = Path::new(&target);
        if target.is_absolute() {
            self.directories.clear();
        }
        for component in target.components().rev() {
            match component {
                Component::Normal(name) => rest.push_front(Step::Down(name.to_owned())),
                Component::ParentDir => rest.push_front(Step::Up),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        Ok(())
    }
}

fn open_or_make(at: BorrowedFd<'_>, name: &OsStr, missing: Make) -> io::Result<OwnedFd> {
    let location = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(at, name, location, Mode::empty()) {
        Err(Errno::NOENT) => {}
        found => return Ok(found?),
    }
    let mode = Mode::from_raw_mode(0o755);
    let made = match missing {
        Make::Directory => mkdirat(at, name, mode),
        Make::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(at, name, flags, mode).map(drop)
        }
    };
    match made {
        // Somebody else was faster; what they made is looked at as anything that is there.
        Ok(()) | Err(Errno::EXIST) => Ok(openat(at, name, location, Mode::empty())?),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root(dir: &Path) -> Root {
        Root(fs::File::open(dir).unwrap().into())
    }

    fn made(dir: &Path, path: &str, last: Make) -> io::Result<OwnedFd> {
        make(&root(dir), Path::new(path), Links::Follow, last)
    }

    #[test]
    fn directories_are_made_inside_even_where_a_link_points_out() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink("../../../up", inside.path().join("climb")).unwrap();
        made(inside.path(), "/out/a", Make::Directory).unwrap();
        made(inside.path(), "/climb/b", Make::Directory).unwrap();
        made(inside.path(), "/x/../c/d", Make::Directory).unwrap();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        // The target's path, but inside.
        let same = outside.path().strip_prefix("/").unwrap().join("a");
        assert!(inside.path().join(same).is_dir());
        assert!(inside.path().join("up/b").is_dir() && inside.path().join("c/d").is_dir());
        assert!(!inside.path().join("x").exists());
    }

    /// Debian's /etc/resolv.conf on machines with systemd-resolved.
    #[test]
    fn the_target_of_a_dangling_link_is_made() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("../run/systemd/stub.conf", dir.path().join("etc/resolv.conf")).unwrap();
        made(dir.path(), "/etc/resolv.conf", Make::File).unwrap();
        assert!(dir.path().join("run/systemd/stub.conf").is_file());
    }

    #[test]
    fn loops_links_where_none_may_be_and_files_on_the_way_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let code = |result: io::Result<OwnedFd>| result.unwrap_err().raw_os_error();
        assert_eq!(
            code(made(dir.path(), "/loop/a", Make::Directory)),
            Some(libc::ELOOP)
        );
        assert_eq!(
            code(made(dir.path(), "/file/a", Make::Directory)),
            Some(libc::ENOTDIR)
        );
        let refused = make(
            &root(dir.path()),
            Path::new("/loop"),
            Links::Refuse,
            Make::Directory,
        );
        assert_eq!(code(refused), Some(libc::ELOOP));
    }
}
