//! A machine of a test's own: state directories, a mount and a network namespace, a cgroup parent, and an engine in it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent::api::types::config::ContainerConfig;
use agent::api::types::host_config::HostConfig;
use agent::engine::{CreateContainer, Engine, EngineConfig, RemoveOptions};
use agent::local_network::ensure_default;
use netd::{Netd, NetdConfig};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use storage::Storage;
use storage::image::ImportOptions;
use tempfile::TempDir;

/// Nothing that a test waits for takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

static HOMES: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Home {
    dir: TempDir,
    cgroup_parent: String,
}

/// Runs a test in namespaces of its own, which take its mounts and links with them when they end.
pub(crate) fn at_home(test: impl FnOnce(&Home) + Send + 'static) {
    assert!(nix::unistd::getuid().is_root(), "this test needs root");
    let outcome = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        let number = HOMES.fetch_add(1, Ordering::Relaxed);
        let home = Home {
            dir: tempfile::tempdir().unwrap(),
            cgroup_parent: format!("shoal-test-{}-{number}", std::process::id()),
        };
        test(&home);
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Home {
    /// Opens an engine and runs `life` with it. Afterwards everything in this process is torn down as by a kill: no
    /// destructor of the engine runs, and containers live on.
    pub(crate) fn agent<F: Future<Output = ()>>(&self, life: impl FnOnce(Arc<Engine>) -> F) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let engine = self.open().await;
            tokio::time::timeout(PATIENCE, life(engine))
                .await
                .expect("the test ends in time");
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    }

    async fn open(&self) -> Arc<Engine> {
        let (root, run_dir) = (self.path("root"), self.path("run"));
        std::fs::create_dir_all(&run_dir).unwrap();
        let storage = Storage::open(&root.join("storage")).unwrap();
        if storage.images().list().unwrap().is_empty() {
            import_busybox(&storage);
        }
        let network = NetdConfig {
            state_dir: root.join("netd"),
            run_dir: run_dir.clone(),
            instance: self.cgroup_parent.clone(),
            upstreams: Some(Vec::new()),
            ..NetdConfig::default()
        };
        let netd = Netd::open(network).await.unwrap();
        ensure_default(&netd).await.unwrap();
        let config = EngineConfig {
            root,
            run_dir,
            runtime_bin: runtime(),
            cgroup_parent: self.cgroup_parent.clone(),
            storage,
            netd,
        };
        Engine::open(config).await.unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What containers leave behind if something is forgotten: directories, namespaces, cgroups.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let dirs = [
            "root/containers",
            "root/storage/snapshots",
            "run/containers",
            "run/runtime",
            "run/files",
        ];
        let mut left: Vec<PathBuf> = dirs.iter().flat_map(|dir| entries(&self.path(dir))).collect();
        left.extend(
            entries(&self.path("run/netns"))
                .into_iter()
                .filter(|path| !path.ends_with("fabric")),
        );
        let groups = self.cgroups().into_iter().flat_map(|group| entries(&group));
        left.extend(groups.filter(|path| path.is_dir()));
        left
    }

    /// This home's parent cgroup in every hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = entries(Path::new("/sys/fs/cgroup"))
            .into_iter()
            .chain([PathBuf::from("/sys/fs/cgroup")]);
        hierarchies
            .map(|hierarchy| hierarchy.join(&self.cgroup_parent))
            .filter(|group| group.is_dir())
            .collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for state in entries(&self.path("run/runtime")) {
            let id = state.file_name().unwrap_or_default();
            let state_dir = self.path("run/runtime");
            let _ = Command::new(runtime())
                .arg("--root")
                .arg(state_dir)
                .args(["delete", "--force"])
                .arg(id)
                .output();
        }
        for group in self.cgroups() {
            let _ = std::fs::remove_dir(group);
        }
        let mounted = entries(&self.path("run/netns")).into_iter();
        for place in mounted.chain([self.path("run/files")]) {
            let _ = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// The runtime that was built beside the agent.
fn runtime() -> PathBuf {
    let runtime = Path::new(env!("CARGO_BIN_EXE_agent")).with_file_name("runtime");
    assert!(
        runtime.exists(),
        "build the runtime first: {} is missing",
        runtime.display()
    );
    runtime
}

/// The image `bb`: busybox with its applets, two users, and a directory to copy up.
fn import_busybox(storage: &Storage) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    };
    add(
        "bin/busybox",
        0o755,
        &std::fs::read("/bin/busybox").expect("busybox-static is installed"),
    );
    add(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n",
    );
    add("etc/group", 0o644, b"root:x:0:\nwheel:x:10:app\n");
    add("data/seed", 0o600, b"from the image\n");
    for directory in ["tmp/", "root/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o1777);
        header.set_size(0);
        tar.append_data(&mut header, directory, std::io::empty()).unwrap();
    }
    for applet in [
        "sh", "cat", "echo", "sleep", "true", "false", "id", "test", "touch", "stat", "ls",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    let archive = tar.into_inner().unwrap();
    let options = ImportOptions {
        reference: Some("bb".parse().unwrap()),
        ..Default::default()
    };
    storage
        .images()
        .import(&mut archive.as_slice(), &options)
        .unwrap();
}

/// A container named `name` that runs a shell line.
pub(crate) fn shell(name: &str, line: &str) -> CreateContainer {
    CreateContainer {
        name: Some(name.into()),
        config: ContainerConfig {
            image: "bb".into(),
            cmd: Some(vec!["sh".into(), "-c".into(), line.into()]),
            ..Default::default()
        },
        host_config: HostConfig {
            network_mode: "none".into(),
            ..Default::default()
        },
        ..Default::default()
    }
}

/// Removes a container, running or not.
pub(crate) async fn discard(engine: &Engine, name: &str) {
    engine
        .remove(
            name,
            RemoveOptions {
                force: true,
                volumes: true,
            },
        )
        .await
        .unwrap();
}
