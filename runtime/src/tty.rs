//! Terminals of containers: allocation inside the container, taking one over as stdio, window size, handing the master
//! to a console socket.
//!
//! A terminal always belongs to the container's own devpts, so that its slave has a name there. Nothing is opened by a
//! path of the container's except `ptmx` of a directory that is proven to be the root of a devpts, and the slave comes
//! from the master (TIOCGPTPEER of ioctl_tty(2)), never by name: an image cannot put something else in between
//! (CVE-2025-52565).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{FsWord, Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: FsWord = 0x1cd1;

/// A new terminal; both ends are close-on-exec.
#[derive(Debug)]
pub struct Terminal {
    /// The end that the shim holds.
    pub master: OwnedFd,
    /// The end that the process gets.
    pub slave: OwnedFd,
}

/// Opens a terminal of the devpts whose root directory is `pts`; `size` is rows and columns.
///
/// # Errors
/// `ENOTTY` if `pts` is not on a devpts; otherwise what opening ptmx and the ioctls say.
pub fn open(pts: BorrowedFd<'_>, size: Option<(u16, u16)>) -> io::Result<Terminal> {
    if rustix::fs::fstatfs(pts)?.f_type != DEVPTS_MAGIC {
        return Err(rustix::io::Errno::NOTTY.into());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(pts, "ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    if let Some((rows, cols)) = size {
        resize(master.as_fd(), rows, cols)?;
    }
    Ok(Terminal { master, slave })
}

/// Makes `slave` descriptors 0, 1 and 2 and the controlling terminal of the calling process, which must be the leader
/// of a session without one (setsid(2)).
///
/// # Errors
/// `EPERM` if the caller is no such leader.
pub fn take_over(slave: &OwnedFd) -> io::Result<()> {
    rustix::process::ioctl_tiocsctty(slave)?;
    nix::unistd::dup2_stdin(slave)?;
    nix::unistd::dup2_stdout(slave)?;
    nix::unistd::dup2_stderr(slave)?;
    Ok(())
}

/// Sets the window size; the foreground process group gets SIGWINCH if it changes.
///
/// # Errors
/// `ENOTTY` if `terminal` is none.
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, cols: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Sends the master to whoever listens on `socket`, as `--console-socket` of runc does: one message, the name
/// `/dev/ptmx` as its payload.
///
/// # Errors
/// What connecting and sending say.
pub fn send_master(socket: &Path, master: BorrowedFd<'_>) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    let fds = [master];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let payload = [IoSlice::new(b"/dev/ptmx")];
    rustix::net::sendmsg(&stream, &payload, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::File;
    use std::io::{Read, Write};

    fn host_pts() -> File {
        File::open("/dev/pts").unwrap()
    }

    #[test]
    fn a_terminal_has_two_ends_and_a_size() {
        let terminal = open(host_pts().as_fd(), Some((24, 80))).unwrap();
        let size = rustix::termios::tcgetwinsize(&terminal.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (24, 80));
        resize(terminal.master.as_fd(), 50, 132).unwrap();
        let size = rustix::termios::tcgetwinsize(&terminal.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (50, 132));

        let (mut master, mut slave) = (File::from(terminal.master), File::from(terminal.slave));
        slave.write_all(b"out\n").unwrap();
        let mut bytes = [0; 16];
        let n = master.read(&mut bytes).unwrap();
        assert_eq!(&bytes[..n], b"out\r\n");
    }

    #[test]
    fn only_a_devpts_will_do() {
        let elsewhere = tempfile::tempdir().unwrap();
        let directory = File::open(elsewhere.path()).unwrap();
        let error = open(directory.as_fd(), None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn a_console_socket_receives_the_master() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let terminal = open(host_pts().as_fd(), Some((7, 9))).unwrap();
        send_master(&path, terminal.master.as_fd()).unwrap();

        let (stream, _) = listener.accept().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 32];
        let mut payload = [std::io::IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&stream, &mut payload, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let received = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let size = rustix::termios::tcgetwinsize(received.unwrap()).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (7, 9));
    }
}
