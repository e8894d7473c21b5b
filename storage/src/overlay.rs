//! Detached overlay mounts: made with the mount API of file descriptors, attached nowhere, gone with the descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

/// Mounts directories, top first, read-only over each other. One directory alone is opened as it is.
pub(crate) fn read_only(dirs: &[PathBuf]) -> Result<OwnedFd, Errno> {
    if let [single] = dirs {
        return clone_read_only(single);
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
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes())
}

/// `lowerdir+` takes one directory each (Linux 6.8), so that their number has no bound but overlayfs' own 500;
/// older kernels take them all in one string.
fn add_lowers(fs: &OwnedFd, dirs: &[PathBuf]) -> Result<(), Errno> {
    for (i, dir) in dirs.iter().enumerate() {
        match fsconfig_set_string(fs.as_fd(), "lowerdir+", dir.as_path()) {
            Err(Errno::INVAL) if i == 0 => return add_joined(fs, dirs),
            other => other?,
        }
    }
    Ok(())
}

fn add_joined(fs: &OwnedFd, dirs: &[PathBuf]) -> Result<(), Errno> {
    let escaped: Vec<Vec<u8>> = dirs.iter().map(|dir| escape(dir)).collect();
    fsconfig_set_string(fs.as_fd(), "lowerdir", escaped.join(&b':'))
}

/// Colons and backslashes separate and quote in overlayfs' option.
fn escape(dir: &Path) -> Vec<u8> {
    let quoted = |b: &u8| {
        if matches!(b, b':' | b'\\') {
            vec![b'\\', *b]
        } else {
            vec![*b]
        }
    };
    dir.as_os_str().as_bytes().iter().flat_map(quoted).collect()
}

fn clone_read_only(dir: &Path) -> Result<OwnedFd, Errno> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, rustix::fs::Mode::empty())
}

fn attributes() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID
}
