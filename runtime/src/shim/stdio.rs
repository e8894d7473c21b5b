//! Our ends of a process's stdin, stdout and stderr.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::poller::{Poller, ProcessKey, Token, Watched};
use super::protocol::Stream;
use crate::container::Stdio;

/// Input that the process has not taken is kept up to this size; beyond it, clients are not read.
const INPUT_LIMIT: usize = 64 * 1024;

/// Our sides of the stdio of a process that is about to be made.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) outputs: Vec<(Stream, OwnedFd)>,
}

impl Pipes {
    /// A pipe for each stream; stdin only if it is wanted, else /dev/null.
    pub(super) fn piped(open_stdin: bool) -> io::Result<(Stdio, Self)> {
        let (stdin, ours) = if open_stdin {
            let (reader, writer) = pipe()?;
            (reader, Some(writer))
        } else {
            (null()?, None)
        };
        let (out_reader, stdout) = pipe()?;
        let (err_reader, stderr) = pipe()?;
        let outputs = vec![(Stream::Stdout, out_reader), (Stream::Stderr, err_reader)];
        Ok((
            Stdio::Fds {
                stdin,
                stdout,
                stderr,
            },
            Self { stdin: ours, outputs },
        ))
    }

    /// Nothing at all: for a process whose output nobody will ever want.
    pub(super) fn null() -> io::Result<(Stdio, Self)> {
        let theirs = Stdio::Fds {
            stdin: null()?,
            stdout: null()?,
            stderr: null()?,
        };
        Ok((theirs, Self::default()))
    }

    /// A terminal; our side of it comes with the process.
    pub(super) fn terminal(size: Option<(u16, u16)>) -> (Stdio, Self) {
        (Stdio::Terminal { size }, Self::default())
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fcntl_setfl(
        fd,
        rustix::fs::fcntl_getfl(fd)? | OFlags::NONBLOCK,
    )?)
}

/// What reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    NothingYet,
    /// Every holder of the other end has closed it.
    End,
}

/// The reading end of stdout or stderr, or a terminal's master.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stream: Stream,
    fd: Watched<OwnedFd>,
}

impl Output {
    pub(super) fn new(poller: &Poller, key: ProcessKey, stream: Stream, fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        let mut fd = Watched::new(poller, fd, Token::Output(key, stream));
        fd.watch(Some(EventFlags::IN))?;
        Ok(Self { stream, fd })
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> Read {
        loop {
            return match rustix::io::read(self.fd.fd(), &mut *buffer) {
                Ok(0) => Read::End,
                Ok(count) => Read::Bytes(count),
                Err(Errno::AGAIN) => Read::NothingYet,
                Err(Errno::INTR) => continue,
                // A terminal without slaves says EIO; nothing else can be expected of a broken end either.
                Err(_) => Read::End,
            };
        }
    }

    /// Stops or resumes being told of output. A paused end is not watched at all, as its hang-up would be reported
    /// over and over.
    pub(super) fn pause(&mut self, paused: bool) -> io::Result<()> {
        self.fd.watch((!paused).then_some(EventFlags::IN))
    }
}

/// The writing end of stdin, or a terminal's master.
#[derive(Debug)]
pub(super) struct Input {
    fd: Watched<OwnedFd>,
    pending: Vec<u8>,
    /// Close when `pending` is empty.
    ending: bool,
}

/// Whether more can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    Yes,
    /// The reader is gone, or the end that was asked for has been reached: drop it.
    No,
}

impl Input {
    pub(super) fn new(poller: &Poller, key: ProcessKey, fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self {
            fd: Watched::new(poller, fd, Token::Input(key)),
            pending: Vec::new(),
            ending: false,
        })
    }

    /// Queues bytes and writes what the process takes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Open {
        if !self.ending {
            self.pending.extend_from_slice(bytes);
        }
        self.flush()
    }

    /// No more input after what is queued.
    pub(super) fn end(&mut self) -> Open {
        self.ending = true;
        self.flush()
    }

    /// Whether clients should be held back.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= INPUT_LIMIT
    }

    pub(super) fn flush(&mut self) -> Open {
        let mut written = 0;
        while written < self.pending.len() {
            match rustix::io::write(self.fd.fd(), &self.pending[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Open::No,
            }
        }
        self.pending.drain(..written);
        if self.pending.is_empty() {
            self.pending = Vec::new();
            if self.ending {
                return Open::No;
            }
        }
        let interest = (!self.pending.is_empty()).then_some(EventFlags::OUT);
        if self.fd.watch(interest).is_ok() {
            Open::Yes
        } else {
            Open::No
        }
    }
}

/// A second descriptor for a terminal's master: one reads, the other writes, and each has its own place in epoll.
pub(super) fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
