//! A dockerd with a containerd of its own, on a host. Nothing of the machine's own Docker is touched.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use integration::{Host, http};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::side::until;

/// The first program of Docker that this machine lacks.
pub(crate) fn missing() -> Option<&'static str> {
    let there = |program: &&&str| {
        ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
            .iter()
            .any(|place| Path::new(place).join(program).exists())
    };
    ["dockerd", "containerd", "runc"]
        .iter()
        .find(|program| !there(program))
        .copied()
}

/// Dropped, it ends, and what it left in folders, mounts and cgroups goes.
pub(crate) struct Dockerd {
    host: Host,
    containerd: Option<Child>,
    dockerd: Option<Child>,
}

impl Dockerd {
    /// Starts both programs; returns when dockerd answers.
    pub(crate) fn start_on(host: Host) -> Result<Self> {
        let mut all = Self {
            host,
            containerd: None,
            dockerd: None,
        };
        fs::write(all.path("daemon.json"), "{}")?;
        // As dockerd configures the containerd that it starts itself.
        let disabled = r#"["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]"#;
        fs::write(
            all.path("containerd.toml"),
            format!("version = 2\ndisabled_plugins = {disabled}\n"),
        )?;
        let flags = [
            ("--config", "containerd.toml"),
            ("--root", "containerd-root"),
            ("--state", "containerd-state"),
            ("--address", "containerd.sock"),
        ];
        let mut command = Command::new("containerd");
        for (flag, name) in flags {
            command.arg(flag).arg(all.path(name));
        }
        command.args(["--log-level", "warn"]);
        all.containerd = Some(all.spawn(command, "containerd.log")?);
        until("containerd listens", || {
            anyhow::ensure!(all.path("containerd.sock").exists());
            Ok(())
        })?;
        all.run()?;
        Ok(all)
    }

    pub(crate) fn run(&mut self) -> Result<()> {
        let mut command = Command::new("dockerd");
        for (flag, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "docker-root"),
            ("--exec-root", "docker-exec"),
            ("--pidfile", "docker.pid"),
            ("--containerd", "containerd.sock"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--cgroup-parent")
            .arg(format!("/{}", self.cgroup()))
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        // One that was killed leaves its number, and the next would take another process for it.
        let _ = fs::remove_file(self.path("docker.pid"));
        self.dockerd = Some(self.spawn(command, "dockerd.log")?);
        until("dockerd answers", || {
            http::request(&self.socket(), "GET", "/_ping", None)?.success()?;
            Ok(())
        })
        .map(drop)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut process = self.dockerd.take().context("dockerd does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        if self.dockerd.is_none() {
            return Vec::new();
        }
        self.dockerd
            .iter()
            .chain(&self.containerd)
            .map(Child::id)
            .collect()
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("docker.sock")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.directory().join(name)
    }

    fn cgroup(&self) -> String {
        let name = self.host.directory().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.path(log))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let program = command.get_program().to_string_lossy().into_owned();
        self.host
            .enter(|| command.spawn())?
            .with_context(|| format!("start {program}"))
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        for mut process in [self.dockerd.take(), self.containerd.take()]
            .into_iter()
            .flatten()
        {
            let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM);
            let _ = process.wait();
        }
        for pid in shims(self.host.directory()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let own = |place: &&str| {
            Path::new(place).starts_with(self.host.directory())
                && **place != *self.host.namespace().to_string_lossy()
        };
        let mut places: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(own)
            .collect();
        places.sort_unstable();
        for place in places.into_iter().rev() {
            let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
        }
        remove_cgroups(&self.cgroup());
    }
}

/// The shims of a containerd whose files are in this folder: their command lines name its socket.
fn shims(folder: &Path) -> Vec<i32> {
    let folder = folder.to_string_lossy().into_owned();
    let own = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("containerd-shim") && line.contains(&folder)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(own).collect()
}

/// A cgroup of that name in every hierarchy, with those in it.
fn remove_cgroups(name: &str) {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let places = hierarchies.map(|entry| entry.path().join(name));
    for place in places.chain([Path::new("/sys/fs/cgroup").join(name)]) {
        let inner = fs::read_dir(&place).into_iter().flatten().flatten();
        for entry in inner.filter(|entry| entry.path().is_dir()) {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(place);
    }
}
