//! Descriptors 0 to 2 of a process in a container.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use rustix::io::fcntl_dupfd_cloexec;

use super::Error;
use crate::container::Stdio;

/// Puts the three descriptors in their places. `Inherit` leaves the caller's; a terminal is taken over elsewhere.
pub(crate) fn install(stdio: &Stdio) -> Result<(), Error> {
    let Stdio::Fds {
        stdin,
        stdout,
        stderr,
    } = stdio
    else {
        return Ok(());
    };
    let step = |error: io::Error| Error::Step("set up stdio", error);
    // A descriptor that happens to be among the places themselves must be out of the way first.
    let stdin = out_of_the_way(stdin).map_err(step)?;
    let stdout = out_of_the_way(stdout).map_err(step)?;
    let stderr = out_of_the_way(stderr).map_err(step)?;
    nix::unistd::dup2_stdin(&stdin)
        .and_then(|()| nix::unistd::dup2_stdout(&stdout))
        .and_then(|()| nix::unistd::dup2_stderr(&stderr))
        .map_err(|error| step(error.into()))
}

enum Placed<'a> {
    Given(&'a OwnedFd),
    Moved(OwnedFd),
}

impl AsFd for Placed<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Given(fd) => fd.as_fd(),
            Self::Moved(fd) => fd.as_fd(),
        }
    }
}

fn out_of_the_way(fd: &OwnedFd) -> io::Result<Placed<'_>> {
    if fd.as_raw_fd() > 2 {
        return Ok(Placed::Given(fd));
    }
    Ok(Placed::Moved(fcntl_dupfd_cloexec(fd, 3)?))
}

/// Gives the pipes, sockets and terminals of stdio to `uid`, so that the payload may open /dev/stdout anew. Regular files
/// and devices stay whose they are.
pub(crate) fn give_to(uid: u32) {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let Ok(stat) = fstat(fd) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let terminal = kind == FileType::CharacterDevice && rustix::termios::isatty(fd);
        if stat.st_uid != uid && (terminal || matches!(kind, FileType::Fifo | FileType::Socket)) {
            // In a user namespace the owner may have no name there; the payload can still use what it inherited.
            let _ = fchown(fd, Some(Uid::from_raw(uid)), None::<Gid>);
        }
    }
}
