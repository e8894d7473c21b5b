//! The parts of the new mount API that rustix lacks: `mount_setattr(2)`, and `open_tree(2)` on a descriptor.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::mount::OpenTreeFlags;

/// Attribute bits of `mount_setattr(2)`, the kernel's `MOUNT_ATTR_*`.
pub mod attr {
    /// The mount is read-only.
    pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    /// Set-user-id bits and file capabilities are ignored.
    pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    /// Mask of the access time settings; `clear` must hold it whole when a setting is given.
    pub const ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;
    /// Access times never change.
    pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
    /// Access times change at every access.
    pub const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
    /// Access times of directories never change.
    pub const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
    /// The mount maps identities as a user namespace does.
    pub const IDMAP: u64 = libc::MOUNT_ATTR_IDMAP;
}

/// What `mount_setattr(2)` changes: the kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// Attribute bits to set.
    pub set: u64,
    /// Attribute bits to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 for no change.
    pub propagation: u64,
    /// User namespace of an identity mapping.
    pub userns_fd: u64,
}

/// Changes the mount that `mount` is open on; with `recursive` every mount below it too.
pub fn mount_setattr(mount: impl AsFd, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a NUL-terminated literal and `attr` a live `repr(C)` structure of the size given;
    // the kernel reads both and keeps neither.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A detached copy of the mount tree that starts at the file `at` is open on.
pub fn clone_tree(at: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let empty: &CStr = c"";
    Ok(rustix::mount::open_tree(at, empty, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_size_of_the_first_kernel_version() {
        assert_eq!(size_of::<MountAttr>(), 32);
    }
}
