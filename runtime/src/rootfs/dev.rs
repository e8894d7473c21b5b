//! /dev: device nodes, the customary links, the console. Everything by descriptors below the root; a /dev that is a
//! symbolic link is refused, not followed (CVE-2026-41579).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::mount::clone_tree;

use super::Error;
use super::apply::attach;
use super::path::{Links, Root, split};
use super::plan::{Device, Plan};

/// Links of /dev (runtime-spec, config-linux.md, "Default Devices" and "Dev symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// Makes the devices of `plan` and the links.
pub(super) fn populate(root: &Root, plan: &Plan) -> Result<(), Error> {
    let dev = open_dev(root)?;
    for device in &plan.devices {
        let made = if plan.bind_devices {
            bind(root, device)
        } else {
            make(root, &dev, device)
        };
        made.map_err(|source| Error::inside("make device", &device.path, source))?;
    }
    for (name, target) in LINKS {
        link(&dev, name, target)
            .map_err(|source| Error::inside("make link", Path::new("/dev").join(name), source))?;
    }
    // An image may bring a ptmx of its own: the container's devpts decides.
    let _ = rustix::fs::unlinkat(&dev, c"ptmx", AtFlags::empty());
    link(&dev, "ptmx", "pts/ptmx").map_err(|source| Error::inside("make link", "/dev/ptmx", source))
}

fn open_dev(root: &Root) -> Result<OwnedFd, Error> {
    root.make_dirs(Path::new("/dev"), Links::Refuse)
        .map_err(|source| Error::inside("open", "/dev", source))
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> io::Result<()> {
    match rustix::fs::symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn make(root: &Root, dev: &OwnedFd, device: &Device) -> io::Result<()> {
    let (parent, name) = split(&device.path).ok_or(Errno::INVAL)?;
    let nested;
    let parent = if parent == Path::new("/dev") {
        dev
    } else {
        nested = root.make_dirs(parent, Links::Refuse)?;
        &nested
    };
    let number = rustix::fs::makedev(device.number.0, device.number.1);
    // The umask of init is 0, so that the mode is exact.
    match rustix::fs::mknodat(
        parent,
        name,
        device.kind,
        Mode::from_raw_mode(device.mode),
        number,
    ) {
        Err(Errno::EXIST) => verify(parent, name, device, number)?,
        made => made?,
    }
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(device.uid),
            rustix::fs::Gid::from_raw(device.gid),
        );
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// What is already there, a mount of the configuration or a file of the image, must be this very device.
fn verify(parent: &OwnedFd, name: &std::ffi::OsStr, device: &Device, number: u64) -> io::Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let same = FileType::from_raw_mode(stat.st_mode) == device.kind
        && (device.kind == FileType::Fifo || stat.st_rdev == number);
    if same { Ok(()) } else { Err(Errno::EXIST.into()) }
}

/// The host's node, proven to be the device that is meant, bound on an empty file.
fn bind(root: &Root, device: &Device) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let host = rustix::fs::openat(CWD, &device.path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&host)?;
    let number = rustix::fs::makedev(device.number.0, device.number.1);
    if FileType::from_raw_mode(stat.st_mode) != device.kind || stat.st_rdev != number {
        return Err(Errno::NODEV.into());
    }
    let target = root.make_file(&device.path, Links::Refuse)?;
    attach(clone_tree(&host, false)?, target)
}

/// Binds the terminal's slave on /dev/console. The target is opened without following a link (CVE-2025-52565).
pub(crate) fn attach_console(root: &Root, slave: &OwnedFd) -> Result<(), Error> {
    let path = Path::new("/dev/console");
    root.make_file(path, Links::Refuse)
        .and_then(|target| attach(clone_tree(slave, false)?, target))
        .map_err(|source| Error::inside("mount the terminal on", path, source))
}
