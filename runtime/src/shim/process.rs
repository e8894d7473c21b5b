//! A process that the shim is the parent of: the container's init or an exec.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::unistd::Pid;
use rustix::event::epoll::EventFlags;

use super::clock::{NEVER, Stamp};
use super::exit::Status;
use super::poller::{Poller, ProcessKey, Token, Watched};
use super::protocol::{ExitRecord, Failure, Stream};
use super::stdio::{Input, Open, Output, Pipes, duplicate};
use crate::container::Created;
use crate::tty;

/// The life of a process; it only goes forward.
#[derive(Debug)]
pub(super) enum Phase {
    /// An init that waits to be started.
    Created,
    Running,
    /// It is dead, but its output may not have been read to the end.
    Draining {
        status: Status,
        finished: Stamp,
        until: Instant,
    },
    /// All is known, and on disk.
    Ended(ExitRecord),
}

/// A process with our ends of its stdio.
#[derive(Debug)]
pub(super) struct Process {
    /// The exec's id; `None` for init.
    pub(super) name: Option<String>,
    pub(super) pid: Pid,
    pub(super) phase: Phase,
    pub(super) started: Option<Stamp>,
    /// Why the payload could not be executed.
    pub(super) failure: Option<Failure>,
    /// Whether there is anything to attach to.
    pub(super) is_attachable: bool,
    pub(super) outputs: Vec<Output>,
    pub(super) input: Option<Input>,
    /// Whether the end of a client's input is the end of the process's.
    ends_input: bool,
    /// Gone when the process is.
    pidfd: Option<Watched<OwnedFd>>,
    terminal: Option<OwnedFd>,
}

/// How a process is to be held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    pub(super) open_stdin: bool,
    /// See [`Process::client_ended_input`].
    pub(super) ends_input: bool,
}

impl Process {
    /// Takes charge of a process that was just made.
    pub(super) fn adopt(
        poller: &Poller,
        key: ProcessKey,
        created: Created,
        mut pipes: Pipes,
        holding: Holding,
    ) -> io::Result<Self> {
        if let Some(terminal) = &created.terminal {
            pipes.outputs.push((Stream::Stdout, duplicate(terminal)?));
            pipes.stdin = holding.open_stdin.then(|| duplicate(terminal)).transpose()?;
        }
        let output = |(stream, fd)| Output::new(poller, key, stream, fd);
        let outputs: Vec<Output> = pipes.outputs.into_iter().map(output).collect::<io::Result<_>>()?;
        let mut pidfd = Watched::new(poller, created.pidfd, Token::Exit(key));
        pidfd.watch(Some(EventFlags::IN))?;
        Ok(Self {
            name: None,
            pid: created.pid,
            phase: Phase::Created,
            started: None,
            failure: None,
            is_attachable: !outputs.is_empty(),
            outputs,
            input: pipes.stdin.map(|fd| Input::new(poller, key, fd)).transpose()?,
            ends_input: holding.ends_input && created.terminal.is_none(),
            pidfd: Some(pidfd),
            terminal: created.terminal,
        })
    }

    /// Sends a signal to this process alone.
    ///
    /// # Errors
    /// `ESRCH` if it is dead.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        let pidfd = self.pidfd.as_ref().ok_or(rustix::io::Errno::SRCH)?;
        sys::process::pidfd_send_signal(pidfd.fd(), signal)
    }

    pub(super) fn resize(&self, rows: u16, cols: u16) -> Option<io::Result<()>> {
        Some(tty::resize(self.terminal.as_ref()?.as_fd(), rows, cols))
    }

    pub(super) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Created | Phase::Running)
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// The process is dead; its output remains to be read, but not for longer than `until`.
    pub(super) fn drain(&mut self, status: Status, until: Instant) {
        self.phase = Phase::Draining {
            status,
            finished: Stamp::now(),
            until,
        };
        self.input = None;
        self.pidfd = None;
    }

    /// Whether nothing more is to be expected of a dead process.
    pub(super) fn is_drained(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Draining { until, .. } => self.outputs.is_empty() || until <= now,
            _ => false,
        }
    }

    /// Gives input to the process; what it does not want any more is lost, as in a pipe.
    pub(super) fn write_input(&mut self, bytes: &[u8]) {
        self.with_input(|input| input.write(bytes));
    }

    /// A client half-closed its connection.
    pub(super) fn client_ended_input(&mut self) {
        if self.ends_input {
            self.end_input();
        }
    }

    pub(super) fn end_input(&mut self) {
        self.with_input(Input::end);
    }

    pub(super) fn flush_input(&mut self) {
        self.with_input(Input::flush);
    }

    /// Whether clients should not be read for now.
    pub(super) fn input_is_full(&self) -> bool {
        self.input.as_ref().is_some_and(Input::is_full)
    }

    /// Holds the process back while a client cannot keep up. Nobody holds back what a dead process has left.
    pub(super) fn hold_back(&mut self, congested: bool) {
        let paused = congested && self.is_alive();
        self.outputs.retain_mut(|output| output.pause(paused).is_ok());
    }

    /// The record of a drained process.
    pub(super) fn exit_record(&self, oom_killed: bool) -> Option<ExitRecord> {
        let Phase::Draining { status, finished, .. } = &self.phase else {
            return None;
        };
        let failure = self.failure.as_ref();
        let failed_code = failure.and_then(|failure| failure.code);
        Some(ExitRecord {
            exit_code: failed_code.unwrap_or(status.code()),
            signal: status.signal().filter(|_| failure.is_none()),
            oom_killed,
            started_at: self.started.as_ref().map_or(NEVER, Stamp::as_str).to_owned(),
            finished_at: finished.as_str().to_owned(),
            error: failure.map(|failure| failure.message.clone()),
        })
    }

    /// The last word: everything but the record is let go.
    pub(super) fn end(&mut self, record: ExitRecord) {
        self.outputs.clear();
        self.terminal = None;
        self.phase = Phase::Ended(record);
    }

    fn with_input(&mut self, act: impl FnOnce(&mut Input) -> Open) {
        if let Some(input) = &mut self.input
            && act(input) == Open::No
        {
            self.input = None;
        }
    }
}
