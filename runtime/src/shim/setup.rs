//! From the command line to a created container with a socket beside it.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use rustix::event::epoll::EventFlags;
use serde::Deserialize;
use sys::process::CloseRange;

use super::SOCKET;
use super::config::{Config, ConfigError};
use super::exit::OomCounter;
use super::lease::Lease;
use super::log::{Log, LogError};
use super::poller::{Poller, ProcessKey, Token, Watched};
use super::process::{Holding, Process};
use super::server::{BUFFER, Server};
use super::stdio::Pipes;
use crate::container::{self, ContainerId, CreateRequest, Created, StateDir};

/// The shim dies after everything else, or the end of its container would go unrecorded.
const OWN_OOM_SCORE: i32 = -998;

/// Why there is no container to serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error("detach from the caller")]
    Detach(#[source] io::Error),
    #[error("enter {}", .0.display())]
    Bundle(PathBuf, #[source] io::Error),
    #[error("read {}", .0.display())]
    Spec(PathBuf, #[source] io::Error),
    #[error("parse {}", .0.display())]
    ParseSpec(PathBuf, #[source] serde_json::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("make pipes")]
    Pipes(#[source] io::Error),
    #[error("create container")]
    Create(#[source] container::Error),
    #[error("listen on {}", .0.display())]
    Listen(PathBuf, #[source] io::Error),
    #[error("set the clock of the lease")]
    Lease(#[source] io::Error),
    #[error("watch the container")]
    Watch(#[source] io::Error),
}

/// The parts of config.json that matter to the shim itself.
#[derive(Debug, Deserialize)]
struct Spec {
    process: Option<SpecProcess>,
    linux: Option<SpecLinux>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecProcess {
    oom_score_adj: Option<i32>,
}

#[derive(Debug, Deserialize)]
struct SpecLinux {
    #[serde(default)]
    namespaces: Vec<SpecNamespace>,
}

#[derive(Debug, Deserialize)]
struct SpecNamespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<PathBuf>,
}

/// Creates the container and everything that serves it. On error nothing of it remains.
pub(super) fn prepare(state: &StateDir, bundle: &Path, id: &ContainerId) -> Result<Server, SetupError> {
    detach().map_err(SetupError::Detach)?;
    let state =
        StateDir(std::path::absolute(&state.0).map_err(|error| SetupError::Bundle(state.0.clone(), error))?);
    let bundle = enter(bundle).map_err(|error| SetupError::Bundle(bundle.to_owned(), error))?;
    let config = Config::load(&bundle, id.as_str())?;
    let spec = Spec::load(&bundle)?;
    let log = Log::open(&config.log)?;
    let poller = Poller::new().map_err(SetupError::Watch)?;
    let (stdio, pipes) = if config.terminal {
        Pipes::terminal(config.console_size)
    } else {
        Pipes::piped(config.open_stdin).map_err(SetupError::Pipes)?
    };
    // What the container does not set it inherits: that must not be the protection of the agent.
    set_own_oom_score(0);
    let request = CreateRequest {
        id: id.clone(),
        bundle: bundle.clone(),
        rootfs: config.rootfs(),
        stdio,
    };
    let created = container::create(&state, request).map_err(SetupError::Create)?;
    set_own_oom_score(OWN_OOM_SCORE);

    let pid = created.pid;
    let held = listen(&bundle, &poller).and_then(|listener| {
        let lease = config.lease.map(|lease| Lease::begin(&poller, lease)).transpose();
        let lease = lease.map_err(SetupError::Lease)?;
        Ok((listener, lease, hold(&poller, created, pipes, &config)?))
    });
    let (listener, lease, init) = held.inspect_err(|_| discard(&state, id, pid))?;
    Ok(Server {
        state,
        id: id.clone(),
        bundle,
        poller,
        listener: Some(listener),
        processes: BTreeMap::from([(ProcessKey::INIT, init)]),
        clients: BTreeMap::new(),
        log,
        oom: OomCounter::open(pid),
        lease,
        shares_pid_namespace: spec.shares_pid_namespace(),
        oom_score_adj: spec
            .process
            .and_then(|process| process.oom_score_adj)
            .unwrap_or(0),
        buffer: vec![0; BUFFER].into(),
        next_process: ProcessKey::INIT.0 + 1,
        next_client: 0,
    })
}

/// Makes the process independent of its caller: own session, no descriptors but stdio, no death by signals meant for
/// the agent's group or service.
fn detach() -> io::Result<()> {
    // Nothing in this process owns a descriptor yet.
    sys::process::close_range(3, u32::MAX, CloseRange::Now)?;
    sys::signal::outlive(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT])?;
    // It fails for the leader of a process group, who is detached enough.
    let _ = rustix::process::setsid();
    Ok(())
}

fn enter(bundle: &Path) -> io::Result<PathBuf> {
    let bundle = bundle.canonicalize()?;
    std::env::set_current_dir(&bundle)?;
    Ok(bundle)
}

/// Best effort: an unprivileged shim may not lower its score.
fn set_own_oom_score(score: i32) {
    let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
}

/// Replaces what an earlier run of the container has left in the bundle.
fn listen(bundle: &Path, poller: &Poller) -> Result<Watched<UnixListener>, SetupError> {
    let open = || {
        remove_leftovers(bundle)?;
        let listener = UnixListener::bind(SOCKET)?;
        std::fs::set_permissions(SOCKET, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let mut listener = Watched::new(poller, listener, Token::Listener);
        listener.watch(Some(EventFlags::IN))?;
        Ok(listener)
    };
    open().map_err(|error| SetupError::Listen(bundle.join(SOCKET), error))
}

fn remove_leftovers(bundle: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(bundle)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == SOCKET || name == "exit.json" || (name.starts_with("exec-") && name.ends_with(".json")) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn hold(poller: &Poller, created: Created, pipes: Pipes, config: &Config) -> Result<Process, SetupError> {
    let holding = Holding {
        open_stdin: config.open_stdin,
        ends_input: config.stdin_once,
    };
    Process::adopt(poller, ProcessKey::INIT, created, pipes, holding).map_err(SetupError::Watch)
}

/// Undoes the creation; that it has to be undone is the error to report.
fn discard(state: &StateDir, id: &ContainerId, pid: Pid) {
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(pid, None);
    let _ = container::delete(state, id, true);
}

impl Spec {
    fn load(bundle: &Path) -> Result<Self, SetupError> {
        let path = bundle.join("config.json");
        let text = std::fs::read(&path).map_err(|error| SetupError::Spec(path.clone(), error))?;
        serde_json::from_slice(&text).map_err(|error| SetupError::ParseSpec(path, error))
    }

    /// Whether the container has no PID namespace that ends with its init.
    fn shares_pid_namespace(&self) -> bool {
        let namespaces = self.linux.as_ref().map_or(&[][..], |linux| &linux.namespaces);
        !namespaces
            .iter()
            .any(|namespace| namespace.kind == "pid" && namespace.path.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pid_namespace_of_its_own_dies_with_init() {
        let shares = |json: &str| serde_json::from_str::<Spec>(json).unwrap().shares_pid_namespace();
        assert!(!shares(
            r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]},"root":{}}"#
        ));
        assert!(shares(
            r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#
        ));
        assert!(shares(r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#));
        assert!(shares(r#"{"ociVersion":"1.0.2"}"#));
    }

    #[test]
    fn leftovers_of_an_earlier_run_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "exit.json",
            "exec-1.json",
            "config.json",
            "shim.json",
            "executable",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove_leftovers(dir.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["config.json", "executable", "shim.json"]);
    }
}
