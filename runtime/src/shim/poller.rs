//! epoll(7) with names for what is waited for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::protocol::Stream;

/// Most events taken in one round.
const EVENTS: usize = 16;

/// A process of the container; 0 is its init.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessKey(pub(super) u32);

impl ProcessKey {
    pub(super) const INIT: Self = Self(0);
}

/// A connection to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientKey(pub(super) u32);

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Somebody connects.
    Listener,
    /// The process has ended.
    Exit(ProcessKey),
    /// The process has written.
    Output(ProcessKey, Stream),
    /// The process takes input.
    Input(ProcessKey),
    Client(ClientKey),
    /// The lease has run out, or the time to end after that.
    Lease,
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, key) = match self {
            Self::Listener => (0, 0),
            Self::Exit(ProcessKey(key)) => (1, key),
            Self::Output(ProcessKey(key), Stream::Stdout) => (2, key),
            Self::Output(ProcessKey(key), Stream::Stderr) => (3, key),
            Self::Input(ProcessKey(key)) => (4, key),
            Self::Client(ClientKey(key)) => (5, key),
            Self::Lease => (6, 0),
        };
        kind << 32 | u64::from(key)
    }

    fn decode(word: u64) -> Option<Self> {
        let key = word as u32;
        Some(match word >> 32 {
            0 => Self::Listener,
            1 => Self::Exit(ProcessKey(key)),
            2 => Self::Output(ProcessKey(key), Stream::Stdout),
            3 => Self::Output(ProcessKey(key), Stream::Stderr),
            4 => Self::Input(ProcessKey(key)),
            5 => Self::Client(ClientKey(key)),
            6 => Self::Lease,
            _ => return None,
        })
    }
}

/// An epoll instance.
#[derive(Clone, Debug)]
pub(super) struct Poller(Rc<OwnedFd>);

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Rc::new(epoll::create(CreateFlags::CLOEXEC)?)))
    }

    /// Waits for events, at most for `timeout`; a signal ends the wait early.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<(Token, EventFlags)>> {
        let empty = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [empty; EVENTS];
        let timeout = timeout.and_then(|duration| Timespec::try_from(duration).ok());
        match epoll::wait(&*self.0, &mut events[..], timeout.as_ref()) {
            Ok(count) => Ok(events[..count].iter().filter_map(decode).collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn decode(event: &Event) -> Option<(Token, EventFlags)> {
    let (data, flags) = (event.data, event.flags);
    Token::decode(data.u64()).map(|token| (token, flags))
}

/// A descriptor that may be waited for.
///
/// It leaves the epoll instance before it is closed: a child between fork and exec holds a copy, which would keep the
/// registration alive.
#[derive(Debug)]
pub(super) struct Watched<F: AsFd> {
    poller: Poller,
    fd: F,
    token: Token,
    interest: Option<EventFlags>,
}

impl<F: AsFd> Watched<F> {
    /// Takes `fd` without waiting for anything yet.
    pub(super) fn new(poller: &Poller, fd: F, token: Token) -> Self {
        Self {
            poller: poller.clone(),
            fd,
            token,
            interest: None,
        }
    }

    pub(super) fn fd(&self) -> &F {
        &self.fd
    }

    /// Waits for `interest` from now on; errors and hang-ups are always reported. `None`: for nothing, not even those.
    pub(super) fn watch(&mut self, interest: Option<EventFlags>) -> io::Result<()> {
        if interest == self.interest {
            return Ok(());
        }
        let data = EventData::new_u64(self.token.encode());
        match (self.interest, interest) {
            (None, Some(flags)) => epoll::add(&*self.poller.0, &self.fd, data, flags)?,
            (Some(_), Some(flags)) => epoll::modify(&*self.poller.0, &self.fd, data, flags)?,
            (_, None) => epoll::delete(&*self.poller.0, &self.fd)?,
        }
        self.interest = interest;
        Ok(())
    }
}

impl<F: AsFd> Drop for Watched<F> {
    fn drop(&mut self) {
        // It can only fail if it is not registered, which is what is wanted.
        let _ = self.watch(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Listener,
            Token::Exit(ProcessKey(7)),
            Token::Output(ProcessKey(u32::MAX), Stream::Stdout),
            Token::Output(ProcessKey(1), Stream::Stderr),
            Token::Input(ProcessKey(2)),
            Token::Client(ClientKey(3)),
            Token::Lease,
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }

    #[test]
    fn only_what_is_asked_for_is_reported() {
        let poller = Poller::new().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let token = Token::Client(ClientKey(9));
        let mut watched = Watched::new(&poller, theirs, token);
        ours.write_all(b"x").unwrap();
        let now = Some(Duration::ZERO);
        assert!(poller.wait(now).unwrap().is_empty());
        watched.watch(Some(EventFlags::IN)).unwrap();
        assert_eq!(poller.wait(now).unwrap(), [(token, EventFlags::IN)]);
        watched.watch(Some(EventFlags::empty())).unwrap();
        assert!(poller.wait(now).unwrap().is_empty());
        drop(ours);
        assert!(poller.wait(now).unwrap()[0].1.contains(EventFlags::HUP));
        let copy = watched.fd().try_clone().unwrap();
        drop(watched);
        assert!(
            poller.wait(now).unwrap().is_empty(),
            "although a copy of the descriptor lives on"
        );
        drop(copy);
    }
}
