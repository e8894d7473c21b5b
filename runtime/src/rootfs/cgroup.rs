//! /sys/fs/cgroup as Docker shows it: the container's own directory of each hierarchy, and nothing above it.
//!
//! On v2 that is one mount; on v1 and hybrid machines a small tmpfs with one mount per hierarchy and a link for each name
//! of a hierarchy that holds several controllers (`cpu` → `cpu,cpuacct`). The directories are bound rather than mounted
//! anew, so that `release_agent`, which only the root of a hierarchy has, is out of reach (CVE-2022-0492).

use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use sys::mount::{MountAttr, attr, mount_setattr};

use super::Error;
use super::apply::attach;
use super::overlay::Context;
use super::path::Root;
use super::plan::MountStep;
use super::sources::CgroupSource;

fn attach_each(mount: &std::os::fd::OwnedFd, sources: &[CgroupSource]) -> io::Result<()> {
    for source in sources {
        rustix::fs::mkdirat(mount, source.name.as_str(), Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(mount, source.name.as_str(), flags, Mode::empty())?;
        attach(&source.mount, target)?;
        if source.name.contains(',') {
            for name in source.name.split(',') {
                rustix::fs::symlinkat(source.name.as_str(), mount, name)?;
            }
        }
    }
    Ok(())
}

/// Attaches the hierarchies at the destination of `step`.
pub(super) fn attach_hierarchies(
    root: &Root,
    step: &MountStep,
    sources: &[CgroupSource],
) -> Result<(), Error> {
    let error = |operation| move |source: io::Error| Error::inside(operation, &step.destination, source);
    let target = root
        .make_dirs(&step.destination, step.links)
        .map_err(error("make"))?;
    if let [only] = sources
        && only.name.is_empty()
    {
        return attach(&only.mount, target).map_err(error("mount on"));
    }
    let context = Context::open("tmpfs")?;
    context.set("mode", Some("755"))?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = context.mount(flags)?;
    attach(&mount, target).map_err(error("mount on"))?;
    attach_each(&mount, sources).map_err(error("mount the hierarchies below"))?;
    let read_only = MountAttr {
        set: step.options.attr.set & attr::RDONLY,
        ..MountAttr::default()
    };
    mount_setattr(&mount, false, &read_only).map_err(error("set the attributes of"))
}
