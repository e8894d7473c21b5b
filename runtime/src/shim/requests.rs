//! What a request does.

use super::client::{Answer, Attachment, Role};
use super::clock::Stamp;
use super::lease::{self, Lease};
use super::poller::ProcessKey;
use super::process::{Phase, Process};
use super::protocol::{self, Attach, ExecReport, Failure, Request, StateReport, is_exec_id};
use super::server::{Next, Server};
use crate::container::{self, Signal};

/// The exit code that stands for a container that could not be started for other reasons than its program, as in
/// Docker.
const NOT_STARTED: i32 = 128;

impl Server {
    /// Carries out a request.
    pub(super) fn perform(&mut self, request: Request) -> Result<Next, Failure> {
        match request {
            Request::Start {} => self.start(),
            Request::Kill { signal, all, exec } => self.kill(signal, all, exec.as_deref()),
            Request::Resize { exec, rows, cols } => self.resize(exec.as_deref(), rows, cols),
            Request::Exec(spec) => self.exec(*spec),
            Request::Attach(attach) => self.attach(&attach),
            Request::CloseStdin { exec } => self.close_stdin(exec.as_deref()),
            Request::Wait { exec } => self.wait(exec.as_deref()),
            Request::State {} => Ok(Next::Close(protocol::ok(&self.report()))),
            Request::Lease { until } => self.extend_lease(until),
            Request::Shutdown {} => self.shutdown(),
        }
    }

    fn start(&mut self) -> Result<Next, Failure> {
        let init = self.init()?;
        if !matches!(init.phase, Phase::Created) || init.failure.is_some() {
            return Err(Failure::new("container has already been started"));
        }
        if self.lease.as_ref().is_some_and(Lease::is_over) {
            return Err(Failure::new(lease::OVER));
        }
        let started = container::start(&self.state, &self.id);
        let init = self.process(None)?.1;
        match started {
            Ok(()) => {
                init.phase = Phase::Running;
                init.started = Some(Stamp::now());
                Ok(Next::Close(protocol::done()))
            }
            Err(error) => {
                let failure = Failure::from_error(&error, Some(error.exit_code().unwrap_or(NOT_STARTED)));
                init.failure = Some(failure.clone());
                // It exits by itself after a failed exec; a hook's failure leaves it waiting.
                let _ = init.signal(libc::SIGKILL);
                Ok(Next::Stay(
                    Vec::new(),
                    waiting(ProcessKey::INIT, Answer::Failure(failure)),
                ))
            }
        }
    }

    fn kill(&mut self, signal: i32, all: bool, exec: Option<&str>) -> Result<Next, Failure> {
        let Some(number) = Signal::from_raw(signal) else {
            return Err(Failure::new(format!("there is no signal {signal}")));
        };
        if all && exec.is_some() {
            return Err(Failure::new("\"all\" is about the container, not about an exec"));
        }
        if all {
            container::kill(&self.state, &self.id, number, true)
                .map_err(|error| Failure::from_error(&error, None))?;
            return Ok(Next::Close(protocol::done()));
        }
        let process = self.process(exec)?.1;
        if !process.is_alive() {
            return Err(not_running(exec));
        }
        process
            .signal(signal)
            .map_err(|error| Failure::new(format!("send signal {signal}: {error}")))?;
        Ok(Next::Close(protocol::done()))
    }

    fn resize(&mut self, exec: Option<&str>, rows: u16, cols: u16) -> Result<Next, Failure> {
        match self.process(exec)?.1.resize(rows, cols) {
            None => Err(Failure::new("there is no terminal to resize")),
            Some(Err(error)) => Err(Failure::new(format!("resize terminal: {error}"))),
            Some(Ok(())) => Ok(Next::Close(protocol::done())),
        }
    }

    fn attach(&mut self, attach: &Attach) -> Result<Next, Failure> {
        let exec = attach.exec.as_deref();
        let (process, held) = self.process(exec)?;
        if held.has_ended() {
            return Err(not_running(exec));
        }
        if !held.is_attachable {
            return Err(Failure::new(
                "it was started without \"attach\": its output is not kept",
            ));
        }
        let Attach {
            stdin,
            stdout,
            stderr,
            ..
        } = *attach;
        Ok(Next::Stay(
            protocol::done(),
            Role::Attached(Attachment {
                process,
                stdin,
                stdout,
                stderr,
            }),
        ))
    }

    fn close_stdin(&mut self, exec: Option<&str>) -> Result<Next, Failure> {
        let process = self.process(exec)?.1;
        if process.has_terminal() {
            return Err(Failure::new("the input of a terminal cannot be closed"));
        }
        process.end_input();
        Ok(Next::Close(protocol::done()))
    }

    fn wait(&mut self, exec: Option<&str>) -> Result<Next, Failure> {
        let (key, process) = self.process(exec)?;
        match &process.phase {
            Phase::Ended(record) => Ok(Next::Close(protocol::ok(record))),
            _ => Ok(Next::Stay(Vec::new(), waiting(key, Answer::Record))),
        }
    }

    fn shutdown(&mut self) -> Result<Next, Failure> {
        let init = self.init()?;
        match init.phase {
            Phase::Running => return Err(Failure::new("container is running")),
            // It may be dead already, which is what is wanted.
            Phase::Created => drop(init.signal(libc::SIGKILL)),
            Phase::Draining { .. } => {}
            Phase::Ended(_) => return Ok(Next::Close(protocol::done())),
        }
        Ok(Next::Stay(Vec::new(), waiting(ProcessKey::INIT, Answer::Done)))
    }

    fn report(&self) -> StateReport {
        let status = match self.processes.get(&ProcessKey::INIT).map(|init| &init.phase) {
            Some(Phase::Created) => "created",
            Some(Phase::Running) => "running",
            Some(Phase::Draining { .. } | Phase::Ended(_)) | None => "stopped",
        };
        let execs = self.processes.values().filter_map(exec_report).collect();
        StateReport {
            status,
            pid: self.init_pid(),
            execs,
        }
    }

    fn init(&self) -> Result<&Process, Failure> {
        self.processes
            .get(&ProcessKey::INIT)
            .ok_or_else(|| not_running(None))
    }

    /// The container's init, or the exec of that id.
    fn process(&mut self, exec: Option<&str>) -> Result<(ProcessKey, &mut Process), Failure> {
        let mut processes = self.processes.iter_mut();
        let found = processes.find(|(_, process)| process.name.as_deref() == exec);
        let (key, process) = found.ok_or_else(|| {
            Failure::new(match exec {
                Some(id) if is_exec_id(id) => format!("no such exec: {id}"),
                _ => "no such exec".to_owned(),
            })
        })?;
        Ok((*key, process))
    }
}

fn waiting(process: ProcessKey, answer: Answer) -> Role {
    Role::Waiting { process, answer }
}

fn not_running(exec: Option<&str>) -> Failure {
    Failure::new(match exec {
        Some(id) => format!("exec {id} is not running"),
        None => "container is not running".to_owned(),
    })
}

fn exec_report(process: &Process) -> Option<ExecReport> {
    let exit_code = match &process.phase {
        Phase::Draining { status, .. } => Some(status.code()),
        Phase::Ended(record) => Some(record.exit_code),
        Phase::Created | Phase::Running => None,
    };
    let id = process.name.clone()?;
    Some(ExecReport {
        id,
        pid: process.pid.as_raw(),
        running: process.is_alive(),
        exit_code,
    })
}
