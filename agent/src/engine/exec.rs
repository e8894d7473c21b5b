//! Further processes in a running container: `exec` of the API, and the common part that health probes use too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::future::ready;
use futures::stream;
use storage::RootFd;
use tokio::task::JoinHandle;

use super::attach::live;
use super::container::{Container, lock};
use super::error::{EngineError, Result};
use super::id::{ContainerId, ExecId};
use super::request::{AttachStream, OutputChunk, StdStream};
use super::shim::{self, Connection, ExitWait};
use super::state::Status;
use super::users::Accounts;
use super::{Engine, blocking, spec};
use crate::api::types::exec::{ExecConfig, ExecInspect, ExecProcess, ExecStart};

/// Ended execs remembered per container, as many as the shim remembers.
const REMEMBERED: usize = 32;

/// All execs of the node. They are not durable: an exec is gone with the agent that made it.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<BTreeMap<String, Arc<Exec>>>);

#[derive(Debug)]
struct Exec {
    id: ExecId,
    container: Arc<Container>,
    config: ExecConfig,
    progress: Mutex<Progress>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    started: bool,
    running: bool,
    pid: i32,
    exit_code: Option<i32>,
}

/// A process that was just run, and how to hear of its end.
pub(crate) struct Executed {
    pub(crate) connection: Connection,
    pub(crate) pid: i32,
    pub(crate) exit: ExitWait,
}

impl Execs {
    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        lock(&self.0)
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::NoSuchExec(id.to_owned()))
    }

    fn insert(&self, exec: Arc<Exec>) {
        let mut all = lock(&self.0);
        let of_container = all
            .values()
            .filter(|other| other.container.id == exec.container.id);
        let ended: Vec<String> = of_container
            .filter(|other| lock(&other.progress).exit_code.is_some())
            .map(|other| other.id.to_string())
            .collect();
        for id in ended.iter().take(ended.len().saturating_sub(REMEMBERED)) {
            all.remove(id);
        }
        all.insert(exec.id.to_string(), exec);
    }

    fn of(&self, container: &ContainerId) -> Vec<String> {
        let all = lock(&self.0);
        all.values()
            .filter(|exec| exec.container.id == *container)
            .map(|exec| exec.id.to_string())
            .collect()
    }
}

impl Engine {
    /// Prepares a process in a running container.
    ///
    /// # Errors
    /// No command, or a container that does not run.
    pub async fn exec_create(&self, name: &str, config: ExecConfig) -> Result<ExecId> {
        let container = self.registry.find(name)?;
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(EngineError::Invalid("No exec command specified".into()));
        }
        check_running(&container)?;
        let id = ExecId::random();
        self.announce_exec(&container, "exec_create: ", &id, &config);
        let progress = Mutex::default();
        self.execs.insert(Arc::new(Exec {
            id: id.clone(),
            container,
            config,
            progress,
        }));
        Ok(id)
    }

    /// Runs a prepared process; `None` when detached.
    ///
    /// # Errors
    /// It was run before, its container does not run, or it cannot be executed.
    pub async fn exec_start(self: &Arc<Self>, exec: &str, start: ExecStart) -> Result<Option<AttachStream>> {
        let exec = self.execs.find(exec)?;
        check_running(&exec.container)?;
        {
            let mut progress = lock(&exec.progress);
            if progress.started {
                return Err(EngineError::Conflict(format!(
                    "Error: Exec command {} has already run",
                    exec.id
                )));
            }
            progress.started = true;
        }
        let mut config = exec.config.clone();
        config.console_size = start.console_size.or(config.console_size);
        let executed = self
            .execute(&exec.container, &exec.id, &config, !start.detach)
            .await;
        let Executed {
            connection,
            pid,
            exit,
        } = match executed {
            Ok(executed) => executed,
            Err(error) => {
                let code = shim::refusal(&error)
                    .and_then(|refusal| refusal.code)
                    .unwrap_or(126);
                *lock(&exec.progress) = Progress {
                    started: true,
                    exit_code: Some(code),
                    ..Default::default()
                };
                return could_not_execute(error, config.tty, start.detach);
            }
        };
        *lock(&exec.progress) = Progress {
            started: true,
            running: true,
            pid,
            exit_code: None,
        };
        self.announce_exec(&exec.container, "exec_start: ", &exec.id, &exec.config);
        let recorded = self.follow_exec(exec.clone(), exit);
        if start.detach {
            return Ok(None);
        }
        let mut attached = wanted_streams(live(connection, config.tty, config.attach_stdin), &config);
        // Clients read the exit code as soon as the output ends (Docker API, exec inspect): it must be there by then.
        let recorded = futures::stream::once(recorded).filter_map(|_| async { None });
        attached.output = attached.output.chain(recorded).boxed();
        Ok(Some(attached))
    }

    /// Runs a process in a container through its shim.
    pub(crate) async fn execute(
        &self,
        container: &Container,
        id: &ExecId,
        config: &ExecConfig,
        attach: bool,
    ) -> Result<Executed> {
        let record = container.record();
        let user = if config.user.is_empty() {
            record.config.user.clone()
        } else {
            config.user.clone()
        };
        let groups = record.host_config.group_add.clone();
        let root = PathBuf::from(format!("/proc/{}/root", record.state.pid));
        let identity = blocking(move || {
            // The container's own view of its root; every path below it is resolved inside (`RootFd`).
            let root = RootFd::open_host(&root).map_err(EngineError::storage("open the container's root"))?;
            Accounts::read(&root)?.resolve(&user, &groups)
        })
        .await?;
        let hostname = spec::hostname(&record, &self.host_name);
        let process = spec::exec_process(&record, config, &identity, &hostname)?;
        let shim = container.shim();
        let (connection, pid) = shim
            .exec(id.as_str(), process, config.attach_stdin, attach)
            .await?;
        let exit = shim.wait(Some(id.as_str())).await?;
        Ok(Executed {
            connection,
            pid,
            exit,
        })
    }

    /// Records the exit code when it comes; ends once it has.
    fn follow_exec(self: &Arc<Self>, exec: Arc<Exec>, exit: ExitWait) -> JoinHandle<()> {
        let engine = self.clone();
        tokio::spawn(async move {
            // Without a report the container has ended and taken the process with it.
            let code = exit.exit().await.map_or(137, |report| report.exit_code);
            *lock(&exec.progress) = Progress {
                started: true,
                running: false,
                pid: 0,
                exit_code: Some(code),
            };
            let extra = [("execID", exec.id.to_string()), ("exitCode", code.to_string())];
            engine.announce(&exec.container.record(), "exec_die", &extra);
        })
    }

    /// Everything about one exec.
    ///
    /// # Errors
    /// No such exec.
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecInspect> {
        let exec = self.execs.find(exec)?;
        let progress = *lock(&exec.progress);
        let mut words = exec.config.cmd.clone().unwrap_or_default().into_iter();
        Ok(ExecInspect {
            id: exec.id.to_string(),
            running: progress.running,
            exit_code: progress.exit_code.map(i64::from),
            process_config: ExecProcess {
                tty: exec.config.tty,
                entrypoint: words.next().unwrap_or_default(),
                arguments: words.collect(),
                privileged: exec.config.privileged,
                user: exec.config.user.clone(),
            },
            open_stdin: exec.config.attach_stdin,
            open_stderr: exec.config.attach_stderr,
            open_stdout: exec.config.attach_stdout,
            can_remove: false,
            container_id: exec.container.id.to_string(),
            detach_keys: exec.config.detach_keys.clone(),
            pid: i64::from(progress.pid),
        })
    }

    /// Tells an exec's terminal a new size.
    ///
    /// # Errors
    /// No such exec, or it does not run.
    pub async fn exec_resize(&self, exec: &str, rows: u16, cols: u16) -> Result<()> {
        let exec = self.execs.find(exec)?;
        if !lock(&exec.progress).running {
            return Err(EngineError::Conflict(format!("exec {} is not running", exec.id)));
        }
        exec.container
            .shim()
            .resize(Some(exec.id.as_str()), rows, cols)
            .await
    }

    /// Ids of the execs of a container that are known.
    pub(crate) fn execs_of(&self, container: &ContainerId) -> Vec<String> {
        self.execs.of(container)
    }

    pub(crate) fn forget_execs(&self, container: &ContainerId) {
        lock(&self.execs.0).retain(|_, exec| exec.container.id != *container);
    }

    fn announce_exec(&self, container: &Container, action: &str, id: &ExecId, config: &ExecConfig) {
        let words = config.cmd.clone().unwrap_or_default().join(" ");
        self.announce(
            &container.record(),
            &format!("{action}{words}"),
            &[("execID", id.to_string())],
        );
    }
}

fn check_running(container: &Container) -> Result<()> {
    match container.state().status {
        Status::Running => Ok(()),
        Status::Restarting => Err(EngineError::Conflict(format!(
            "Container {} is restarting, wait until the container is running",
            container.id
        ))),
        _ => Err(EngineError::Conflict(format!(
            "container {} is not running",
            container.id
        ))),
    }
}

/// An attached client reads why on its stream, as with Docker, and then asks for the exit code.
fn could_not_execute(error: EngineError, tty: bool, detach: bool) -> Result<Option<AttachStream>> {
    match shim::refusal(&error).filter(|refusal| refusal.code.is_some()) {
        None => Err(error),
        Some(refusal) if detach => Err(EngineError::Invalid(format!(
            "OCI runtime exec failed: {}",
            refusal.message
        ))),
        Some(refusal) => {
            let text = format!("OCI runtime exec failed: {}\r\n", refusal.message);
            let said = OutputChunk {
                stream: StdStream::Stdout,
                bytes: text.into(),
            };
            Ok(Some(AttachStream {
                tty,
                output: stream::once(ready(said)).boxed(),
                input: None,
            }))
        }
    }
}

fn wanted_streams(stream: AttachStream, config: &ExecConfig) -> AttachStream {
    let (stdout, stderr) = (config.attach_stdout, config.attach_stderr);
    let wanted = move |stream: StdStream| match stream {
        StdStream::Stdout => stdout,
        StdStream::Stderr => stderr,
    };
    let output = stream.output.filter(move |chunk| ready(wanted(chunk.stream)));
    AttachStream {
        output: output.boxed(),
        ..stream
    }
}
