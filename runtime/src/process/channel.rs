//! The channel between the caller and a process that it makes: a pair of sequenced-packet sockets, one message a packet,
//! both ends close-on-exec, so that a successful execve(2) shows as end of file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::Error;

/// Longest message; an error text beyond it is cut.
const MAX_LENGTH: usize = 4096;

/// One message.
#[derive(Debug)]
pub(crate) enum Message {
    /// Caller: the identity maps are written.
    Mapped,
    /// Process: all that can be prepared is; its terminal's master, if it has one.
    Ready(Option<OwnedFd>),
    /// Caller: the container is on record.
    Commit,
    /// Process: it failed and exits with this code.
    Failed {
        /// Exit code.
        code: i32,
        /// Why.
        text: String,
    },
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (left, right) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(left), Self(right)))
    }

    /// The end that a connection from the caller of `start` is.
    pub(crate) fn from_socket(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The number of the descriptor, which the process must keep open.
    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends `message`.
    pub(crate) fn send(&self, message: &Message) -> io::Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
        let mut bytes = Vec::new();
        match message {
            Message::Mapped => bytes.push(b'M'),
            Message::Commit => bytes.push(b'C'),
            Message::Ready(terminal) => {
                bytes.push(b'R');
                fds.extend(terminal.as_ref().map(AsFd::as_fd));
            }
            Message::Failed { code, text } => {
                bytes.push(b'F');
                bytes.extend(code.to_ne_bytes());
                bytes.extend(text.bytes().take(MAX_LENGTH - 5));
            }
        }
        sys::socket::send_with_fds(&self.0, &bytes, &fds).map(drop)
    }

    /// Receives a message; `None` if the other end is closed.
    pub(crate) fn receive(&self) -> io::Result<Option<Message>> {
        let mut buffer = [0; MAX_LENGTH];
        let (length, mut fds) = loop {
            match sys::socket::recv_with_fds(&self.0, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The other end closed with a message of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                received => break received?,
            }
        };
        Ok(match &buffer[..length] {
            [] => None,
            [b'M', ..] => Some(Message::Mapped),
            [b'C', ..] => Some(Message::Commit),
            [b'R', ..] => Some(Message::Ready(fds.pop())),
            [b'F', a, b, c, d, text @ ..] => Some(Message::Failed {
                code: i32::from_ne_bytes([*a, *b, *c, *d]),
                text: String::from_utf8_lossy(text).into_owned(),
            }),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }

    /// Process: waits for the caller's `Mapped` or `Commit`.
    pub(crate) fn expect(&self, wanted: fn(&Message) -> bool) -> Result<(), Error> {
        match self
            .receive()
            .map_err(|error| Error::Step("read from the caller", error))?
        {
            Some(message) if wanted(&message) => Ok(()),
            Some(_) => Err(Error::Gone("the caller sent a message out of order")),
            None => Err(Error::Gone("the caller is gone")),
        }
    }

    /// Caller: waits for `Ready` and answers with the terminal.
    pub(crate) fn ready(&self) -> Result<Option<OwnedFd>, Error> {
        match self
            .receive()
            .map_err(|error| Error::Step("read from the process", error))?
        {
            Some(Message::Ready(terminal)) => Ok(terminal),
            Some(Message::Failed { code, text }) => Err(Error::Failed { code, text }),
            Some(_) => Err(Error::Gone("the process sent a message out of order")),
            None => Err(Error::Gone("the process died during its setup")),
        }
    }

    /// Caller: waits until the program was executed.
    pub(crate) fn executed(&self) -> Result<(), Error> {
        match self
            .receive()
            .map_err(|error| Error::Step("read from the process", error))?
        {
            None => Ok(()),
            Some(Message::Failed { code, text }) => Err(Error::Failed { code, text }),
            Some(_) => Err(Error::Gone("the process sent a message out of order")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_travel_whole() {
        let (caller, process) = Channel::pair().unwrap();
        process
            .send(&Message::Failed {
                code: 127,
                text: "exec: \"x\"".to_owned(),
            })
            .unwrap();
        let Err(Error::Failed { code, text }) = caller.ready() else {
            panic!("the failure was not told");
        };
        assert_eq!((code, text.as_str()), (127, "exec: \"x\""));
        caller.send(&Message::Commit).unwrap();
        process
            .expect(|message| matches!(message, Message::Commit))
            .unwrap();
    }

    #[test]
    fn a_wrong_order_and_a_closed_end_are_errors() {
        let (caller, process) = Channel::pair().unwrap();
        caller.send(&Message::Commit).unwrap();
        assert!(
            process
                .expect(|message| matches!(message, Message::Mapped))
                .is_err()
        );
        drop(caller);
        assert!(
            process
                .expect(|message| matches!(message, Message::Commit))
                .is_err()
        );
    }

    #[test]
    fn end_of_file_is_an_executed_program() {
        let (caller, process) = Channel::pair().unwrap();
        drop(process);
        caller.executed().unwrap();
        assert!(caller.ready().is_err());
    }
}
