//! Detached overlay mounts on kernels whose overlayfs does not take layers one by one (`lowerdir+`, Linux 6.8): mount(2),
//! with all options in one page.
//!
//! mount(2) needs a place in a mount namespace; it gets one in a namespace that lives for the call. The layers are named by
//! descriptor, relative to the directory of descriptors: five bytes each, so that all that overlayfs stacks (500) fit,
//! whatever their paths.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, mount};

use crate::mount::{MountAttr, clone_tree, mount_setattr};
use crate::namespace::setns;
use crate::process::clone_flags;

/// Bytes of options that mount(2) takes, the terminating NUL included.
const PAGE: usize = 4096;

/// What to mount.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// Read-only directories, top first.
    pub lower: &'a [PathBuf],
    /// Writable directory; without one the mount is read-only.
    pub upper: Option<&'a Path>,
    /// Working directory on the filesystem of `upper`.
    pub work: Option<&'a Path>,
    /// Further options, `name` or `name=value`, without commas.
    pub options: &'a [String],
    /// Attributes of the mount.
    pub flags: MountFlags,
}

/// Whether this kernel's overlayfs knows `lowerdir+`. Asked of the version: overlayfs before 6.5 takes any option, fails
/// when the mount is made, and complains to the kernel's log each time.
pub fn takes_layers_one_by_one() -> bool {
    version(&rustix::system::uname().release().to_string_lossy()) >= Some((6, 8))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Mounts `overlay` and answers with a detached copy. The calling thread is in another mount namespace meanwhile, and keeps
/// working directory and umask for itself afterwards (unshare(2), `CLONE_FS`): call it where no other thread shares them.
pub fn mount_in_one(overlay: &Overlay<'_>) -> io::Result<OwnedFd> {
    let own = openat(
        CWD,
        "/proc/thread-self/ns/mnt",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let here = locate(Path::new("."))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let mounted = mount_here(overlay);
    // setns(2) moves to the root directory, too.
    setns(&own, clone_flags::NEWNS)?;
    rustix::process::fchdir(&here)?;
    mounted
}

/// In the calling thread's mount namespace, which nobody else is in: on a directory that exists everywhere. The layers
/// must be opened here, the kernel takes none of another namespace.
fn mount_here(overlay: &Overlay<'_>) -> io::Result<OwnedFd> {
    let private = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    mount_setattr(locate(Path::new("/"))?, true, &private)?;
    let lower = overlay
        .lower
        .iter()
        .map(|path| locate(path))
        .collect::<io::Result<Vec<_>>>()?;
    let upper = overlay.upper.map(locate).transpose()?;
    let work = overlay.work.map(locate).transpose()?;
    let options = options(&lower, upper.as_ref(), work.as_ref(), overlay.options)?;
    let options = CString::new(options)?;
    let place = Path::new("/proc");
    rustix::process::chdir("/proc/thread-self/fd")?;
    mount(
        "overlay",
        place,
        "overlay",
        overlay.flags,
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
    let name = |fd: &OwnedFd| fd.as_fd().as_raw_fd().to_string();
    let layers: Vec<String> = lower.iter().map(name).collect();
    let mut options = vec![format!("lowerdir={}", layers.join(":"))];
    options.extend(upper.map(|fd| format!("upperdir={}", name(fd))));
    options.extend(work.map(|fd| format!("workdir={}", name(fd))));
    options.extend(others.iter().cloned());
    let options = options.join(",");
    if options.len() >= PAGE {
        let text = format!(
            "{} layers are more than this kernel mounts (Linux before 6.8)",
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
    fn releases_are_compared_by_number() {
        for (release, new) in [
            ("6.1.0-56-cloud-amd64", false),
            ("6.7.12", false),
            ("6.8.0-31-generic", true),
            ("6.12.117+deb12-cloud-amd64", true),
            ("7.0-rc1", true),
            ("5.15.167.4-microsoft-standard-WSL2", false),
            ("strange", false),
        ] {
            assert_eq!(version(release) >= Some((6, 8)), new, "{release}");
        }
    }

    #[test]
    fn options_fit_a_page_or_are_refused() {
        let fds =
            |count: usize| -> Vec<OwnedFd> { (0..count).map(|_| File::open("/").unwrap().into()).collect() };
        let some = options(&fds(2), None, None, &["volatile".to_owned()]).unwrap();
        assert!(some.ends_with(",volatile"), "{some}");
        assert!(options(&fds(500), None, None, &[]).is_ok());
        let long = ["x".repeat(PAGE)];
        assert!(
            options(&fds(3), None, None, &long)
                .unwrap_err()
                .to_string()
                .contains("3 layers")
        );
    }

    /// Runs on a thread of its own, whose mount namespace it changes; needs root.
    #[test]
    fn an_overlay_is_mounted_and_seen_by_nobody() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["bottom", "upper", "work"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("bottom/file"), "bottom").unwrap();
        // More than fit by their paths.
        let mut lower: Vec<PathBuf> = (0..300).map(|n| path(&format!("layer-{n}"))).collect();
        for layer in &lower {
            fs::create_dir(layer).unwrap();
        }
        fs::write(lower[7].join("file"), "middle").unwrap();
        lower.push(path("bottom"));
        let (upper, work) = (path("upper"), path("work"));
        let mounts = || {
            fs::read_to_string("/proc/thread-self/mountinfo")
                .unwrap()
                .lines()
                .count()
        };
        let mounted = std::thread::spawn(move || {
            let overlay = Overlay {
                lower: &lower,
                upper: Some(&upper),
                work: Some(&work),
                options: &[],
                flags: MountFlags::empty(),
            };
            let before = (mounts(), std::env::current_dir().unwrap());
            let root = mount_in_one(&overlay).unwrap();
            assert_eq!((mounts(), std::env::current_dir().unwrap()), before);
            root
        });
        let root = mounted.join().unwrap();
        let file = openat(&root, "file", OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(io::read_to_string(File::from(file)).unwrap(), "middle");
    }
}
