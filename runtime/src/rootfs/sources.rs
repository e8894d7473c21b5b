//! What the caller opens for init: the root, the bind sources and the cgroup directories, each a detached mount with its
//! final attributes. Runs in the caller's namespaces with its privileges; the paths are the host's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, openat};
use sys::mount::{MountAttr, clone_tree, mount_setattr};

use super::Error;
use super::options::Options;
use super::overlay;
use super::plan::{MountKind, MountStep, Plan};
use crate::container::Rootfs;

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_MAGIC: rustix::fs::FsWord = 0x9fa0;

/// A bind source.
#[derive(Debug)]
pub(crate) struct BindSource {
    /// The detached mount.
    pub(crate) mount: OwnedFd,
    /// Whether a directory is to be mounted on.
    pub(crate) directory: bool,
}

/// The container's directory in one cgroup hierarchy.
#[derive(Debug)]
pub(crate) struct CgroupSource {
    /// Name below /sys/fs/cgroup; empty for the only hierarchy of a v2 machine.
    pub(crate) name: String,
    /// The detached mount.
    pub(crate) mount: OwnedFd,
}

/// Everything that init attaches.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The root.
    pub(crate) root: OwnedFd,
    /// For each mount of the plan its source, if it is a bind mount.
    pub(crate) binds: Vec<Option<BindSource>>,
    /// The cgroups, if the plan mounts them.
    pub(crate) cgroups: Vec<CgroupSource>,
}

impl Sources {
    /// Opens what `plan` needs; `directory` is the root in the bundle, used for [`Rootfs::Bundle`].
    pub(crate) fn open(
        plan: &Plan,
        rootfs: &Rootfs,
        directory: &Path,
        cgroups: &[(String, OwnedFd)],
    ) -> Result<Self, Error> {
        Ok(Self {
            root: open_root(plan, rootfs, directory)?,
            binds: plan
                .mounts
                .iter()
                .map(|step| open_bind(plan, step))
                .collect::<Result<_, _>>()?,
            cgroups: open_cgroups(plan, cgroups)?,
        })
    }

    /// Every descriptor, which init must keep open.
    pub(crate) fn fds(&self) -> impl Iterator<Item = &OwnedFd> {
        let binds = self.binds.iter().flatten().map(|bind| &bind.mount);
        let cgroups = self.cgroups.iter().map(|cgroup| &cgroup.mount);
        std::iter::once(&self.root).chain(binds).chain(cgroups)
    }
}

fn open_root(plan: &Plan, rootfs: &Rootfs, directory: &Path) -> Result<OwnedFd, Error> {
    let mount = match rootfs {
        Rootfs::Overlay(overlay) => overlay::mount(overlay)?,
        Rootfs::Bundle => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, directory, flags, Mode::empty())
                .map_err(io::Error::from)
                .and_then(|fd| clone_tree(&fd, true))
                .map_err(|source| Error::host("open root", directory, source))?
        }
    };
    let attr = MountAttr {
        propagation: plan.propagation,
        ..MountAttr::default()
    };
    mount_setattr(&mount, true, &attr)
        .map_err(|source| Error::Step("set the propagation of the root", source))?;
    Ok(mount)
}

fn open_bind(plan: &Plan, step: &MountStep) -> Result<Option<BindSource>, Error> {
    let MountKind::Bind { source, recursive } = &step.kind else {
        return Ok(None);
    };
    let error = |operation| move |cause: io::Error| Error::host(operation, source, cause);
    let file = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .map_err(error("open bind source"))?;
    if step.destination == Path::new("/proc") {
        check_procfs(&file).map_err(error("only a procfs may be mounted on /proc, not"))?;
    }
    let kind = FileType::from_raw_mode(
        fstat(&file)
            .map_err(io::Error::from)
            .map_err(error("stat"))?
            .st_mode,
    );
    let mount = clone_tree(&file, *recursive).map_err(error("bind"))?;
    set_attributes(&mount, &step.options, plan.propagation)
        .map_err(error("set the attributes of the bind of"))?;
    Ok(Some(BindSource {
        mount,
        directory: kind == FileType::Directory,
    }))
}

fn check_procfs(file: impl AsFd) -> io::Result<()> {
    if fstatfs(file)?.f_type != PROC_MAGIC {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

/// Attributes and propagation of a bind mount in as few calls as they need.
fn set_attributes(mount: &OwnedFd, options: &Options, default: u64) -> io::Result<()> {
    let (propagation, deep) = options.propagation.unwrap_or((default, true));
    let recursive = MountAttr {
        propagation: if deep { propagation } else { 0 },
        ..options.recursive
    };
    if recursive != MountAttr::default() {
        mount_setattr(mount, true, &recursive)?;
    }
    let single = MountAttr {
        propagation: if deep { 0 } else { propagation },
        ..options.attr
    };
    if single != MountAttr::default() {
        mount_setattr(mount, false, &single)?;
    }
    Ok(())
}

fn open_cgroups(plan: &Plan, directories: &[(String, OwnedFd)]) -> Result<Vec<CgroupSource>, Error> {
    let Some(step) = plan.mounts.iter().find(|step| step.kind == MountKind::Cgroup) else {
        return Ok(Vec::new());
    };
    let clone = |(name, directory): &(String, OwnedFd)| {
        let mount = clone_tree(directory, false)?;
        set_attributes(&mount, &step.options, libc::MS_PRIVATE)?;
        Ok(CgroupSource {
            name: name.clone(),
            mount,
        })
    };
    directories
        .iter()
        .map(clone)
        .collect::<io::Result<_>>()
        .map_err(|source| Error::Step("bind the container's cgroup", source))
}
