//! One netlink socket: batches in one system call, every request acknowledged, the kernel's own words kept.
//!
//! Blocking: a request to the kernel is answered within the send call (netlink(7)), so there is nothing to wait for and
//! no need for an async socket. A socket belongs to the network namespace of the thread that opened it.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Attributes after the error's echo of the request (linux/netlink.h).
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The kernel answers at once; this only keeps a bug from hanging a thread for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// A kernel dump fits 32 KiB per datagram (netlink_dump).
pub(super) const RECEIVE: usize = 64 * 1024;
/// More than this in one datagram needs a larger send buffer than the usual default.
const USUAL_SEND_BUFFER: usize = 96 * 1024;

/// Requests in one datagram of a bulk: should all be refused, the refusals fit the usual receive buffer.
const BULK: usize = 128;

/// A message without its length, sequence and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: Vec<u8>,
}

/// The kernel said no to one message of a batch.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}{}", io::Error::from_raw_os_error(*errno), text.as_deref().map(|t| format!(": {t}")).unwrap_or_default())]
pub(crate) struct Refusal {
    /// Which message of the batch.
    pub(crate) index: usize,
    pub(crate) errno: i32,
    /// The kernel's extended acknowledgement, if it sent one.
    pub(crate) text: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Request {
    pub(crate) fn route(message: &RouteNetlinkMessage, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Self {
            kind: message.message_type(),
            flags,
            body,
        }
    }

    fn write(&self, sequence: u32, extra: u16, out: &mut Vec<u8>) {
        let length = (HEADER + self.body.len()) as u32;
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | extra).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

impl Socket {
    /// Routes, links and addresses of the calling thread's network namespace.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    /// nftables of the calling thread's network namespace.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER)
    }

    /// Families that register by name, of the calling thread's network namespace.
    pub(crate) fn generic() -> io::Result<Self> {
        Self::open(NETLINK_GENERIC)
    }

    /// The sockets of the calling thread's network namespace.
    pub(crate) fn diagnostic() -> io::Result<Self> {
        Self::open(NETLINK_SOCK_DIAG)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocol)?;
        inner.bind_auto()?;
        inner.connect(&SocketAddr::new(0, 0))?;
        inner.set_ext_ack(true)?;
        inner.set_cap_ack(true)?;
        inner.set_netlink_get_strict_chk(true)?;
        let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
        setsockopt(&inner, sockopt::ReceiveTimeout, &patience)?;
        Ok(Self {
            inner,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// The netlink port: whose doing a change was, in the kernel's notices.
    pub(crate) fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.inner.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// The kernel's number of the network namespace that the socket belongs to.
    pub(crate) fn netns_cookie(&self) -> io::Result<u64> {
        sys::socket::netns_cookie(&self.inner)
    }

    /// Send all requests in one datagram and collect every acknowledgement; `refused` sees each refusal.
    ///
    /// rtnetlink carries out the messages one after the other and goes on after a refusal; netfilter takes a batch as one
    /// transaction, in which only the last message before the end asks for an acknowledgement.
    fn exchange(
        &mut self,
        requests: &[Request],
        transaction: bool,
        refused: &mut dyn FnMut(Refusal),
    ) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut expected = 0usize;
        let mut datagram = Vec::with_capacity(requests.iter().map(|r| r.body.len() + HEADER + 4).sum());
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.write(self.sequence, NLM_F_REQUEST, &mut datagram);
            expected += usize::from(request.flags & NLM_F_ACK != 0);
        }
        self.send(&datagram)?;
        while expected > 0 {
            for message in messages(&self.receive()?) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if index >= requests.len() || message.kind != NLMSG_ERROR {
                    continue; // an answer to something older, which gave up
                }
                let asked = requests[index].flags & NLM_F_ACK != 0;
                if let Some(refusal) = refusal(&message, index) {
                    refused(refusal);
                    if transaction && !asked && index == 0 {
                        return Ok(()); // the transaction as a whole was refused: nothing else need follow
                    }
                }
                expected -= usize::from(asked);
            }
        }
        Ok(())
    }

    /// Carry out the requests; the first refusal is the error. Each request gets the acknowledgement flag.
    pub(crate) fn batch(&mut self, mut requests: Vec<Request>) -> io::Result<()> {
        requests.iter_mut().for_each(|r| r.flags |= NLM_F_ACK);
        self.transact(&requests)
    }

    /// Like [`Socket::batch`], with flags as they are.
    pub(crate) fn transact(&mut self, requests: &[Request]) -> io::Result<()> {
        let mut first = None;
        self.exchange(requests, true, &mut |refusal| {
            first.get_or_insert(refusal);
        })?;
        first.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// Carry out many requests of rtnetlink, one after the other, going on after refusals, which are the answer. Only the
    /// last of each datagram asks for an acknowledgement: thousands would not fit the receive buffer.
    pub(crate) fn bulk(&mut self, requests: &[Request]) -> io::Result<Vec<Refusal>> {
        let mut refusals = Vec::new();
        for (n, chunk) in requests.chunks(BULK).enumerate() {
            let mut chunk = chunk.to_vec();
            chunk.iter_mut().for_each(|request| request.flags &= !NLM_F_ACK);
            if let Some(last) = chunk.last_mut() {
                last.flags |= NLM_F_ACK;
            }
            self.exchange(&chunk, false, &mut |refusal| {
                refusals.push(Refusal {
                    index: n * BULK + refusal.index,
                    ..refusal
                });
            })?;
        }
        Ok(refusals)
    }

    /// Carry out one request.
    pub(crate) fn request(&mut self, request: Request) -> io::Result<()> {
        self.batch(vec![request])
    }

    /// The one message that answers a question; `read` gets its kind and body.
    pub(crate) fn ask<T>(
        &mut self,
        question: &Request,
        read: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> io::Result<T> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        question.write(self.sequence, NLM_F_REQUEST, &mut datagram);
        self.send(&datagram)?;
        loop {
            let received = self.receive()?;
            // What is older answers somebody who gave up.
            let Some(message) = messages(&received).find(|m| m.sequence == self.sequence) else {
                continue;
            };
            let answer = match message.kind {
                NLMSG_ERROR => refusal(&message, 0).map(|refusal| Err(refusal.into())),
                kind => read(kind, message.body).map(Ok),
            };
            return answer.unwrap_or_else(|| Err(io::ErrorKind::InvalidData.into()));
        }
    }

    /// All messages that answer a dump request; `read` gets the kind and body of each.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        'again: loop {
            self.sequence = self.sequence.wrapping_add(1);
            let mut datagram = Vec::new();
            request.write(self.sequence, NLM_F_REQUEST | NLM_F_DUMP, &mut datagram);
            self.send(&datagram)?;
            let mut found = Vec::new();
            let mut interrupted = false;
            loop {
                let received = self.receive()?;
                for message in messages(&received).filter(|m| m.sequence == self.sequence) {
                    interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                    match message.kind {
                        NLMSG_DONE if interrupted => continue 'again, // something changed meanwhile
                        NLMSG_DONE => return Ok(found),
                        NLMSG_ERROR => {
                            return Err(
                                refusal(&message, 0).map_or(io::ErrorKind::InvalidData.into(), Into::into)
                            );
                        }
                        kind => found.extend(read(kind, message.body)),
                    }
                }
            }
        }
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        if datagram.len() > USUAL_SEND_BUFFER {
            setsockopt(&self.inner, sockopt::SndBufForce, &(datagram.len() * 2))?;
        }
        let sent = self.inner.send(datagram, 0)?;
        if sent == datagram.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        self.buffer.resize(RECEIVE, 0);
        loop {
            match nix::unistd::read(self.inner.as_fd(), &mut self.buffer) {
                Ok(n) => return Ok(self.buffer[..n].to_vec()),
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// One message of a datagram.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) body: &'a [u8],
}

/// Cut a datagram into messages; a malformed tail ends it.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            body: rest.get(HEADER..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// `None` for a plain acknowledgement.
fn refusal(message: &Message<'_>, index: usize) -> Option<Refusal> {
    let code = i32::from_ne_bytes(message.body.get(..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    Some(Refusal {
        index,
        errno: -code,
        text: extended_text(message),
    })
}

fn extended_text(message: &Message<'_>) -> Option<String> {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let echoed = u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?) as usize;
    let echoed = if message.flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        echoed
    };
    NlasIterator::new(message.body.get(4 + echoed..)?)
        .flatten()
        .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
        .map(|nla| {
            String::from_utf8_lossy(nla.value())
                .trim_end_matches('\0')
                .to_owned()
        })
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(Self::from_raw_os_error(refusal.errno).kind(), refusal)
    }
}

/// The kernel's error number behind an error, whether of a system call or of a refused message.
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    error
        .raw_os_error()
        .or_else(|| error.get_ref()?.downcast_ref::<Refusal>().map(|r| r.errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_cut_into_its_messages_and_a_torn_tail_is_dropped() {
        let mut datagram = Vec::new();
        Request {
            kind: 16,
            flags: 0,
            body: vec![1, 2, 3],
        }
        .write(7, NLM_F_REQUEST, &mut datagram);
        Request {
            kind: 17,
            flags: 0,
            body: vec![9; 8],
        }
        .write(8, NLM_F_REQUEST, &mut datagram);
        let seen: Vec<_> = messages(&datagram)
            .map(|m| (m.kind, m.sequence, m.body.to_vec()))
            .collect();
        assert_eq!(seen, [(16, 7, vec![1, 2, 3]), (17, 8, vec![9; 8])]);
        assert_eq!(messages(&datagram[..datagram.len() - 4]).count(), 1);
        assert_eq!(
            messages(&[0; 16]).count(),
            0,
            "a length shorter than the header is no message"
        );
    }

    #[test]
    fn the_kernels_own_words_reach_the_error() {
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; 16]);
        body.extend_from_slice(&[9, 0, 1, 0]);
        body.extend_from_slice(b"busy\0\0\0\0");
        let message = Message {
            kind: NLMSG_ERROR,
            flags: NLM_F_CAPPED | NLM_F_ACK_TLVS,
            sequence: 1,
            body: &body,
        };
        let error = io::Error::from(refusal(&message, 0).unwrap());
        assert_eq!(errno(&error), Some(17));
        assert!(error.to_string().ends_with(": busy"), "{error}");
    }
}
