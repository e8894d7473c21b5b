//! Detached overlay mounts: made with the mount API of file descriptors, attached nowhere, gone with the descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use sys::overlay::{Overlay, mount_in_one, takes_layers_one_by_one};

/// A view may look at the writable layer of a running container: overlayfs refuses that with its index on.
/// Its other features would let attributes inside a layer point elsewhere.
const OPTIONS: [(&str, &str); 4] = [
    ("index", "off"),
    ("redirect_dir", "nofollow"),
    ("metacopy", "off"),
    ("xino", "off"),
];

/// Mounts directories, top first, read-only over each other. One directory alone is opened as it is.
pub(crate) fn read_only(dirs: &[PathBuf]) -> io::Result<OwnedFd> {
    match dirs {
        [single] => open_single(single),
        _ if takes_layers_one_by_one() => mount_new(dirs),
        _ => mount_older(dirs),
    }
}

/// `lowerdir+` takes one directory each (Linux 6.8), so that their number has no bound but overlayfs' own 500.
fn mount_new(dirs: &[PathBuf]) -> io::Result<OwnedFd> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for dir in dirs {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", dir.as_path())?;
    }
    for (key, value) in OPTIONS {
        fsconfig_set_string(fs.as_fd(), key, value)?;
    }
    fsconfig_set_flag(fs.as_fd(), "ro")?;
    fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// On a thread of its own: it goes through a mount namespace, which no other thread may share with it.
fn mount_older(dirs: &[PathBuf]) -> io::Result<OwnedFd> {
    let options = OPTIONS.map(|(key, value)| format!("{key}={value}"));
    let overlay = Overlay {
        lower: dirs,
        upper: None,
        work: None,
        options: &options,
        flags: MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID,
    };
    std::thread::scope(|scope| {
        let mounted = scope.spawn(|| mount_in_one(&overlay)).join();
        mounted.unwrap_or_else(|_| Err(io::Error::other("the thread that mounts panicked")))
    })
}

fn open_single(dir: &Path) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, rustix::fs::Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Both ways show the same. Needs root.
    #[test]
    fn layers_lie_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let dirs: Vec<PathBuf> = ["top", "middle", "bottom"]
            .map(|name| dir.path().join(name))
            .into();
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        fs::write(dirs[1].join("file"), "middle").unwrap();
        fs::write(dirs[2].join("file"), "bottom").unwrap();
        for root in [mount_older(&dirs), read_only(&dirs)] {
            let root = crate::root_fd::RootFd::new(root.unwrap());
            assert_eq!(root.read_file("file", 100).unwrap(), b"middle");
        }
    }
}
