//! Masked and read-only paths.
//!
//! A file is hidden by the host's null device, opened before the container's root is entered and proven to be device 1:3:
//! the container's own /dev/null may be anything (CVE-2025-31133). A directory is hidden by an empty read-only tmpfs, of
//! which there is one for all. Each path is looked up once; its mount goes on the descriptor of that lookup.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use sys::mount::{MountAttr, attr, clone_tree, mount_setattr};

use super::Error;
use super::apply::attach;
use super::overlay::Context;
use super::path::{Links, Root};

/// Hides `paths`; one that does not exist is hidden already.
pub(super) fn mask(root: &Root, paths: &[PathBuf]) -> Result<(), Error> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = null_device()?;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let error = |source| Error::inside("mask", path, source);
        let Some(target) = existing(root, path).map_err(error)? else {
            continue;
        };
        let kind = rustix::fs::fstat(&target).map_err(|e| error(e.into()))?.st_mode;
        if FileType::from_raw_mode(kind) != FileType::Directory {
            clone_tree(&null, false)
                .and_then(|mount| attach(mount, target))
                .map_err(error)?;
        } else if let Some(empty) = &empty {
            clone_tree(empty, false)
                .and_then(|mount| attach(mount, target))
                .map_err(error)?;
        } else {
            let mount = empty_directory()?;
            attach(&mount, target).map_err(error)?;
            empty = Some(mount);
        }
    }
    Ok(())
}

/// Makes `paths` and what is mounted below them read-only; one that does not exist is left out.
pub(super) fn make_read_only(root: &Root, paths: &[PathBuf]) -> Result<(), Error> {
    let attr = MountAttr {
        set: attr::RDONLY,
        ..MountAttr::default()
    };
    for path in paths {
        let error = |source| Error::inside("make read-only", path, source);
        let Some(target) = existing(root, path).map_err(error)? else {
            continue;
        };
        let mount = clone_tree(&target, true).map_err(error)?;
        mount_setattr(&mount, true, &attr).map_err(error)?;
        attach(&mount, &target).map_err(error)?;
    }
    Ok(())
}

fn existing(root: &Root, path: &std::path::Path) -> io::Result<Option<OwnedFd>> {
    match root.locate(path, Links::Follow) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The host's null device.
fn null_device() -> Result<OwnedFd, Error> {
    let path = "/dev/null";
    let open = || -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if !device || stat.st_rdev != rustix::fs::makedev(1, 3) {
            return Err(Errno::NODEV.into());
        }
        Ok(file)
    };
    open().map_err(|source| Error::host("open null device", path, source))
}

fn empty_directory() -> Result<OwnedFd, Error> {
    let context = Context::open("tmpfs")?;
    context.set("nr_inodes", Some("1"))?;
    context.set("mode", Some("755"))?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    context.mount(flags)
}
