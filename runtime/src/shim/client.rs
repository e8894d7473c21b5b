//! A connection to the shim's socket.

use std::io::{self, ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::outbox::Outbox;
use super::poller::{ClientKey, Poller, ProcessKey, Token, Watched};
use super::protocol::{Failure, MAX_REQUEST, Stream, frame_header};

/// How long a connection that has everything but what is queued may take nothing. It holds up only the shim itself.
const LINGER: Duration = Duration::from_secs(30);

/// What a client is there for.
#[derive(Debug)]
pub(super) enum Role {
    /// Its request has not come completely.
    Asking {
        line: Vec<u8>,
    },
    /// It gets its answer when `process` has ended.
    Waiting {
        process: ProcessKey,
        answer: Answer,
    },
    Attached(Attachment),
    /// It is closed once everything is sent.
    Leaving,
}

/// What to say when a process has ended.
#[derive(Debug)]
pub(super) enum Answer {
    /// How it ended.
    Record,
    /// Why it was not started.
    Failure(Failure),
    /// Just that it is so.
    Done,
}

/// The streams that an attached client has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment {
    pub(super) process: ProcessKey,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Attachment {
    fn wants(self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

/// What reading from a client brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes(usize),
    NothingYet,
    End,
}

/// How far a request has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Incomplete,
    TooLong,
    /// `rest` is what came after the line.
    Complete {
        line: Vec<u8>,
        rest: Vec<u8>,
    },
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) role: Role,
    stream: Watched<UnixStream>,
    outbox: Outbox,
    /// It has half-closed: nothing more will come.
    ended: bool,
}

impl Client {
    pub(super) fn accept(poller: &Poller, key: ClientKey, stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut client = Self {
            role: Role::Asking { line: Vec::new() },
            stream: Watched::new(poller, stream, Token::Client(key)),
            outbox: Outbox::new(Instant::now()),
            ended: false,
        };
        client.refresh(false)?;
        Ok(client)
    }

    /// The attachment to `process`, if that is what the client has.
    pub(super) fn attachment(&self, process: ProcessKey) -> Option<Attachment> {
        match self.role {
            Role::Attached(attachment) if attachment.process == process => Some(attachment),
            _ => None,
        }
    }

    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Received {
        match self.stream.fd().read(buffer) {
            Ok(0) => {
                self.ended = true;
                Received::End
            }
            Ok(count) => Received::Bytes(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Received::NothingYet
            }
            Err(_) => {
                self.ended = true;
                Received::End
            }
        }
    }

    /// Adds to the request.
    pub(super) fn add_to_request(&mut self, bytes: &[u8]) -> Asked {
        let Role::Asking { line } = &mut self.role else {
            return Asked::Incomplete;
        };
        line.extend_from_slice(bytes);
        match memchr::memchr(b'\n', line) {
            Some(end) => {
                let rest = line.split_off(end + 1);
                Asked::Complete {
                    line: std::mem::take(line),
                    rest,
                }
            }
            None if line.len() > MAX_REQUEST => Asked::TooLong,
            None => Asked::Incomplete,
        }
    }

    /// Sends an answer.
    pub(super) fn say(&mut self, line: &[u8]) -> io::Result<()> {
        self.outbox.send(self.stream.fd(), &[line], Instant::now())
    }

    /// Sends output, if the client wants that stream.
    pub(super) fn show(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        match self.role {
            Role::Attached(attachment) if attachment.wants(stream) => {
                let header = frame_header(stream, bytes.len());
                self.outbox
                    .send(self.stream.fd(), &[&header, bytes], Instant::now())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.outbox.flush(self.stream.fd(), Instant::now())
    }

    pub(super) fn is_congested(&self) -> bool {
        self.outbox.is_congested()
    }

    /// Whether there is nothing left to do for it.
    pub(super) fn is_done(&self) -> bool {
        let finished = match self.role {
            Role::Leaving => true,
            Role::Asking { .. } => self.ended,
            Role::Waiting { .. } | Role::Attached(_) => false,
        };
        finished && self.outbox.is_empty()
    }

    /// When to give it up, if it takes nothing until then.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.role {
            Role::Leaving => self.outbox.deadline(LINGER),
            _ if self.is_congested() => self.outbox.deadline(super::outbox::PATIENCE),
            _ => None,
        }
    }

    /// Waits for what matters now; `input_is_full`: its process takes no more input at present.
    pub(super) fn refresh(&mut self, input_is_full: bool) -> io::Result<()> {
        let reads = match self.role {
            Role::Asking { .. } | Role::Waiting { .. } => true,
            Role::Attached(attachment) => attachment.stdin && !input_is_full,
            Role::Leaving => false,
        };
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, reads && !self.ended);
        interest.set(EventFlags::OUT, !self.outbox.is_empty());
        self.stream.watch(Some(interest))
    }
}
