//! Staying in the foreground with a process: signals go to it, its terminal is shown on ours, its exit code is ours.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use sys::process::pidfd_send_signal;

use crate::tty;

/// All signals, to be read instead of taken. The children that are forked meanwhile start with none blocked.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks every signal that can be.
    pub(super) fn block() -> anyhow::Result<Self> {
        let all = SigSet::all();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), None).context("block signals")?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("make a signalfd")?;
        Ok(Self(fd))
    }

    /// Passes on what has arrived.
    fn forward(&self, pidfd: &OwnedFd, terminal: Option<&OwnedFd>) -> anyhow::Result<()> {
        while let Some(info) = self.0.read_signal().context("read a signal")? {
            match i32::try_from(info.ssi_signo).unwrap_or(0) {
                libc::SIGWINCH if terminal.is_some() => {
                    if let (Some(terminal), Some((rows, cols))) = (terminal, window_size()) {
                        tty::resize(terminal.as_fd(), rows, cols).context("resize the terminal")?;
                    }
                }
                // Our own child's end is read from its pidfd; the others mean our place among jobs, not the container.
                libc::SIGCHLD | libc::SIGTTIN | libc::SIGTTOU | libc::SIGPIPE | libc::SIGURG => {}
                signal => {
                    // It may have just ended, which the next poll tells.
                    let _ = pidfd_send_signal(pidfd, signal);
                }
            }
        }
        Ok(())
    }
}

/// Rows and columns of the terminal that stdin is, if it is one.
pub(super) fn window_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdin()).ok()?;
    (size.ws_row != 0).then_some((size.ws_row, size.ws_col))
}

/// Waits for the process behind `pidfd`, a child, and answers with its exit code; 128 and the signal if one ended it.
pub(super) fn wait(
    signals: &Signals,
    pidfd: &OwnedFd,
    terminal: Option<&OwnedFd>,
) -> anyhow::Result<ExitCode> {
    let _raw = terminal.and_then(|_| RawMode::enter());
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut input_open = terminal.is_some();
    let mut ended = false;
    loop {
        let mut fds = vec![
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.0.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(terminal) = terminal {
            fds.push(PollFd::new(terminal.as_fd(), PollFlags::POLLIN));
            if input_open {
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        // Once the process has ended, only what its terminal still holds is waited for.
        let timeout = if ended {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            polled => polled.context("wait for the process")?,
        };
        let ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
        let (signal, output, input) = (ready(1), ready(2), ready(3));
        ended = ended || ready(0);
        if signal {
            signals.forward(pidfd, terminal)?;
        }
        if let Some(terminal) = terminal {
            if input {
                input_open = copy(stdin.as_fd(), terminal.as_fd())?;
            }
            // EIO is the end of file of a master whose slaves are all closed.
            if output && copy(terminal.as_fd(), stdout.as_fd()).unwrap_or(false) {
                continue;
            }
        }
        if ended {
            return exit_code(pidfd);
        }
    }
}

/// One buffer's worth; `false` at the end of file.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    let length = rustix::io::read(from, &mut buffer)?;
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(to, rest)?..];
    }
    Ok(length > 0)
}

fn exit_code(pidfd: &OwnedFd) -> anyhow::Result<ExitCode> {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).context("reap the process")?;
    let status = status.context("the process has not ended")?;
    let code = status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

/// Our own terminal, passing every key on, until dropped.
struct RawMode(Termios);

impl RawMode {
    /// `None` if stdin is no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is nobody to tell, and nothing else to try.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
