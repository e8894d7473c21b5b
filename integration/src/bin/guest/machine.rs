//! What an init system and a distribution do before an agent is started: a disk as root, the usual mounts, one hierarchy
//! of control groups with the processes in groups of their own, loopback.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

const CGROUPS: &str = "/sys/fs/cgroup";
/// Where systemd would have put the agent's unit.
const SERVICE: &str = "/sys/fs/cgroup/system.slice/shoal.service";

/// In the initial memory disk: moves to a new file system on the machine's disk. A root that can be pivoted away from,
/// which the memory disk cannot be, is what every machine of a user has.
pub(crate) fn to_disk() -> Result<()> {
    mount_system()?;
    for module in ["virtio_pci", "virtio_blk"] {
        // It may be built in.
        let _ = Command::new("/bin/modprobe").arg(module).status();
    }
    integration::eventually("the disk", || {
        ensure!(Path::new("/dev/vda").exists());
        Ok(())
    })?;
    shell("mke2fs /dev/vda > /dev/null")?;
    mount_on("/dev/vda", "/new", "ext4", MsFlags::empty(), "")?;
    shell(
        "cp -a /bin /sbin /etc /lib /lib64 /shoal /var /new && cd /new && mkdir -m 1777 dev proc sys run tmp",
    )?;
    for name in ["proc", "sys", "dev"] {
        let to = format!("/new/{name}");
        mount(
            Some(&*format!("/{name}")),
            &*to,
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .context(to)?;
    }
    let error = Command::new("/bin/switch_root")
        .args(["/new", "/shoal/deps/guest", "init"])
        .exec();
    Err(error).context("switch_root")
}

/// On the disk: the mounts of systemd, and its groups.
pub(crate) fn prepare() -> Result<()> {
    let devices = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    for (kind, place, flags, options) in [
        ("devpts", "/dev/pts", devices, "mode=620,ptmxmode=666"),
        (
            "tmpfs",
            "/dev/shm",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            "mode=1777",
        ),
        (
            "tmpfs",
            "/run",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            "mode=755",
        ),
        (
            "cgroup2",
            CGROUPS,
            devices | MsFlags::MS_NODEV,
            "nsdelegate,memory_recursiveprot",
        ),
    ] {
        fs::create_dir_all(place)?;
        mount_on(kind, place, kind, flags, options)?;
    }
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        None::<&str>,
    )?;
    for group in ["init.scope", "system.slice/shoal.service"] {
        fs::create_dir_all(Path::new(CGROUPS).join(group))?;
    }
    fs::write(Path::new(CGROUPS).join("init.scope/cgroup.procs"), "0")?;
    nix::unistd::sethostname("guest")?;
    shell("ip link set lo up")
}

/// Enters the group of the agent's service.
pub(crate) fn enter_service() -> Result<()> {
    fs::write(format!("{SERVICE}/cgroup.procs"), "0").context("enter the service's group")
}

fn mount_system() -> Result<()> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_on(kind, place, kind, MsFlags::empty(), "")?;
    }
    Ok(())
}

fn mount_on(source: &str, place: &str, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(source), place, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} on {place}"))
}

fn shell(script: &str) -> Result<()> {
    let status = Command::new("/bin/sh")
        .args(["-c", script])
        .env("PATH", "/bin:/sbin")
        .status()?;
    ensure!(status.success(), "{script}: {status}");
    Ok(())
}
