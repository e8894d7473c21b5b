//! `agent run`: wires storage, network, engine, manager, worker and API together and waits for a signal.
//!
//! Order of start is order of dependence; stopping the daemon stops no container.

use std::fs;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use netd::{BalancerChoice, Netd, NetdConfig};
use nix::fcntl::{Flock, FlockArg};
use proto::object::PEER_PORT;
use sha2::{Digest, Sha256};
use storage::Storage;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::api::{self, App, AppState};
use crate::cgroup;
use crate::cluster::{Cluster, ClusterConfig, generic};
use crate::engine::{Engine, EngineConfig};
use crate::host::HostFacts;
use crate::local_network::ensure_default;
use crate::open_files;
use crate::peer::{self, Peers};

const DEFAULT_ROOT: &str = "/var/lib/shoal";

/// Flags of `agent run`.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Directory of everything durable
    #[arg(long, default_value = DEFAULT_ROOT, value_name = "DIR")]
    pub root: PathBuf,
    /// Directory of sockets and other state that ends with the boot
    #[arg(long, default_value = "/run/shoal", value_name = "DIR")]
    pub run_dir: PathBuf,
    /// The OCI runtime [default: `runtime` beside this program]
    #[arg(long, value_name = "PATH")]
    pub runtime: Option<PathBuf>,
    /// Advertise user-defined resource: kind=number, or kind=name for each one
    #[arg(long, value_name = "KIND=VALUE")]
    pub node_generic_resource: Vec<String>,
    /// TCP port on which the nodes of a swarm reach each other
    #[arg(long, default_value_t = PEER_PORT, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_port: u16,
    /// How virtual IPs are balanced: ebpf (socket hooks on the containers' cgroup), nftables (packet filters in each
    /// container), or auto: ebpf where the kernel has it
    #[arg(long, default_value = "auto", value_name = "auto|ebpf|nftables")]
    pub balancer: BalancerChoice,
}

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(mut options: RunOptions) -> anyhow::Result<()> {
    set_up_tracing();
    if let Err(error) = open_files::raise() {
        tracing::warn!("raise the limit of open files: {error}");
    }
    // What is mounted and recorded outlives this process and its working directory.
    options.root = std::path::absolute(&options.root).context("find the root directory")?;
    options.run_dir = std::path::absolute(&options.run_dir).context("find the run directory")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(serve(options));
    runtime.shutdown_background();
    outcome
}

async fn serve(options: RunOptions) -> anyhow::Result<()> {
    let _lock = lock(&options)?;
    let app = open(&options).await?;
    let socket = options.run_dir.join("agent.sock");
    let listener = listen(&socket)?;
    app.cluster.peers().serve(Some(peer::routes::router(app.clone())));
    tracing::info!(socket = %socket.display(), "serving the API");
    let outcome = tokio::select! {
        served = axum::serve(listener, api::router(app.clone())) => served.context("serve the API"),
        () = stop_signal() => Ok(()),
    };
    // We still hold the lock: the socket is ours, and nobody answers on it any more.
    let _ = fs::remove_file(&socket);
    app.cluster.peers().serve(None);
    app.cluster.shut_down().await;
    // While containers live their network stays; without any, nothing of ours stays in the host's namespace.
    if let Err(error) = app.netd.shutdown(true).await {
        tracing::warn!("the network did not end cleanly: {error}");
    }
    app.engine.remove_empty_cgroup();
    app.engine.unmount_files();
    outcome
}

/// Opens the rooms in order of dependence. Containers of an earlier agent are found again on the way.
async fn open(options: &RunOptions) -> anyhow::Result<App> {
    let generic_resources = generic::parse(&options.node_generic_resource)?;
    let instance = instance(&options.root);
    let root = options.root.clone();
    let storage = tokio::task::spawn_blocking(move || Storage::open(&root.join("storage"))).await?;
    let storage = storage.context("open the storage")?;
    let network = NetdConfig {
        state_dir: options.root.join("netd"),
        run_dir: options.run_dir.clone(),
        instance: instance.clone(),
        upstreams: None,
        cgroup: cgroup::unified(&instance),
        balancer: options.balancer,
        kept: Engine::kept_sockets(&options.root, &options.run_dir),
    };
    let netd = Netd::open(network).await.context("open the network")?;
    ensure_default(&netd).await.context("make the default network")?;
    let engine = EngineConfig {
        root: options.root.clone(),
        run_dir: options.run_dir.clone(),
        runtime_bin: runtime_binary(options)?,
        cgroup_parent: instance,
        storage: storage.clone(),
        netd: netd.clone(),
    };
    let engine = Engine::open(engine).await.context("open the engine")?;
    let host = HostFacts::read();
    let membership = ClusterConfig {
        state_dir: options.root.join("swarm"),
        host: host.clone(),
        generic_resources,
        engine: engine.clone(),
        netd: netd.clone(),
        peers: Peers::new(options.peer_port),
    };
    let cluster = Cluster::open(membership).await.context("open the swarm")?;
    let (root, run_dir) = (options.root.clone(), options.run_dir.clone());
    Ok(Arc::new(AppState {
        root,
        run_dir,
        storage,
        netd,
        engine,
        cluster,
        host,
    }))
}

/// Name of everything that this agent owns in the kernel: `shoal`, or one of its own for another root.
fn instance(root: &Path) -> String {
    if root == Path::new(DEFAULT_ROOT) {
        return "shoal".into();
    }
    let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
    format!("shoal-{}", hex::encode(&digest[..4]))
}

/// The `runtime` binary: as told, or beside this program.
fn runtime_binary(options: &RunOptions) -> anyhow::Result<PathBuf> {
    if let Some(path) = &options.runtime {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().context("find this program")?;
    Ok(own.with_file_name("runtime"))
}

fn set_up_tracing() {
    let filter = EnvFilter::try_from_env("AGENT_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    // A second subscriber is not an error.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// One daemon per run directory and per root: both carry a locked pid file while it runs.
fn lock(options: &RunOptions) -> anyhow::Result<[Flock<fs::File>; 2]> {
    Ok([
        lock_directory(&options.root, "agent.lock")?,
        lock_directory(&options.run_dir, "agent.pid")?,
    ])
}

fn lock_directory(directory: &Path, name: &str) -> anyhow::Result<Flock<fs::File>> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let path = directory.join(name);
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let Some(lock) = take(file) else {
        bail!(
            "another agent uses {} (its lock is {})",
            directory.display(),
            path.display()
        );
    };
    lock.set_len(0)?;
    writeln!(&*lock, "{}", std::process::id()).with_context(|| format!("write {}", path.display()))?;
    Ok(lock)
}

/// A daemon that was killed holds its lock until the kernel is through with it, so a taken lock is waited for a while.
fn take(file: fs::File) -> Option<Flock<fs::File>> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Some(lock),
        Err((file, _)) => file,
    };
    let (sender, taken) = std::sync::mpsc::channel();
    // If it waits for longer than we do, the process ends and this thread with it.
    std::thread::spawn(move || sender.send(Flock::lock(file, FlockArg::LockExclusive)));
    taken.recv_timeout(PATIENCE).ok()?.ok()
}

fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    // We hold the lock of the directory, so a socket found there belongs to nobody.
    match fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove the stale socket {}", socket.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("set the mode of {}", socket.display()))?;
    Ok(listener)
}

async fn stop_signal() {
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        return std::future::pending().await;
    };
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!("stopping on {name}; containers keep running");
}
