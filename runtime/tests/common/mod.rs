//! Bundles with a busybox root, and the real binary run on them. Each bundle has a directory, a state directory and a
//! cgroup of its own, and takes all of them away when it is dropped, also by a panic.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Programs of the root, all of them busybox.
const APPLETS: [&str; 26] = [
    "sh", "true", "false", "ls", "cat", "mount", "ps", "id", "sleep", "echo", "hostname", "env", "stat",
    "readlink", "grep", "touch", "mkdir", "dd", "mknod", "wc", "pwd", "kill", "tty", "stty", "ln", "awk",
];

/// A bundle, and a container that may or may not have been made of it.
pub(crate) struct Bundle {
    pub(crate) dir: TempDir,
    pub(crate) config: Value,
    pub(crate) id: String,
}

/// How a command of the runtime ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Panics, with all that was said, unless the code is `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Panics unless it failed and stderr has `text`.
    #[track_caller]
    pub(crate) fn expect_failure(self, text: &str) {
        assert!(
            self.code != 0 && self.stderr.contains(text),
            "not failed with {text:?}: {self:?}"
        );
    }
}

impl Bundle {
    /// A bundle with Docker's mounts, masks and namespaces that runs `args`.
    pub(crate) fn new(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = TempDir::new().unwrap();
        let id = format!(
            "shoal-t{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let rootfs = dir.path().join("bundle/rootfs");
        make_root(&rootfs);
        let config = config(args, &format!("/{id}"));
        Self { dir, config, id }
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("bundle/rootfs")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    /// Adds a mount to the configuration.
    pub(crate) fn mount(
        &mut self,
        destination: &str,
        kind: &str,
        source: &Path,
        options: &[&str],
    ) -> &mut Self {
        let mounts = self.config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": destination, "type": kind, "source": source, "options": options}));
        self
    }

    /// Leaves out the mount on `destination`.
    pub(crate) fn without_mount(&mut self, destination: &str) -> &mut Self {
        let mounts = self.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != destination);
        self
    }

    /// `runtime --root … run`, to the end.
    pub(crate) fn run(&self) -> Ended {
        self.write();
        let bundle = self.bundle();
        self.runtime(&["run", "--bundle", bundle.to_str().unwrap(), &self.id])
    }

    /// Runs, and answers with stdout; panics unless the exit code is 0.
    #[track_caller]
    pub(crate) fn output(&self) -> String {
        self.run().expect(0).stdout
    }

    /// `create`, stdio away.
    pub(crate) fn create(&self) -> Ended {
        self.write();
        let bundle = self.bundle();
        self.runtime(&["create", "--bundle", bundle.to_str().unwrap(), &self.id])
    }

    /// `exec` of `args` with `flags`.
    pub(crate) fn exec(&self, flags: &[&str], args: &[&str]) -> Ended {
        let all: Vec<&str> = ["exec"]
            .iter()
            .chain(flags)
            .chain(&[self.id.as_str()])
            .chain(args)
            .copied()
            .collect();
        self.runtime(&all)
    }

    /// Any command of the runtime. Its stdout and stderr are files: a pipe would stay open as long as the container.
    pub(crate) fn runtime(&self, args: &[&str]) -> Ended {
        let (out, err) = (self.dir.path().join("out"), self.dir.path().join("err"));
        let status = self
            .command()
            .args(args)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .status()
            .unwrap();
        Ended {
            code: status.code().unwrap_or(-1),
            stdout: fs::read_to_string(out).unwrap(),
            stderr: fs::read_to_string(err).unwrap(),
        }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runtime"));
        command.arg("--root").arg(self.dir.path().join("state"));
        command
    }

    /// The container's status, or `None` if there is none.
    pub(crate) fn status(&self) -> Option<String> {
        let ended = self.runtime(&["state", &self.id]);
        let state: Value = serde_json::from_str(&ended.stdout).ok()?;
        Some(state["status"].as_str().unwrap().to_owned())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i64 {
        let state: Value =
            serde_json::from_str(&self.runtime(&["state", &self.id]).expect(0).stdout).unwrap();
        state["pid"].as_i64().unwrap()
    }

    /// Panics if anything of the container is left: state, cgroups, mounts in this namespace.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.status(), None);
        let state = self.dir.path().join("state").join(&self.id);
        assert!(!state.exists(), "{state:?} is left");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(dir), "a mount is left: {mounts}");
    }

    /// The container's directories in all hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let tops = fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .map(|entry| entry.unwrap().path());
        tops.chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|top| top.join(&self.id))
            .filter(|path| path.exists())
            .collect()
    }

    pub(crate) fn write(&self) {
        fs::write(self.bundle().join("config.json"), self.config.to_string()).unwrap();
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.command().args(["delete", "--force", &self.id]).output();
    }
}

/// Waits for `condition`; panics after ten seconds.
#[track_caller]
pub(crate) fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it did not come to be");
}

/// A root with busybox and its applets.
pub(crate) fn make_root(rootfs: &Path) {
    fs::create_dir_all(rootfs.join("bin")).unwrap();
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

/// Runs a command of the host; panics if it fails.
#[track_caller]
pub(crate) fn host(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output
}

fn config(args: &[&str], cgroup: &str) -> Value {
    let capabilities: Vec<String> =
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP \
         NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
            .split_whitespace()
            .map(|name| format!("CAP_{name}"))
            .collect();
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {
            "cwd": "/", "args": args, "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/nosuch"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
