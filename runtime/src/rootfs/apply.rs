//! Applies a plan in init: attaches and makes mounts below the root's descriptor, then pivots into it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount, unmount};
use sys::mount::{MountAttr, attr, mount_setattr};

use super::overlay::Context;
use super::path::{Links, Root};
use super::plan::{MountKind, MountStep, Plan};
use super::sources::{BindSource, Sources};
use super::{Error, cgroup, dev, masks};

/// What later steps of init need of the root.
#[derive(Debug)]
pub(crate) struct Applied {
    /// The root itself, which is also `/` now.
    pub(crate) root: Root,
    /// Root of the container's own devpts, if it mounts one at /dev/pts.
    pub(crate) devpts: Option<OwnedFd>,
    /// Root of its procfs, if it mounts one; reached before anything can be mounted over a part of it.
    pub(crate) procfs: Option<OwnedFd>,
}

/// Builds the root and pivots into it. The caller is in the container's namespaces. `midway` is called once everything
/// is mounted and nothing is masked, read-only or left behind yet.
pub(crate) fn apply<E: From<Error>>(
    plan: &Plan,
    sources: Sources,
    midway: impl FnOnce(&Applied) -> Result<(), E>,
) -> Result<Applied, E> {
    attach_root(&sources.root)?;
    let mut applied = Applied {
        root: Root(sources.root),
        devpts: None,
        procfs: None,
    };
    for (step, bind) in plan.mounts.iter().zip(sources.binds) {
        match (&step.kind, bind) {
            (MountKind::Bind { .. }, bind) => attach_bind(&applied.root, step, bind)?,
            (MountKind::Cgroup, _) => cgroup::attach_hierarchies(&applied.root, step, &sources.cgroups)?,
            (MountKind::Filesystem { fstype, source }, _) => {
                let mount = new_filesystem(&applied.root, step, fstype, source)?;
                match fstype.as_str() {
                    "devpts" if step.destination == Path::new("/dev/pts") => applied.devpts = Some(mount),
                    "proc" if step.destination == Path::new("/proc") => applied.procfs = Some(mount),
                    _ => {}
                }
            }
        }
    }
    if !plan.devices.is_empty() {
        dev::populate(&applied.root, plan)?;
    }
    midway(&applied)?;
    make_cwd(&applied.root, &plan.cwd)?;
    masks::mask(&applied.root, &plan.masked)?;
    masks::make_read_only(&applied.root, &plan.read_only_paths)?;
    if plan.read_only {
        let attr = MountAttr {
            set: attr::RDONLY,
            ..MountAttr::default()
        };
        mount_setattr(&applied.root.0, false, &attr)
            .map_err(|e| Error::Step("make the root read-only", e))?;
    }
    pivot(&applied.root)?;
    Ok(applied)
}

/// Cuts this mount namespace off from the caller's, and mounts the new root on top of the old one: the only place that
/// exists in every mount namespace.
fn attach_root(root: &OwnedFd) -> Result<(), Error> {
    let step = |text| move |source: io::Error| Error::Step(text, source);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::openat(CWD, c"/", flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(step("open the old root"))?;
    let private = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    mount_setattr(&old, true, &private).map_err(step("make the mount namespace private"))?;
    attach(root, &old).map_err(step("attach the root"))
}

/// `pivot_root(".", ".")` stacks the old root on the new one at the same place, from where it is detached.
fn pivot(root: &Root) -> Result<(), Error> {
    let step = |text| move |source: rustix::io::Errno| Error::Step(text, source.into());
    rustix::process::fchdir(&root.0).map_err(step("enter the root"))?;
    rustix::process::pivot_root(c".", c".").map_err(step("pivot_root"))?;
    unmount(c".", UnmountFlags::DETACH).map_err(step("detach the old root"))?;
    rustix::process::chdir(c"/").map_err(step("chdir to the new root"))
}

/// Attaches the detached mount `mount` at the location `target`.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", target, c"", flags)?)
}

fn attach_bind(root: &Root, step: &MountStep, bind: Option<BindSource>) -> Result<(), Error> {
    let Some(bind) = bind else {
        return Err(Error::refused(
            &step.destination,
            "the bind source was not opened",
        ));
    };
    let target = if bind.directory {
        root.make_dirs(&step.destination, step.links)
    } else {
        root.make_file(&step.destination, step.links)
    };
    target
        .and_then(|target| attach(&bind.mount, target))
        .map_err(|source| Error::inside("mount on", &step.destination, source))
}

fn new_filesystem(root: &Root, step: &MountStep, fstype: &str, source: &str) -> Result<OwnedFd, Error> {
    let context = Context::open(fstype)?;
    context.set("source", Some(source))?;
    for (name, value) in &step.options.data {
        context.set(name, value.as_deref())?;
    }
    let bits = u32::try_from(step.options.attr.set | step.options.recursive.set).unwrap_or_default();
    let mount = context.mount(MountAttrFlags::from_bits_retain(bits))?;
    if let Some((propagation, _)) = step.options.propagation {
        let attr = MountAttr {
            propagation,
            ..MountAttr::default()
        };
        mount_setattr(&mount, false, &attr)
            .map_err(|source| Error::inside("set the propagation of", &step.destination, source))?;
    }
    root.make_dirs(&step.destination, step.links)
        .and_then(|target| attach(&mount, target))
        .map_err(|source| Error::inside("mount on", &step.destination, source))?;
    Ok(mount)
}

/// As runc: a missing working directory is made, by root.
fn make_cwd(root: &Root, cwd: &Path) -> Result<(), Error> {
    match root.make_dirs(cwd, Links::Follow) {
        Ok(_) => Ok(()),
        // It may lie on something read-only, or be no directory: the attempt to enter it will tell.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EROFS | libc::ENOTDIR | libc::ELOOP)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(Error::inside("make working directory", cwd, error)),
    }
}

/// Enters the working directory, which must be inside the root: no link of a procfs leads out of it
/// (CVE-2024-21626), and the kernel confirms that the path from the root is known.
pub(crate) fn enter_cwd(root: &Root, cwd: &Path) -> Result<(), Error> {
    root.open(cwd, OFlags::PATH | OFlags::DIRECTORY, Links::Follow)
        .and_then(|directory| Ok(rustix::process::fchdir(directory)?))
        .map_err(|source| Error::inside("enter working directory", cwd, source))?;
    // getcwd(2): "(unreachable)" before the path of a directory that is not below the root.
    let known =
        rustix::process::getcwd(Vec::with_capacity(256)).is_ok_and(|path| path.to_bytes().starts_with(b"/"));
    if known {
        return Ok(());
    }
    Err(Error::refused(cwd, "the working directory is outside the root"))
}
