//! Namespace files: a network namespace kept alive by a bind mount, and what has to be done from inside one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, statfs};

use crate::error::{Error, Result};

/// linux/magic.h
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// Make a namespace, bind it to `path`, and run `work` inside.
pub(crate) fn create<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<(OwnedFd, T)> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !is_mounted(path) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::ForeignNamespace {
                path: path.to_owned(),
            });
        }
        Err(e) => return Err(failed(path, "create", e)),
        Ok(_) => {}
    }
    let made = sys::netns::create(|| {
        let here = "/proc/thread-self/ns/net";
        mount(Some(here), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(work())
    });
    match made {
        Ok((netns, Ok(result))) => Ok((netns, result)),
        Ok((_, Err(e))) | Err(e) => {
            let _ = fs::remove_file(path);
            Err(failed(path, "create", e))
        }
    }
}

/// The namespace bound to `path`; `None` if there is none.
pub(crate) fn open(path: &Path) -> Result<Option<OwnedFd>> {
    if !is_mounted(path) {
        return Ok(None);
    }
    Ok(Some(
        File::open(path).map_err(|e| failed(path, "open", e))?.into(),
    ))
}

/// Unbind and remove the file. Fine if there is none.
pub(crate) fn remove(path: &Path) -> Result<()> {
    while is_mounted(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(|e| failed(path, "unmount", e.into()))?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, "remove", e)),
        _ => Ok(()),
    }
}

/// Run `work` inside the namespace.
pub(crate) fn run<T: Send>(
    path: &Path,
    netns: &OwnedFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> Result<T> {
    sys::netns::run_in(netns, work)
        .and_then(|result| result)
        .map_err(|e| failed(path, "enter", e))
}

/// The names of all namespace files.
pub(crate) fn list(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(|e| failed(dir, "list", e))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

/// Write a sysctl of the calling thread's namespace, which must be one that we made. A kernel without the feature has no
/// such file, which is fine.
pub(crate) fn sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    match OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| io::Write::write_all(&mut f, value.as_bytes()))
    {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == NSFS_MAGIC)
}

fn failed(path: &Path, operation: &'static str, source: io::Error) -> Error {
    Error::Namespace {
        path: path.to_owned(),
        operation,
        source,
    }
}
