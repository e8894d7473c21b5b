//! `create` and `run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use oci_spec::runtime::Spec;

use super::foreground::{self, Signals};
use super::write_pid_file;
use crate::container::create::{Start, create};
use crate::container::{self, ContainerId, CreateRequest, Created, Rootfs, StateDir, Stdio};
use crate::{spec, tty};

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
struct Common {
    /// Directory with config.json.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Unix socket that receives the master of the container's terminal.
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File that receives the process id.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// JSON file with an overlay (lower, upper, work, options) to mount as the root instead of root.path; it exists in the
    /// container only.
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// The container to create.
    id: ContainerId,
}

/// `create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    common: Common,
}

/// `run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
    /// Return when the process runs.
    #[arg(short, long)]
    detach: bool,
    /// Do not remove the container when it ends.
    #[arg(long)]
    keep: bool,
}

impl Create {
    pub(super) fn execute(&self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let (request, spec) = self.common.request(true)?;
        let created = create(state, request, &spec, Start::Later)?;
        let undo = || container::delete(state, &self.common.id, true);
        self.common.hand_over(&created).inspect_err(|_| drop(undo()))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Run {
    pub(super) fn execute(&self, state: &StateDir) -> anyhow::Result<ExitCode> {
        let (request, spec) = self.common.request(self.detach)?;
        // From here on no signal is lost: each is passed on to the container.
        let signals = if self.detach {
            None
        } else {
            Some(Signals::block()?)
        };
        let created = create(state, request, &spec, Start::Now)?;
        let outcome = self.common.hand_over(&created).and_then(|()| match signals {
            None => Ok(ExitCode::SUCCESS),
            Some(signals) => {
                let terminal = created
                    .terminal
                    .as_ref()
                    .filter(|_| self.common.console_socket.is_none());
                foreground::wait(&signals, &created.pidfd, terminal)
            }
        });
        if outcome.is_err() || !(self.detach || self.keep) {
            container::delete(state, &self.common.id, true)?;
        }
        outcome
    }
}

impl Common {
    /// `far`: nobody here will hold the terminal.
    fn request(&self, far: bool) -> anyhow::Result<(CreateRequest, Spec)> {
        let bundle = std::path::absolute(&self.bundle).context("find the bundle")?;
        let config = spec::load(&bundle).map_err(container::Error::from)?;
        let terminal = config
            .process()
            .as_ref()
            .and_then(|process| process.terminal())
            .unwrap_or(false);
        let size = config
            .process()
            .as_ref()
            .and_then(|process| process.console_size());
        let size = size.map(|size| (size.height(), size.width()));
        let request = CreateRequest {
            id: self.id.clone(),
            bundle,
            rootfs: self.rootfs()?,
            stdio: stdio(terminal, size, far, self.console_socket.as_deref())?,
        };
        Ok((request, config))
    }

    fn rootfs(&self) -> anyhow::Result<Rootfs> {
        let Some(path) = &self.overlay else {
            return Ok(Rootfs::Bundle);
        };
        let bytes = std::fs::read(path).with_context(|| format!("read {path:?}"))?;
        let overlay = serde_json::from_slice(&bytes).with_context(|| format!("parse {path:?}"))?;
        Ok(Rootfs::Overlay(overlay))
    }

    fn hand_over(&self, created: &Created) -> anyhow::Result<()> {
        hand_over(created, self.console_socket.as_deref(), self.pid_file.as_deref())
    }
}

/// Where the stdio of a process goes, and that a terminal has somebody to hold it.
pub(super) fn stdio(
    terminal: bool,
    size: Option<(u64, u64)>,
    far: bool,
    console_socket: Option<&Path>,
) -> anyhow::Result<Stdio> {
    match (terminal, console_socket) {
        (false, Some(_)) => bail!("--console-socket is given, but the process has no terminal"),
        (false, None) => Ok(Stdio::Inherit),
        (true, None) if far => bail!("the process has a terminal: --console-socket is needed"),
        (true, _) => {
            let short = |number: u64| u16::try_from(number).context("process.consoleSize is out of range");
            let size = size
                .map(|(rows, cols)| anyhow::Ok((short(rows)?, short(cols)?)))
                .transpose()?;
            let size = size.or_else(foreground::window_size);
            Ok(Stdio::Terminal { size })
        }
    }
}

/// Sends the terminal where it belongs and writes the process id.
pub(super) fn hand_over(
    created: &Created,
    console_socket: Option<&Path>,
    pid_file: Option<&Path>,
) -> anyhow::Result<()> {
    use std::os::fd::AsFd;
    if let (Some(socket), Some(master)) = (console_socket, &created.terminal) {
        tty::send_master(socket, master.as_fd())
            .with_context(|| format!("send the terminal to {socket:?}"))?;
    }
    pid_file.map_or(Ok(()), |path| write_pid_file(path, created.pid))
}
