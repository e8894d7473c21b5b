//! The overlay root on kernels whose overlayfs does not take layers one by one (`lowerdir+`, Linux 6.8): mount(2), with all
//! options in one page.
//!
//! mount(2) needs a place in a mount namespace; it gets one in a namespace that lives for this call. The layers are named by
//! descriptor, so that about 230 of them fit whatever their paths.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, mount};
use sys::mount::{MountAttr, clone_tree, mount_setattr};
use sys::namespace::setns;
use sys::process::clone_flags;

use crate::container::OverlayMount;

/// Bytes of options that mount(2) takes, the terminating NUL included.
const PAGE: usize = 4096;

/// Mounts `overlay` and answers with a detached copy.
pub(super) fn mount_legacy(overlay: &OverlayMount) -> io::Result<OwnedFd> {
    let namespace = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = openat(CWD, "/proc/self/ns/mnt", namespace, Mode::empty())?;
    let here = locate(Path::new("."))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let mounted = mount_here(overlay);
    // setns(2) moves to the root directory, too.
    setns(&own, clone_flags::NEWNS)?;
    rustix::process::fchdir(&here)?;
    mounted
}

/// In the calling process's mount namespace, which nobody else is in: on a directory that exists everywhere. The layers
/// must be opened here, the kernel takes none of another namespace.
fn mount_here(overlay: &OverlayMount) -> io::Result<OwnedFd> {
    let private = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    mount_setattr(locate(Path::new("/"))?, true, &private)?;
    let layers = overlay
        .lower
        .iter()
        .map(|path| locate(path))
        .collect::<io::Result<Vec<_>>>()?;
    let upper = overlay.upper.as_deref().map(locate).transpose()?;
    let work = overlay.work.as_deref().map(locate).transpose()?;
    let options = CString::new(options(&layers, upper.as_ref(), work.as_ref(), &overlay.options)?)?;
    let place = Path::new("/proc");
    mount(
        "overlay",
        place,
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )?;
    clone_tree(locate(place)?, false)
}

fn locate(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn options(
    lower: &[OwnedFd],
    upper: Option<&OwnedFd>,
    work: Option<&OwnedFd>,
    others: &[String],
) -> io::Result<String> {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let layers: Vec<String> = lower.iter().map(name).collect();
    let mut options = vec![format!("lowerdir={}", layers.join(":"))];
    options.extend(upper.map(|fd| format!("upperdir={}", name(fd))));
    options.extend(work.map(|fd| format!("workdir={}", name(fd))));
    options.extend(others.iter().cloned());
    let options = options.join(",");
    if options.len() >= PAGE {
        let text = format!(
            "{} layers are more than this kernel mounts (before Linux 6.8 about 230)",
            lower.len()
        );
        return Err(io::Error::new(io::ErrorKind::ArgumentListTooLong, text));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn options_fit_a_page_or_are_refused() {
        let fds =
            |count: usize| -> Vec<OwnedFd> { (0..count).map(|_| File::open("/").unwrap().into()).collect() };
        assert!(
            options(&fds(2), None, None, &["volatile".to_owned()])
                .unwrap()
                .ends_with(",volatile")
        );
        assert!(options(&fds(220), None, None, &[]).is_ok());
        assert!(
            options(&fds(300), None, None, &[])
                .unwrap_err()
                .to_string()
                .contains("300 layers")
        );
    }

    /// Runs on a thread of its own, whose mount namespace it changes; needs root.
    #[test]
    fn an_overlay_is_mounted_and_seen_by_nobody() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["top", "bottom", "upper", "work"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("bottom/file"), "bottom").unwrap();
        fs::write(path("top/file"), "top").unwrap();
        let overlay = OverlayMount {
            lower: vec![path("top"), path("bottom")],
            upper: Some(path("upper")),
            work: Some(path("work")),
            options: Vec::new(),
        };
        let before = fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count();
        let root = std::thread::spawn(move || mount_legacy(&overlay))
            .join()
            .unwrap()
            .unwrap();
        assert_eq!(
            fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .lines()
                .count(),
            before
        );
        let file = openat(&root, "file", OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(io::read_to_string(File::from(file)).unwrap(), "top");
    }
}
