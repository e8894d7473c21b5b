//! Frames that are put on a link as they are (packet(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// A socket of the calling thread's network namespace that only sends.
pub fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a frame, which begins with its Ethernet header, on the link of this index.
pub fn send(socket: impl AsFd, link: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: all of it is numbers, for which zero is a value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as libc::c_ushort;
    to.sll_ifindex = link.cast_signed();
    // The kernel takes the protocol from here, not from the frame.
    if let Some(kind) = frame.get(12..14) {
        to.sll_protocol = u16::from_ne_bytes([kind[0], kind[1]]);
    }
    // SAFETY: both pointers are valid for the lengths that go with them, and the kernel only reads.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    match sent {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
