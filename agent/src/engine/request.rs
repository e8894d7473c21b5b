//! What callers of the engine (API handlers, the worker) say to it and get back.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::io::AsyncWrite;

use crate::api::filters::Filters;
use crate::api::types::config::ContainerConfig;
use crate::api::types::host_config::HostConfig;
use crate::api::types::network_settings::NetworkingConfig;
use crate::engine::id::ContainerId;
use crate::engine::state::ExitStatus;

pub use crate::api::stream::StdStream;

/// A container to be made.
#[derive(Debug, Clone, Default)]
pub struct CreateContainer {
    /// Without leading slash; `None`: the engine invents one.
    pub name: Option<String>,
    pub config: ContainerConfig,
    pub host_config: HostConfig,
    pub networking: NetworkingConfig,
    /// Set by the worker: the container belongs to a task; its restarts are the orchestrator's business.
    pub task: Option<TaskRef>,
    /// Secrets and configs: files that exist only in memory and only in this container.
    pub files: Vec<InjectedFile>,
}

/// The swarm task that a container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRef {
    pub task_id: String,
    pub service_id: String,
    pub node_id: String,
    /// Nanoseconds that it may run without word from the managers; `None`: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
}

/// A read-only file bind-mounted into the container; its content is kept under the run directory, never in the record.
#[derive(Clone)]
pub struct InjectedFile {
    /// Absolute path in the container.
    pub target: String,
    pub content: Bytes,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits, for example 0o444.
    pub mode: u32,
}

impl fmt::Debug for InjectedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content may be a secret.
        f.debug_struct("InjectedFile")
            .field("target", &self.target)
            .field("bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub id: ContainerId,
    pub warnings: Vec<String>,
}

/// How to remove.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

/// What a wait waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// Not running now, or the next exit.
    #[default]
    NotRunning,
    /// The next exit, even if it is not running now.
    NextExit,
    /// Until the container is gone.
    Removed,
}

/// Subscribed before it is returned: an exit between the call and the first poll is not missed.
pub type Waiter = BoxFuture<'static, ExitStatus>;

/// What to list; filters as in the API.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Stopped ones too.
    pub all: bool,
    /// The last n created, running or not; 0: no limit.
    pub limit: usize,
    /// Compute sizes (slow).
    pub size: bool,
    pub filters: Filters,
}

/// Which log lines.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
    /// The last n lines; `None`: all.
    pub tail: Option<usize>,
    pub follow: bool,
}

/// One line (or a 16 KiB part of a longer one) of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub stream: StdStream,
    pub time: OffsetDateTime,
    /// With its newline, if it had one.
    pub line: Bytes,
}

/// Log lines in order; ends with the log, or, when following, with the container.
pub type LogStream = BoxStream<'static, LogEntry>;

/// Which ends of a process to attach to.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// One chunk of output; terminals only have stdout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    pub stream: StdStream,
    pub bytes: Bytes,
}

/// The ends of an attached process.
pub struct AttachStream {
    /// The process has a terminal: pass output on raw, without frames.
    pub tty: bool,
    /// Ends when the process has ended and all was read.
    pub output: BoxStream<'static, OutputChunk>,
    /// Shutting it down is end-of-file for the process. `None` if stdin was not asked for or is closed.
    pub input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
}

impl fmt::Debug for AttachStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachStream")
            .field("tty", &self.tty)
            .field("stdin", &self.input.is_some())
            .finish_non_exhaustive()
    }
}

/// Counts for `GET /info`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineInfo {
    pub containers: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
}
