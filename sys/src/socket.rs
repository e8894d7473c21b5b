//! Passing file descriptors over unix sockets (`SCM_RIGHTS`, unix(7)), and what a socket says about where it is.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Most descriptors that one message carries here.
const MAX_FDS: usize = 4;
/// asm-generic/socket.h
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Sends `data` with `fds` (at most four) as one message. `data` must not be empty on a stream socket.
pub fn send_with_fds(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(sent)
}

/// Receives one message into `data`; answers its length and the descriptors that came with it (close-on-exec).
pub fn recv_with_fds(socket: impl AsFd, data: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(data)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((received.bytes, fds))
}

/// The kernel's number of the network namespace that a socket belongs to, never given twice between boots (5.14).
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    number(socket, SO_NETNS_COOKIE)
}

/// Whether the socket is one of datagrams. `ENOTSOCK`: it is no socket.
pub fn is_datagram(socket: impl AsFd) -> io::Result<bool> {
    Ok(rustix::net::sockopt::socket_type(socket)? == rustix::net::SocketType::DGRAM)
}

/// The process that has called connect(2) or listen(2) at the other end (`SO_PEERCRED`, unix(7)).
pub fn peer_process(socket: impl AsFd) -> io::Result<i32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?
        .pid
        .as_raw_nonzero()
        .get())
}

/// The kernel's number of a socket, never given twice between boots.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    number(socket, libc::SO_COOKIE)
}

fn number(socket: impl AsFd, option: libc::c_int) -> io::Result<u64> {
    let mut number = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `number`, and the length written to `length`.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_travels() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut passed, other) = UnixStream::pair().unwrap();
        send_with_fds(&left, b"x", &[other.as_fd()]).unwrap();
        drop(other);
        let mut data = [0; 8];
        let (length, fds) = recv_with_fds(&right, &mut data).unwrap();
        assert_eq!((&data[..length], fds.len()), (&b"x"[..], 1));
        passed.write_all(b"still open").unwrap();
    }

    #[test]
    fn a_socket_says_what_it_is_and_who_is_there() {
        let (left, _right) = UnixStream::pair().unwrap();
        assert!(!is_datagram(&left).unwrap());
        assert!(is_datagram(std::os::unix::net::UnixDatagram::unbound().unwrap()).unwrap());
        assert!(is_datagram(std::fs::File::open("/dev/null").unwrap()).is_err());
        assert_eq!(peer_process(&left).unwrap().cast_unsigned(), std::process::id());
    }

    #[test]
    fn a_namespace_has_one_number() {
        let socket = || UnixStream::pair().unwrap().0;
        let here = netns_cookie(socket()).unwrap();
        assert_eq!(netns_cookie(socket()).unwrap(), here);
        let (_namespace, other) = crate::netns::create(|| netns_cookie(socket()).unwrap()).unwrap();
        assert_ne!(other, here);
    }
}
