//! Detached overlay mounts: made with the mount API of file descriptors, attached nowhere, gone with the descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

/// Mounts directories, top first, read-only over each other. One directory alone is opened as it is.
pub(crate) fn read_only(dirs: &[PathBuf]) -> io::Result<OwnedFd> {
    if let [single] = dirs {
        return open_single(single);
    }
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    add_lowers(&fs, dirs)?;
    // A view may look at the writable layer of a running container: overlayfs refuses that with its index on.
    // Its other features would let attributes inside a layer point elsewhere.
    for (key, value) in [
        ("index", "off"),
        ("redirect_dir", "nofollow"),
        ("metacopy", "off"),
        ("xino", "off"),
    ] {
        fsconfig_set_string(fs.as_fd(), key, value)?;
    }
    fsconfig_set_flag(fs.as_fd(), "ro")?;
    fsconfig_create(fs.as_fd())?;
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes())?)
}

/// `lowerdir+` takes one directory each (Linux 6.8), so that their number has no bound but overlayfs' own 500. The
/// older single string is no way out: fsconfig(2) takes 256 bytes of it.
fn add_lowers(fs: &OwnedFd, dirs: &[PathBuf]) -> io::Result<()> {
    for (i, dir) in dirs.iter().enumerate() {
        match fsconfig_set_string(fs.as_fd(), "lowerdir+", dir.as_path()) {
            Err(Errno::INVAL) if i == 0 => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the overlayfs of this kernel has no lowerdir+: Linux 6.8 or newer is needed",
                ));
            }
            other => other?,
        }
    }
    Ok(())
}

fn open_single(dir: &Path) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, rustix::fs::Mode::empty())?)
}

fn attributes() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID
}
