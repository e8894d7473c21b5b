//! The guest's first files: the binaries under test, busybox, the guest program, and the modules that a container host has
//! loaded on demand.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Kernel;
use crate::binaries;

/// Modules by where they are in the package: devices of the machine, and all that networks and file systems of
/// containers could ask for. The kernel loads them itself, by modprobe, as on a user's machine.
const MODULES: &[&str] = &[
    "arch/x86/crypto",
    "crypto",
    "drivers/block/virtio_blk",
    "drivers/net/dummy",
    "drivers/net/tun",
    "drivers/net/veth",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
    "drivers/virtio",
    "fs/overlayfs",
    "lib",
    "net/802",
    "net/8021q",
    "net/bridge",
    "net/core",
    "net/ipv4",
    "net/ipv6",
    "net/llc",
    "net/netfilter",
    "net/sched",
    "net/xfrm",
];
/// Programs that are called by their names.
const TOOLS: &[&str] = &[
    "cat",
    "cp",
    "depmod",
    "ls",
    "mke2fs",
    "mknod",
    "modprobe",
    "mount",
    "sh",
    "switch_root",
    "wget",
];

/// Busybox's own knows neither veth nor other namespaces.
const IP: &str = "/bin/ip";

/// Writes the archive to `directory` and answers with its path.
pub(super) fn build(kernel: &Kernel, guest: &Path, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    for folder in [
        "bin",
        "dev",
        "etc",
        "new",
        "proc",
        "run",
        "sbin",
        "sys",
        "tmp",
        "var/lib",
        "shoal/deps",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    for name in ["agent", "runtime"] {
        strip(&binaries().join(name), &root.join("shoal").join(name))?;
    }
    strip(guest, &root.join("shoal/deps/guest"))?;
    symlink("/shoal/deps/guest", root.join("init"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .context("/bin/busybox: apt-get install busybox-static")?;
    for tool in TOOLS {
        symlink("busybox", root.join("bin").join(tool))?;
    }
    symlink("/bin/busybox", root.join("sbin/modprobe"))?;
    add_program(Path::new(IP), &root)?;
    add_settings(&root.join("etc"))?;
    add_modules(kernel, &root)?;
    pack(&root, directory)
}

fn add_settings(etc: &Path) -> Result<()> {
    for (name, text) in [
        ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("group", "root:x:0:\n"),
        ("hosts", "127.0.0.1 localhost guest\n"),
        ("machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("os-release", "PRETTY_NAME=\"Guest\"\nVERSION_ID=1\n"),
    ] {
        fs::write(etc.join(name), text)?;
    }
    Ok(())
}

/// A program of this machine with the libraries that it loads.
fn add_program(program: &Path, root: &Path) -> Result<()> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("ldd (package libc-bin)")?;
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", and the loader without an arrow.
    let libraries = list.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.map(Path::new).chain([program]) {
        let to = root.join(file.strip_prefix("/")?);
        fs::create_dir_all(to.parent().context("a path with a folder")?)?;
        fs::copy(file, &to).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("strip");
    command.arg("-o").arg(to).arg(from);
    run(&mut command, "strip (package binutils)")
}

fn add_modules(kernel: &Kernel, root: &Path) -> Result<()> {
    let to = root.join("lib/modules").join(&kernel.release);
    for folder in MODULES {
        copy_modules(&kernel.modules, &Path::new("kernel").join(folder), &to)?;
    }
    for entry in fs::read_dir(&kernel.modules)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("modules.builtin") {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let mut command = Command::new("/bin/busybox");
    command.arg("depmod").arg("-b").arg(root).arg(&kernel.release);
    run(&mut command, "busybox depmod")
}

/// Copies a folder of modules, or the modules whose names begin so. What this kernel has built in is not there.
fn copy_modules(package: &Path, path: &Path, to: &Path) -> Result<()> {
    let from = package.join(path);
    if from.is_dir() {
        for entry in fs::read_dir(&from)? {
            copy_modules(package, &path.join(entry?.file_name()), to)?;
        }
        return Ok(());
    }
    for name in [
        path.to_owned(),
        path.with_extension("ko"),
        path.with_extension("ko.xz"),
    ] {
        if package.join(&name).is_file() {
            let target = to.join(&name);
            fs::create_dir_all(target.parent().context("a path with a folder")?)?;
            fs::copy(package.join(&name), target)?;
        }
    }
    Ok(())
}

fn pack(root: &Path, directory: &Path) -> Result<PathBuf> {
    let archive = directory.join("initramfs");
    let mut command = Command::new("/bin/busybox");
    command
        .args(["sh", "-c", "busybox find . | busybox cpio -o -H newc"])
        .current_dir(root)
        .stdout(fs::File::create(&archive)?)
        .stderr(Stdio::null());
    run(&mut command, "busybox cpio")?;
    // The archive is as large as the tree.
    fs::remove_dir_all(root)?;
    Ok(archive)
}

fn run(command: &mut Command, name: &str) -> Result<()> {
    let status = command.status().with_context(|| name.to_owned())?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}
