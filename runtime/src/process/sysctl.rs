//! Writing sysctls through a procfs that nothing of the container's can stand in for (CVE-2025-52881, CVE-2021-30465): the
//! root of a procfs mount of our own making, below which the lookup may cross neither a mount nor a link.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::Error;
use crate::spec::Sysctl;

/// Writes `settings` in the namespaces of the calling process; `procfs` is the root of the container's own, if it has one.
pub(super) fn write(settings: &[Sysctl], procfs: Option<&OwnedFd>) -> Result<(), Error> {
    if settings.is_empty() {
        return Ok(());
    }
    let private;
    let procfs = match procfs {
        Some(procfs) => procfs,
        None => {
            private = private_procfs().map_err(|e| Error::Step("mount a private procfs", e))?;
            &private
        }
    };
    for setting in settings {
        write_one(procfs, setting).map_err(|source| Error::Sysctl {
            path: setting.path.clone(),
            value: setting.value.clone(),
            source,
        })?;
    }
    Ok(())
}

/// A procfs that is attached nowhere.
fn private_procfs() -> io::Result<OwnedFd> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

fn write_one(procfs: impl AsFd, setting: &Sysctl) -> io::Result<()> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat2(procfs, setting.path.as_str(), flags, Mode::empty(), resolve)?;
    rustix::io::write(&file, setting.value.as_bytes())?;
    Ok(())
}
